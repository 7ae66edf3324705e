"""Where a model computes, and with what: answers round alike only where all of it is the same."""

import importlib.metadata
from typing import Any

import torch
from transformers import PreTrainedModel

from autoreap.models.families.running import RunningModel
from autoreap.models.loading import default_device


def place_of(running: RunningModel, model: PreTrainedModel) -> str:
    """Device and type of a loaded model, such as `cpu, float32` or `cuda (NVIDIA H200, 9.0), bfloat16`.

    An accelerator is told with its name and compute capability. The device is `auto` where the model lies on several.
    """
    devices = set(getattr(model, "hf_device_map", {}).values())
    own = running.device(model)
    device, accelerators = own.type, [own]
    if len(devices) > 1:
        device, accelerators = "auto", [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    names = set()
    for accelerator in accelerators:
        if accelerator.type == "cuda":
            major, minor = torch.cuda.get_device_capability(accelerator)
            names.add(f"{torch.cuda.get_device_name(accelerator)}, {major}.{minor}")
    if names:
        device += f" ({' and '.join(sorted(names))})"
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{device}, {dtype}"


def choose_device(place: str) -> tuple[str, str]:
    """The device and type that `place` names, or this machine's own where it has no such device."""
    named, _, dtype = place.rpartition(", ")
    device = named.partition(" (")[0]
    if device in ("cpu", "auto", default_device()):
        return device, dtype
    return default_device(), "auto"


def kernels_of(running: RunningModel, model: PreTrainedModel) -> dict[str, str]:
    """Which implementations a loaded model computes with, by what they compute."""
    decoder: Any = running.decoder(model, "thinker")
    kernels = {"attention": getattr(decoder.config, "_attn_implementation", None)}
    kernels["experts"] = getattr(decoder.config, "_experts_implementation", None)
    if running.device(model).type == "cpu":
        # Kernels for AVX2 and AVX-512 add up in another order.
        kernels["cpu"] = torch.backends.cpu.get_cpu_capability()
        kernels["threads"] = str(torch.get_num_threads())  # sums are split among them
    return {name: kernel for name, kernel in kernels.items() if kernel is not None}


def library_versions() -> dict[str, str]:
    """Versions of the libraries that compute."""
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
