"""Order, mirroring, noise and learning rate of an epoch or a step.

All depend on the seed and on the step's number alone, so a resumed run equals a run
without interruption.
"""

import math

import numpy as np
import torch


def epoch_order(
    rows: np.ndarray, seed: int, epoch: int, flip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows in the order of an epoch, and which of them are mirrored in it."""
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(rows)
    mirrored = rng.random(len(rows)) < 0.5 if flip else np.zeros(len(rows), bool)
    return order, mirrored


def seed_generators(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's generators on all devices from the arguments alone."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))


def learning_rate_at(step: int, steps: int, peak: float, schedule: str) -> float:
    """Return the learning rate of a step (from 0) in a run of that many steps.

    "constant" is peak throughout. "one-cycle" (Smith & Topin, 2018) warms up from peak / 25 over
    the first 30 % of the steps, then decays to peak / 250,000; both parts are half cosines.
    """
    if schedule == "constant":
        return peak
    low, lowest = peak / 25, peak / 250_000
    top, last = 0.3 * steps - 1, steps - 1
    if step < top:
        return _cosine(low, peak, step / top)
    return _cosine(peak, lowest, min(1.0, (step - top) / (last - top)))


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
