"""Reports of numbers -> text for the terminal."""

from collections.abc import Mapping
from typing import Any

Section = dict[str, Any]
"""Numbers and short texts, which are printed, and lists and tables, which only the JSON has."""

UNITS = {
    "total": "nats per image: recon + beta * kl, z sampled",
    "recon": "nats per image, z sampled",
    "kl": "nats per image",
    "sigma": "standard deviation of the decoder, pixels in 0 .. 1",
    "bits_per_dimension": "bits/dim, an upper bound; raw pixels have 8",
    "sse": "squared error per image, of reconstructions",
    "psnr": "dB, of reconstructions",
    "ssim": "structural similarity of reconstructions, 1 at most",
    "dimensions": "of the PCA of the training faces: as many as the model's codes",
    "judge_frechet": "Frechet distance in the features of the judge; not FID; 0 is best",
    "judge_kernel": "kernel distance (squared MMD) in these features; 0 is best",
    "judge_precision": "fraction of the row's images that lie among faces",
    "judge_recall": "fraction of faces that lie among the row's images",
    "feature_ratio": "median distance to the nearest training face / that of held-out faces",
    "feature_copies": "fraction nearer than 99 % of held-out faces; about 0.01 without copies",
    "code_ratio": "the same ratio, between whitened codes",
    "code_copies": "the same fraction, between whitened codes",
    "active_units": "dimensions in which the variance of mu is above 0.01",
    "aggregate_kl": "nats, from the Gaussian of the training codes to N(0, I)",
    "largest_eigenvalue": "of the covariance of the training codes; 1 for N(0, I)",
    "smallest_eigenvalue": "of the covariance of the training codes; 1 for N(0, I)",
    "distance_faces": "median squared Mahalanobis distance / D; training codes: 1",
    "distance_standard": "the same for samples of N(0, I)",
    "distance_gaussian": "the same for samples of the prior",
    "distance_mixture": "the same for samples of the prior",
    "mean_auc": "area under the ROC curve, mean over attributes; 0.5 is chance",
    "fid": "Frechet Inception distance between faces and samples",
    "guide_mean_auc": "the guide's on held-out faces",
    "judge_mean_auc": "the judge's on held-out faces",
    "identity_auc": "AUC: do two held-out faces show one person?",
}
"""Unit or meaning of a number, printed after it."""


def print_report(report: Mapping[str, Section]) -> None:
    """Print the numbers and texts of all sections."""
    for heading, section in report.items():
        print(heading.upper().replace("_", " "))
        for name, value in section.items():
            if isinstance(value, str | int | float):
                print(f"  {name:<20} {as_text(value):<12} {UNITS.get(name, '')}".rstrip())
        if "rows" in section:
            print_rows(section["rows"])
        if "auc" in section:
            print_areas(section)
        print()


def print_rows(rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table, a line for each row, and below it what its columns are."""
    columns = list(next(iter(rows.values())))
    widths = [max(8, len(column)) + 2 for column in columns]
    label = max(map(len, rows))
    cells = [("", columns)]
    cells += [(name, [as_text(row[column]) for column in columns]) for name, row in rows.items()]
    for name, texts in cells:
        padded = (f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))
        print(f"  {name:<{label}}{''.join(padded)}")
    for column in columns:
        if column in UNITS:
            print(f"  {column}: {UNITS[column]}")


def as_text(value: str | float) -> str:
    """Return a value as text; floats have three digits."""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"
    return str(value)


def print_areas(section: Section, columns: int = 3) -> None:
    """Print the AUC of each attribute, the highest first, and its number of positive faces."""
    areas = sorted(section["auc"].items(), key=lambda entry: -entry[1])
    cells = [f"{name:<20} {area:.3f} ({section['positives'][name]})" for name, area in areas]
    for start in range(0, len(cells), columns):
        print("  " + "".join(f"{cell:<34}" for cell in cells[start : start + columns]).rstrip())
    if section["too_rare"]:
        print(f"  too rare to be measured: {', '.join(section['too_rare'])}")


def print_edits(measured: Mapping[str, Any]) -> None:
    """Print the table of one attribute's edits: what measure_methods returned, and "having"."""
    having = measured["having"]
    others = len(next(iter(measured["methods"].values()))["shifts"])
    print(
        "{attribute}: {n} faces without it, edited to a mean probability of {matched:.2f} by the "
        "guide (asked for {target:g})".format(**measured)
    )
    kinds = [f"{_with_margin(value)} {kind}" for kind, value in having.items() if kind != "n"]
    print(f"the judge's probability on {having['n']} faces with it: {', '.join(kinds)}")
    print(f"shifts of {others} other attributes, in standard deviations of the judge's logits")
    width = max(10, *map(len, measured["methods"]))
    row = f"{{:<{width}}}{{:>9}}{{:>15}}{{:>14}}{{:>11}}{{:>17}}{{:>16}}  {{}}; {{}}"
    heading = ("method", "strength", "success", "mean |shift|", "of a face")
    heading += ("identity drift", "pixel drift")
    print(row.format(*heading, "parts", "worst shifts"))
    for method, edit in measured["methods"].items():
        parts = [f"{name} {mean:+.2f}" for name, (mean, _) in edit["parts"].items()]
        worst = [f"{name} {edit['shifts'][name][0]:+.2f}" for name in edit["worst"]]
        shift, face_shift = edit["mean_absolute_shift"], edit["mean_absolute_face_shift"]
        numbers = (f"{edit['strength']:.2f}", _with_margin(edit["success"]))
        numbers += (f"{shift:.3f}", f"{face_shift:.3f}", _with_margin(edit["identity_drift"]))
        numbers += (_with_margin(edit["pixel_drift"], 3), ", ".join(parts) or "-")
        print(row.format(method, *numbers, ", ".join(worst)))
    print()


def _with_margin(value: tuple[float, float], digits: int = 2) -> str:
    mean, margin = value
    return f"{mean:.{digits}f} ± {margin:.{digits}f}"
