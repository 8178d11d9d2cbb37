"""Where and how to compute: "auto" -> cuda | mps | cpu, precision, memory format."""

import contextlib
import importlib.util
import os
import shutil

import torch

from vae.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called name; "auto" takes cuda, else mps, else cpu.

    Raises UserError if the device is unknown or not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device must be auto, cpu, cuda, cuda:N or mps; got {name}") from error
    there = {
        "cpu": True,
        "mps": mps,
        "cuda": cuda and (device.index or 0) < torch.cuda.device_count(),
    }
    if not there.get(device.type, False):
        raise UserError(f"--device {name} is not on this machine; --device auto takes what is")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # the same seed gives the same weights
        torch.backends.cudnn.deterministic = True
        # float32 products in TF32: ten bits of mantissa, several times the speed
        torch.set_float32_matmul_precision("high")
    return device


def pick_precision(device: torch.device, name: str = "auto") -> str:
    """Return "fp32" or "bf16"; "auto" takes bf16 where the hardware computes it natively."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    # older torch cannot tell: there "auto" is fp32, and --precision bf16 asks for the rest
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def pick_compile(device: torch.device, name: str = "auto") -> bool:
    """Return whether to compile training steps; "auto" does on cuda, where it pays.

    Says so in one line if compiling was asked for and there is no compiler.
    """
    if name == "off" or (name == "auto" and device.type != "cuda"):
        return False
    if device.type == "cuda":
        found = importlib.util.find_spec("triton") is not None
    else:
        found = any(map(shutil.which, ("c++", "g++", "clang++", "cl")))
    if not found:
        print(
            f"not compiling: {'triton' if device.type == 'cuda' else 'a C++ compiler'} is missing"
        )
    return found


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return the context in which a training step's convolutions run in the given precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the layout in which convolutions run fastest on device."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last
