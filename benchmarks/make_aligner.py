"""Train pretrained/aligner.pt, which refines where a face is in a photo: weights in 16 bits.

    python -m benchmarks.make_aligner --data data/celeba8k

The data set must be in CelebA's frame; its training split is used.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.make_pretrained import to_float16
from vae.checkpoint import AlignerCheckpoint, save_checkpoint
from vae.data.faces import load_faces
from vae.errors import UserError, script
from vae.models.aligner import Aligner
from vae.run import ALIGNER
from vae.training.aligner import SQUARE, train_epochs


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Train the aligner, print the errors of each epoch, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", default="data/celeba", help="CelebA, or a part of it")
    parser.add_argument("--width", type=int, default=178, help="of its pictures, in pixels")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--cache-dir", default="data/cache")
    parser.add_argument("--output", type=Path, default=ALIGNER)
    args = parser.parse_args(argv)
    faces = load_faces(args.data, SQUARE, args.cache_dir, args.width)
    if faces.framed < len(faces.names):
        raise UserError(f"{args.data} has pictures outside of CelebA's frame")
    print(*faces.description, sep="\n")
    torch.manual_seed(0)
    aligner = Aligner()
    settings = {"epochs": args.epochs, "batch_size": 64, "rate": 3e-3, "seed": 0}
    for epoch, (error, entropy) in enumerate(train_epochs(aligner, faces, **settings), start=1):
        print(f"epoch {epoch}/{args.epochs}  eyes {error:.2%}  face {entropy:.4f}", flush=True)
    weights = to_float16(aligner.state_dict())
    record = AlignerCheckpoint(
        {**settings, "data": args.data}, aligner.arch, weights, faces.digest()
    )
    save_checkpoint(record, args.output)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
