"""What one can tell of a saliency file without its model: shape, layer by layer figures, and how rankings move.

Shape legend as in `saliency`: L layers, E experts, S spans; K experts retained in each layer.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from autoreap.candidate import Candidate, preset_values
from autoreap.errors import InputError
from autoreap.plan import ComponentShape, ModelShape
from autoreap.planning import edges, layers_to_cut, num_retained, pinned_layers, retained_experts
from autoreap.saliency import ComponentSaliency, FloatArray, IntArray, LayerOrder, ModalitySums, Saliency

LAMBDAS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_OF_LAYERS = ("layer", "cosine", "cut")  # columns of a table that are not about experts
BETAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
_SHAPE = TypeAdapter(ModelShape)


def read_shape(saliency: Saliency) -> ModelShape | None:
    """The shape of the model that was measured, from the provenance; None in a file that does not carry it.

    Raises:
        InputError: it is not of the form that `autoreap calibrate` writes, or contradicts the measurements.
    """
    text = saliency.provenance.get("shape")
    if text is None:
        return None
    try:
        shape = _SHAPE.validate_json(text)
    except ValidationError:
        shape = None
    if shape is None or not _is_of(shape, saliency):
        problem = "the model's shape is broken, or not that of the measurements"
        raise InputError(problem, where="saliency", fix="calibrate again")
    return shape


def _is_of(shape: ModelShape, saliency: Saliency) -> bool:
    for name, measured in saliency.components.items():
        decoder = shape.components.get(name)
        if decoder is None:
            return False
        if (decoder.num_layers, decoder.num_experts) != (measured.num_layers, measured.num_experts):
            return False
    return True


def component_shape(measured: ComponentSaliency) -> ComponentShape:
    """The decoder that was measured; top-k is the number of experts that took each audio token."""
    audio = measured.modalities["audio"]
    # The largest of all layers: one without experts routes nothing.
    routed = audio.routed_tokens.sum(axis=1).max() / max(audio.tokens, 1)
    return ComponentShape(measured.num_layers, measured.num_experts, min(max(1, round(routed)), measured.num_experts))


def top_share(saliency: FloatArray, num_experts: int) -> FloatArray:
    """The share of each layer's sum of `saliency` [L, E] that its `num_experts` highest hold, [L]; 0 of nothing."""
    highest = np.sort(saliency, axis=1)[:, saliency.shape[1] - num_experts :]
    held: FloatArray = _shares(saliency, highest).sum(axis=1)
    return held


def effective_experts(saliency: FloatArray) -> FloatArray:
    """exp(entropy) of each layer's shares of `saliency` [L, E], [L]: E if all are equal, 1 if one has it all."""
    shares = _shares(saliency, saliency)
    # Of a share of 0 the term is 0, which is the limit of p log p.
    logarithms = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    effective: FloatArray = np.exp(-(shares * logarithms).sum(axis=1)) * shares.any(axis=1)
    return effective


def _shares(saliency: FloatArray, part: FloatArray) -> FloatArray:
    totals = saliency.sum(axis=1, keepdims=True)
    shares: FloatArray = np.divide(part, totals, where=totals > 0, out=np.zeros_like(part))
    return shares


def count_never_routed(sums: Sequence[ModalitySums]) -> IntArray:
    """How many experts of each layer took no token in any of `sums`, [L]."""
    routed = np.sum([each.routed_tokens for each in sums], axis=0)
    never: IntArray = (routed == 0).sum(axis=1)
    return never


def kept_share(saliency: FloatArray, kept: Sequence[Sequence[int]]) -> FloatArray:
    """The share of each layer's sum of `saliency` [L, E] that the experts `kept` in it hold, [L]; 0 of nothing."""
    held = [scores[list(experts)].sum() for scores, experts in zip(saliency, kept, strict=True)]
    return _shares(saliency, np.array(held)[:, None]).ravel()


def cut_order(layer_cosine: FloatArray, pinned: frozenset[int], num_cut: int) -> tuple[int, ...]:
    """The first `num_cut` layers in the order in which `layers_to_cut` takes single ones; fewer if fewer are free."""
    order: list[int] = []
    # One more each time; what is new is the next in order.
    for number in range(1, min(num_cut, layer_cosine.shape[1] - len(pinned)) + 1):
        order.extend(layers_to_cut(layer_cosine, number, pinned) - set(order))
    return tuple(order)


