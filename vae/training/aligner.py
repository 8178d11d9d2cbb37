"""Train the aligner: aligned faces are turned, scaled and shifted, and it learns to undo that.

B batch, M points. Points are complex numbers x + iy. The packed faces are squares of 89 pixels
around the face of CelebA's frame at half its size: a quarter more than a model of 64 pixels sees.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from vae.data.batches import batches
from vae.data.faces import PackedFaces
from vae.editing.finding import CENTRE, TEMPLATE, VIEW
from vae.models.aligner import SIDE, Aligner
from vae.training.schedule import epoch_order, seed_generators

SQUARE = 89
"""side of the packed squares"""
MIDDLE = 32.5 + 32.5j
"""of a packed square, in a model's image"""
DEGREES, LOG_SCALE, SHIFT = 40.0, 0.3, 0.3
"""largest rotation, logarithm of the scale, and shift in half sides of a view"""
NEGATIVES = 0.1
"""fraction of views that are so far off that they count as no face"""


def train_epochs(
    aligner: Aligner, faces: PackedFaces, epochs: int, batch_size: int, rate: float, seed: int
) -> Iterator[tuple[float, float]]:
    """Train the aligner on the CPU; yield each epoch's mean eye error and cross-entropy.

    The error is a fraction of the distance between the eyes.
    """
    rows = faces.rows("train")
    optimizer = torch.optim.AdamW(aligner.parameters(), rate)
    steps = max(10, epochs * -(-len(rows) // batch_size))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.2
    )
    for epoch in range(1, epochs + 1):
        order, mirrored = epoch_order(rows, seed, epoch, flip=True)
        seed_generators(seed, epoch)
        aligner.train()
        total = torch.zeros(2)
        label = f"epoch {epoch}/{epochs}"
        for x in batches(faces, order, batch_size, mirrored=mirrored, label=label):
            turn, shift, is_face = random_places(len(x))
            seen_turn, seen_shift, logit = aligner(random_views(x, turn, shift))
            error = distances(seen_turn, seen_shift, turn, shift)[is_face].mean()
            entropy = functional.binary_cross_entropy_with_logits(logit, is_face.float())
            optimizer.zero_grad(set_to_none=True)
            (error + 0.1 * entropy).backward()
            optimizer.step()
            schedule.step()
            total += len(x) * torch.stack([error.detach(), entropy.detach()])
        yield tuple((total / len(rows)).tolist())


def random_places(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return turn and shift of faces in views, (B,) complex, and which are to be called faces."""
    # small and large errors: what is found is looked at again
    size = torch.rand(count)
    angle, scale, x, y = size * (2 * torch.rand(4, count) - 1)
    is_face = torch.rand(count) >= NEGATIVES
    kind = torch.randint(3, (count,))
    sign = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    far = 1 + torch.rand(count)
    angle = math.radians(DEGREES) * angle
    angle = torch.where(~is_face & (kind == 0), math.pi * (1 + angle), angle)
    scale = LOG_SCALE * scale + torch.where(~is_face & (kind == 1), 0.8 * sign * far, 0.0)
    away = torch.polar(0.7 * far, 2 * math.pi * torch.rand(count))
    shift = SHIFT * torch.complex(x, y) + torch.where(~is_face & (kind == 2), away, 0)
    return torch.polar(scale.exp(), angle), shift, is_face


def random_views(x: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """Return views (B, 3, 64, 64) in which the faces of squares x lie at turn p + shift.

    Outside of the square there is its mirror image or, behind a random rectangle, another picture:
    where a picture ends does not tell where the face is.
    """
    count = len(x)
    place = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    points = torch.complex(*torch.meshgrid(place, place, indexing="xy"))
    inside = (points - shift[:, None, None]) / turn[:, None, None]
    inside = (VIEW * inside + CENTRE - MIDDLE) / (SQUARE / 2)
    views = _sample(x, inside)
    zoom = (0.3 + 0.7 * torch.rand(count)) * torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    behind = _sample(x.roll(1, 0), points * zoom[:, None, None])
    right, left, low, high = (1 - 0.25 * torch.rand(4, count))[:, :, None, None]
    shown = (inside.real < right) & (inside.real > -left)
    shown &= (inside.imag < low) & (inside.imag > -high)
    shown |= torch.rand(count)[:, None, None] < 0.5
    views = torch.where(shown[:, None], views, behind)
    gain = 0.8 + 0.4 * torch.rand(count, 3, 1, 1)
    views = views * gain + 0.2 * torch.rand(count, 1, 1, 1) - 0.1
    grey = views.mean(1, keepdim=True).expand_as(views)
    views = torch.where(torch.rand(count, 1, 1, 1) < 0.1, grey, views)
    soft = functional.interpolate(functional.avg_pool2d(views, 2), scale_factor=2, mode="bilinear")
    views = torch.where(torch.rand(count, 1, 1, 1) < 0.2, soft, views)
    return (views + 0.03 * torch.rand(count, 1, 1, 1) * torch.randn_like(views)).clamp(0, 1)


def _sample(x: Tensor, points: Tensor) -> Tensor:
    grid = torch.view_as_real(points.to(torch.complex64).contiguous())
    return functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def distances(turn: Tensor, shift: Tensor, true_turn: Tensor, true_shift: Tensor) -> Tensor:
    """Return the mean distance of the template's points under both maps, in eye distances, (B,)."""
    points = torch.tensor(TEMPLATE)
    apart = (turn - true_turn)[:, None] * points + (shift - true_shift)[:, None]
    return apart.abs().mean(1) / abs(TEMPLATE[1] - TEMPLATE[0])
