"""How a judge is trained, and how well it then sees attributes and tells people apart.

B batch, S image side in pixels, F features. Images are (B, 3, S, S) in [0, 1].
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vae.celeba import ATTRIBUTE_NAMES, find_attribute
from vae.device import autocast, memory_format
from vae.errors import RunStopped, UserError
from vae.identity import (
    different_pairs,
    explained_share,
    same_pairs,
    verification_auc,
    within_whitening,
)
from vae.judge import Judge, look
from vae.loader import PackedFaces, batches, place_pixels
from vae.metrics import area_under_curve
from vae.schedule import epoch_order, seed_noise


def train_epochs(
    judge: Judge,
    faces: PackedFaces,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    precision: str = "fp32",
) -> Iterator[float]:
    """Train judge, on its device, on the training split; yield each epoch's mean cross-entropy.

    AdamW under a one-cycle schedule (Smith & Topin, 2018). Mirrored and distorted as augment says.

    Raises UserError if the faces have no attributes, RunStopped if the loss is not finite.
    """
    device, rows = judge.head.weight.device, faces.rows("train")
    attributes = torch.from_numpy(known_attributes(faces)).float().to(device)
    optimizer = torch.optim.AdamW(judge.parameters(), learning_rate)
    steps = epochs * -(-len(rows) // batch_size)
    # of a run of five steps torch's rise would have no length
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(steps, 10), pct_start=0.2
    )
    resident = place_pixels(faces, device)
    for epoch in range(1, epochs + 1):
        order, mirrored = epoch_order(rows, seed, epoch, flip=True)
        seed_noise(seed, epoch)
        judge.train()
        total = torch.zeros((), device=device)
        label = f"epoch {epoch}/{epochs}"
        images = batches(faces, order, batch_size, device, mirrored, label, resident)
        targets = attributes[torch.from_numpy(order).to(device)].split(batch_size)
        for x, target in zip(images, targets, strict=True):
            loss = _train_step(judge, optimizer, augment(x), target, precision)
            schedule.step()
            total += loss * len(x)
        yield _finite(total.item() / len(rows), epoch)


def known_attributes(faces: PackedFaces) -> np.ndarray:
    """Return the faces' attributes, (N, 40) bool. Raises UserError if there are none."""
    if faces.attributes is None:
        raise UserError("a judge learns from attributes: put list_attr_celeba.txt beside the faces")
    return faces.attributes


def _train_step(
    judge: Judge, optimizer: torch.optim.Optimizer, x: Tensor, target: Tensor, precision: str
) -> Tensor:
    with autocast(x.device, precision):
        logits = judge(x)
    loss = functional.binary_cross_entropy_with_logits(logits.float(), target)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise RunStopped(f"the loss became {loss} in epoch {epoch}: lower --learning-rate")
    return loss


def augment(x: Tensor) -> Tensor:
    """Return images x shifted by up to S / 16, with other contrast, colour and brightness.

    Three batches in ten are blurred to half the resolution, since decoded faces are less sharp than
    the real ones that the judge is trained on.
    """
    count = len(x)
    frames = torch.eye(2, 3, device=x.device).repeat(count, 1, 1)
    frames[:, :, 2] = (2 * torch.rand(count, 2, device=x.device) - 1) / 8
    grid = functional.affine_grid(frames, list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    gain = 0.9 + 0.2 * torch.rand(count, 3, 1, 1, device=x.device)
    brightness = 0.2 * torch.rand(count, 1, 1, 1, device=x.device) - 0.1
    x = (x * gain + brightness).clamp(0, 1)
    if torch.rand(()) < 0.3:
        x = functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    return x.contiguous(memory_format=memory_format(x.device))


def measure_attributes(
    judge: Judge, faces: PackedFaces
) -> dict[str, dict[str, float | int | None]]:
    """Return each attribute's AUC on val, on test and on both ("held_out"), and its positives.

    None is not measured: all of the faces have the attribute, or none. Sets judge.attribute_std
    from the same logits, to zero for what is not measured: such logits mean nothing.
    """
    rows, count = held_out_rows(faces), len(faces.rows("val"))
    logits, _ = look(judge, batches(faces, rows, label="measuring"))
    has = torch.from_numpy(known_attributes(faces)[rows])
    judge.attribute_std.copy_(logits.std(0) * (has.any(0) & ~has.all(0)))
    parts = {"val": slice(count), "test": slice(count, None), "held_out": slice(None)}
    return {
        name: {"positives": int(has[:, column].sum())}
        | {
            part: _or_none(area_under_curve(logits[chosen, column], has[chosen, column]))
            for part, chosen in parts.items()
        }
        for column, name in enumerate(ATTRIBUTE_NAMES)
    }


def held_out_rows(faces: PackedFaces) -> np.ndarray:
    """Return the row numbers of the val split and, after them, of the test split."""
    return np.concatenate([faces.rows("val"), faces.rows("test")])


def _or_none(value: float) -> float | None:
    # JSON knows no NaN
    return None if math.isnan(value) else value


def fit_identity(
    judge: Judge, faces: PackedFaces, people: np.ndarray | None
) -> dict[str, Any] | None:
    """Set what judge.identify needs; return how well they tell people apart.

    people (N,) says who each face is. Fitted to the training faces of people of whom no face is
    held out. In the pairs that are then told apart both faces are held out ("held_out"), or at
    least one of them is ("any"): no pair of one person had a part in the fit. "explained_by" is the
    share of the features' variance that lies between the two classes of an attribute.

    None without people, or where nobody has two faces to fit to.
    """
    if people is None:
        return None
    train, held = faces.rows("train"), held_out_rows(faces)
    known = train[~np.isin(people[train], people[held])]
    if len(np.unique(people[known])) == len(known):
        return None
    used = np.concatenate([train, held])
    features = torch.zeros(len(people), judge.head.in_features)
    _, features[used] = look(judge, batches(faces, used, label="telling people apart"))
    mean, whitening = within_whitening(features[known], people[known])
    judge.identity_mean.copy_(mean)
    judge.identity_whitening.copy_(whitening)
    unit = judge.identify(features)
    has = torch.from_numpy(known_attributes(faces)[held])
    return {
        "fitted_faces": len(known),
        "fitted_people": len(np.unique(people[known])),
        **_verify(unit, people, used, held),
        "explained_by": {
            name: _or_none(explained_share(unit[held], has[:, find_attribute(name)]))
            for name in ("Smiling", "Eyeglasses", "Male")
        },
    }


def _verify(
    unit: Tensor, people: np.ndarray, used: np.ndarray, held: np.ndarray
) -> dict[str, dict[str, float | int | None]]:
    same = used[same_pairs(people[used])]
    is_held = np.isin(same, held)
    kinds = {"held_out": (same[is_held.all(1)], held), "any": (same[is_held.any(1)], used)}
    verified = {}
    for kind, (alike, others) in kinds.items():
        different = different_pairs(people, held, others)
        auc = _or_none(verification_auc(unit, alike, different))
        verified[kind] = {"auc": auc, "same": len(alike), "different": len(different)}
    return verified
