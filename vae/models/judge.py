"""A classifier of a data set's attributes, and features that tell people apart.

B batch, N images, S image side in pixels, F features of the last stage, K attributes. Images are
(B, 3, S, S) in [0, 1].
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from vae.device import device_of


class Judge(nn.Module):
    """Convolutional classifier of the attributes in attribute_names.

    It has len(channels) stages. Each stage halves the side of the image.
    """

    def __init__(self, channels: Sequence[int], attribute_names: Sequence[str]) -> None:
        super().__init__()
        self.arch = {
            "architecture": "judge",
            "channels": list(channels),
            "attribute_names": list(attribute_names),
        }
        self.stages = make_stages(channels)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(channels[-1], len(attribute_names))
        # standard deviation of each logit over real held-out faces; 0 where AUC is not measured
        self.register_buffer("attribute_std", torch.ones(len(attribute_names)))

    # fmt: off
    def features(self, x: Tensor) -> Tensor:
        """Return the features of images x, averaged over their positions."""
        return self.stages(2 * x - 1).mean(dim=(2, 3))              # (B, F)

    def classify(self, features: Tensor) -> Tensor:
        """Return the logit of each attribute, in the order of attribute_names."""
        return self.head(self.dropout(features))                    # (B, K)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images x."""
        return self.classify(self.features(x))                      # (B, K)
    # fmt: on


def make_stages(channels: Sequence[int]) -> nn.Sequential:
    """Return the convolutions (B, 3, S, S) -> (B, F, s, s), two in each stage."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise([3, *channels]):
        # the first stage has a stride: a stride here: convolutions at full size are slow
        layers += [nn.MaxPool2d(2)] if layers else []
        layers += _convolution(width_in, width_out, stride=1 if layers else 2)
        layers += _convolution(width_out, width_out)
    return nn.Sequential(*layers)


def _convolution(width_in: int, width_out: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(width_out), nn.ReLU()]


def predict(judge: Judge, x: Tensor) -> Tensor:
    """Return the logits of images x, (N, K) on the CPU."""
    return look(judge, x.split(128))[0]


@torch.no_grad()
def look(judge: Judge, images: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the logits (N, K) and the features (N, F) of batches of images, on the CPU."""
    judge.eval()
    device = device_of(judge)
    features = [judge.features(x.to(device)) for x in images]
    logits = torch.cat([judge.classify(part).cpu() for part in features])
    return logits, torch.cat([part.cpu() for part in features])


def identify(features: Tensor) -> Tensor:
    """Return vectors (N, F) of norm 1; the dot product of two says how similar two faces are."""
    return functional.normalize(features, dim=1)
