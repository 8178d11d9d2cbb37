"""Measure a trained VAE on a split of its data: loss terms in nats per image, and PSNR."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from config import EvaluateConfig, read_flags, resolve
from vae.checkpoint import find_checkpoint, load_model
from vae.device import pick_device
from vae.errors import script
from vae.files import write_text
from vae.loader import batches, load_run_faces
from vae.training import validate


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Load a model and its faces, measure, print and write the numbers and their protocol."""
    config, _ = resolve(EvaluateConfig, flag=read_flags(EvaluateConfig, argv, __doc__))
    path = find_checkpoint(config.checkpoint)
    model, checkpoint = load_model(path, pick_device(config.device))
    faces = load_run_faces(checkpoint.config, config.data, checkpoint.crop)
    rows = faces.rows(config.split)
    beta = checkpoint.config["beta"]
    variance = checkpoint.training["variance"]
    images = batches(faces, rows, label="evaluating")
    numbers = validate(model, images, beta, config.seed, variance)
    protocol = {
        "checkpoint": str(path),
        "epoch": checkpoint.training["epoch"],
        "data": config.data or checkpoint.config["data"],
        "split": config.split,
        "n": len(rows),
        "crop": faces.crop,
        "image_size": model.arch["image_size"],
        "beta": beta,
        "seed": config.seed,
    }
    units = {"sse": "squared error an image, from mu", "psnr": "dB, from mu"}
    for name, value in protocol.items():
        print(f"{name:<12} {value}")
    for name, value in numbers.items():
        print(f"{name:<12} {value:.3f}  {units.get(name, 'nats per image')}")
    output = Path(config.output or path.parent / f"evaluation-{config.split}.json")
    write_text(output, json.dumps({**protocol, **numbers}, indent=2) + "\n")
    print(output)


if __name__ == "__main__":
    sys.exit(main())
