"""A random model of the published shapes on a device, what it hears, and what its work takes."""

import argparse
import ctypes
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from healing import peak_bytes, random_plan
from night import Clips
from torch import nn
from transformers.initialization import no_init_weights

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS / "helpers"))

from builders import wav_bytes, write_sparse_checkpoint  # noqa: E402
from random_models import real_config, small_config  # noqa: E402

from autoreap.data.eval_set import EvalSet, open_evals  # noqa: E402
from autoreap.data.samples import Sample  # noqa: E402
from autoreap.evaluation.device_limits import device_limits  # noqa: E402
from autoreap.evaluation.draft_pools import empty_cache  # noqa: E402
from autoreap.models.families import family_of  # noqa: E402
from autoreap.models.loading import Loaded, open_model, release  # noqa: E402
from autoreap.models.places import place_of  # noqa: E402
from autoreap.plan import PruningPlan  # noqa: E402
from autoreap.tiny_omni import CHECKPOINT  # noqa: E402

T = TypeVar("T")
Facts = dict[str, Any]
FREE_ON_80_GB = 16.6e9  # beside the weights of the thinker and its encoders
FIRST_TOKEN, NUM_WORDS = 5, 400  # between them, ordinary tokens of the embedded tokenizer


@dataclass(frozen=True)
class Scale:
    """How much is asked.

    Attributes:
        tokens: that a layer's experts are given at once.
        shapes: rows and columns of passes.
        long_clips: seconds.
        group: weights that share a scale.
    """

    num_clips: int
    num_generated: int
    num_heard: int
    tokens: Sequence[int]
    shapes: Sequence[tuple[int, int]]
    long_clips: Sequence[int]
    group: int = 128


ON_CARD = Scale(500, 32, 40, (256, 4096, 16384), ((64, 595), (1, 31_215), (128, 595), (256, 495)), (120, 300, 2400))
ON_CPU = Scale(20, 4, 4, (256,), ((4, 495), (16, 595), (1, 9000)), (30,))
SMALL = replace(ON_CPU, shapes=((4, 99), (8, 199), (1, 900)), group=16)


class Bench:
    """A random model on a device, and what is measured of it."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.folder = folder
        self.device = torch.device(options.device)
        self.on_card = self.device.type == "cuda"
        self.scale = SMALL if options.small else ON_CARD if self.on_card else ON_CPU
        self._config = small_config() if options.small else real_config()
        self.loaded = self.model_of(options.layers, folder / "model")
        self.model = self.loaded.model
        self.running = self.loaded.model_info.family.running
        self.thinker: Any = self.running.thinker(self.model)
        self.decoder: Any = self.running.decoder(self.model, "thinker")
        self.limits = device_limits(self.running, self.model, None)

    def model_of(self, num_layers: int | None, path: Path) -> Loaded:
        """Random weights of so many layers; its checkpoint in `path` is headers alone."""
        config = deepcopy(self._config)
        own = json.loads((CHECKPOINT / "config.json").read_text())
        for part, of_tokenizer in ((config, own), (config["thinker_config"], own["thinker_config"])):
            part |= {key: value for key, value in of_tokenizer.items() if key.endswith("_token_id") and key in part}
        config["enable_audio_output"] = False
        if num_layers:
            config["thinker_config"]["text_config"]["num_hidden_layers"] = num_layers
        layout = family_of(config).layout
        path.mkdir()
        write_sparse_checkpoint(path, config, layout.expected_tensors(config))
        for source in CHECKPOINT.iterdir():
            if source.suffix in (".json", ".jinja") and source.name != "config.json":
                (path / source.name).write_bytes(source.read_bytes())
        stock: Any = layout.stock_class()
        with self.device, no_init_weights():
            model = stock._from_config(stock.config_class(**config), dtype=torch.bfloat16).eval()
        fill(model)
        info = open_model(str(path))
        return Loaded(info, model, info.family.running.inputs(path))

    def facts(self) -> Facts:
        """What it runs on."""
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        facts: Facts = {"where": place_of(self.running, self.model), "parameters": num_parameters}
        if self.on_card:
            facts["free_bytes"], facts["total_bytes"] = torch.cuda.mem_get_info(self.device)
        return {**facts, "limits": asdict(self.limits), "torch": torch.__version__}

    def wait(self) -> None:
        """Until the device has done what it was asked."""
        if self.on_card:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Of `work`, until the device has done it."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def best_seconds(self, work: Callable[[], object]) -> float:
        """The least of three, after one that does not count."""
        return min([self.seconds(work) for _ in range(4)][1:])

    def measured(self, work: Callable[[], T]) -> tuple[T, Facts]:
        """What `work` returns, its seconds, and the bytes that it takes at most beside what is there."""
        if self.on_card:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = self._peak()
        found: list[T] = []
        seconds = self.seconds(lambda: found.append(work()))
        return found[0], {"seconds": seconds, "peak_bytes": self._peak() - before}

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) if self.on_card else peak_bytes()

    @contextmanager
    def as_80_gb(self) -> Iterator[None]:
        """As much memory beside what is there as an 80 GB card has beside the weights; on a CPU nothing changes."""
        if not self.on_card:
            yield
            return
        release()
        total = torch.cuda.get_device_properties(self.device).total_memory
        share = (torch.cuda.memory_allocated(self.device) + FREE_ON_80_GB) / total
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0), self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def plan(self, loaded: Loaded | None = None) -> PruningPlan:
        """Half of the experts of each layer, drawn at random."""
        loaded = loaded or self.loaded
        return random_plan(loaded, loaded.model_info.shape.components["thinker"].num_experts // 2, ()).unhealed()

    def embed(self, prompts: Sequence[Sequence[int]], numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Left-padded inputs of the thinker for the prompts of these numbers; no token of them is 0."""
        longest = max(len(prompts[number]) for number in numbers)
        ids = torch.tensor([[*[0] * (longest - len(prompts[number])), *prompts[number]] for number in numbers])
        ids = ids.to(self.device)
        embeddings = self.thinker.get_input_embeddings()(ids)
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "inputs_embeds": embeddings}

    @torch.inference_mode()
    def states(self, num_rows: int, width: int) -> torch.Tensor:
        """What the decoder makes of random tokens [B, T, H], with a cache, as a first pass has."""
        inputs = self.embed([random_tokens(row, width) for row in range(num_rows)], range(num_rows))
        del inputs["input_ids"]
        states: torch.Tensor = self.decoder(**inputs, past_key_values=empty_cache(), use_cache=True).last_hidden_state
        return states


