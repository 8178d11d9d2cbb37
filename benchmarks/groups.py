"""Measure the reconstructions of held-out faces for each attribute: is a group served worse?

    python -m benchmarks.groups pretrained --data data/celeba8k

For the faces with each attribute of the table: their number, PSNR of what is decoded from mu, and
how often OpenCV's cascade finds a face in the photograph, in the decoded and in the refined face.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.faces_found import make_detector
from vae.errors import UserError, script
from vae.evaluation.metrics import psnr
from vae.pictures.images import to_uint8
from vae.run import open_run


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, the lowest PSNR first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("run", help="checkpoint file, run folder, or pretrained")
    parser.add_argument("--data", help="the run's data set, if it has moved")
    args = parser.parse_args(argv)
    find, run = make_detector(), open_run(args.run, data=args.data)
    faces = run.faces
    if faces.attributes is None:
        raise UserError("groups are those of the attributes, and the data has none")
    rows = faces.with_attributes(np.concatenate([faces.rows("val"), faces.rows("test")]))
    x = torch.cat([x.cpu() for x in run.images(rows, "loading")])
    x_hat = run.decode(run.encode(x)[0])
    sse = (x_hat - x).square().sum(dim=(1, 2, 3)).numpy()
    pictures = (x, x_hat, run.refine(x_hat, range(len(x_hat))))
    found = np.array([[find(face) for face in to_uint8(images)] for images in pictures])
    has = faces.attributes[rows]
    groups = {"all": np.ones(len(rows), bool)}
    groups |= {name: has[:, column] for column, name in enumerate(faces.attribute_names)}
    lines = {
        name: (psnr(sse[one].mean(), x.shape[-1]), one.sum(), found[:, one].mean(1))
        for name, one in groups.items()
        if one.any()
    }
    print("| attribute | faces | PSNR, dB | found in the photograph | decoded | refined |")
    print("|---|---|---|---|---|---|")
    for name, (decibels, count, fractions) in sorted(lines.items(), key=lambda line: line[1][0]):
        cells = " | ".join(f"{fraction:.0%}" for fraction in fractions)
        print(f"| {name} | {count} | {decibels:.2f} | {cells} |")


if __name__ == "__main__":
    sys.exit(main())
