"""Random changes of training images, on the device."""

import math

import torch
from torch import Tensor
from torch.nn import functional

DEGREES, SCALE, SHIFT = 4.0, 0.06, 0.04
"""largest rotation; largest change of scale; largest shift, as a fraction of the side"""


def warp(x: Tensor, fraction: float) -> Tensor:
    """Return images x (B, 3, S, S), a random fraction of them turned, scaled and shifted a little.

    Pixels from outside are reflected at the border. The noise is torch's on the device.
    """
    uniform = 2 * torch.rand(5, len(x), device=x.device) - 1
    uniform[:4] *= (uniform[4] < 2 * fraction - 1).to(x.dtype)
    angle, scale = uniform[0] * math.radians(DEGREES), 1 + SCALE * uniform[1]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    shift_x, shift_y = 2 * SHIFT * uniform[2:4]
    matrices = torch.stack([cos, -sin, shift_x, sin, cos, shift_y], 1).view(-1, 2, 3)
    grid = functional.affine_grid(matrices, list(x.shape), align_corners=False)
    warped = functional.grid_sample(
        x, grid, "bicubic", padding_mode="reflection", align_corners=False
    )
    return warped.clamp(0, 1)