def random_tokens(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(FIRST_TOKEN, NUM_WORDS), k=length)


@torch.no_grad()
def fill(model: Any) -> None:
    """Random weights that keep the scale of what goes through.

    Each ordinary token is answered with another one, by a clear margin: what bfloat16 rounds away decides no answer,
    and a wrong token of a draft misleads the model in the next. Answers do not end.
    """
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter.shape[-1] ** -0.5)
        else:
            parameter.fill_(float(name.endswith("weight")))
    embeddings = model.thinker.get_input_embeddings().weight.normal_()
    head = model.thinker.get_output_embeddings().weight.zero_()
    answers = torch.randperm(NUM_WORDS - FIRST_TOKEN, device=head.device) + FIRST_TOKEN
    head[answers] = embeddings[FIRST_TOKEN:NUM_WORDS] * head.shape[1] ** -0.5


def sliced_experts(bench: Bench, module: Any, kept: torch.Tensor) -> Any:
    """The experts that a checkpoint of the `kept` ones has."""
    config = deepcopy(bench.decoder.config)
    config.num_experts = len(kept)
    with torch.device("meta"):
        few = type(module)(config)
    for name, parameter in module.named_parameters():
        setattr(few, name, nn.Parameter(parameter.detach()[kept], requires_grad=False))
    return few.eval()


def sliced_layer(bench: Bench, number: int, kept: Sequence[int]) -> nn.Module:
    """The layer that a checkpoint of the `kept` experts has."""
    layer: Any = bench.decoder.layers[number]
    rows = torch.tensor(kept, device=bench.device)
    written: Any = deepcopy(layer)
    written.mlp.experts = sliced_experts(bench, layer.mlp.experts, rows)
    written.mlp.gate.weight = nn.Parameter(layer.mlp.gate.weight.detach()[rows], requires_grad=False)
    written.mlp.gate.num_experts = len(kept)
    sliced: nn.Module = written
    return sliced


def heard(bench: Bench) -> list[Sample]:
    """Rows of tones, as long as clips are."""
    rows = []
    for number, seconds in enumerate(Clips.of(bench.scale.num_heard, None).seconds):
        sound = wav_bytes(int(16_000 * seconds))
        rows.append(Sample(id=str(number), where=f"tone {number}", audio=sound, text="one two three"))
    return rows


def written_evals(bench: Bench) -> EvalSet:
    """The same as an evals file."""
    lines = []
    for sample in heard(bench):
        assert isinstance(sample.audio, bytes)
        (bench.folder / f"{sample.id}.wav").write_bytes(sample.audio)
        lines.append(json.dumps({"id": sample.id, "audio": f"{sample.id}.wav", "text": sample.text}) + "\n")
    (bench.folder / "rows.jsonl").write_text("".join(lines))
    path = bench.folder / "evals.yaml"
    path.write_text("search: [{task: asr, dataset_path: rows.jsonl}]\n")
    return open_evals(path).search
