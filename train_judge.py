"""Train two classifiers of a data set's attributes, and measure them on held-out faces.

guide.pt steers edits, judge.pt scores them: they differ in seed and width, and no method of editing
uses the judge. judges.json beside them has the AUCs that are printed.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    # until main begins, Ctrl-C ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # figures are files: the backend that a notebook exports may not be here
    os.environ.pop("MPLBACKEND", None)

import torch

from config import JudgeConfig
from vae.checkpoint import JudgeCheckpoint, save_checkpoint
from vae.data.faces import PackedFaces, load_config_faces
from vae.device import memory_format, pick_device, pick_precision, prepare_backend
from vae.errors import UserError, script
from vae.evaluation.report import print_report
from vae.files import require_writable, write_text
from vae.flags import read_flags
from vae.models.judge import Judge
from vae.run_folders import own_run_dir, run_name
from vae.training.judge import (
    known_attributes,
    measure_attributes,
    measure_identity,
    train_epochs,
)

CHANNELS = {"guide": (24, 48, 96, 192), "judge": (32, 64, 128, 192)}
"""Widths of the stages of the two networks."""


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Configure, take a folder, train the judges."""
    config = read_flags(JudgeConfig, argv, __doc__)
    name = f"{run_name(config.data, config.image_size)}-judges"
    with own_run_dir(config.run_dir, name) as run_dir:
        train_judges(config, run_dir)


def train_judges(config: JudgeConfig, run_dir: Path) -> None:
    """Load the faces, train and measure the guide and then the judge, report."""
    paths = {role: run_dir / f"{role}.pt" for role in CHANNELS}
    for path in paths.values():
        if path.exists():
            raise UserError(f"{path} exists already: pass another --run-dir")
        require_writable(path)
    device = pick_device(config.device)
    prepare_backend(device)

    # Load the faces
    faces = load_config_faces(config)
    print(*faces.description, sep="\n")
    known_attributes(faces)

    # Train one after the other; each is saved when it is ready
    report = {}
    for seed, (role, path) in enumerate(paths.items(), start=config.seed):
        checkpoint = train_judge(role, config, faces, device, seed)
        save_checkpoint(checkpoint, path)
        identity = checkpoint.identity or {}
        report[role] = {**checkpoint.attributes, "identity_auc": identity.get("auc"), "seed": seed}
        print_report({role: report[role]})
    line = write_text(run_dir / "judges.json", json.dumps(report, indent=2) + "\n")
    print(*paths.values(), line, sep="\n")


def train_judge(
    role: str, config: JudgeConfig, faces: PackedFaces, device: torch.device, seed: int
) -> JudgeCheckpoint:
    """Return the judge of this role and seed, trained and measured."""
    precision = pick_precision(device, config.precision)
    torch.manual_seed(seed)
    judge = Judge(CHANNELS[role], faces.attribute_names)
    judge.to(device, memory_format=memory_format(device))
    losses = train_epochs(judge, faces, config, seed, precision)
    for epoch, loss in enumerate(losses, start=1):
        print(f"{role}  epoch {epoch}/{config.epochs}  loss {loss:.4f}", flush=True)
    attributes, identity = measure_attributes(judge, faces), measure_identity(judge, faces)
    return JudgeCheckpoint(
        config=asdict(config),
        arch=judge.arch,
        # on the CPU, so that the file does not depend on the device
        weights=judge.cpu().state_dict(),
        crop=faces.crop,
        digest=faces.digest(),
        seed=seed,
        attributes=attributes,
        identity=identity,
    )


if __name__ == "__main__":
    sys.exit(main())
