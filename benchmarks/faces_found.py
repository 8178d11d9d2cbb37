"""Count the samples in which OpenCV's frontal-face cascade (Viola & Jones, 2001) finds a face.

The crops of the test split are counted too, and the same crops cut into squares and shuffled.

    python -m benchmarks.faces_found runs/celeba8k-64 runs/classic --prior mixture standard
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import numpy as np

from vae.editing.finding import open_cascade
from vae.errors import script
from vae.pictures.images import to_uint8
from vae.run import open_run

# The settings were chosen on 250 training crops of celeba8k at 64 px, of which 97.2 % are found,
# and 2.4 % of the shuffled ones. Without the border, crops cut chins and foreheads: 91 % are found.
CASCADE, SIDE, BORDER = "haarcascade_frontalface_alt.xml", 128, 16
SETTINGS = {"scaleFactor": 1.05, "minNeighbors": 3, "minSize": (51, 51)}


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Print how often a face is found, for each run and prior."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="checkpoint files or run folders")
    parser.add_argument("--prior", nargs="+", default=[None], help="default: that of the run")
    parser.add_argument("--count", type=int, default=1000, help="samples, and crops at most")
    parser.add_argument("--data", help="the runs' data set, if it has moved")
    args = parser.parse_args(argv)
    find, rng = make_detector(), np.random.default_rng(0)
    for path in args.runs:
        run = open_run(path, data=args.data)
        print(run.path)
        crops = run.faces.pixels[run.faces.rows("test")[: args.count]]
        print_found("test crops", [find(crop) for crop in crops])
        print_found("shuffled crops", [find(shuffle(crop, rng)) for crop in crops])
        for prior in args.prior:
            x_hat = run.decode(run.sample(0, range(args.count), prior=prior))
            print_found("samples", [find(face) for face in to_uint8(x_hat)])
            if run.refiner:
                refined = run.refine(x_hat, range(args.count))
                print_found("samples, refined", [find(face) for face in to_uint8(refined)])


def make_detector() -> Callable[[np.ndarray], bool]:
    """Return the function that says whether uint8 pixels (S, S, 3) show a face.

    Raises UserError without OpenCV or with its version 5, which has no cascades.
    """
    cascade = open_cascade(CASCADE)
    import cv2

    def find(pixels: np.ndarray) -> bool:
        gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        large = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        framed = cv2.copyMakeBorder(large, *[BORDER] * 4, cv2.BORDER_REPLICATE)
        return len(cascade.detectMultiScale(framed, **SETTINGS)) > 0

    return find


def shuffle(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a picture (S, S, 3) cut into 4 x 4 squares, in random order."""
    squares = [square for row in np.split(pixels, 4) for square in np.split(row, 4, axis=1)]
    order = rng.permutation(16).reshape(4, 4)
    return np.vstack([np.hstack([squares[index] for index in row]) for row in order])


def print_found(label: str, found: Sequence[bool]) -> None:
    """Print how often a face was found, and the standard error of that."""
    error = np.std(found) / len(found) ** 0.5
    print(f"  {label}: {np.mean(found):.1%} of {len(found)}, standard error {error:.1%}")


if __name__ == "__main__":
    sys.exit(main())
