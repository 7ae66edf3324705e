"""autoreap calibrate: measure saliency once."""

from pathlib import Path

from autoreap.commands.options import (
    COMPONENTS,
    Add,
    Arguments,
    Result,
    add_calibration_options,
    add_loading_options,
    add_model,
    add_streaming_option,
    calibration_config,
)

SUMMARY = "measure saliency once"
EXAMPLE = "autoreap calibrate tiny --audio calibration/tiny/audio.parquet -o saliency.safetensors"


def add_options(add: Add) -> None:
    """What the command takes."""
    add_model(add)
    add_calibration_options(add)
    add_loading_options(add)
    add_streaming_option(add)
    add("-o", "--output", type=Path, default=Path("saliency.safetensors"), help="default: saliency.safetensors")


def run(options: Arguments) -> Result:
    """Measure and save."""
    from autoreap import jobs
    from autoreap.calibration.calibrator import Options
    from autoreap.models.loading import describe, load

    components = COMPONENTS[options.component]
    calibration = calibration_config(options)
    data = jobs.read_calibration(calibration)
    loaded = load(
        describe(options.model),
        speech="talker" in components,
        device=options.device,
        dtype=options.dtype,
        stream_layers=options.stream_layers,
    )
    saliency = jobs.calibrated(loaded, data, components, options=Options.of(calibration), output=options.output)
    tokens = {m: sums.tokens for m, sums in saliency.components[components[0]].modalities.items()}
    return {"path": str(options.output), "tokens": tokens}, f"{options.output}: tokens {tokens}"
