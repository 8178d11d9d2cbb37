"""A classifier of the 40 attributes on pixels, which says what an edit did to a face.

B batch, S image side in pixels, F features of the last stage. Images are (B, 3, S, S) in [0, 1].
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vae.celeba import ATTRIBUTE_NAMES
from vae.checkpoint import FORMAT, RUNS, Checkpoint, read_stored
from vae.device import memory_format
from vae.errors import UserError
from vae.images import Crop

COMMON = 50
"""positives among the held-out faces from which on an attribute counts in the mean AUC"""


class Judge(nn.Module):
    """Convolutional classifier of the 40 attributes; its features also tell people apart.

    Each of the len(channels) stages halves the side.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.arch = {"channels": list(channels)}
        width = channels[-1]
        self.stages = make_stages(channels)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, len(ATTRIBUTE_NAMES))
        # deviation of the logits on real held-out faces; 0: no logit that can be measured
        self.register_buffer("attribute_std", torch.ones(len(ATTRIBUTE_NAMES)))
        self.register_buffer("identity_mean", torch.zeros(width))
        self.register_buffer("identity_whitening", torch.eye(width))

    # fmt: off
    def features(self, x: Tensor) -> Tensor:
        """Return what the attributes of images x are read off."""
        return self.stages(2 * x - 1).mean(dim=(2, 3))              # (B, F)

    def classify(self, features: Tensor) -> Tensor:
        """Return the logit of each attribute, in the order of ATTRIBUTE_NAMES."""
        return self.head(self.dropout(features))                    # (B, 40)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images x."""
        return self.classify(self.features(x))                      # (B, 40)
    # fmt: on

    def identify(self, features: Tensor) -> Tensor:
        """Return vectors (B, F) of norm 1 whose dot products say how alike the people look.

        Where the judge was trained without identities, features are compared as they are.
        """
        mean, whitening = self.identity_mean, self.identity_whitening
        whitened = (features.to(mean.device) - mean) @ whitening
        return functional.normalize(whitened, dim=1).to(features.device)


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


def predict(judge: Judge, x: Tensor) -> Tensor:
    """Return the logits of images x, (N, 40) on the CPU."""
    return look(judge, x.split(128))[0]


@torch.no_grad()
def look(judge: Judge, images: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the logits (N, 40) and the features (N, F) of batches of images, on the CPU."""
    judge.eval()
    device = judge.head.weight.device
    features = [judge.features(x.to(device)) for x in images]
    logits = torch.cat([judge.classify(part).cpu() for part in features])
    return logits, torch.cat([part.cpu() for part in features])


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


def open_judge(
    role: str, path: str | None, run: Checkpoint, device: torch.device
) -> tuple[Path, Judge, JudgeCheckpoint]:
    """Return where the run's guide or judge lies, the judge, and the checkpoint that it came in.

    Raises UserError if it is not there, or has seen faces of another crop or size.
    """
    found = find_judge(role, path, run.config)
    judge, checkpoint = load_judge(found, device)
    seen = f"{checkpoint.image_size} px, crop {checkpoint.crop}"
    needed = f"{run.arch['image_size']} px, crop {run.crop}"
    if seen != needed:
        raise UserError(f"{found} knows faces of {seen}; the run's are of {needed}")
    return found, judge, checkpoint


def find_judge(role: str, path: str | None, config: Mapping[str, Any]) -> Path:
    """Return the file of the guide or the judge: path, or the newest of a run's data and size.

    config is the run's. Raises UserError if it is not there.
    """
    data, size, crop = config["data"], config["image_size"], config["crop_size"]
    name = judges_name(data, size)
    folders = (RUNS / name, *RUNS.glob(f"{name}-[0-9]*"))
    trained = [found for folder in folders if (found := folder / f"{role}.pt").exists()]
    if path is None and trained:
        return max(trained, key=lambda found: found.stat().st_mtime)
    expected = Path(path or RUNS / name / f"{role}.pt")
    if not expected.exists():
        command = f"python train_judge.py --data {data} --image-size {size}"
        command += f" --crop-size {crop}" if crop else ""
        raise UserError(f"there is no {role} at {expected}: {command}, or pass --{role}")
    return expected


def judges_name(data: str, image_size: int) -> str:
    """Return the name of the folder under RUNS for the judges of a data set's faces."""
    return f"{Path(data).stem}-{image_size}-judges"


def mean_auc(attributes: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the mean over attributes that COMMON held-out faces have, None if there is none."""
    areas = [
        row["held_out"]
        for row in attributes.values()
        if row["positives"] >= COMMON and row["held_out"] is not None
    ]
    return sum(areas) / len(areas) if areas else None
