"""What memory and disk a model takes, from headers, or from what is known of the published one. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from autoreap.formatting import size_text, value_text
from autoreap.models.loading import ACTIVATIONS, Described

PUBLISHED = "Qwen/Qwen3-Omni-30B-A3B-Instruct"


@dataclass(frozen=True)
class Need:
    """What a model takes.

    Attributes:
        parameters: of `experts`, `rest` of the thinker, `audio` and `vision`: all that hears and answers.
        layer_parameters: of one decoder layer of the thinker.
        bytes_each: of a parameter as stored.
        total_bytes: of the whole checkpoint, with what speaks.
    """

    model: str
    num_layers: int
    num_experts: int
    parameters: Mapping[str, int]
    layer_parameters: int
    bytes_each: float
    total_bytes: int

    @property
    def num_parameters(self) -> int:
        """Of all that is loaded to be calibrated or searched."""
        return sum(self.parameters.values())

    def loaded_bytes(self, *, on_cpu: bool) -> float:
        """Memory to calibrate or search: the weights, as stored or in float32 on a CPU, and room to work in."""
        return self.num_parameters * (4 if on_cpu else self.bytes_each) * ACTIVATIONS

    def streamed_bytes(self, *, on_cpu: bool) -> float:
        """The same with one decoder layer in memory at a time."""
        on_disk = (self.num_layers - 1) * self.layer_parameters
        return (self.num_parameters - on_disk) * (4 if on_cpu else self.bytes_each) * ACTIVATIONS

    def arithmetic(self) -> str:
        """How the bytes come about."""
        others = {name: count for name, count in self.parameters.items() if name != "experts" and count}
        rest = ", ".join(f"{name} {_count(count)}" for name, count in others.items())
        stored = size_text(self.num_parameters * self.bytes_each)
        return (
            f"{self._experts_in_words()}, {rest}: "
            f"{_count(self.num_parameters)} x {self.bytes_each:.3g} bytes = {stored}, "
            f"{size_text(self.loaded_bytes(on_cpu=False))} with a tenth to work in"
        )

    def _experts_in_words(self) -> str:
        if not self.num_experts:
            return f"{self.num_layers} dense layers"
        each = self.parameters["experts"] // (self.num_layers * self.num_experts)
        total = _count(self.parameters["experts"])
        return f"{self.num_layers} layers x {self.num_experts} experts x {each:,} = {total} parameters"


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


def need_of(described: Described) -> Need:
    """What an opened checkpoint takes."""
    from autoreap.writing.sizes import is_expert

    layout, shape = described.family.layout, described.shape.components["thinker"]
    parameters = dict.fromkeys(("experts", "rest", "audio", "vision"), 0)
    layer_parameters = stored = 0
    for tensor in described.checkpoint.tensors.values():
        role = layout.role(tensor.name)
        if role.part not in ("thinker", "audio", "vision"):
            continue
        kind = role.part if role.part != "thinker" else "experts" if is_expert(role) else "rest"
        parameters[kind] += tensor.num_parameters
        stored += tensor.num_bytes
        layer_parameters += tensor.num_parameters * (role.part == "thinker" and role.layer == 0)
    return Need(
        described.name,
        shape.num_layers,
        shape.num_experts,
        parameters,
        layer_parameters,
        stored / sum(parameters.values()),
        described.checkpoint.num_bytes,
    )
