"""The steps of a search by hand: measure, decide, score the masked model, write it. From the root of a clone."""

from pathlib import Path

from autoreap.candidate import Candidate
from autoreap.jobs import calibrated, evaluator_of, read_calibration
from autoreap.models.loading import open_model
from autoreap.planning import make_plan
from autoreap.writing.materialiser import materialise

model_info = open_model("tiny")  # or a directory, or a name of the hub
loaded, evaluator = evaluator_of(model_info, Path("evals/tiny.yaml"), batch_size=64)
saliency = calibrated(loaded, read_calibration({"audio": Path("calibration/tiny/audio.parquet")}))
for retention in (0.75, 0.5):
    candidate = Candidate(retention=retention, layers_cut=1, strip_vision=True)
    plan = make_plan(candidate, saliency, model_info.shape, model_info.base_model)
    wer = evaluator.run(plan).metrics()["wer"]  # as a mask in memory; the model is as before afterwards
    print(f"{retention:.0%} of the experts: WER {wer.value:.2%} [{wer.low:.2%}, {wer.high:.2%}]")
written = materialise(model_info.checkpoint.path, plan, Path("pruned"))  # the last plan, as an ordinary checkpoint
print(f"pruned: {written.rewrite.size_bytes:,} bytes")
