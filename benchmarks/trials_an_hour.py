"""How many candidates an hour, against the destructive way: the figures of docs/benchmarks.md.

    OMP_NUM_THREADS=1 python benchmarks/trials_an_hour.py [--trials 20] [--plans 5]

One search of the embedded model, and for some of its plans what scripts do: a process that writes the pruned
checkpoint, and one that loads it with stock transformers, answers the same utterances with batched `generate`, and
scores them. The scripts of REAP-OMNI are three, each of which loads and saves the whole model; here one writes all
three edits, streamed.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from autoreap import jobs
from autoreap.data.eval_set import read_task
from autoreap.data.evals_config import load_evals, metric_name, task_of
from autoreap.models.loading import load, open_model
from autoreap.models.prompts import audio_of, embedded
from autoreap.scores import score
from autoreap.search.records import TrialStatus
from autoreap.tiny_omni import CHECKPOINT

ROOT = Path(__file__).parent.parent
EVALS = ROOT / "evals" / "tiny.yaml"
SPACE = ROOT / "search_spaces" / "tiny.yaml"
BATCH_SIZE = 64


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--plans", type=int, default=5, help="of these that are scored the destructive way, too")
    parser.add_argument("--checkpoint", help="only load this one, answer and score")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.checkpoint:
        print(json.dumps(answered(options.checkpoint)))
        return
    with tempfile.TemporaryDirectory() as folder:
        study = jobs.search(
            SPACE,
            jobs.SearchOptions(model="tiny", trials=options.trials, root=Path(folder) / "mlruns"),
        ).study
        # From one trial's start to the next one's: planning, scoring, the database and MLflow are all in it.
        starts = [trial.started for trial in study.trials if trial.started]
        ours = (starts[-1] - starts[0]).total_seconds() / (len(starts) - 1)
        scored = [trial for trial in study.trials if trial.status is TrialStatus.SCORED]
        full = statistics.mean(trial.seconds for trial in scored)
        walls, cpus, differences = [], [], []
        for trial in scored[-options.plans :]:
            wall, cpu, metrics = destroyed(study.plan(trial.number).save, Path(folder) / str(trial.number))
            walls.append(wall)
            cpus.append(cpu)
            wer = trial.metrics["wer"].value
            differences.append(abs(metrics["wer"] - wer))
    theirs = statistics.mean(walls)
    print(f"\n{len(starts)} trials, {len(scored)} of them scored in full; {len(walls)} plans the destructive way")
    print("| | seconds a candidate | an hour |\n|---|---|---|")
    for name, seconds in (("autoreap, per trial", ours), ("autoreap, per full score", full), ("destructive", theirs)):
        print(f"| {name} | {seconds:.2f} | {3600 / seconds:,.0f} |")
    print(f"\n{theirs / ours:.1f} times as many trials, {theirs / full:.1f} times as many full scores")
    print(f"destructive: CPU time {statistics.mean(cpus):.1f} s; WER differs by at most {max(differences):.2%}")


def destroyed(save: Callable[[Path], None], folder: Path) -> tuple[float, float, dict[str, float]]:
    """Wall and CPU seconds of the two processes, and the scores."""
    folder.mkdir()
    save(folder / "plan.json")
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    cli = [sys.executable, "-m", "autoreap.cli", "materialise", str(CHECKPOINT), "--plan", str(folder / "plan.json")]
    cli += ["--calibration", str(SPACE)]  # what heals is fitted again
    subprocess.run([*cli, "-o", str(folder / "pruned"), "--skip-behaviour"], check=True, capture_output=True)
    script = [sys.executable, __file__, "--checkpoint", str(folder / "pruned")]
    printed = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, cpu, json.loads(printed)


def answered(checkpoint: str) -> dict[str, float]:
    """The scores of a checkpoint by stock `generate`, each utterance embedded alone as a trial has it."""
    loaded = load(open_model(checkpoint))
    inputs, running, model = loaded.inputs, loaded.model_info.family.running, loaded.model
    thinker = running.thinker(model)
    scores = {}
    for config in load_evals(EVALS).splits["search"]:
        task, samples = task_of(config), read_task(config, EVALS.parent)
        encoded = [inputs.encode(s, task.question(s, config.doc_to_text or task.QUESTION)) for s in samples]
        bounds = [2 * len(inputs.text_tokens(task.reference(sample))) + 8 for sample in samples]
        order = sorted(range(len(samples)), key=lambda number: len(encoded[number].input_ids))
        counts = []
        for start in range(0, len(order), BATCH_SIZE):
            numbers = order[start : start + BATCH_SIZE]
            with torch.inference_mode():
                audio = [audio_of(running, model, encoded[number]) for number in numbers]
                batch = embedded(running, model, inputs, [encoded[number] for number in numbers], audio)
                tokens = thinker.generate(
                    **batch,
                    max_new_tokens=max(bounds[number] for number in numbers),
                    do_sample=False,
                    eos_token_id=inputs.end_token_id,
                    pad_token_id=inputs.pad_token_id,
                )
            new = tokens[:, batch["input_ids"].shape[1] :]
            for number, row in zip(numbers, new, strict=True):
                counts.append(task.judge(samples[number], inputs.decode(row[: bounds[number]]))[0])
        scores[metric_name(config)] = score(counts).value
    return scores


if __name__ == "__main__":
    main()
