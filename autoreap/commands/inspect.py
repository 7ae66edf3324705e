"""autoreap inspect: parameters and bytes per component."""

from autoreap.commands.options import Add, Arguments, Result, add_model
from autoreap.wording import size_text

SUMMARY = "parameters and bytes per component"
EXAMPLE = "autoreap inspect tiny"


def add_options(add: Add) -> None:
    """What the command takes."""
    add_model(add)


def run(options: Arguments) -> Result:
    """Sizes, from headers alone."""
    from autoreap.described import describe
    from autoreap.sizes import component_sizes

    described = describe(options.model)
    sizes = component_sizes(described.checkpoint, described.family)
    rows = [
        f"{name:<18}{s.num_parameters:>18,}{size_text(s.num_bytes):>14}{s.num_tensors:>9,}" for name, s in sizes.items()
    ]
    header = f"{'component':<18}{'parameters':>18}{'bytes':>14}{'tensors':>9}"
    document = {
        "model": options.model,
        "fingerprint": described.checkpoint.fingerprint,
        "components": {name: vars(size) for name, size in sizes.items()},
    }
    return document, "\n".join([header, *rows, f"fingerprint {described.checkpoint.fingerprint}"])
