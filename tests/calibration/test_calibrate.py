"""Calibration against a reference that runs every expert on every token, one sample at a time.

Shape legend: T tokens, L layers, E experts, K = top-k, H hidden.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import wav_bytes
from PIL import Image
from torch import nn

from autoreap import jobs
from autoreap.calibration.batching import encode
from autoreap.calibration.calibrator import Options, calibrate
from autoreap.data.calibration_config import CalibrationConfig
from autoreap.data.samples import Sample, read_samples
from autoreap.errors import InputError
from autoreap.models.families.encoded import Encoded
from autoreap.models.loading import Loaded, load, open_model
from autoreap.saliency import ModalitySums, Saliency, load_saliency
from autoreap.tiny_omni import CHECKPOINT

# float32 sums of thousands of products in another order; measured: 2e-6 at worst.
RELATIVE = 1e-5
# float64 sums in another order.
RELATIVE_ORDER = 1e-12
# bfloat16 has 8 bits of mantissa; each expert's output is rounded to it several times.
RELATIVE_BF16 = 2e-2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as it is now."""
    copy = tmp_path_factory.mktemp("embedded") / "model"
    shutil.copytree(CHECKPOINT, copy)
    return copy


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Loaded:
    return load(open_model(str(checkpoint)), speech=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Sample]]:
    """Rows of every kind, of different lengths, so that batches of them are padded."""
    folder = tmp_path_factory.mktemp("images")
    pictures = [folder / f"{colour}.png" for colour in ("red", "blue", "green")]
    for number, picture in enumerate(pictures):
        Image.new("RGB", (64, 64), picture.stem).resize((64, 64 + 32 * (number == 2))).save(picture)
    sounds = [wav_bytes(num_samples) for num_samples in (17_000, 30_000, 21_000)]
    question = "transcribe"
    return {
        "audio": [
            Sample(id="short", where="a:1", audio=sounds[0], question=question, text="one"),
            Sample(id="long", where="a:2", audio=sounds[1], question=question, text="five horse table"),
            Sample(id="default question", where="a:3", audio=sounds[2]),
            Sample(id="text alone", where="a:4", text="one two three"),
        ],
        "video": [
            Sample(id="image", where="v:1", modality="video", image=pictures[2], question="describe", text="green"),
            Sample(id="video", where="v:2", modality="video", video=tuple(pictures[:2]), question="describe"),
        ],
        "mixed": [Sample(id="both", where="m:1", modality="mixed", audio=sounds[0], image=pictures[0], text="red one")],
    }


