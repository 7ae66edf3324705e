"""How much is decoded together on a device."""

from typing import Any

import pytest
import torch

from autoreap.evaluation.device_limits import PassCost, decode, device_limits
from autoreap.evaluation.draft_limits import Limits
from autoreap.models.loading import Loaded, load, open_model


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(open_model("tiny"))


def cost(*, bytes_a_column: int = 251_000, pass_seconds: float = 0.040, token_seconds: float = 20e-6) -> PassCost:
    columns = (256, 4096)
    few, many = (pass_seconds + token_seconds * number for number in columns)
    return PassCost(columns, (few, many), (10**9, 10**9 + bytes_a_column * 3840))


@pytest.mark.parametrize(("free_gb", "columns"), [(86, 2**15), (21, 2**15), (10, 2**14), (5, 2**13), (0.1, 2**10)])
def test_columns_follow_from_the_memory_beside_the_weights(free_gb: float, columns: int) -> None:
    assert cost().bytes_a_column == 251_000
    limits = cost().limits(256, free_gb * 1e9)
    assert limits == Limits(256, columns, columns, 2048)  # 2,000 tokens, as a power of two


def test_a_pass_costs_what_it_takes_beside_its_tokens() -> None:
    assert cost().pass_tokens == pytest.approx(2000)
    assert cost(token_seconds=0).limits(256, 1e12).pass_tokens == 2**13
    assert cost(pass_seconds=0).limits(256, 1e12).pass_tokens == 2**5


def test_a_cpu_has_fixed_limits_so_that_answers_repeat(loaded: Loaded) -> None:
    running = loaded.model_info.family.running
    assert device_limits(running, loaded.model, None) == Limits(32)
    assert device_limits(running, loaded.model, 5) == Limits(5)


def test_the_pass_that_is_measured_is_one_of_the_decoder_with_a_cache(loaded: Loaded) -> None:
    shapes: list[Any] = []

    def note(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        shapes.append((tuple(options["inputs_embeds"].shape), options["use_cache"]))

    decoder: Any = loaded.model_info.family.running.decoder(loaded.model, "thinker")
    handle = decoder.register_forward_pre_hook(note, with_kwargs=True)
    decode(loaded.model_info.family.running, loaded.model, 3, 17)
    handle.remove()
    assert shapes == [((3, 17, loaded.model.config.thinker_config.text_config.hidden_size), True)]


@pytest.mark.parametrize("is_full", [False, True])
def test_an_accelerator_is_measured(loaded: Loaded, monkeypatch: pytest.MonkeyPatch, is_full: bool) -> None:
    """The statistics of the allocator are made up; the passes are those of the model."""
    running = loaded.model_info.family.running
    columns = [0]

    def note(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        if is_full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        columns[0] = options["inputs_embeds"].shape[:2].numel()

    places = [torch.device("cuda", 0)]
    monkeypatch.setattr(type(running), "device", lambda *_: places.pop() if places else torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (21_000_000_000, 80_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2_000_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1_000_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 1_000_000_000 + columns[0] * 500_000)
    decoder: Any = running.decoder(loaded.model, "thinker")
    handle = decoder.register_forward_pre_hook(note, with_kwargs=True)
    limits = device_limits(running, loaded.model, None)
    handle.remove()
    assert (limits.rows, limits.first_columns) == (256, 2**10 if is_full else 2**14)
