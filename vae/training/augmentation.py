"""Random changes of training images, on the device."""

import math

import torch
from torch import Tensor
from torch.nn import functional

DEGREES, SCALE, SHIFT = 4.0, 0.06, 0.04
"""largest rotation; largest change of scale; largest shift, as a fraction of the side"""
BEND, KNOTS = 0.015, 5
"""standard deviation of the bends at KNOTS x KNOTS points, as a fraction of the side"""


def warp(x: Tensor, fraction: float) -> Tensor:
    """Return images x (B, 3, S, S), a random fraction of them turned, scaled, shifted and bent.

    New shapes of faces from old ones: a network that must code them generalises better. Bends are
    smooth (Simard et al., 2003). Pixels from outside are reflected at the border.
    """
    count, device = len(x), x.device
    warped = (torch.rand(count, device=device) < fraction).to(x.dtype)
    uniform = warped * (2 * torch.rand(4, count, device=device) - 1)
    angle, scale = uniform[0] * math.radians(DEGREES), 1 + SCALE * uniform[1]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # sides of the grid are 2
    shift_x, shift_y = 2 * SHIFT * uniform[2:]
    matrices = torch.stack([cos, -sin, shift_x, sin, cos, shift_y], 1).view(-1, 2, 3)
    grid = functional.affine_grid(matrices, list(x.shape), align_corners=False)
    bends = 2 * BEND * warped.view(-1, 1, 1, 1) * torch.randn(count, 2, KNOTS, KNOTS, device=device)
    bends = functional.interpolate(bends, x.shape[2:], mode="bicubic", align_corners=True)
    grid = grid + bends.permute(0, 2, 3, 1)
    moved = functional.grid_sample(
        x, grid, "bicubic", padding_mode="reflection", align_corners=False
    )
    return moved.clamp(0, 1)
