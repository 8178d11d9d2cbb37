"""What an epoch or a step is given: order, mirroring, noise, learning rate, beta.

All depends on the seed and on how far the run has come, and on nothing else, so that a resumed run
goes on as if it had never stopped.
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


def seed_noise(seed: int, epoch: int, rank: int = 0, step: int = 0) -> None:
    """Seed torch on all devices with what depends on the arguments alone."""
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, rank, step)).generate_state(1)[0]))


def learning_rate_at(step: int, steps: int, peak: float, schedule: str) -> float:
    """Return the learning rate of a step (from 0) of a run of so many steps.

    "constant" is peak throughout. "one-cycle" (Smith & Topin, 2018) rises from peak / 25 over the
    first 30 % of the steps and falls to peak / 250,000 at the last, along half cosines.
    """
    if schedule == "constant":
        return peak
    low, lowest = peak / 25, peak / 250_000
    top, last = 0.3 * steps - 1, steps - 1
    if step < top:
        return _cosine(low, peak, step / top)
    return _cosine(peak, lowest, min(1.0, (step - top) / (last - top)))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def beta_at(step: int, beta: float, warmup_steps: float) -> float:
    """Return the KL term's weight at a step (from 0): it rises in a line over warmup_steps.

    Bowman et al. (2016): with the full weight from the start, dimensions are given up before the
    decoder has learned what they are good for.
    """
    return beta * min(1.0, (step + 1) / warmup_steps) if warmup_steps else beta
