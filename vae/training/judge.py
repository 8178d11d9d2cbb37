"""Train a judge; measure its AUC for attributes and for identity.

B batch, N images, S image side in pixels, F features, K attributes. Images are (B, 3, S, S) in
[0, 1].
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vae.data.batches import batches, place_pixels
from vae.data.faces import PackedFaces
from vae.device import autocast, device_of, memory_format
from vae.errors import RunStopped, UserError
from vae.evaluation.identity import verify
from vae.evaluation.metrics import attribute_areas
from vae.models.judge import Judge, identify, look
from vae.training.schedule import epoch_order, seed_generators


def train_epochs(
    judge: Judge, faces: PackedFaces, config: Any, seed: int, precision: str = "fp32"
) -> Iterator[float]:
    """Train judge, on its device, on the training split; yield each epoch's mean cross-entropy.

    config has the optimizer's fields of JudgeConfig. AdamW with a one-cycle schedule (Smith &
    Topin, 2018); images are mirrored and augmented.

    Raises UserError if the faces have no attributes, RunStopped if the loss is not finite.
    """
    device, rows = device_of(judge), faces.with_attributes(faces.rows("train"))
    attributes = torch.from_numpy(known_attributes(faces)).float().to(device)
    optimizer = torch.optim.AdamW(judge.parameters(), config.learning_rate)
    epochs, batch_size = config.epochs, config.batch_size
    steps = epochs * -(-len(rows) // batch_size)
    # torch's schedule fails with fewer steps: its warm-up would have none
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=max(steps, 10), pct_start=0.2
    )
    resident = place_pixels(faces, device)
    for epoch in range(1, epochs + 1):
        order, mirrored = epoch_order(rows, seed, epoch, flip=True)
        seed_generators(seed, epoch)
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
    for split in ("train", "val", "test"):
        if not len(faces.with_attributes(faces.rows(split))):
            raise UserError(f"the table of attributes has no row for any face of the {split} split")
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


def measure_attributes(judge: Judge, faces: PackedFaces) -> dict[str, Any]:
    """Return the AUCs of the attributes on held-out faces: see attribute_areas.

    Sets judge.attribute_std to the standard deviation of the held-out logits, and to 0 where all of
    the faces have the attribute, or none.
    """
    rows = faces.with_attributes(held_out_rows(faces))
    logits, _ = look(judge, batches(faces, rows, label="measuring"))
    has = torch.from_numpy(known_attributes(faces)[rows])
    judge.attribute_std.copy_(logits.std(0) * (has.any(0) & ~has.all(0)))
    return attribute_areas(logits, has, faces.attribute_names)


def measure_identity(judge: Judge, faces: PackedFaces) -> dict[str, Any] | None:
    """Return the AUC of the judge's identity features on pairs of held-out faces: see verify.

    None if the people are unknown, or nobody has two faces.
    """
    if faces.people is None:
        return None
    rows = held_out_rows(faces)
    _, features = look(judge, batches(faces, rows, label="comparing people"))
    return verify(identify(features), faces.people[rows])