@dataclass
class Recorder:
    """What one decoder really computed: inputs of its routers' experts, and hidden states around its layers."""

    layers: Sequence[Any]
    routed: list[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = field(default_factory=list)
    hidden: list[list[torch.Tensor]] = field(default_factory=list)  # [L + 1] lists of [T, H]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Record every forward pass within the context."""
        self.routed = [[] for _ in self.layers]
        self.hidden = [[] for _ in range(len(self.layers) + 1)]
        with ExitStack() as stack:
            for number, layer in enumerate(self.layers):
                for module, hook in ((layer.mlp.gate, self._router(number)), (layer, self._layer(number))):
                    stack.callback(module.register_forward_hook(hook).remove)
            yield

    def _router(self, number: int) -> Any:
        def hook(_module: nn.Module, arguments: tuple[torch.Tensor], output: tuple[torch.Tensor, ...]) -> None:
            self.routed[number].append((arguments[0].clone(), output[1].clone(), output[2].clone()))

        return hook

    def _layer(self, number: int) -> Any:
        def hook(_module: nn.Module, arguments: tuple[torch.Tensor], output: torch.Tensor) -> None:
            self.hidden[number].append(arguments[0].flatten(0, 1).clone())
            if number + 1 == len(self.layers):
                self.hidden[-1].append(output.flatten(0, 1).clone())

        return hook

    @torch.inference_mode()
    def sums(self) -> ModalitySums:
        """Each expert's own matrices on every token, weighted by what the router returned for it; float64."""
        gate_norm_sum, routed_tokens = [], []
        for layer, calls in zip(self.layers, self.routed, strict=True):
            hidden, weights, indices = (torch.cat(parts) for parts in zip(*calls, strict=True))
            experts = layer.mlp.experts
            sums, counts = [], []
            for expert in range(experts.num_experts):
                gate, up = (hidden @ experts.gate_up_proj[expert].T).chunk(2, dim=-1)
                output = (experts.act_fn(gate) * up) @ experts.down_proj[expert].T
                chosen = indices == expert  # [T, K]
                weight = (weights.double() * chosen).sum(dim=1)
                sums.append(float((weight * output.double().norm(dim=-1)).sum()))
                counts.append(int(chosen.sum()))
            gate_norm_sum.append(sums)
            routed_tokens.append(counts)
        return ModalitySums(np.array(gate_norm_sum), np.array(routed_tokens), sum(map(len, self.hidden[0])))

    def layer_cosine(self, span: int, layer: int) -> float:
        """The mean over tokens of the cosine between the inputs of `layer` and of the layer `span` further on."""
        first, last = (torch.cat(self.hidden[number]).double() for number in (layer, layer + span))
        return float(torch.nn.functional.cosine_similarity(first, last, dim=-1).mean())


def thinker_layers(model: Any) -> Sequence[Any]:
    layers: Sequence[Any] = model.thinker.model.language_model.layers
    return layers


@torch.inference_mode()
def recorded_one_by_one(loaded: Loaded, samples: Sequence[Sample]) -> Recorder:
    """The stock thinker on each sample alone: no batch, no padding."""
    recorder = Recorder(thinker_layers(loaded.model))
    with recorder.attached():
        for sample in samples:
            loaded.model.thinker(**loaded.inputs.collate([encode(loaded.inputs, sample, with_answer=True)]))
    return recorder


def assert_same_sums(ours: ModalitySums, expected: ModalitySums, relative: float = RELATIVE) -> None:
    assert ours.tokens == expected.tokens
    np.testing.assert_array_equal(ours.routed_tokens, expected.routed_tokens)
    np.testing.assert_allclose(ours.gate_norm_sum, expected.gate_norm_sum, rtol=relative)


def assert_equal(first: Saliency, second: Saliency) -> None:
    assert first.digest() == second.digest()
    assert first.provenance == second.provenance


@torch.inference_mode()
def logits(loaded: Loaded, samples: Sequence[Sample]) -> torch.Tensor:
    batch: list[Encoded] = [encode(loaded.inputs, sample, with_answer=True) for sample in samples]
    result: torch.Tensor = loaded.model.thinker(**loaded.inputs.collate(batch)).logits
    return result


def leftovers(model: nn.Module) -> dict[str, tuple[int, int, bool]]:
    """Hooks and replaced methods of every module."""
    return {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in vars(module))
        for name, module in model.named_modules()
    }


@pytest.fixture(scope="module")
def measured(loaded: Loaded, data: dict[str, list[Sample]]) -> Saliency:
    """All of `data`, in padded batches."""
    return calibrate(loaded, data)


@pytest.fixture(scope="module")
def recorded(loaded: Loaded, data: dict[str, list[Sample]]) -> Recorder:
    """The stock thinker on the audio rows, one by one."""
    return recorded_one_by_one(loaded, data["audio"])


@pytest.mark.parametrize("modality", ["audio", "video", "mixed"])
def test_sums_equal_every_expert_run_on_every_token_one_sample_at_a_time(
    loaded: Loaded, data: dict[str, list[Sample]], measured: Saliency, modality: str
) -> None:
    sums = measured.components["thinker"].modalities[modality]
    assert_same_sums(sums, recorded_one_by_one(loaded, data[modality]).sums())


def test_every_token_is_routed_to_top_k_experts_and_padding_to_none(
    loaded: Loaded, data: dict[str, list[Sample]], measured: Saliency
) -> None:
    sums = measured.components["thinker"].modalities["audio"]
    lengths = [len(encode(loaded.inputs, sample, with_answer=True).input_ids) for sample in data["audio"]]
    top_k = loaded.model_info.shape.components["thinker"].top_k
    assert len(set(lengths)) == len(lengths)
    assert sums.tokens == sum(lengths)
    assert set(sums.routed_tokens.sum(axis=1)) == {top_k * sum(lengths)}


def test_a_padded_batch_measures_what_its_samples_measure_one_by_one(
    loaded: Loaded, data: dict[str, list[Sample]], measured: Saliency
) -> None:
    together = measured.components["thinker"]
    alone = calibrate(loaded, data, options=Options(batch_tokens=1)).components["thinker"]
    for modality, sums in together.modalities.items():
        assert_same_sums(sums, alone.modalities[modality])
    np.testing.assert_allclose(together.layer_cosine, alone.layer_cosine, rtol=RELATIVE)


