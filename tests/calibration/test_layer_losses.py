"""The order of layers by loss, against stock forward passes over single rows with the layers taken out by hand."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import as_jsonl
from random_qwen2_5_omni import save_hearing_model
from random_qwen2_audio import save_hearing_model as save_qwen2_audio

from autoreap import jobs
from autoreap.calibration.calibrator import Options
from autoreap.calibration.layer_losses import order_layers
from autoreap.data.samples import Sample, read_samples
from autoreap.errors import InputError, ScoringError
from autoreap.models.loading import Loaded, load, open_model
from autoreap.saliency import LayerOrder, Saliency, load_saliency

# float32 sums in another order, once padded and once alone; measured: 4e-6 at worst.
RELATIVE = 3e-5
OPTIONS = Options(batch_tokens=200)  # several rows in a batch, several batches


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Rows of audio, one of which counts thrice, and two that hold no answer."""
    rows = read_samples(as_jsonl("calibration/tiny") / "audio.jsonl")[:6]
    rows[2] = replace(rows[2], weight=3.0)
    rows[5] = replace(rows[5], text=None)
    return [*rows, Sample(id="text alone", where="a:7", text="one two three")]


@pytest.fixture(scope="module", params=["tiny", "dense", "without vision"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The embedded model, and random dense ones of other families."""
    folder = tmp_path_factory.mktemp("model")
    saved: Mapping[str, Callable[[Path], Path]] = {"dense": save_hearing_model, "without vision": save_qwen2_audio}
    name = "tiny" if request.param == "tiny" else str(saved[request.param](folder / "model"))
    return load(open_model(name))


@contextmanager
def without(loaded: Loaded, layers: Sequence[int]) -> Iterator[None]:
    """The decoder's list of layers, less some."""
    decoder: Any = loaded.model_info.family.running.decoder(loaded.model, "thinker")
    whole = decoder.layers
    decoder.layers = torch.nn.ModuleList([layer for number, layer in enumerate(whole) if number not in layers])
    decoder.config.num_hidden_layers = len(decoder.layers)
    try:
        yield
    finally:
        decoder.layers, decoder.config.num_hidden_layers = whole, len(whole)


@torch.inference_mode()
def mean_loss(loaded: Loaded, samples: Sequence[Sample]) -> float:
    """From the logits of each row alone; the answer is the words of the row and the end."""
    thinker: Any = loaded.model_info.family.running.thinker(loaded.model)
    nats = num_tokens = 0.0
    for sample in samples:
        if sample.audio is None or sample.text is None:
            continue
        answer = [*loaded.inputs.text_tokens(sample.text), loaded.inputs.end_token_id]
        encoded = loaded.inputs.encode(sample, sample.question or "Transcribe the audio into text.", sample.text)
        inputs = loaded.inputs.collate([encoded])
        assert inputs["input_ids"][0, -len(answer) :].tolist() == answer
        probabilities = thinker(**inputs, use_cache=False).logits[0].double().softmax(dim=-1)
        for place, token in enumerate(answer, start=len(encoded.input_ids) - len(answer)):
            nats -= sample.weight * float(probabilities[place - 1, token].log())
            num_tokens += sample.weight
    return nats / num_tokens


def order_by_hand(loaded: Loaded, samples: Sequence[Sample], num_layers: int) -> LayerOrder:
    """Every layer but the first and the last is tried, beside those already cut."""
    depth = loaded.model_info.shape.components["thinker"].num_layers
    cut: list[int] = []
    losses = []
    for _ in range(num_layers):
        tried = {}
        for layer in range(1, depth - 1):
            if layer not in cut:
                with without(loaded, [*cut, layer]):
                    tried[layer] = mean_loss(loaded, samples)
        best = min(tried, key=lambda layer: tried[layer])
        cut.append(best)
        losses.append(tried[best])
    return LayerOrder(tuple(cut), tuple(losses))


def last(orders: Iterator[LayerOrder]) -> LayerOrder:
    return [*orders][-1]


@pytest.mark.slow
def test_the_order_and_its_losses_are_those_of_every_layer_cut_by_hand(model: Loaded, samples: list[Sample]) -> None:
    expected = order_by_hand(model, samples, 3)
    order = last(order_layers(model, samples, 3, LayerOrder(), OPTIONS))
    assert order.layers == expected.layers
    np.testing.assert_allclose(order.losses, expected.losses, rtol=RELATIVE)


def test_the_order_goes_on_from_what_is_known_of_it(loaded: Loaded, samples: list[Sample]) -> None:
    known = LayerOrder((5,), (0.25,))
    orders = [*order_layers(loaded, samples, 3, known, OPTIONS)]
    assert [order.first(len(order.layers) - 1) for order in orders] == [known, orders[0]]
    with without(loaded, orders[0].layers):
        np.testing.assert_allclose(orders[0].losses, [0.25, mean_loss(loaded, samples)], rtol=RELATIVE)


def test_a_row_of_a_whole_weight_counts_as_if_it_were_given_so_many_times(
    loaded: Loaded, samples: list[Sample]
) -> None:
    repeated = [*samples[:2], *[replace(samples[2], weight=1.0)] * 3, *samples[3:]]
    weighted, given = (last(order_layers(loaded, rows, 2, LayerOrder(), OPTIONS)) for rows in (samples, repeated))
    assert weighted.layers == given.layers
    np.testing.assert_allclose(weighted.losses, given.losses, rtol=RELATIVE)


def test_rows_without_an_answer_rank_nothing(loaded: Loaded, samples: list[Sample]) -> None:
    silent = [replace(sample, text=None) for sample in samples[:2]] + samples[-1:]
    with pytest.raises(InputError, match=f"{samples[0].where}: no audio row has an answer"):
        next(order_layers(loaded, silent, 1, LayerOrder(), OPTIONS))


def test_an_output_that_is_no_number_ranks_nothing(samples: list[Sample]) -> None:
    broken = load(open_model("tiny"))
    broken.model.get_submodule("thinker.lm_head").weight.data.fill_(float("nan"))
    with pytest.raises(ScoringError, match="not a number"):
        next(order_layers(broken, samples, 1, LayerOrder(), OPTIONS))


# ---------------------------------------------------------------- as part of a saved measurement


def order_of(saliency: Saliency) -> LayerOrder:
    return saliency.components["thinker"].layer_order


@pytest.fixture(scope="module")
def expected(loaded: Loaded, samples: list[Sample]) -> Saliency:
    return jobs.measure_saliency(loaded, {"audio": samples}, options=OPTIONS, num_ordered=3)


@pytest.mark.parametrize("place", ["output", "cache"])
def test_a_saved_measurement_is_completed_by_the_layers_that_it_lacks(
    loaded: Loaded, samples: list[Sample], expected: Saliency, place: str, tmp_path: Path
) -> None:
    saved_as = {"output": tmp_path / "s.safetensors"} if place == "output" else {"cache": tmp_path}
    measure: dict[str, Any] = {"options": OPTIONS, **saved_as}
    jobs.measure_saliency(loaded, {"audio": samples}, **measure)
    (path,) = tmp_path.iterdir()
    saved = load_saliency(path)
    assert order_of(saved) == LayerOrder()
    marked = replace(saved.components["thinker"], layer_cosine=saved.components["thinker"].layer_cosine / 2)
    replace(saved, components={"thinker": marked}).save(path)  # another number, which a measurement would write over

    for number in (1, 3):
        longer = jobs.measure_saliency(loaded, {"audio": samples}, **measure, num_ordered=number)
        assert order_of(longer) == order_of(load_saliency(path)) == order_of(expected).first(number)
        np.testing.assert_array_equal(longer.components["thinker"].layer_cosine, marked.layer_cosine)
    written = path.stat().st_mtime_ns
    for number in (0, 2, 3):
        again = jobs.measure_saliency(loaded, {"audio": samples}, **measure, num_ordered=number)
        assert order_of(again) == order_of(expected).first(number)
    assert path.stat().st_mtime_ns == written
    assert [*tmp_path.iterdir()] == [path]


def test_a_search_is_the_same_however_many_layers_are_in_order(loaded: Loaded, expected: Saliency) -> None:
    order = order_of(expected)
    digests = [expected.with_layer_order(order.first(number)).digest() for number in (1, 2, 3)]
    other_answers = replace(order, losses=(order.losses[0] + 1e-9, *order.losses[1:]))
    assert len({*digests}) == 1
    assert expected.with_layer_order(other_answers).digest() not in digests
    assert expected.with_layer_order(LayerOrder()).digest() not in digests


def test_layers_that_are_not_in_memory_can_not_be_ordered(samples: list[Sample], tmp_path: Path) -> None:
    streamed = load(open_model("tiny"), stream_layers=True)
    with pytest.raises(InputError, match="--stream-layers: layers can't be ranked"):
        jobs.measure_saliency(streamed, {"audio": samples}, output=tmp_path / "s.safetensors", num_ordered=1)
