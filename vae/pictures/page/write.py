"""One HTML page that samples, edits and decodes faces by itself: no server, no network.

The page holds the decoder, the refiner, the prior and the directions of a run as packed numbers.
Its scripts are the .js files beside this module. D latent dimensions, K attributes, N faces.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vae.errors import UserError
from vae.files import write_text
from vae.latent.prior import Mixture
from vae.models.refiner import Refiner

LARGEST, LARGEST_WITH_REFINER = 10_000_000, 16_000_000
"""bytes of a page with weights of 16 bits; a larger model gets weights of 8 bits"""
SCRIPTS = ("tensors", "decoder", "refiner", "worker", "codes", "drawing", "page")
DRAWN = ("listed", "skip")
"""the architectures that decoder.js draws"""


@dataclass(frozen=True)
class PageContent:
    """What a page shows."""

    model: nn.Module
    prior: Mixture
    temperature: float
    faces: Tensor
    """codes of the faces to start from, (N, D)"""
    labels: Sequence[str]
    """of these faces"""
    directions: Mapping[str, Tensor]
    """of each attribute, (D,): a slider each, in this order"""
    first: Sequence[str]
    """the attributes whose sliders always show"""
    probes: Mapping[str, Tensor]
    """of each attribute, (D,): see unit_probes"""
    mean: Tensor
    """of the training codes, (D,)"""
    about: Mapping[str, Any]
    """checkpoint, epoch, faces, method, real: for the lines that say what this is"""
    refiner: Refiner | None
    refine_steps: int
    refine_strength: float


def write_page(path: Path, content: PageContent) -> str:
    """Write the page, whole or not at all; return the line to print, with its size.

    Raises UserError if the page cannot draw the model's architecture.
    """
    architecture = content.model.arch["architecture"]
    if architecture not in DRAWN:
        drawn = " and ".join(DRAWN)
        raise UserError(f"--html draws the architectures {drawn}; this model is {architecture}")
    bits = 16
    page = render_page(content, bits)
    if len(page) > (LARGEST_WITH_REFINER if content.refiner else LARGEST):
        bits = 8
        page = render_page(content, bits)
    line = write_text(path, page)
    return f"{line} ({len(page) / 1e6:.1f} MB, weights of {bits} bits)"


def render_page(content: PageContent, bits: int) -> str:
    """Return the page's HTML; network weights have 8 or 16 bits."""
    blobs = {"codes": pack(code_tensors(content), bits=32)}
    blobs["decoder"] = pack(decoder_tensors(content.model), bits)
    described = {
        "about": dict(content.about),
        "decoder": content.model.arch,
        "temperature": content.temperature,
        "labels": list(content.labels),
        "attributes": list(content.directions),
        "first": list(content.first),
        "refiner": None,
    }
    if content.refiner:
        blobs["refiner"] = pack(stored_weights(content.refiner), bits=8)
        settings = {"steps": content.refine_steps, "strength": content.refine_strength}
        described["refiner"] = content.refiner.arch | settings
    described["tensors"] = {name: toc for name, (toc, _) in blobs.items()}
    parts = {name: base64.b64encode(packed).decode() for name, (_, packed) in blobs.items()}
    parts["refiner"] = parts.get("refiner", "")
    # in a script, "</" would end it
    parts["description"] = json.dumps(described).replace("<", "\\u003c")
    folder = Path(__file__).parent
    parts["style"] = (folder / "page.css").read_text("utf-8")
    parts |= {f"{name}.js": (folder / f"{name}.js").read_text("utf-8") for name in SCRIPTS}
    template = (folder / "page.html").read_text("utf-8")
    return re.sub(r"\{\{([\w.]+)\}\}", lambda name: parts[name[1]], template)


def code_tensors(content: PageContent) -> dict[str, Tensor]:
    """Return what the page computes with codes, by name."""
    factors = torch.linalg.cholesky(content.prior.covariances)  # (components, D, D)
    rows, columns = torch.tril_indices(*factors.shape[1:])
    latent_dim = len(content.mean)
    return {
        "faces": content.faces,
        "directions": stack(content.directions.values(), latent_dim),
        "probes": stack(content.probes.values(), latent_dim),
        "mean": content.mean,
        "weights": content.prior.weights,
        "means": content.prior.means,
        "factors": factors[:, rows, columns],
    }


def stack(vectors: Iterable[Tensor], latent_dim: int) -> Tensor:
    """Return vectors as a matrix (K, D), also where there are none."""
    vectors = list(vectors)
    return torch.stack(vectors) if vectors else torch.zeros(0, latent_dim)


def unit_probes(probes: Tensor, covariance: Tensor) -> Tensor:
    """Return linear probes (K, D) scaled to unit variance over the training codes.

    The product of a probe and a code less the mean code is then a standard score.
    """
    variances = ((probes @ covariance.double()) * probes).sum(1)
    return (probes / variances.clamp(min=1e-12).sqrt()[:, None]).float()


def decoder_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that decoding uses."""
    parts = ("fc_decode.", "decoder.", "skip_decode.")
    return {k: weight for k, weight in stored_weights(model).items() if k.startswith(parts)}


def stored_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a network; those of linear layers transposed, (inputs, outputs).

    A row is then what one input adds to all outputs: in a linear skip rows differ much in size, and
    each gets a scale of its own.
    """
    linear = {f"{name}.weight" for name, one in network.named_modules() if type(one) is nn.Linear}
    return {
        name: weight.T if name in linear else weight
        for name, weight in network.state_dict().items()
    }


def pack(tensors: Mapping[str, Tensor], bits: int) -> tuple[list[dict[str, Any]], bytes]:
    """Return a table of contents and the bytes of tensors, each from a multiple of 4 bytes.

    An entry has name, shape, bits and start. 32 and 16 bits are IEEE 754. With 8 bits a matrix is
    a float32 scale for each row, then int8 rows; vectors have 16.
    """
    toc, packed = [], b""
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().float().contiguous()
        stored_bits = 16 if bits == 8 and values.dim() == 1 else bits
        entry = {"name": name, "shape": list(values.shape), "bits": stored_bits}
        toc.append(entry | {"start": len(packed)})
        packed += PACKERS[stored_bits](values)
        packed += bytes(-len(packed) % 4)
    return toc, packed


def pack_rows(values: Tensor) -> bytes:
    """Return the scale of each row, float32, and then the rows in units of it, int8."""
    rows = values.flatten(1)
    scales = rows.abs().amax(1).clamp(min=1e-12) / 127
    return little_endian(scales, np.float32) + little_endian(rows / scales[:, None], np.int8)


def little_endian(values: Tensor, kind: type) -> bytes:
    """Return values as the bytes of their numpy type; whole numbers are rounded."""
    array = values.numpy().round() if kind is np.int8 else values.numpy()
    return array.astype(np.dtype(kind).newbyteorder("<")).tobytes()


PACKERS = {
    32: lambda values: little_endian(values, np.float32),
    16: lambda values: little_endian(values, np.float16),
    8: pack_rows,
}
