"""Count in how many of a model's samples a face detector finds a face, beside its rate on photos.

From the repository's root, where OpenCV is installed (pip install 'opencv-python-headless<5': its
version 5 comes without the cascades):

    python -m benchmarks.faces_found runs/celeba8k-64 runs/classic --prior mixture --count 1000

The detector is OpenCV's frontal-face cascade (Viola & Jones, 2001; Lienhart & Maydt, 2002). Its
rate on held-out crops of the same data and size is what samples are compared with; its rate on
those crops cut into 16 pieces and shuffled says how often it sees a face where there is none.
Each checkpoint is sampled from its recipe's prior, those of --prior, and N(0, I).
"""

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import positive
from vae.checkpoint import Checkpoint, find_checkpoint, load_model, require_prior
from vae.device import pick_device
from vae.errors import UserError, script
from vae.images import to_uint8
from vae.latent import decode_codes
from vae.loader import PackedFaces, load_run_faces
from vae.model import VAE

# Chosen on 250 training crops of data/celeba8k at 64 px among three cascades, sizes of 128 and
# 192, borders of 0 and 1/8, and 1 to 4 neighbours: the highest rate on crops, 97.2 %, that leaves
# less than 2.5 % on shuffled ones (2.4 %). Without the border chins and foreheads are cut too
# close for the cascade, 91 %; the "default" cascade finds 97.2 % as well, and 10 % of the shuffled.
CASCADE = "haarcascade_frontalface_alt.xml"
SIDE, BORDER = 128, 16
SETTINGS = {"scaleFactor": 1.05, "minNeighbors": 3, "minSize": (51, 51)}

Detector = Callable[[np.ndarray], bool]
Rows = list[dict[str, Any]]


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Count faces for each checkpoint; print a table each and a line of JSON."""
    args = parse_arguments(argv)
    find = make_detector()
    runs = [measure(args, Path(name), find) for name in args.checkpoints]
    for run in runs:
        print_table(run)
    print(json.dumps({"benchmark": "faces_found", "settings": vars(args), "runs": runs}))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what is sampled, and how much of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="RUN", help="checkpoint files or run folders")
    priors = ["standard", "gaussian", "mixture"]
    add("--prior", nargs="+", choices=priors, default=[], help="more priors to draw from")
    add("--temperature", type=float, help="of all of them; default: the recipe's, of others 1")
    add("--count", type=positive, default=1000, help="samples of each, and crops at most")
    add("--split", choices=["val", "test"], default="test", help="of the crops")
    add("--data", help="data set of the runs, where it lies elsewhere now")
    add("--seed", type=int, default=0, help="of the samples")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser.parse_args(argv)


def make_detector() -> Detector:
    """Return the function that says whether there is a face in uint8 pixels (S, S, 3).

    Raises UserError if OpenCV or its cascade is not installed.
    """
    advice = "pip install 'opencv-python-headless<5'"
    if importlib.util.find_spec("cv2") is None:
        raise UserError(f"OpenCV is not installed: {advice}")
    import cv2

    path = Path(cv2.data.haarcascades) / CASCADE
    if not path.exists() or not hasattr(cv2, "CascadeClassifier"):
        raise UserError(f"OpenCV {cv2.__version__} comes without its cascades: {advice}")
    cascade = cv2.CascadeClassifier(str(path))

    def find(pixels: np.ndarray) -> bool:
        gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        large = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        framed = cv2.copyMakeBorder(large, *[BORDER] * 4, cv2.BORDER_REPLICATE)
        return len(cascade.detectMultiScale(framed, **SETTINGS)) > 0

    return find


def measure(args: argparse.Namespace, checkpoint_path: Path, find: Detector) -> dict[str, Any]:
    """Return what one checkpoint's samples and its held-out crops come to, with the protocol."""
    path = find_checkpoint(checkpoint_path)
    model, checkpoint = load_model(path, pick_device(args.device))
    faces = load_run_faces(checkpoint.config, args.data, checkpoint.crop)
    crops = held_out_crops(faces, args.split, args.count)
    real = count_faces(find, f"{args.split} crops", crops)
    rng = np.random.default_rng(args.seed)
    shuffled = (shuffle_pieces(crop, rng) for crop in crops)
    rows = [real, count_faces(find, "shuffled crops", shuffled)]
    for name, temperature in priors_of(args, checkpoint):
        label = f"{name}, temperature {temperature:g}"
        samples = draw(args, path, model, checkpoint, name, temperature)
        rows.append(count_faces(find, label, samples))
    for row in rows[1:]:
        row["ratio"], row["ratio_interval"] = ratio_to(row, real)
    return {
        "checkpoint": str(path),
        "epoch": checkpoint.training["epoch"],
        "data": args.data or checkpoint.config["data"],
        "image_size": model.arch["image_size"],
        "crop": faces.crop,
        "split": args.split,
        "seed": args.seed,
        "rows": rows,
    }