def test_a_recording_of_less_than_a_second_measures_the_same_beside_a_longer_one(loaded: Loaded) -> None:
    samples = [Sample(id=str(n), where=f"a:{n}", audio=wav_bytes(n), question="transcribe") for n in (6_000, 17_000)]
    together = calibrate(loaded, {"audio": samples}).components["thinker"].modalities["audio"]
    assert_same_sums(together, recorded_one_by_one(loaded, samples).sums())


def test_the_prompt_the_media_and_the_answer_all_count(loaded: Loaded, data: dict[str, list[Sample]]) -> None:
    sample = data["audio"][1]
    encoded = encode(loaded.inputs, sample, with_answer=True)
    sums = calibrate(loaded, {"audio": [sample]}).components["thinker"].modalities["audio"]
    assert sums.tokens == len(encoded.input_ids) > encoded.num_prompt_tokens > len(loaded.inputs.text_tokens("five"))


def test_tokens_of_the_prompt_and_of_the_answer_add_up_to_both(
    loaded: Loaded, data: dict[str, list[Sample]], measured: Saliency
) -> None:
    both = measured.components["thinker"].modalities
    parts = [calibrate(loaded, data, options=Options(tokens=kind)) for kind in ("prompt", "answer")]
    for modality, sums in both.items():
        prompt, answer = (part.components["thinker"].modalities[modality] for part in parts)
        assert prompt.tokens > answer.tokens > 0
        added = ModalitySums(
            prompt.gate_norm_sum + answer.gate_norm_sum,
            prompt.routed_tokens + answer.routed_tokens,
            prompt.tokens + answer.tokens,
        )
        assert_same_sums(added, sums, RELATIVE_ORDER)
    assert [part.provenance["tokens"] for part in (measured, *parts)] == ["both", "prompt", "answer"]


def test_the_answers_tokens_are_those_of_the_text_and_its_end(loaded: Loaded, data: dict[str, list[Sample]]) -> None:
    saliency = calibrate(loaded, {"audio": data["audio"]}, options=Options(tokens="answer"))
    texts = [sample.text for sample in data["audio"] if sample.audio is not None and sample.text]
    expected = sum(len(loaded.inputs.text_tokens(text)) + 1 for text in texts)
    assert saliency.components["thinker"].modalities["audio"].tokens == expected


def test_how_it_is_measured_is_as_the_calibration_says_and_its_defaults_are_the_same() -> None:
    said = CalibrationConfig(max_unreadable=0.5, tokens="answer", gates="raw")
    assert Options.of(said) == Options(tokens="answer", gates="raw", max_unreadable=0.5)
    assert Options.of(CalibrationConfig()) == Options()


def test_rows_without_a_token_that_counts_are_refused(loaded: Loaded, data: dict[str, list[Sample]]) -> None:
    with pytest.raises(InputError, match="a:3: rows have no tokens of kind 'answer'"):
        calibrate(loaded, {"audio": data["audio"][2:]}, options=Options(tokens="answer"))
    with pytest.raises(InputError, match="tokens: must be one of prompt, answer, both, got 'question'"):
        calibrate(loaded, {"audio": data["audio"]}, options=Options(tokens="question"))


def test_raw_gates_are_smaller_and_count_the_same_tokens(
    loaded: Loaded, data: dict[str, list[Sample]], measured: Saliency
) -> None:
    raw = calibrate(loaded, {"audio": data["audio"]}, options=Options(gates="raw"))
    sums, normalised = (each.components["thinker"].modalities["audio"] for each in (raw, measured))
    used = normalised.routed_tokens > 0
    np.testing.assert_array_equal(sums.routed_tokens, normalised.routed_tokens)
    assert (sums.gate_norm_sum[used] < normalised.gate_norm_sum[used]).all()
    assert (raw.provenance["gates"], measured.provenance["gates"]) == ("raw", "normalised")


