"""A small network that sees where the eyes are: it refines a coarse guess of a face's place.

B batch. Points are complex numbers x + iy; the sides of a view are at -1 and 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vae.models.judge import make_stages

SIDE = 64
"""side of a view in pixels"""


class Aligner(nn.Module):
    """Regression of the similarity that a face has in a view, and whether there is a face.

    In a view of an aligned face the point p of the template lies at p; in others at turn p + shift.
    """

    def __init__(self, channels: Sequence[int] = (24, 40, 64, 96)) -> None:
        super().__init__()
        self.arch = {"architecture": "aligner", "channels": list(channels)}
        self.stages = make_stages(channels)
        positions = (SIDE // 2 ** len(channels)) ** 2
        self.head = nn.Linear(positions * channels[-1], 5)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return turn and shift, (B,) complex, and the logit of a face, (B,).

        x are views (B, 3, 64, 64) in [0, 1].
        """
        found = self.head(self.stages(2 * x - 1).flatten(1)).float()
        turn, shift = (torch.complex(*found[:, at : at + 2].unbind(1)) for at in (0, 2))
        return 1 + turn, shift, found[:, 4]


@torch.no_grad()
def look_twice(aligner: Aligner, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the aligner sees in views, averaged over each view and its mirror image."""
    turn, shift, logit = aligner(torch.cat([views, views.flip(3)]))
    count = len(views)
    # the mirror image of turn z + shift
    turn = (turn[:count] + turn[count:].conj()) / 2
    shift = (shift[:count] - shift[count:].conj()) / 2
    return turn, shift, (logit[:count] + logit[count:]) / 2
