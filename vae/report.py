"""Reports of numbers -> text for people to read."""

from collections.abc import Mapping
from typing import Any

Section = dict[str, Any]
"""Names and values: numbers and short texts for people, lists and tables for programs as well."""

UNITS = {
    "total": "nats per image: recon + beta * kl, z sampled",
    "recon": "nats per image, z sampled",
    "kl": "nats per image",
    "sigma": "deviation of the decoder, pixels in 0 .. 1",
    "bits_per_dimension": "bits per 8-bit value, an upper bound; 8 is no model at all",
    "sse": "squared error per image, from mu",
    "psnr": "dB, from mu",
    "ssim": "of 1, from mu",
    "active_units": "dimensions in which the variance of mu is above 0.01",
    "aggregate_kl": "nats, of the training codes' Gaussian to N(0, I)",
    "aggregate_mean_norm": "length of the training codes' mean; 0 in N(0, I)",
    "largest_eigenvalue": "of the training codes' covariance; 1 in N(0, I)",
    "smallest_eigenvalue": "of the training codes' covariance; 1 in N(0, I)",
    "uneven_directions": "share of the eigenvalues outside 1/2 .. 2",
    "largest_correlation": "between two dimensions of the training codes",
    "distance_faces": "median from the training codes, squared, in their metric; theirs is 1",
    "distance_standard": "the same of samples of N(0, I)",
    "distance_gaussian": "the same of samples of the prior",
    "distance_mixture": "the same of samples of the prior",
    "mean_auc": "area under the ROC curve; 0.5 is chance",
    "kid_deviation": "over the subsets",
}
"""What stands behind a number in the text."""


def print_report(report: Mapping[str, Section]) -> None:
    """Print the sections for people to read; lists are left to the JSON."""
    for heading, section in report.items():
        print(heading.upper())
        for name, value in section.items():
            if isinstance(value, str | int | float):
                print(f"  {name:<20} {as_text(value):<12} {UNITS.get(name, '')}".rstrip())
        if "auc" in section:
            print_areas(section)
        print()


def as_text(value: str | float) -> str:
    """Return a value with the digits that mean something."""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"
    return str(value)


def print_areas(section: Section, columns: int = 3) -> None:
    """Print the attributes from the one best read down, with how many of the faces have each."""
    areas = sorted(section["auc"].items(), key=lambda entry: -entry[1])
    cells = [f"{name:<20} {area:.3f} ({section['positives'][name]})" for name, area in areas]
    for start in range(0, len(cells), columns):
        print("  " + "".join(f"{cell:<34}" for cell in cells[start : start + columns]).rstrip())
    if section["too_rare"]:
        print(f"  too rare to be measured: {', '.join(section['too_rare'])}")


def edit_lines(measured: Mapping[str, Any]) -> list[str]:
    """Return what measure_methods and seen_on_real_faces found as a table for people to read."""
    having = measured["having"]
    others = len(next(iter(measured["methods"].values()))["shifts"])
    lines = [
        "{attribute}: {n} faces without it, moved to a mean P of {matched:.2f} by the guide "
        "(asked for {target:g})".format(**measured),
        f"the judge's P on {having['n']} faces with it: {_with_margin(having['real'])} real, "
        f"{_with_margin(having['reconstructed'])} reconstructed; "
        f"shifts are of {others} other attributes",
        f"{'method':<26}{'strength':>9}{'success':>15}{'mean |shift|':>14}"
        f"{'identity drift':>17}{'pixel drift':>16}  parts; worst shifts",
    ]
    for method, row in measured["methods"].items():
        pixels = _with_margin(row["pixel_drift"], 3)
        parts = [f"{name} {row['parts'][name][0]:+.2f}" for name in row["parts"]]
        worst = [f"{name} {row['shifts'][name][0]:+.2f}" for name in row["worst"]]
        lines.append(
            f"{method:<26}{row['strength']:>9.2f}{_with_margin(row['success']):>15}"
            f"{row['mean_absolute_shift']:>14.3f}{_with_margin(row['identity_drift']):>17}"
            f"{pixels:>16}  {', '.join(parts) or '-'}; {', '.join(worst)}"
        )
    return lines


def _with_margin(value: tuple[float, float], digits: int = 2) -> str:
    mean, margin = value
    return f"{mean:.{digits}f} ± {margin:.{digits}f}"