def turnover(reference: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> FloatArray:
    """In each layer the share of `other`'s experts that are not among `reference`'s, [L]; both retain equally many."""
    shares = []
    for before, after in zip(reference, other, strict=True):
        num_new = len(set(after) - set(before))
        shares.append(num_new / max(len(after), 1))
    return np.array(shares, dtype=np.float64)


def turnover_from_audio(
    measured: ComponentSaliency, num_kept: int, lambdas: Sequence[float], betas: Sequence[float]
) -> FloatArray:
    """The turnover of the `num_kept` experts against lambda = 0, mean over layers, [len(lambdas), len(betas)]."""
    # A = S1: beta does not count without lambda.
    audio_only = retained_experts(measured.affinity(0, 0), num_kept)
    rows = []
    for lambda_ in lambdas:
        row = []
        for beta in betas:
            kept = retained_experts(measured.affinity(lambda_, beta), num_kept)
            row.append(turnover(audio_only, kept).mean())
        rows.append(row)
    return np.array(rows)


@dataclass(frozen=True)
class LayerSummary:
    """One layer at a glance.

    Attributes:
        top_share: the share of S1 that the K experts with the highest S1 hold.
        effective_experts: exp(entropy) of the shares of S1.
        never_routed_audio, never_routed: experts that took no audio token, and no token at all.
        cosine: cos(h_l, h_{l+1}) on audio; None if it was not measured.
        cut_order: 1 for the layer that is cut first, up to the number that the aggressive preset cuts; else None.
        protected: a layer that ranking never cuts.
        turnover: the share of its retained experts that would not be, were lambda 0.
    """

    layer: int
    top_share: float
    effective_experts: float
    never_routed_audio: int
    never_routed: int
    cosine: float | None
    cut_order: int | None
    protected: bool
    turnover: float


@dataclass(frozen=True)
class ComponentSummary:
    """One decoder at a glance, at the retention, lambda and beta of a candidate.

    Attributes:
        shape: of the decoder.
        num_retained: K.
        lambda_: as given; 0 for the talker, whose experts are ranked by audio alone.
        tokens: how many were measured, by modality.
        kept_share: by modality, the share of its saliency that the retained experts hold, mean over layers.
        pinned: layers that ranking never cuts, while vision is kept.
        turnover: [len(lambdas), len(betas)] turnover against lambda = 0, mean over layers.
        layer_order: layers ranked by what answers lose.
    """

    shape: ComponentShape
    num_retained: int
    lambda_: float
    beta: float
    tokens: dict[str, int]
    kept_share: dict[str, float]
    pinned: frozenset[int]
    layers: tuple[LayerSummary, ...]
    lambdas: tuple[float, ...]
    betas: tuple[float, ...]
    turnover: FloatArray
    layer_order: LayerOrder

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON holds it."""
        return {
            **asdict(self.shape),
            "num_retained": self.num_retained,
            "lambda": self.lambda_,
            "beta": self.beta,
            "tokens": self.tokens,
            "kept_share": self.kept_share,
            "layers": [asdict(layer) for layer in self.layers],
            "layer_order": self.layer_order.as_dict(),
            "turnover": {"lambda": self.lambdas, "beta": self.betas, "mean": self.turnover.tolist()},
        }


def summarise(saliency: Saliency, name: str, values: Candidate) -> ComponentSummary:
    """The component `name` at the retention, lambda and beta of `values`; `InputError` if it was not calibrated."""
    measured = saliency.component(name)
    model = read_shape(saliency)
    shape = component_shape(measured) if model is None else model.components[name]
    num_kept = num_retained(values.retention, shape)
    pinned = edges(shape.num_layers)
    lambda_ = 0.0
    lambdas: tuple[float, ...] = ()
    if name == "thinker":  # a talker's experts are ranked by audio alone: there is nothing to weigh
        lambda_ = values.lambda_
        lambdas = tuple(sorted({*LAMBDAS, lambda_}))
        # While vision is kept, the layers below which it enters can't be cut either.
        if model is not None:
            pinned = pinned_layers(model, strip_vision=False)
    kept = retained_experts(measured.affinity(lambda_, values.beta), num_kept)
    betas = tuple(sorted({*BETAS, values.beta}))
    tokens = {}
    kept_shares = {}
    for modality, sums in measured.modalities.items():
        tokens[modality] = sums.tokens
        kept_shares[modality] = float(kept_share(sums.per_token(), kept).mean())
    return ComponentSummary(
        shape=shape,
        num_retained=num_kept,
        lambda_=lambda_,
        beta=values.beta,
        tokens=tokens,
        kept_share=kept_shares,
        pinned=pinned,
        layers=_layers(measured, kept, pinned),
        lambdas=lambdas,
        betas=betas,
        turnover=turnover_from_audio(measured, num_kept, lambdas, betas),
        layer_order=measured.layer_order,
    )


def _layers(
    measured: ComponentSaliency, kept: Sequence[Sequence[int]], pinned: frozenset[int]
) -> tuple[LayerSummary, ...]:
    audio, num_kept = measured.modalities["audio"], len(kept[0])
    most_cut = preset_values("aggressive", measured.num_layers)[1]
    order = cut_order(measured.layer_cosine, pinned, most_cut)
    places = {layer: place for place, layer in enumerate(order, start=1)}
    top = top_share(audio.per_token(), num_kept)
    effective = effective_experts(audio.per_token())
    without_audio = count_never_routed([audio])
    without_any = count_never_routed([*measured.modalities.values()])
    moved = turnover(retained_experts(measured.affinity(0, 0), num_kept), kept)
    layers = []
    for layer in range(measured.num_layers):
        cosine = float(measured.layer_cosine[0, layer])
        layers.append(
            LayerSummary(
                layer=layer,
                top_share=float(top[layer]),
                effective_experts=float(effective[layer]),
                never_routed_audio=int(without_audio[layer]),
                never_routed=int(without_any[layer]),
                cosine=cosine if np.isfinite(cosine) else None,
                cut_order=places.get(layer),
                protected=layer in pinned,
                turnover=float(moved[layer]),
            )
        )
    return tuple(layers)


def headline(summary: ComponentSummary) -> list[str]:
    """A few lines on what matters most of a component."""
    shape = summary.shape
    order = []
    num_without_audio, num_without_any = 0, 0
    for layer in summary.layers:
        if layer.cut_order is not None:
            order.append((layer.cut_order, str(layer.layer)))
        num_without_audio += layer.never_routed_audio
        num_without_any += layer.never_routed
    tokens = "tokens measured: " + ", ".join(f"{modality} {number:,}" for modality, number in summary.tokens.items())
    cuts = ["layers cut first: " + (", ".join(layer for _, layer in sorted(order)) or "all are protected")]
    if summary.layer_order.layers:
        cuts.append(f"layers cut first by loss: {summary.layer_order.description}")
    if shape.is_dense:
        return [f"{shape.num_layers} dense layers", tokens, *cuts]
    choice = "ranked by audio alone"
    if summary.lambdas:
        choice = f"lambda {summary.lambda_:g}, beta {summary.beta:g}"
    held = ", ".join(f"{share:.1%} of {modality} saliency" for modality, share in summary.kept_share.items())
    return [
        f"{shape.num_layers} layers of {shape.num_experts} experts, {shape.top_k} for each token; "
        f"{summary.num_retained} kept in each layer ({choice})",
        tokens,
        f"the kept experts hold, mean over layers: {held}",
        f"never routed: {num_without_audio} of {shape.num_layers * shape.num_experts} experts on audio, "
        f"{num_without_any} on anything",
        *cuts,
    ]


def layer_table(summary: ComponentSummary) -> list[list[str]]:
    """A header, and a row of text for each layer; of a dense one, what it says of layers alone."""
    top = f"top {summary.num_retained} hold"
    header = ["layer", top, "effective", "no audio", "no token", "cosine", "cut", "moved"]
    rows = [header]
    for layer in summary.layers:
        cosine = "" if layer.cosine is None else f"{layer.cosine:.4f}"
        cut = "protected" if layer.protected else str(layer.cut_order or "")
        rows.append(
            [
                str(layer.layer),
                f"{layer.top_share:.1%}",
                f"{layer.effective_experts:.1f}",
                str(layer.never_routed_audio),
                str(layer.never_routed),
                cosine,
                cut,
                f"{layer.turnover:.0%}",
            ]
        )
    if not summary.shape.is_dense:
        return rows
    # What is said of experts is of none here.
    table = []
    for row in rows:
        columns = dict(zip(header, row, strict=True))
        table.append([columns[name] for name in _OF_LAYERS])
    return table
