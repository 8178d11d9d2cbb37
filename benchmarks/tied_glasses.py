"""Compare directions from drawn faces whose glasses go with age and sex to independent ones.

From the repository's root, with a run that was trained on the built-in faces:

    python -m benchmarks.tied_glasses --checkpoint runs/synthetic-64

Both sets are encoded by the one model, which has seen neither: other seeds draw them. What the
attribute itself does is the balanced direction of the independent set; the cosines to it say what
each method makes of the tied set.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.measuring import positive
from vae.checkpoint import find_checkpoint, load_model
from vae.directions import METHODS, attribute_direction, logistic_normals, round_trips
from vae.errors import script
from vae.latent import Statistics, encode_batches, latent_statistics
from vae.loader import batches, load_faces
from vae.model import VAE
from vae.synthetic import write_synthetic


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Draw and encode both sets; print each method's cosine and a line of JSON."""
    args = parse_arguments(argv)
    model, _ = load_model(find_checkpoint(args.checkpoint))
    independent = drawn_statistics(args, model, seed=1, tied=False)
    tied = drawn_statistics(args, model, seed=2, tied=True)
    true = attribute_direction(independent, "Eyeglasses", "balanced")
    cosines = {
        method: functional.cosine_similarity(
            attribute_direction(tied, "Eyeglasses", method), true, dim=0
        ).item()
        for method in METHODS
    }
    for method, cosine in cosines.items():
        print(f"{method:<10} {cosine:.3f}")
    print(json.dumps({"benchmark": "tied_glasses", "settings": vars(args), "cosines": cosines}))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return which model encodes, and how many faces."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--checkpoint", help="run trained on the built-in faces; default: newest")
    parser.add_argument("--count", type=positive, default=4000, help="drawn faces of each set")
    parser.add_argument("--cache-dir", default="data/cache", help="where the sets are kept")
    return parser.parse_args(argv)


def drawn_statistics(args: argparse.Namespace, model: VAE, seed: int, tied: bool) -> Statistics:
    """Return the statistics of a drawn set's training codes, drawn on first use."""
    root = Path(args.cache_dir, f"glasses-{'tied' if tied else 'independent'}-{args.count}")
    write_synthetic(root, args.count, seed, tied=tied)
    faces = load_faces(str(root), model.arch["image_size"], args.cache_dir)
    rows = faces.rows("train")
    mu, logvar = encode_batches(model, batches(faces, rows, label="encoding"))
    has = faces.attributes[rows]
    statistics = latent_statistics(mu, logvar, has)
    statistics["logistic_normals"] = logistic_normals(mu, torch.from_numpy(has))
    statistics["round_trips"] = round_trips(model, statistics)
    return statistics


if __name__ == "__main__":
    sys.exit(main())
