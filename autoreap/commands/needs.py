"""What memory and disk a model takes, from headers, or from what is known of the published one. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from autoreap.candidate import DEFAULT_GROUP_SIZE
from autoreap.formatting import size_text, value_text
from autoreap.models.loading import ACTIVATIONS, ModelInfo
from autoreap.models.packed import SCALE_BITS

PUBLISHED = "Qwen/Qwen3-Omni-30B-A3B-Instruct"


@dataclass(frozen=True)
class Need:
    """What a model takes."""

    model: str
    num_layers: int
    num_experts: int
    # Of experts, rest (of the thinker), audio and vision: all that hears and answers.
    parameters: Mapping[str, int]
    layer_parameters: int  # of one decoder layer of the thinker
    bytes_each: float  # of a parameter as stored
    total_bytes: int  # of the whole checkpoint, with what speaks

    @property
    def num_parameters(self) -> int:
        """Of all that is loaded to be calibrated or searched."""
        return sum(self.parameters.values())

    def memory(self, *, on_cpu: bool, streamed: bool = False) -> int:
        """Bytes to calibrate or search: the weights, as stored or in float32 on a CPU, and room to work in.

        `streamed` is with one decoder layer in memory at a time.
        """
        num_parameters = self.num_parameters
        if streamed:
            num_parameters -= (self.num_layers - 1) * self.layer_parameters
        return round(num_parameters * self._bytes_each(on_cpu) * ACTIVATIONS)

    def packed_memory(self, bits: int, *, on_cpu: bool) -> int:
        """The same to search with `--base-bits`, without vision: experts packed, and those of one layer unpacked."""
        experts = self.parameters["experts"]
        # A group of weights shares one scale.
        packed = experts * (bits + SCALE_BITS / DEFAULT_GROUP_SIZE) / 8
        unpacked = self.num_parameters - experts - self.parameters["vision"] + experts / self.num_layers
        return round((packed + unpacked * self._bytes_each(on_cpu)) * ACTIVATIONS)

    def _bytes_each(self, on_cpu: bool) -> float:
        # A CPU computes in float32, whatever is stored.
        if on_cpu:
            return 4
        return self.bytes_each

    def arithmetic(self) -> str:
        """How the bytes come about."""
        experts = self.parameters["experts"]
        parts = [f"{self.num_layers} dense layers"]
        if experts:
            each = experts // (self.num_layers * self.num_experts)
            parts = [f"{self.num_layers} layers x {self.num_experts} experts x {each:,} = {_count(experts)} parameters"]
        for name in ("rest", "audio", "vision"):
            if self.parameters[name]:
                parts.append(f"{name} {_count(self.parameters[name])}")
        stored, loaded = size_text(self.num_parameters * self.bytes_each), size_text(self.memory(on_cpu=False))
        total = f"{_count(self.num_parameters)} x {self.bytes_each:.3g} bytes = {stored}"
        return f"{', '.join(parts)}: {total}, {loaded} including 10% working memory"


def _count(parameters: int) -> str:
    return value_text("num_parameters", parameters)


# Counted from its configuration: 3 x 2048 x 768 an expert; what a test counts again, tensor by tensor.
PUBLISHED_NEED = Need(
    model=PUBLISHED,
    num_layers=48,
    num_experts=128,
    parameters={"experts": 28_991_029_248, "rest": 1_541_617_664, "audio": 647_927_168, "vision": 538_631_408},
    layer_parameters=623_120_640,
    bytes_each=2,
    total_bytes=2 * 35_259_818_545,
)


def need_of(model_info: ModelInfo) -> Need:
    """What an opened checkpoint takes."""
    layout, shape = model_info.family.layout, model_info.shape.components["thinker"]
    parameters = {"experts": 0, "rest": 0, "audio": 0, "vision": 0}
    layer_parameters = stored = 0
    for tensor in model_info.checkpoint.tensors.values():
        role = layout.role(tensor.name)
        if role.part == "thinker":
            part = "experts" if role.is_expert_matrix else "rest"
            parameters[part] += tensor.num_parameters
            if role.layer == 0:  # all layers are alike
                layer_parameters += tensor.num_parameters
        elif role.part in parameters:
            parameters[role.part] += tensor.num_parameters
        else:
            continue
        stored += tensor.num_bytes
    return Need(
        model_info.name,
        shape.num_layers,
        shape.num_experts,
        parameters,
        layer_parameters,
        stored / sum(parameters.values()),
        model_info.checkpoint.num_bytes,
    )
