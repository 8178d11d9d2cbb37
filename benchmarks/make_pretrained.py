"""Make the files in pretrained/ from a trained run and its judges: weights in 16 bits.

    python -m benchmarks.make_pretrained runs/celeba8k-64 runs/celeba8k-64-judges

The guide and the judge lie beside the model, so that --keep, --to and evaluate.py work at once.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vae.checkpoint import JudgeCheckpoint, load_checkpoint, save_checkpoint
from vae.errors import UserError, script
from vae.run_folders import BEST, PRETRAINED

LARGEST = 24
"""size of the files together, in MB"""


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Write the three files and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("run", type=Path, help="folder of a finished run of train.py")
    parser.add_argument("judges", type=Path, help="folder of train_judge.py, for the same faces")
    parser.add_argument("--target", type=Path, default=PRETRAINED, help="folder to write to")
    args = parser.parse_args(argv)
    model = load_checkpoint(args.run / BEST)
    if model.statistics is None:
        raise UserError(f"{args.run} has no latent statistics: finish it with --resume {args.run}")
    refiner = model.refiner and model.refiner | {"weights": to_float16(model.refiner["weights"])}
    records = {BEST: replace(model, weights=to_float16(model.weights), refiner=refiner)}
    for name in ("guide.pt", "judge.pt"):
        judge = load_checkpoint(args.judges / name, JudgeCheckpoint)
        if judge.crop != model.crop or judge.digest != model.digest:
            raise UserError(f"{args.judges / name} was trained on other faces than {args.run}")
        records[name] = replace(judge, weights=to_float16(judge.weights))
    for name, record in records.items():
        save_checkpoint(record, args.target / name)
    sizes = {name: (args.target / name).stat().st_size / 1e6 for name in records}
    print(*(f"{args.target / name}: {size:.1f} MB" for name, size in sizes.items()), sep="\n")
    if sum(sizes.values()) > LARGEST:
        raise UserError(f"{sum(sizes.values()):.1f} MB are more than {LARGEST}")


def to_float16(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in 16 bits; whole numbers stay. Raises UserError if one is too large."""
    small = {name: one.half() if one.is_floating_point() else one for name, one in weights.items()}
    for name, one in small.items():
        if not torch.isfinite(one).all():
            raise UserError(f"{name} has values that 16 bits cannot hold")
    return small


if __name__ == "__main__":
    sys.exit(main())