@pytest.mark.parametrize("span", range(1, 9))
def test_layer_cosines_equal_those_of_the_hidden_states_around_the_layers(
    measured: Saliency, recorded: Recorder, span: int
) -> None:
    cosine = measured.components["thinker"].layer_cosine
    depth = len(recorded.layers)
    expected = [recorded.layer_cosine(span, layer) for layer in range(depth - span + 1)]
    assert cosine.shape == (8, depth)
    np.testing.assert_allclose(cosine[span - 1, : len(expected)], expected, rtol=RELATIVE)
    assert np.isnan(cosine[span - 1, len(expected) :]).all()


def test_layer_cosines_are_of_audio_alone(loaded: Loaded, data: dict[str, list[Sample]], measured: Saliency) -> None:
    audio = calibrate(loaded, {"audio": data["audio"]})
    np.testing.assert_array_equal(measured.components["thinker"].layer_cosine, audio.components["thinker"].layer_cosine)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_every_implementation_of_the_experts_measures_the_same(
    loaded: Loaded, data: dict[str, list[Sample]], measured: Saliency, implementation: str
) -> None:
    other = load(loaded.model_info)
    other.model.set_experts_implementation(implementation)
    assert other.model.thinker.config.text_config._experts_implementation == implementation
    for modality, sums in calibrate(other, data).components["thinker"].modalities.items():
        assert_same_sums(sums, measured.components["thinker"].modalities[modality])


def test_in_bfloat16_sums_equal_the_reference_on_the_same_routing_within_its_rounding(
    loaded: Loaded, data: dict[str, list[Sample]]
) -> None:
    halved = load(loaded.model_info, dtype="bfloat16")
    recorder = Recorder(thinker_layers(halved.model))
    with recorder.attached():
        rounded = calibrate(halved, {"audio": data["audio"]}, options=Options(batch_tokens=1))
    assert_same_sums(rounded.components["thinker"].modalities["audio"], recorder.sums(), RELATIVE_BF16)
    assert rounded.provenance["dtype"] == "torch.bfloat16"


def test_measuring_leaves_the_model_as_it_was(loaded: Loaded, data: dict[str, list[Sample]]) -> None:
    before, attached = logits(loaded, data["audio"]), leftovers(loaded.model)
    calibrate(loaded, data)
    assert leftovers(loaded.model) == attached
    assert torch.equal(logits(loaded, data["audio"]), before)


def test_a_row_that_breaks_halfway_leaves_the_model_as_it_was(loaded: Loaded, data: dict[str, list[Sample]]) -> None:
    before, attached = logits(loaded, data["audio"]), leftovers(loaded.model)
    broken = Sample(id="broken", where="a.jsonl:2", audio=b"no audio at all")
    with pytest.raises(InputError, match=r"1 of 2 rows .*: a\.jsonl:2: audio can't be decoded"):
        calibrate(loaded, {"audio": [data["audio"][0], broken]}, options=Options(batch_tokens=1))
    assert leftovers(loaded.model) == attached
    assert torch.equal(logits(loaded, data["audio"]), before)


def test_measuring_the_same_twice_gives_the_same_bits_whatever_was_measured_in_between(
    loaded: Loaded, data: dict[str, list[Sample]], measured: Saliency
) -> None:
    calibrate(loaded, {"audio": data["audio"][:1]})
    assert_equal(calibrate(loaded, data), measured)


@pytest.fixture(scope="module")
def spoken(loaded: Loaded, data: dict[str, list[Sample]]) -> tuple[Saliency, Recorder]:
    """The talker measured while it speaks, and a record of what it did meanwhile."""
    recorder = Recorder(loaded.model.talker.model.layers)
    with recorder.attached():
        saliency = calibrate(loaded, {"audio": data["audio"][:1]}, components=("talker",))
    return saliency, recorder


def test_the_talker_is_measured_on_every_step_of_its_own_speech(spoken: tuple[Saliency, Recorder]) -> None:
    saliency, recorder = spoken
    steps = [len(hidden) for hidden in recorder.hidden[0]]
    assert steps[0] > 1  # the prompt, in one go
    assert set(steps[1:]) == {1}
    assert_same_sums(saliency.components["talker"].modalities["audio"], recorder.sums())


def test_layer_cosines_of_the_talker_are_those_of_its_own_speech(spoken: tuple[Saliency, Recorder]) -> None:
    saliency, recorder = spoken
    depth = len(recorder.layers)
    cosine = saliency.components["talker"].layer_cosine
    expected = [
        [recorder.layer_cosine(span, layer) if layer + span <= depth else np.nan for layer in range(depth)]
        for span in range(1, depth + 1)
    ]
    np.testing.assert_allclose(cosine, expected, rtol=RELATIVE)


