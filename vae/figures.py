"""Histograms, curves and labelled rows of faces, drawn with matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vae.files import whole_file
from vae.images import make_grid, to_uint8

CELL = 96
"""Least side of a face in a labelled figure, in pixels."""


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a picture of the kind that path's suffix names."""
    with whole_file(path) as partial:
        figure.savefig(partial, facecolor="white")


def save_labelled_grid(
    x: Tensor, path: Path, columns: Sequence[str], rows: Sequence[str], title: str = ""
) -> None:
    """Write images (rows, columns, 3, S, S) as a grid with a label on each row and column."""
    height, width, _, side, _ = x.shape
    gap = 2
    canvas = make_grid(x.flatten(0, 1), width, gap)
    dpi, cell = 100, max(CELL, side) + gap
    left, above = 20 + 8 * max(map(len, rows)), 56 if title else 28
    size = (left + width * cell, above + height * cell)
    figure = Figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi)
    box = (left / size[0], 0, width * cell / size[0], height * cell / size[1])
    axes = figure.add_axes(box)
    axes.imshow(to_uint8(canvas[None])[0], interpolation="lanczos" if side < CELL else "none")
    _label(axes, columns, rows, side, gap)
    if title:
        figure.text(box[0] + box[2] / 2, 1 - 18 / size[1], title, ha="center", va="center")
    save_figure(figure, path)


def _label(axes: Axes, columns: Sequence[str], rows: Sequence[str], side: int, gap: int) -> None:
    centres = [np.arange(len(labels)) * (side + gap) + gap + side / 2 for labels in (columns, rows)]
    axes.set_xticks(centres[0], columns)
    axes.set_yticks(centres[1], rows)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def save_histograms(
    codes: Tensor, path: Path, dimensions: Sequence[int], title: str, columns: int = 10
) -> None:
    """Write small histograms of the chosen dimensions of codes (N, D) under the N(0, 1) curve.

    Each is a density over -4 .. 4 with its mean and standard deviation above it.
    """
    columns = min(columns, len(dimensions))
    rows = -(-len(dimensions) // columns)
    figure = Figure(figsize=(1.5 * columns + 0.4, 1.35 * rows + 0.7), dpi=100, layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    z = np.linspace(-4, 4, 201)
    normal = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    for axes in grid.flat[len(dimensions) :]:
        axes.set_visible(False)
    for axes, dimension in zip(grid.flat, dimensions, strict=False):
        values = codes[:, dimension].numpy()
        axes.hist(values, bins=40, range=(-4, 4), density=True, color="#4c72b0")
        axes.plot(z, normal, color="#c44e52", linewidth=1)
        heading = f"z{dimension}: {values.mean():.2f} ± {values.std():.2f}"
        axes.set_title(heading, fontsize=8)
        # a dimension that carries nothing has all means at 0: its spike may leave the frame
        axes.set_ylim(0, 1.2)
        axes.tick_params(labelsize=6)
    save_figure(figure, path)


def save_curves(history: Sequence[dict], path: Path) -> None:
    """Write the curves of total, recon, kl and PSNR over the epochs of a run."""
    figure = Figure(figsize=(12, 3), dpi=100, layout="constrained")
    epochs = [row["epoch"] for row in history]
    panels = zip(figure.subplots(1, 4), ("total", "recon", "kl", "psnr"), strict=True)
    for axes, term in panels:
        for split in ("train", "val"):
            if f"{split}_{term}" in history[0]:
                values = [row[f"{split}_{term}"] for row in history]
                axes.plot(epochs, values, label=split, marker="o", markersize=2)
        axes.set_title("PSNR from mu, dB" if term == "psnr" else f"{term}, nats per image")
        axes.set_xlabel("epoch")
        axes.legend()
        axes.grid(alpha=0.3)
    save_figure(figure, path)
