"""What the benchmarks share: measures taken in turns, their spread, and the machine's facts."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vae.workers import usable_cores


def positive(text: str) -> int:
    """Return a whole number above zero. Raises ValueError otherwise."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def in_turns(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Take each measure once a round, every other round in reverse; return figures by round."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(rounds):
        names = list(measures) if turn % 2 == 0 else list(reversed(measures))
        for name in names:
            figures[name].append(measures[name]())
    return figures


def now(device: torch.device) -> float:
    """Return the time in seconds once the device has done all it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter()


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine(device: torch.device) -> dict[str, Any]:
    """Return what figures depend on beside the code: what computes, and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        **{name: version(name) for name in ("torch", "torchvision", "pillow")},
    }


def print_machine(facts: dict[str, Any]) -> None:
    """Print what machine returned, on a line."""
    print(*(f"{name} {value}" for name, value in facts.items() if value), sep=", ")


def print_spread(name: str, values: dict[str, float], unit: str = "", digits: int = 2) -> None:
    """Print median, smallest and largest on a line."""
    median, low, high = (f"{value:,.{digits}f}" for value in values.values())
    print(f"{name:36} {median:>8} ({low} to {high}) {unit}".rstrip())
