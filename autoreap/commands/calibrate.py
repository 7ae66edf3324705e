"""autoreap calibrate: measure saliency once."""

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from autoreap.commands.options import COMPONENTS, Calibration, Component, Json, Loading, Model, print_result


def calibrate(
    model: Model,
    calibration: Calibration,
    loading: Loading,
    component: Component = "thinker",
    layer_losses: Annotated[
        int | None,
        Option(metavar="N", min=1, help="rank layers for up to N cuts by loss, one pass per remaining layer and cut"),
    ] = None,
    output: Annotated[Path, Option("-o", "--output", metavar="FILE")] = Path("saliency.safetensors"),
    json: Json = False,
) -> None:
    """Measure saliency once.

    Example:
        autoreap calibrate tiny --audio calibration/tiny/audio.parquet -o saliency.safetensors
    """
    from autoreap import jobs
    from autoreap.calibration.calibrator import Options
    from autoreap.models.loading import open_model
    from autoreap.planning import num_to_order, pinned_layers

    components = COMPONENTS[component]
    config = calibration.config()
    # A bad row is found before a model is loaded.
    data = jobs.read_calibration(config, num_ordered=layer_losses or 0)
    model_info = open_model(model)
    pinned = pinned_layers(model_info.shape, strip_vision=False)  # a plan may keep vision or not
    num_layers = model_info.shape.components["thinker"].num_layers
    num_ordered = num_to_order(layer_losses or 0, num_layers, pinned, where="--layer-losses")
    loaded = loading.load(model_info, component)
    options = Options.of(config)
    saliency = jobs.calibrated(loaded, data, components, options=options, output=output, num_ordered=num_ordered)
    measured = saliency.components[components[0]]
    tokens = {modality: sums.tokens for modality, sums in measured.modalities.items()}
    document: dict[str, Any] = {"path": str(output), "tokens": tokens}
    text = f"{output}: tokens {tokens}"
    if layer_losses:
        document["layer_order"] = measured.layer_order.as_dict()
        text += f"\nlayers cut first by loss: {measured.layer_order.description}"
    print_result(document, text, as_json=json)
