"""Matplotlib figures: labelled grids, histograms, curves, latent health."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vae.pictures.images import encode_picture, grid_pixels

DPI = 100
CELL = 96  # smallest side of a face in a labelled grid, in pixels: smaller images are enlarged
FACES, STANDARD = "#4c72b0", "#c44e52"  # colours of the codes of faces, and of N(0, I)


def _save(figure: Figure, path: Path) -> str:
    """Write a figure in the format that the suffix of path names; return the line to print."""
    # tight: the frame grows with long titles and labels
    options = {"dpi": DPI, "facecolor": "white", "bbox_inches": "tight"}
    return encode_picture(partial(figure.savefig, format=path.suffix[1:], **options), path)


def _text(name: str) -> str:
    """Return text that may be the name of a file as text that can be drawn."""
    return name.encode("utf-8", "backslashreplace").decode()


def save_labelled_grid(
    x: Tensor, path: Path, columns: Sequence[str], rows: Sequence[str], title: str = ""
) -> str:
    """Write images (rows, columns, 3, S, S) as a grid with a label on each row and column."""
    picture = Image.fromarray(grid_pixels(x.flatten(0, 1), columns=x.shape[1]))
    scale = max(1.0, CELL / x.shape[-1])
    size = (round(scale * picture.width), round(scale * picture.height))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI))
    axes = figure.add_axes((0, 0, 1, 1))
    extent = (0, len(columns), len(rows), 0)
    axes.imshow(picture, extent=extent, aspect="auto", interpolation="none")
    # parse_math=False: a label may be a file name with dollar signs
    axes.set_xticks(np.arange(len(columns)) + 0.5, [*map(_text, columns)], parse_math=False)
    axes.set_yticks(np.arange(len(rows)) + 0.5, [*map(_text, rows)], parse_math=False)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    # centre the title over grid and labels (get_tightbbox is in inches)
    (left, _), (right, top) = figure.get_tightbbox().get_points() * DPI / size
    figure.suptitle(
        _text(title), x=(left + right) / 2, y=top + 8 / size[1], va="bottom", parse_math=False
    )
    return _save(figure, path)


def save_histograms(
    codes: Tensor, path: Path, dimensions: Sequence[int], title: str, columns: int = 10
) -> str:
    """Write a histogram of each given dimension of codes (N, D), with the density of N(0, 1).

    Each covers -4 to 4; its mean and standard deviation stand above it.
    """
    columns = min(columns, len(dimensions))
    rows = -(-len(dimensions) // columns)
    figure = Figure(figsize=(1.5 * columns + 0.4, 1.35 * rows + 0.7), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    z = np.linspace(-4, 4, 201)
    normal = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    for axes, dimension in zip(panels, dimensions, strict=False):
        values = codes[:, dimension].numpy()
        # normalise by all values, including those outside -4 to 4
        weights = np.full(len(values), 40 / 8 / len(values))
        axes.hist(values, bins=40, range=(-4, 4), weights=weights, color=FACES)
        axes.plot(z, normal, color=STANDARD, linewidth=1)
        axes.set_title(f"z{dimension}: {values.mean():.2f} ± {values.std():.2f}", fontsize=8)
        # an unused dimension has all means near 0: its peak is cut off
        axes.set(xticks=(-3, 0, 3), yticks=(0, 0.5, 1), ylim=(0, 1.2))
        axes.tick_params(labelsize=8)
    for axes in panels[len(dimensions) :]:
        axes.set_visible(False)
    return _save(figure, path)


def save_curves(history: Sequence[Mapping[str, float]], path: Path) -> str:
    """Write the curves of total and, where they are, recon, kl and PSNR over the epochs."""
    terms = [one for one in ("total", "recon", "kl", "psnr") if f"val_{one}" in history[0]]
    figure = Figure(figsize=(3 * len(terms), 3), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, term in zip(figure.subplots(1, len(terms), squeeze=False)[0], terms, strict=True):
        for split, colour in (("train", "C0"), ("val", "C1")):
            if f"{split}_{term}" in history[0]:
                values = [row[f"{split}_{term}"] for row in history]
                axes.plot(epochs, values, ".-", color=colour, label=split)
        unit = ", nats per image" if "recon" in terms else ""
        title = "PSNR from mu, dB" if term == "psnr" else term + unit
        axes.set(title=title, xlabel="epoch")
        axes.legend()
        axes.grid(alpha=0.3)
    return _save(figure, path)


def save_latent_health(health: Mapping[str, Any], path: Path, title: str) -> str:
    """Write the KL of each dimension, and the variances of the aggregate posterior under N(0, I)'s.

    health is what latent_health returns.
    """
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    figure.suptitle(_text(title))
    left, right = figure.subplots(1, 2)
    kl, variances = sorted(health["kl_per_dimension"], reverse=True), health["eigenvalues"]
    ranks = range(1, len(kl) + 1)
    left.bar(ranks, kl, width=1.0, color=FACES)
    active = f"{health['active_units']} of {len(kl)} dimensions active"
    left.set_title(f"KL {sum(kl):.0f} nats per face; {active}")
    left.set(xlabel="dimension, sorted by KL", ylabel="KL to N(0, 1), nats")
    right.semilogy(ranks, variances, ".", color=FACES, label="codes of the training faces")
    right.axhline(1.0, color=STANDARD, label="N(0, I)")
    right.set_title(f"Variance of the codes: {variances[-1]:.2g} to {variances[0]:.2g}")
    right.set(xlabel="principal axis, sorted by variance", ylabel="variance")
    right.grid(alpha=0.3)
    right.legend()
    return _save(figure, path)
