"""How a judge is trained, and how well it then sees attributes and tells people apart.

B batch, N images, S image side in pixels, F features, K attributes. Images are (B, 3, S, S) in
[0, 1].
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vae.data.batches import batches, place_pixels
from vae.data.faces import PackedFaces
from vae.device import autocast, device_of, memory_format
from vae.errors import RunStopped, UserError
from vae.evaluation.identity import different_pairs, same_pairs, verification_auc
from vae.evaluation.metrics import area_under_curve
from vae.models.judge import Judge, identify, look
from vae.training.schedule import epoch_order, seed_noise

COMMON = 50
"""Held-out faces that an attribute needs to count in the mean AUC."""


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

    AdamW with a one-cycle schedule (Smith & Topin, 2018); images are mirrored and augmented.

    Raises UserError if the faces have no attributes, RunStopped if the loss is not finite.
    """
    device, rows = device_of(judge), faces.rows("train")
    attributes = torch.from_numpy(known_attributes(faces)).float().to(device)
    optimizer = torch.optim.AdamW(judge.parameters(), learning_rate)
    steps = epochs * -(-len(rows) // batch_size)
    # in a run of five steps the warm-up of torch's schedule would have no length
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
        for x, target in zip(map(augment, images), targets, strict=True):
            with autocast(device, precision):
                logits = judge(x)
            loss = functional.binary_cross_entropy_with_logits(logits.float(), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(x)
        if not total.isfinite():
            raise RunStopped(f"the loss became {total} in epoch {epoch}: lower --learning-rate")
        yield total.item() / len(rows)


def known_attributes(faces: PackedFaces) -> np.ndarray:
    """Return the faces' attributes, (N, K) bool. Raises UserError if there are none."""
    if faces.attributes is None:
        raise UserError("a judge learns attributes: put list_attr_celeba.txt beside the faces")
    return faces.attributes


def augment(x: Tensor) -> Tensor:
    """Return images x with a random shift of up to S / 16, contrast, colour and brightness.

    Three batches in ten are blurred to half the resolution: decoded faces are less sharp than the
    real faces of the training set.
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


def held_out_rows(faces: PackedFaces) -> np.ndarray:
    """Return the row numbers of the val split, followed by those of the test split."""
    return np.concatenate([faces.rows("val"), faces.rows("test")])


def measure_attributes(
    judge: Judge, faces: PackedFaces
) -> dict[str, dict[str, float | int | None]]:
    """Return each attribute's AUC on val, on test and on both ("held_out"), and its positives.

    None where all of the faces have the attribute, or none. Sets judge.attribute_std to the
    standard deviation of the held-out logits, and to 0 where the AUC on them is None.
    """
    rows, count = held_out_rows(faces), len(faces.rows("val"))
    logits, _ = look(judge, batches(faces, rows, label="measuring"))
    has = torch.from_numpy(known_attributes(faces)[rows])
    judge.attribute_std.copy_(logits.std(0) * (has.any(0) & ~has.all(0)))
    parts = {"val": slice(count), "test": slice(count, None), "held_out": slice(None)}
    return {
        name: {"positives": int(has[:, column].sum())}
        | {
            part: area_under_curve(logits[chosen, column], has[chosen, column])
            for part, chosen in parts.items()
        }
        for column, name in enumerate(faces.attribute_names)
    }


def mean_auc(attributes: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the mean AUC of attributes with COMMON positives, held out; None if there is none."""
    areas = [
        row["held_out"]
        for row in attributes.values()
        if row["positives"] >= COMMON and row["held_out"] is not None
    ]
    return sum(areas) / len(areas) if areas else None


def measure_identity(judge: Judge, faces: PackedFaces) -> dict[str, dict[str, Any]] | None:
    """Return the AUC of the judge's identity features on pairs of faces, and the pairs' numbers.

    Both faces of a pair are held out ("held_out"), or at least one of them ("any"). None if the
    people are unknown or nobody has two faces.
    """
    if faces.people is None:
        return None
    people, held = faces.people, held_out_rows(faces)
    used = np.concatenate([faces.rows("train"), held])
    same = used[same_pairs(people[used])]
    if not len(same):
        return None
    _, features = look(judge, batches(faces, used, label="comparing people"))
    unit = torch.zeros(len(people), features.shape[1])
    unit[used] = identify(features)
    is_held = np.isin(same, held)
    kinds = {"held_out": (same[is_held.all(1)], held), "any": (same[is_held.any(1)], used)}
    measured = {}
    for kind, (alike, others) in kinds.items():
        different = different_pairs(people, held, others)
        auc = verification_auc(unit, alike, different)
        measured[kind] = {"auc": auc, "same": len(alike), "different": len(different)}
    return measured