def test_the_talkers_speech_is_the_same_each_time(
    loaded: Loaded, data: dict[str, list[Sample]], spoken: tuple[Saliency, Recorder]
) -> None:
    torch.manual_seed(7)
    again = calibrate(loaded, {"audio": data["audio"][:1]}, components=("talker",))
    assert_equal(again, spoken[0])


@pytest.mark.parametrize("modality", ["audio", "video", "mixed"])
@pytest.mark.slow
def test_the_talker_answers_rows_of_every_kind(loaded: Loaded, data: dict[str, list[Sample]], modality: str) -> None:
    rows = [sample for sample in data[modality] if sample.id not in ("short", "long")]
    saliency = calibrate(loaded, {"audio": data["audio"][:1], modality: rows}, components=("talker",))
    sums = saliency.components["talker"].modalities[modality]
    assert set(sums.routed_tokens.sum(axis=1)) == {loaded.model_info.shape.components["talker"].top_k * sums.tokens}
    assert saliency.provenance[f"data.{modality}.silent"] == "0"
    assert not hasattr(loaded.model.config.talker_config, "audio_config")


THREE_ROWS = slice(0, 3)


@contextmanager
def silenced(loaded: Loaded, part: str, samples: Sequence[Sample], silent: Sequence[int]) -> Iterator[None]:
    """The model ends its text (`part` thinker) or its speech (talker) at once on the samples numbered `silent`.

    The end token's row of the head is the one that gives 100 where the first token of these is chosen, -100 elsewhere.
    """
    config = loaded.model.config.talker_config
    model, end = loaded.model, loaded.inputs.end_token_id if part == "thinker" else config.codec_eos_token_id
    head = model.thinker.lm_head if part == "thinker" else model.talker.codec_head
    seen: list[torch.Tensor] = []
    firsts = []
    hook = head.register_forward_pre_hook(lambda _head, arguments: seen.append(arguments[0][0, -1]))
    for sample in samples:
        seen.clear()
        calibrate(loaded, {"audio": [sample]}, components=("talker",))
        firsts.append(seen[0])
    hook.remove()
    wanted = torch.tensor([[100.0 if number in silent else -100.0] for number in range(len(samples))])
    before = head.weight[end].clone()
    with torch.no_grad():
        head.weight[end] = (torch.linalg.pinv(torch.stack(firsts)) @ wanted)[:, 0]
    try:
        yield
    finally:
        with torch.no_grad():
            head.weight[end] = before


@pytest.mark.slow
@pytest.mark.parametrize(("part", "reason"), [("thinker", "no word"), ("talker", "no sound")])
def test_a_row_that_is_answered_with_nothing_is_left_out_named_and_counted(
    loaded: Loaded, data: dict[str, list[Sample]], capsys: pytest.CaptureFixture[str], part: str, reason: str
) -> None:
    rows = data["audio"][THREE_ROWS]
    with silenced(loaded, part, rows, silent=[0]):
        saliency = calibrate(loaded, {"audio": rows}, components=("thinker", "talker"))
        expected = calibrate(loaded, {"audio": rows[1:]}, components=("talker",)).components["talker"]
    sums = saliency.components["talker"]
    assert_same_sums(sums.modalities["audio"], expected.modalities["audio"], RELATIVE_ORDER)
    np.testing.assert_allclose(sums.layer_cosine, expected.layer_cosine, rtol=RELATIVE_ORDER)
    assert saliency.provenance["data.audio.silent"] == "1"
    assert saliency.provenance["data.audio.skipped"] == "0"
    assert f"left out: a:1: answered with {reason}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_that_answers_most_rows_with_nothing_is_refused_and_left_as_it_was(
    loaded: Loaded, data: dict[str, list[Sample]]
) -> None:
    rows = data["audio"][THREE_ROWS]
    calibrate(loaded, {"audio": rows}, components=("talker",))  # transformers leaves its own hooks at the first pass
    attached = leftovers(loaded.model)
    with silenced(loaded, "talker", rows, silent=[0, 2]):
        named = "a:[13]: answered with no sound; a:[13]: answered with no sound"
        with pytest.raises(InputError, match=f"^2 of 3 rows so far were answered with nothing: {named} "):
            calibrate(loaded, {"audio": rows}, components=("talker",))
        with pytest.raises(InputError, match=r"^1 of 1 rows so far were answered with nothing: a:1"):
            calibrate(loaded, {"audio": rows[:1]}, components=("talker",))
    assert leftovers(loaded.model) == attached


