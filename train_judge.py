"""Train two classifiers of a data set's attributes, and measure them on held-out faces.

guide.pt steers edits, judge.pt scores them: they differ in seed and width, and no method of editing
uses the judge. judges.json beside them has the AUCs that are printed.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

import torch

from config import JudgeConfig
from vae.checkpoint import JudgeCheckpoint, save_checkpoint
from vae.data.faces import PackedFaces, load_faces
from vae.device import memory_format, pick_device, pick_precision
from vae.errors import UserError, script
from vae.evaluation.report import Section, print_report
from vae.files import require_writable, write_text
from vae.flags import read_flags
from vae.models.judge import Judge
from vae.run import choose_run_dir, judges_name
from vae.training.judge import (
    held_out_rows,
    known_attributes,
    mean_auc,
    measure_attributes,
    measure_identity,
    train_epochs,
)

CHANNELS = {"guide": (24, 48, 96, 192), "judge": (32, 64, 128, 192)}
"""Widths of the stages of the two networks."""


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Configure, load the faces, train and measure the guide and then the judge, report."""
    # Configure
    config = read_flags(JudgeConfig, argv, __doc__)
    run_dir = choose_run_dir(config.run_dir, judges_name(config.data, config.image_size))
    paths = {role: run_dir / f"{role}.pt" for role in CHANNELS}
    for path in paths.values():
        if path.exists():
            raise UserError(f"{path} exists already: pass another --run-dir")
        require_writable(path)

    # Load the faces
    faces = load_faces(
        config.data,
        config.image_size,
        config.cache_dir,
        config.crop_size,
        config.max_images,
        config.skip_bad_images,
    )
    known_attributes(faces)
    held_out = len(held_out_rows(faces))
    print(f"faces: {len(faces.rows('train')):,} train, {held_out:,} held out (val and test)")

    # Train one after the other; each is saved when it is ready
    report = {"held_out": held_out, "digest": faces.digest(), "crop": faces.crop}
    for seed, (role, path) in enumerate(paths.items(), start=config.seed):
        checkpoint = train_judge(role, config, faces, seed)
        save_checkpoint(checkpoint, path)
        print_report({role: summary(checkpoint)})
        kept = ("arch", "seed", "attributes", "identity")
        report[role] = {name: getattr(checkpoint, name) for name in kept}
        report[role]["mean_auc"] = mean_auc(checkpoint.attributes)
    line = write_text(run_dir / "judges.json", json.dumps(report, indent=2) + "\n")
    print(*paths.values(), line, sep="\n")


def train_judge(role: str, config: JudgeConfig, faces: PackedFaces, seed: int) -> JudgeCheckpoint:
    """Return the judge of this role and seed, trained and measured."""
    device = pick_device(config.device)
    precision = pick_precision(device, config.precision)
    torch.manual_seed(seed)
    judge = Judge(CHANNELS[role], faces.attribute_names)
    judge.to(device, memory_format=memory_format(device))
    start = time.perf_counter()
    losses = train_epochs(
        judge, faces, config.epochs, config.batch_size, config.learning_rate, seed, precision
    )
    for epoch, loss in enumerate(losses, start=1):
        seconds = time.perf_counter() - start
        print(f"{role}  epoch {epoch}  loss {loss:.4f}  seconds {seconds:.0f}", flush=True)
    attributes, identity = measure_attributes(judge, faces), measure_identity(judge, faces)
    return JudgeCheckpoint(
        config=asdict(config),
        arch=judge.arch,
        # on the CPU, so that the file does not depend on the device
        weights=judge.cpu().state_dict(),
        image_size=config.image_size,
        crop=faces.crop,
        digest=faces.digest(),
        seed=seed,
        attributes=attributes,
        identity=identity,
    )


def summary(checkpoint: JudgeCheckpoint) -> Section:
    """Return the AUCs on held-out faces, as a section of a report."""
    rows, identity = checkpoint.attributes, checkpoint.identity
    areas = {name: row["held_out"] for name, row in rows.items()}
    return {
        "mean_auc": mean_auc(rows),
        "identity_auc": identity and identity["held_out"]["auc"],
        "auc": {name: area for name, area in areas.items() if area is not None},
        "positives": {name: row["positives"] for name, row in rows.items()},
        "too_rare": [name for name, area in areas.items() if area is None],
    }


if __name__ == "__main__":
    sys.exit(main())
