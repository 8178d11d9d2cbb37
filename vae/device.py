"""Where and how to compute: cuda, mps or cpu; precision; compilation; memory layout."""

import contextlib
import importlib.util
import os
import shutil

import torch
from torch import nn

from vae.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called name; "auto" takes cuda, else mps, else cpu.

    Raises UserError if the device is unknown or not on this machine.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if name == "cuda":
        # torch.cuda.set_device wants an index
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"--device must be auto, cpu, cuda, cuda:N or mps; got {name}") from error
    available = {
        "cpu": True,
        "mps": mps,
        "cuda": cuda and (device.index or 0) < torch.cuda.device_count(),
    }
    if not available.get(device.type, False):
        raise UserError(f"--device {name} is not on this machine; use --device auto")
    return device


def prepare_backend(device: torch.device) -> None:
    """Set how torch computes on a cuda device: repeatable convolutions, float32 products as TF32.

    TF32 keeps 10 bits of the mantissa, for several times the speed.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True
        torch.set_float32_matmul_precision("high")


def pick_precision(device: torch.device, name: str = "auto") -> str:
    """Return "fp32" or "bf16"; "auto" takes bf16 where the hardware computes it natively.

    Raises UserError if bf16 is asked for on a GPU that lacks it.
    """
    native = _has_native_bf16(device)
    if name == "bf16" and device.type == "cuda" and not native:
        raise UserError("--precision bf16: this GPU has no bfloat16; pass --precision fp32")
    if name != "auto":
        return name
    return "bf16" if native else "fp32"


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # torch 2.6 cannot tell: there "auto" means fp32
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def pick_compile(device: torch.device, name: str = "auto", ranks: int = 1) -> bool:
    """Return whether to compile the network; "auto" does on cuda, in one process, where it can.

    If a requirement is missing, prints which one and returns False.
    """
    if name == "off" or (name == "auto" and (device.type != "cuda" or ranks > 1)):
        return False
    missing = _missing_to_compile(device)
    if missing:
        print(f"not compiling: {missing}")
    return not missing


def _missing_to_compile(device: torch.device) -> str:
    """Return what torch.compile lacks on device; "" if nothing."""
    if device.type != "cuda":
        return "" if any(map(shutil.which, ("c++", "g++", "clang++"))) else "no C++ compiler"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        return "no C compiler"
    if torch.cuda.get_device_capability(device) < (7, 0):
        return "triton needs a GPU of compute capability 7.0"
    return ""


def require_memory(count: int, size: int, what: str) -> None:
    """Raise UserError if count things of size bytes each are more than this machine's memory."""
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if count * size > memory:
        needed, there = (f"{number / 1e9:,.1f} GB" for number in (count * size, memory))
        raise UserError(
            f"{count:,} {what} need {needed} of memory, and this machine has {there}: "
            f"at most {memory // size:,} fit"
        )


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return the context in which the convolutions run in the given precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def float64_device(device: torch.device) -> torch.device:
    """Return device, or the CPU where device has no float64 (mps)."""
    return torch.device("cpu") if device.type == "mps" else device


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the memory layout in which convolutions are fastest on device."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's weights."""
    return next(module.parameters()).device
