"""Matplotlib figures: labelled grids, histograms, curves, latent health, changes by edits."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vae.files import write_whole
from vae.pictures.images import grid_pixels

DPI = 100
CELL = 96  # smallest side of a face in a labelled grid, in pixels: smaller images are enlarged
FACES, STANDARD, OTHER = "#4c72b0", "#c44e52", "#55a868"  # codes of faces, N(0, I), another prior


def _save(figure: Figure, path: Path) -> str:
    """Write a figure in the format that the suffix of path names; return the line to print."""
    content, kind = io.BytesIO(), path.suffix[1:]
    # tight: the frame grows with long titles and labels
    figure.savefig(content, format=kind, dpi=DPI, facecolor="white", bbox_inches="tight")
    return write_whole(path, content.getvalue())


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
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, parse_math=False)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, parse_math=False)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    # centred over the labels and the grid; a figure's frame is in inches
    (left, _), (right, top) = figure.get_tightbbox().get_points() * DPI / size
    figure.suptitle(title, x=(left + right) / 2, y=top + 8 / size[1], va="bottom", parse_math=False)
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
        # the density of all values: those beyond -4 to 4 count too
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
    """Write the curves of total, recon, kl and PSNR over the epochs of a run."""
    figure = Figure(figsize=(12, 3), layout="constrained")
    epochs = [row["epoch"] for row in history]
    panels = zip(figure.subplots(1, 4), ("total", "recon", "kl", "psnr"), strict=True)
    for axes, term in panels:
        for split, colour in (("train", "C0"), ("val", "C1")):
            if f"{split}_{term}" in history[0]:
                values = [row[f"{split}_{term}"] for row in history]
                axes.plot(epochs, values, ".-", color=colour, label=split)
        title = "PSNR from mu, dB" if term == "psnr" else f"{term}, nats per image"
        axes.set(title=title, xlabel="epoch")
        axes.legend()
        axes.grid(alpha=0.3)
    return _save(figure, path)


def save_latent_health(
    health: dict, correlation: Tensor, distances: dict[str, Tensor], path: Path, title: str
) -> str:
    """Write four panels that compare the codes of faces with N(0, I).

    health is what latent_health returns, correlation (D, D) that of the aggregate posterior;
    distances maps a kind of codes to what squared_distance returns for them.
    """
    figure = Figure(figsize=(12, 9.5), layout="constrained")
    figure.suptitle(title)
    upper, lower = figure.subplots(2, 2)
    order = np.argsort(health["kl_per_dimension"])[::-1]
    _draw_kl(upper[0], np.array(health["kl_per_dimension"])[order], health["active_units"])
    _draw_eigenvalues(upper[1], health["eigenvalues"])
    _draw_correlation(lower[0], correlation.numpy()[np.ix_(order, order)])
    _draw_distances(lower[1], distances)
    return _save(figure, path)


def _draw_kl(axes: Axes, kl: np.ndarray, active: int) -> None:
    axes.bar(range(1, len(kl) + 1), kl, width=1.0, color=FACES)
    title = f"KL {kl.sum():.0f} nats per face; {active} of {len(kl)} dimensions active"
    axes.set(title=title, xlabel="dimension, sorted by KL", ylabel="KL to N(0, 1), nats")
    axes.margins(x=0)


def _draw_eigenvalues(axes: Axes, eigenvalues: Sequence[float]) -> None:
    ranks = range(1, len(eigenvalues) + 1)
    axes.semilogy(ranks, eigenvalues, ".", color=FACES, label="codes of the training faces")
    axes.axhline(1.0, color=STANDARD, label="N(0, I)")
    title = f"Variance of the codes: {eigenvalues[-1]:.2g} to {eigenvalues[0]:.2g}"
    axes.set(title=title, xlabel="principal axis, sorted by variance", ylabel="variance")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_correlation(axes: Axes, correlation: np.ndarray) -> None:
    off_diagonal = correlation - np.eye(len(correlation))
    largest, end = np.abs(off_diagonal).max(), len(correlation) + 0.5
    picture = axes.imshow(off_diagonal, "RdBu_r", extent=(0.5, end, end, 0.5))
    picture.set_clim(-max(0.1, largest), max(0.1, largest))
    axes.figure.colorbar(picture, ax=axes, label="correlation (0 under N(0, I))")
    axes.set_title(f"Correlation between dimensions: at most {largest:.2f}")
    axes.set(xlabel="dimension, sorted by KL", ylabel="dimension, sorted by KL")


def _draw_distances(axes: Axes, distances: dict[str, Tensor]) -> None:
    values = {kind: distance.numpy() for kind, distance in distances.items()}
    low, high = np.quantile(np.concatenate(list(values.values())), (0, 1))
    # at temperature 0 every sample is the mean, at distance 0
    bins = np.geomspace(max(low, 1e-3 * high), high, 41)
    names = {"faces": "codes of the faces", "standard": "samples of N(0, I)"}
    for (kind, value), colour in zip(values.items(), (FACES, STANDARD, OTHER), strict=False):
        name = names.get(kind, f"samples of the {kind} prior")
        label = f"{name}: median {np.median(value):.2f}"
        weights = np.full(len(value), 1 / len(value))
        axes.hist(value, bins, weights=weights, color=colour, alpha=0.5, label=label)
    axes.set_xscale("log")
    axes.margins(y=0.25)  # room for the legend
    axes.set_title("Distance from the mean of the training codes")
    axes.set_xlabel("squared Mahalanobis distance, divided by the number of dimensions")
    axes.set_ylabel("fraction of the codes")
    axes.legend()


def save_shifts(measured: dict, path: Path, count: int = 14) -> str:
    """Write how much each method's edit changes other attributes, the most changed ones.

    measured is what measure_methods returns. Bars are 95 % confidence intervals. Parts of the
    edited attribute stand above the dashed line.
    """
    methods = measured["methods"]
    shifts = {method: row["parts"] | row["shifts"] for method, row in methods.items()}
    parts = list(next(iter(methods.values()))["parts"])
    others = set().union(*shifts.values()) - set(parts)
    largest = sorted(others, key=lambda name: -max(abs(row[name][0]) for row in shifts.values()))
    names = parts + largest[:count]
    figure = Figure(figsize=(9, 1.8 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    offsets = np.linspace(-0.5, 0.5, len(shifts) + 2)[1:-1]
    for (method, row), offset in zip(shifts.items(), offsets, strict=True):
        means, margins = zip(*(row[name] for name in names), strict=True)
        label = f"{method}: mean absolute change {methods[method]['mean_absolute_shift']:.3f}"
        axes.errorbar(means, places + offset, xerr=margins, fmt="o", markersize=4, label=label)
    suffix = f" (part of {measured['attribute']})"
    axes.set_yticks(places, [name + suffix * (name in parts) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axhline(len(parts) - 0.5, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xlabel("change of the judge's logit, in standard deviations over real faces")
    title = "{attribute} added to {n} faces, to a mean probability of {matched:.2f} by the guide"
    axes.set_title(title.format(**measured))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return _save(figure, path)