def test_the_thinker_alone_is_not_asked_to_speak(measured: Saliency) -> None:
    assert not any(key.endswith(".silent") for key in measured.provenance)


def test_calibration_without_audio_is_refused(loaded: Loaded, data: dict[str, list[Sample]]) -> None:
    with pytest.raises(InputError, match="--audio: calibration needs audio data"):
        calibrate(loaded, {"mixed": data["mixed"]})


def test_a_talker_that_is_not_there_is_refused(loaded: Loaded, data: dict[str, list[Sample]]) -> None:
    silent = load(loaded.model_info)
    with pytest.raises(InputError, match="--component: this model has no talker"):
        calibrate(silent, data, components=("thinker", "talker"))


def test_a_row_with_neither_media_nor_text_is_refused_with_its_place(loaded: Loaded) -> None:
    with pytest.raises(InputError, match=r"^a\.jsonl:3: row has neither media nor text"):
        calibrate(loaded, {"audio": [Sample(id="empty", where="a.jsonl:3")]})


def test_provenance_names_the_model_the_data_and_the_versions(
    loaded: Loaded, data: dict[str, list[Sample]], measured: Saliency
) -> None:
    provenance = measured.provenance
    assert provenance["model_fingerprint"] == loaded.model_info.checkpoint.fingerprint
    assert {"data.audio", "data.video", "data.mixed", "autoreap", "transformers", "torch", "dtype"} <= set(provenance)
    reworded = replace(data["video"][0], text="blue")
    other = calibrate(loaded, {**data, "video": [reworded, *data["video"][1:]]}).provenance
    changed = {key for key in provenance if provenance[key] != other[key]}
    assert changed == {"data.video"}


def test_provenance_says_how_it_was_measured_and_the_shape_of_the_checkpoint(
    loaded: Loaded, data: dict[str, list[Sample]], tmp_path: Path
) -> None:
    shape = loaded.model_info.shape
    saliency = calibrate(loaded, {"audio": data["audio"][:1]})
    saliency.save(tmp_path / "saliency.safetensors")
    kept = load_saliency(tmp_path / "saliency.safetensors").provenance
    assert json.loads(kept["shape"]) == {
        "components": {name: asdict(each) for name, each in shape.components.items()},
        "deepstack_layers": shape.deepstack_layers,
        "speech_tap": shape.speech_tap,
        "has_vision": True,
        "is_packed": False,
    }


def test_provenance_names_all_that_the_numbers_follow_from(loaded: Loaded, data: dict[str, list[Sample]]) -> None:
    heavy = replace(data["audio"][1], where="hub/name de[train] row 7", weight=2.5)
    options = Options(tokens="prompt", gates="raw", batch_tokens=300, max_unreadable=0.5)
    saliency = calibrate(loaded, {"audio": [*data["audio"], heavy]}, options=options)
    provenance = saliency.provenance
    assert {key: provenance[key] for key in ("tokens", "gates", "batch_tokens", "max_unreadable")} == {
        "tokens": "prompt", "gates": "raw", "batch_tokens": "300", "max_unreadable": "0.5",
    }  # fmt: skip
    computed = [provenance[key] for key in ("device", "dtype", "experts_implementation", "attention_implementation")]
    assert computed == ["cpu", "torch.float32", "grouped_mm", "sdpa"]
    assert json.loads(provenance["data.audio.sets"]) == [
        {"set": "a", "weight": 1.0, "rows": 4},
        {"set": "hub/name de[train]", "weight": 2.5, "rows": 1},
    ]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "sound.wav").write_bytes(wav_bytes(6_000))
    return write_rows(tmp_path / "audio.jsonl", text="one")


def write_rows(path: Path, *, text: str) -> Path:
    path.write_text(json.dumps({"id": "a", "audio": "sound.wav", "question": "transcribe", "text": text}) + "\n")
    return path