def priors_of(args: argparse.Namespace, checkpoint: Checkpoint) -> list[tuple[str, float]]:
    """Return the priors to draw from, each with its temperature: the recipe's first."""
    recipe = checkpoint.config["prior"]
    temperatures = dict.fromkeys((recipe, *args.prior, "standard"), 1.0)
    temperatures[recipe] = checkpoint.config["temperature"]
    if args.temperature is not None:
        temperatures = dict.fromkeys(temperatures, args.temperature)
    return list(temperatures.items())


def draw(
    args: argparse.Namespace,
    path: Path,
    model: VAE,
    checkpoint: Checkpoint,
    name: str,
    temperature: float,
) -> Iterator[np.ndarray]:
    """Yield samples as uint8 pixels (S, S, 3)."""
    prior = require_prior(path, model, checkpoint, name, args.data)
    for part in prior.sample(args.seed, range(args.count), temperature).split(128):
        yield from to_uint8(decode_codes(model, part))


def held_out_crops(faces: PackedFaces, split: str, count: int) -> np.ndarray:
    """Return at most count faces of a split, evenly over it, uint8 (N, S, S, 3)."""
    rows = faces.rows(split)
    count = min(count, len(rows))
    return faces.pixels[rows[np.arange(count) * len(rows) // count]]


def shuffle_pieces(pixels: np.ndarray, rng: np.random.Generator, pieces: int = 4) -> np.ndarray:
    """Return a picture (S, S, 3) cut into pieces x pieces squares, in another order."""
    side = len(pixels) // pieces
    squares = (
        pixels.reshape(pieces, side, pieces, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    )
    mixed = rng.permutation(squares).reshape(pieces, pieces, side, side, 3)
    return np.ascontiguousarray(mixed.swapaxes(1, 2).reshape(pixels.shape))


def count_faces(find: Detector, label: str, pictures: Iterator[np.ndarray] | np.ndarray) -> dict:
    """Return in how many pictures a face was found, and the share with its interval."""
    found = [find(pixels) for pixels in pictures]
    share = sum(found) / len(found)
    row = {"pictures": label, "found": sum(found), "count": len(found), "share": share}
    return {**row, "interval": wilson_interval(sum(found), len(found))}


NORMAL_95 = 1.959964


def wilson_interval(found: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927)."""
    share, square = found / count, NORMAL_95**2 / count
    half = NORMAL_95 * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return tuple((share + square / 2 + sign * half) / (1 + square) for sign in (-1, 1))


def ratio_to(row: dict[str, Any], real: dict[str, Any]) -> tuple[float, tuple[float, float]]:
    """Return the ratio of two shares and its 95 % interval.

    The interval is that of the logarithm, which is nearly normal (Katz et al., 1978), with halves
    added so that a count of zero has one too (Walter, 1975).
    """
    half = [(r["found"] + 0.5, r["count"] + 0.5) for r in (row, real)]
    middle = math.log(half[0][0] / half[0][1]) - math.log(half[1][0] / half[1][1])
    deviation = math.sqrt(sum(1 / found - 1 / count for found, count in half))
    ends = tuple(math.exp(middle + sign * NORMAL_95 * deviation) for sign in (-1, 1))
    return (row["share"] / real["share"] if real["found"] else math.inf), ends


def print_table(run: dict[str, Any]) -> None:
    """Print one checkpoint's rows for people to read."""
    protocol = (f"{name} {run[name]}" for name in ("epoch", "data", "crop", "split", "seed"))
    print(f"{run['checkpoint']}: {', '.join(protocol)}, {run['image_size']} px")
    for row in run["rows"]:
        low, high = (100 * end for end in row["interval"])
        line = f"  {row['pictures']:<26}{row['found']:>6} of {row['count']:<6}"
        line += f"{100 * row['share']:5.1f} % ({low:.1f} .. {high:.1f})"
        if "ratio" in row:
            line += "   {:.3f} ({:.3f} .. {:.3f}) of the crops' rate".format(
                row["ratio"], *row["ratio_interval"]
            )
        print(line)


if __name__ == "__main__":
    sys.exit(main())
