"""Train two classifiers of the 40 attributes on faces, and measure them on held-out faces.

guide.pt may steer edits, judge.pt only scores them: they differ in seed and width, and nothing that
the judge is to score may look at it. Beside them judges.json has the tables that are printed.
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from config import JudgeConfig, as_table, read_flags, resolve
from vae.celeba import find_identities
from vae.checkpoint import choose_run_dir, save_checkpoint
from vae.device import memory_format, pick_device, pick_precision
from vae.errors import UserError, script
from vae.files import write_text
from vae.judge import COMMON, Judge, JudgeCheckpoint, judges_name, mean_auc
from vae.judge_training import (
    fit_identity,
    held_out_rows,
    known_attributes,
    measure_attributes,
    train_epochs,
)
from vae.loader import PackedFaces, load_run_faces


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Configure, load the faces, train and measure the guide and then the judge, report."""
    # Configure
    config, origins = resolve(JudgeConfig, flag=read_flags(JudgeConfig, argv, __doc__))
    run_dir = choose_run_dir(config.run_dir, judges_name(config.data, config.image_size))
    paths = {role: run_dir / f"{role}.pt" for role in ("guide", "judge")}
    refuse_overwriting(paths.values())
    print(as_table(config, origins))

    # Load the faces, and who is on them
    faces = load_run_faces(asdict(config))
    known_attributes(faces)
    synthetic = config.data == "synthetic"
    people = None if synthetic else find_identities(Path(config.data), faces.names)
    held_out = len(held_out_rows(faces))
    print(f"faces: {len(faces.rows('train')):,} train, {held_out:,} held out (val and test)")

    # Train one after the other, each saved when it is ready
    judges = {}
    channels = (config.guide_channels, config.judge_channels)
    for (role, path), widths, seed in zip(
        paths.items(), channels, (config.seed, config.seed + 1), strict=True
    ):
        judges[role] = train_judge(role, config, faces, people, widths, seed)
        save_checkpoint(judges[role], path)

    # Report
    for role, checkpoint in judges.items():
        print_report(role, checkpoint)
    report = {"held_out": held_out, "digest": faces.digest(), "crop": faces.crop}
    report |= {role: describe(checkpoint) for role, checkpoint in judges.items()}
    write_text(run_dir / "judges.json", json.dumps(report, indent=2) + "\n")
    print(*paths.values(), run_dir / "judges.json", sep="\n")


def refuse_overwriting(paths: Iterable[Path]) -> None:
    """Raise UserError if one of the files that are to be written is there already."""
    for path in paths:
        if path.exists():
            raise UserError(f"{path} is there already: name another --run-dir")


def train_judge(
    role: str,
    config: JudgeConfig,
    faces: PackedFaces,
    people: np.ndarray | None,
    channels: Sequence[int],
    seed: int,
) -> JudgeCheckpoint:
    """Return a judge of these widths and this seed, trained and measured."""
    device = pick_device(config.device)
    precision = pick_precision(device, config.precision)
    torch.manual_seed(seed)
    judge = Judge(channels).to(device, memory_format=memory_format(device))
    start = time.perf_counter()
    losses = train_epochs(
        judge, faces, config.epochs, config.batch_size, config.learning_rate, seed, precision
    )
    for epoch, loss in enumerate(losses, start=1):
        seconds = time.perf_counter() - start
        print(f"{role}  epoch {epoch}  loss {loss:.4f}  seconds {seconds:.0f}", flush=True)
    attributes = measure_attributes(judge, faces)
    identity = fit_identity(judge, faces, people)
    # moved, so that the file says nothing of the device
    weights = judge.cpu().state_dict()
    settings = {**asdict(config), "run_dir": None}
    return JudgeCheckpoint(
        settings,
        judge.arch,
        config.image_size,
        faces.crop,
        faces.digest(),
        seed,
        weights,
        attributes,
        identity,
    )


def print_report(role: str, checkpoint: JudgeCheckpoint) -> None:
    """Print a judge's AUCs as tables."""
    print(f"\n{role}: channels {checkpoint.arch['channels']}, seed {checkpoint.seed}")
    print(f"{'AUC':<20} {'held out':>12} {'val':>12} {'test':>12} {'positives':>10}")
    for name, row in checkpoint.attributes.items():
        held_out, val, test = (as_text(row[part]) for part in ("held_out", "val", "test"))
        print(f"{name:<20} {held_out:>12} {val:>12} {test:>12} {row['positives']:>10}")
    mean = as_text(mean_auc(checkpoint.attributes))
    print(f"mean over attributes with {COMMON} positives held out, or more: {mean}")
    if checkpoint.identity is None:
        print("identity: not measured (no identity_CelebA beside the faces, or nobody twice)")
        return
    for kind, words in (("held_out", "both faces held out"), ("any", "one face held out, or both")):
        pairs = checkpoint.identity[kind]
        print(
            f"identity: AUC {as_text(pairs['auc'])} of {pairs['same']:,} same and "
            f"{pairs['different']:,} different pairs, {words}"
        )


def as_text(value: float | None) -> str:
    """Return an AUC as text."""
    return "not measured" if value is None else f"{value:.3f}"


def describe(checkpoint: JudgeCheckpoint) -> dict[str, object]:
    """Return what is known of a judge, but for its weights and what both judges share."""
    return {
        "arch": checkpoint.arch,
        "seed": checkpoint.seed,
        "mean_auc": mean_auc(checkpoint.attributes),
        "attributes": checkpoint.attributes,
        "identity": checkpoint.identity,
    }


if __name__ == "__main__":
    sys.exit(main())