def test_a_measurement_is_kept_and_taken_from_the_cache_the_second_time(
    loaded: Loaded, rows: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first = jobs.calibrated(loaded, jobs.read_calibration({"audio": rows}), cache=cache)
    (kept,) = cache.iterdir()
    written = kept.stat().st_mtime_ns
    recorder = Recorder(thinker_layers(loaded.model))
    with recorder.attached():
        second = jobs.calibrated(loaded, jobs.read_calibration({"audio": rows}), cache=cache)
    assert recorder.hidden[0] == []  # the model did not run
    assert [kept.stat().st_mtime_ns] == [path.stat().st_mtime_ns for path in cache.iterdir()] == [written]
    assert_equal(second, first)
    assert_equal(first, calibrate(loaded, {"audio": read_samples(rows)}))


@pytest.mark.parametrize("change", ["row", "media"])
def test_a_changed_row_or_its_media_is_measured_anew(loaded: Loaded, rows: Path, tmp_path: Path, change: str) -> None:
    cache = tmp_path / "cache"
    first = jobs.calibrated(loaded, jobs.read_calibration({"audio": rows}), cache=cache)
    if change == "row":
        write_rows(rows, text="two")
    else:
        (tmp_path / "sound.wav").write_bytes(wav_bytes(9_000))
    second = jobs.calibrated(loaded, jobs.read_calibration({"audio": rows}), cache=cache)
    assert len(list(cache.iterdir())) == 2
    assert second.digest() != first.digest()


def test_the_same_rows_under_another_name_are_found_in_the_cache(loaded: Loaded, rows: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    jobs.calibrated(loaded, jobs.read_calibration({"audio": rows}), cache=cache)
    shutil.copyfile(rows, tmp_path / "renamed.jsonl")
    jobs.calibrated(loaded, jobs.read_calibration({"audio": tmp_path / "renamed.jsonl"}), cache=cache)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("component", ["thinker", "talker"])
def test_a_set_of_a_whole_weight_counts_as_if_it_were_given_so_many_times(
    loaded: Loaded, data: dict[str, list[Sample]], component: str
) -> None:
    first, second = data["audio"][:2]
    options = Options(batch_tokens=1)
    repeated = calibrate(loaded, {"audio": [first, *[second] * 3]}, components=("thinker",), options=options)
    heavy = replace(second, weight=3.0)
    weighted = calibrate(loaded, {"audio": [first, heavy]}, components=(component,), options=options)
    alone = [
        calibrate(loaded, {"audio": [sample]}, components=(component,), options=options).components[component]
        for sample in (first, second)
    ]
    sums = weighted.components[component].modalities["audio"]
    one, other = (each.modalities["audio"] for each in alone)
    assert sums.tokens == one.tokens + 3 * other.tokens
    if component == "thinker":
        expected = repeated.components["thinker"]
        assert_same_sums(sums, expected.modalities["audio"])
        np.testing.assert_allclose(weighted.components["thinker"].layer_cosine, expected.layer_cosine, rtol=RELATIVE)
        assert np.array_equal(sums.routed_tokens, one.routed_tokens + 3 * other.routed_tokens)


def test_a_fractional_weight_counts_to_the_nearest_whole_token(loaded: Loaded, data: dict[str, list[Sample]]) -> None:
    sample = data["audio"][1]
    whole = calibrate(loaded, {"audio": [sample]}).components["thinker"].modalities["audio"]
    half = calibrate(loaded, {"audio": [replace(sample, weight=0.3)]}).components["thinker"].modalities["audio"]
    assert half.tokens == round(0.3 * whole.tokens)
    assert np.array_equal(half.routed_tokens, np.rint(0.3 * whole.routed_tokens))
    np.testing.assert_allclose(half.gate_norm_sum, 0.3 * whole.gate_norm_sum, rtol=1e-12)


def test_rows_that_cannot_be_read_are_left_out_and_counted(loaded: Loaded, data: dict[str, list[Sample]]) -> None:
    broken = Sample(id="broken", where="a.jsonl:2", audio=b"no audio at all")
    allowed = Options(max_unreadable=0.5)
    rows = [data["audio"][0], broken, *data["audio"][1:]]
    saliency = calibrate(loaded, {**data, "audio": rows}, options=allowed)
    expected = calibrate(loaded, data)
    assert_same_sums(
        saliency.components["thinker"].modalities["audio"], expected.components["thinker"].modalities["audio"]
    )
    skipped = {modality: saliency.provenance[f"data.{modality}.skipped"] for modality in data}
    assert skipped == {"audio": "1", "video": "0", "mixed": "0"}
