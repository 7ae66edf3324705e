"""autoreap calibrate: measure saliency once."""

from pathlib import Path
from typing import Annotated

from typer import Option

from autoreap.commands.options import COMPONENTS, Calibration, Component, Json, Loading, Model, print_result


def calibrate(
    model: Model,
    calibration: Calibration,
    loading: Loading,
    component: Component = "thinker",
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

    components = COMPONENTS[component]
    config = calibration.config()
    data = jobs.read_calibration(config)
    loaded = loading.load(open_model(model), component)
    saliency = jobs.calibrated(loaded, data, components, options=Options.of(config), output=output)
    tokens = {m: sums.tokens for m, sums in saliency.components[components[0]].modalities.items()}
    print_result({"path": str(output), "tokens": tokens}, f"{output}: tokens {tokens}", as_json=json)
