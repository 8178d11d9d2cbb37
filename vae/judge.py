"""A classifier of the 40 attributes on pixels, which says what an edit did to a face.

B batch, S image side in pixels, F features of the last stage. Images are (B, 3, S, S) in [0, 1].
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vae.celeba import ATTRIBUTE_NAMES, find_attribute
from vae.checkpoint import FORMAT, RUNS, read_stored
from vae.device import autocast, memory_format
from vae.errors import RunStopped, UserError
from vae.identity import (
    different_pairs,
    explained_share,
    same_pairs,
    verification_auc,
    within_whitening,
)
from vae.images import Crop
from vae.loader import PackedFaces, batches, place_pixels
from vae.metrics import area_under_curve
from vae.schedule import epoch_order, seed_noise

COMMON = 50
"""positives among the held-out faces from which on an attribute counts in the mean AUC"""


class Judge(nn.Module):
    """Convolutional classifier of the 40 attributes; its features also tell people apart.

    Each of the len(channels) stages halves the side.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128, 192)) -> None:
        super().__init__()
        self.arch = {"channels": list(channels)}
        width = channels[-1]
        self.stages = make_stages(channels)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, len(ATTRIBUTE_NAMES))
        # of the logits on real held-out faces
        self.register_buffer("attribute_mean", torch.zeros(len(ATTRIBUTE_NAMES)))
        self.register_buffer("attribute_std", torch.ones(len(ATTRIBUTE_NAMES)))
        self.register_buffer("identity_mean", torch.zeros(width))
        self.register_buffer("identity_whitening", torch.eye(width))

    # fmt: off
    def features(self, x: Tensor) -> Tensor:
        """Return what the attributes of images x are read off."""
        return self.stages(2 * x - 1).mean(dim=(2, 3))              # (B, F)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logit of each attribute, in the order of ATTRIBUTE_NAMES."""
        return self.head(self.dropout(self.features(x)))            # (B, 40)

    def identity_features(self, x: Tensor) -> Tensor:
        """Return vectors of norm 1 whose dot products say how alike the people on x look.

        Where the judge was trained without identities, features are compared as they are.
        """
        return self.identify(self.features(x))                      # (B, F)
    # fmt: on

    def identify(self, features: Tensor) -> Tensor:
        """Return the identity features, (B, F), that features, (B, F), come to."""
        whitened = (features - self.identity_mean) @ self.identity_whitening
        return functional.normalize(whitened, dim=1)


def make_stages(channels: Sequence[int]) -> nn.Sequential:
    """Return the convolutions (B, 3, S, S) -> (B, F, s, s), two to a stage."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise([3, *channels]):
        # a stride first: at full size two convolutions would take most of the time
        layers += [nn.MaxPool2d(2)] if layers else []
        layers += _convolution(width_in, width_out, stride=1 if layers else 2)
        layers += _convolution(width_out, width_out)
    return nn.Sequential(*layers)


def _convolution(width_in: int, width_out: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(width_out), nn.ReLU()]


# Training


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


# Measuring


def predict(judge: Judge, x: Tensor, batch_size: int = 128) -> Tensor:
    """Return the logits of images x, (N, 40) on the CPU."""
    return _predict_batches(judge, x.split(batch_size))


@torch.no_grad()
def _predict_batches(judge: Judge, images: Iterable[Tensor]) -> Tensor:
    judge.eval()
    device = judge.head.weight.device
    return torch.cat([judge(x.to(device)).cpu() for x in images])


@torch.no_grad()
def extract_features(judge: Judge, images: Iterable[Tensor]) -> Tensor:
    """Return the features of batches of images, (N, F) on the CPU."""
    judge.eval()
    device = judge.head.weight.device
    return torch.cat([judge.features(x.to(device)).cpu() for x in images])


def measure_attributes(
    judge: Judge, faces: PackedFaces
) -> dict[str, dict[str, float | int | None]]:
    """Return each attribute's AUC on val, on test and on both ("held_out"), and its positives.

    None is not measured: all of the faces have the attribute, or none. Sets judge.attribute_mean
    and attribute_std from the same logits.
    """
    rows, count = held_out_rows(faces), len(faces.rows("val"))
    logits = _predict_batches(judge, batches(faces, rows, label="measuring"))
    judge.attribute_mean.copy_(logits.mean(0))
    judge.attribute_std.copy_(logits.std(0))
    has = torch.from_numpy(known_attributes(faces)[rows])
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


def mean_auc(attributes: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the mean over attributes that COMMON held-out faces have, None if there is none."""
    areas = [
        row["held_out"]
        for row in attributes.values()
        if row["positives"] >= COMMON and row["held_out"] is not None
    ]
    return sum(areas) / len(areas) if areas else None


def fit_identity(
    judge: Judge, faces: PackedFaces, people: np.ndarray | None
) -> dict[str, Any] | None:
    """Set what judge.identity_features needs; return how well they tell people apart.

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
    features[used] = extract_features(judge, batches(faces, used, label="telling people apart"))
    mean, whitening = within_whitening(features[known], people[known])
    judge.identity_mean.copy_(mean)
    judge.identity_whitening.copy_(whitening)
    unit = judge.identify(features.to(judge.identity_mean.device)).cpu()
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


# The file


@dataclass
class JudgeCheckpoint:
    """A trained judge with what is known of it: tensors, and the primitives that JSON knows."""

    config: dict[str, Any]
    """the configuration that it was trained under, every field"""
    arch: dict[str, Any]
    """Judge's arguments"""
    image_size: int
    crop: Crop
    digest: str
    """of the faces that it is trained and measured on"""
    seed: int
    weights: dict[str, Tensor]
    attributes: dict[str, dict[str, float | int | None]]
    """what measure_attributes returned"""
    identity: dict[str, Any] | None
    """what fit_identity returned"""
    format: int = FORMAT


def load_judge(path: Path, device: torch.device | str = "cpu") -> tuple[Judge, JudgeCheckpoint]:
    """Return a trained judge, ready for use on device, and the checkpoint that it came in.

    Raises UserError if there is none at path or it cannot be read.
    """
    checkpoint = JudgeCheckpoint(**read_stored(path, JudgeCheckpoint))
    try:
        judge = Judge(**checkpoint.arch)
        judge.load_state_dict(checkpoint.weights)
    except (TypeError, ValueError, LookupError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: its weights do not fit its network") from error
    device = torch.device(device)
    return judge.to(device, memory_format=memory_format(device)).eval(), checkpoint


def find_judge(role: str, path: str | None, config: Mapping[str, Any]) -> Path:
    """Return the file of the guide or the judge: path, or that of a run's data and image size.

    config is the run's. Raises UserError if it is not there.
    """
    data, size = config["data"], config["image_size"]
    found = Path(path or RUNS / f"{Path(data).stem}-{size}-judges" / f"{role}.pt")
    if not found.exists():
        command = f"python train_judge.py --data {data} --image-size {size}"
        raise UserError(f"there is no {role} at {found}: {command}, or pass --{role}")
    return found
