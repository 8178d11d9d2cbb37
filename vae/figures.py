"""Histograms, curves, the latent health report and labelled rows of faces (matplotlib)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
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
    # a title is 9 pixels a letter
    size = (max(left + width * cell, 9 * len(title)), above + height * cell)
    figure = Figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi)
    box = (left / size[0], 0, width * cell / size[0], height * cell / size[1])
    axes = figure.add_axes(box)
    axes.imshow(to_uint8(canvas[None])[0], interpolation="lanczos" if side < CELL else "none")
    _label(axes, columns, rows, side, gap)
    if title:
        figure.text(0.5, 1 - 18 / size[1], title, ha="center", va="center")
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


def save_latent_health(
    health: Mapping[str, Any],
    correlation: Tensor,
    distances: Mapping[str, Tensor],
    path: Path,
    title: str,
) -> None:
    """Write four panels that show how far the codes of faces are from N(0, I), and where.

    health is what latent_health returns, correlation (D, D) the aggregate posterior's; distances
    are what squared_distance returns for codes of several kinds, by the kind's name.
    """
    figure = Figure(figsize=(12, 9.5), dpi=100, layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(2, 2)
    order = np.argsort(health["kl_per_dimension"])[::-1].copy()
    _draw_kl(panels[0, 0], health)
    _draw_eigenvalues(panels[0, 1], health["eigenvalues"])
    _draw_correlation(panels[1, 0], correlation.numpy()[np.ix_(order, order)])
    _draw_distances(panels[1, 1], distances)
    save_figure(figure, path)


_FACES, _STANDARD, _OTHER = "#4c72b0", "#c44e52", "#55a868"
"""Colours of what belongs to the faces, to N(0, I), and to another prior."""


def _draw_kl(axes: Axes, health: Mapping[str, Any]) -> None:
    """Draw the KL term of each dimension, the most telling first."""
    kl = np.sort(health["kl_per_dimension"])[::-1]
    axes.bar(range(1, len(kl) + 1), kl, width=1.0, color=_FACES)
    axes.set_title(
        f"What the dimensions tell: {kl.sum():.0f} nats a face, "
        f"{health['active_units']} of {len(kl)} active"
    )
    axes.set_xlabel("dimension, by its KL")
    axes.set_ylabel("KL to N(0, 1), nats")
    axes.set_xlim(0.5, len(kl) + 0.5)


def _draw_eigenvalues(axes: Axes, eigenvalues: Sequence[float]) -> None:
    """Draw the variances of all faces' codes along their principal axes, over N(0, I)'s."""
    ranks = np.arange(1, len(eigenvalues) + 1)
    axes.semilogy(ranks, eigenvalues, ".", color=_FACES, label="codes of the training faces")
    axes.axhline(1.0, color=_STANDARD, label="N(0, I)")
    _label_logarithms(axes.yaxis)
    axes.set_title(
        f"How far the codes spread: variance from {eigenvalues[-1]:.2g} to {eigenvalues[0]:.2g}"
    )
    axes.set_xlabel("principal axis, the widest first")
    axes.set_ylabel("variance of the codes")
    axes.grid(alpha=0.3)
    axes.legend()


def _label_logarithms(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def _draw_correlation(axes: Axes, correlation: np.ndarray) -> None:
    """Draw the correlations (D, D) of all faces' codes; those of N(0, I) are zero."""
    away = correlation - np.eye(len(correlation))
    limit = max(0.1, np.abs(away).max())
    frame = (0.5, len(away) + 0.5, len(away) + 0.5, 0.5)
    picture = axes.imshow(away, "RdBu_r", vmin=-limit, vmax=limit, extent=frame)
    axes.figure.colorbar(picture, ax=axes, label="correlation")
    axes.set_title(f"What N(0, I) leaves out: correlations up to {np.abs(away).max():.2f}")
    axes.set_xlabel("dimension, by its KL")
    axes.set_ylabel("dimension, by its KL")


def _draw_distances(axes: Axes, distances: Mapping[str, Tensor]) -> None:
    """Draw how many codes of each kind lie how far from the codes of the training faces."""
    values = {kind: distance.numpy() for kind, distance in distances.items()}
    low, high = (f([f(value) for value in values.values()]) for f in (np.min, np.max))
    # at temperature 0 every sample is the mean itself
    bins = np.geomspace(max(low, 1e-3 * high), high, 41)
    names = {"faces": "codes of the faces", "standard": "N(0, I)"}
    for (kind, value), colour in zip(values.items(), (_FACES, _STANDARD, _OTHER), strict=False):
        share = np.full(len(value), 100 / len(value))
        label = f"{names.get(kind, f'{kind} prior')}: median {np.median(value):.2f}"
        axes.hist(value, bins, weights=share, histtype="stepfilled", color=colour, alpha=0.5)
        axes.plot([], color=colour, linewidth=6, alpha=0.5, label=label)
    axes.set_xscale("log")
    _label_logarithms(axes.xaxis)
    axes.margins(y=0.2)  # room for the legend
    axes.set_title("How far samples are from the training codes")
    axes.set_xlabel("squared distance in the metric of the training codes, by dimension")
    axes.set_ylabel("share of the codes, %")
    axes.legend()


def save_shifts(measured: Mapping[str, Any], path: Path, most: int = 14) -> None:
    """Write how far each method's edit shifts other attributes: those of the widest shifts.

    measured is what edits.measure_methods returned. Bars are 95 % intervals; parts of the
    attribute stand above the line.
    """
    methods = measured["methods"]
    shifts = {name: row["parts"] | row["shifts"] for name, row in methods.items()}
    parts = list(next(iter(methods.values()))["parts"])
    others = set().union(*shifts.values()) - set(parts)
    widest = sorted(others, key=lambda one: -max(abs(row[one][0]) for row in shifts.values()))
    names = parts + widest[:most]
    figure = Figure(figsize=(9, 1.4 + 0.42 * len(names)), dpi=100, layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    for index, (method, row) in enumerate(shifts.items()):
        means, margins = zip(*(row[name] for name in names), strict=True)
        offset = 0.7 * ((index + 0.5) / len(shifts) - 0.5)
        label = f"{method}: mean |shift| {methods[method]['mean_absolute_shift']:.3f}"
        axes.errorbar(means, places + offset, xerr=margins, fmt="o", markersize=4, label=label)
    labels = [f"{name} (part)" if name in parts else name for name in names]
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    if parts:
        axes.axhline(len(parts) - 0.5, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xlabel("shift of the judge's logit, in deviations on real held-out faces")
    title = "{attribute} added to {n} faces, mean P {matched:.2f} by the guide"
    axes.set_title(title.format(**measured))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)
