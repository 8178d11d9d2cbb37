"""Train the VAE on CelebA, on a folder of images, or on the built-in faces.

The run's folder gets config.json, metrics.csv (a line an epoch), curves.png, pictures of
reconstructions and of samples, last.pt, and best.pt (the best validation total).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from config import RECIPES, TrainConfig, as_table, read_flags, resolve
from vae.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    Checkpoint,
    choose_run_dir,
    find_checkpoint,
    load_checkpoint,
    load_model,
    require_same_faces,
    save_checkpoint,
    training_statistics,
)
from vae.device import pick_compile, pick_device, pick_precision
from vae.download import download
from vae.errors import Interrupted, RunStopped, StopSignal, UserError, script
from vae.figures import save_curves
from vae.files import write_csv, write_text
from vae.images import above, save_grid
from vae.latent import decode_codes, encode_batches, latent_statistics
from vae.loader import PackedFaces, batches, load_run_faces
from vae.model import VAE
from vae.parallel import Ranks, join_ranks
from vae.prior import make_prior
from vae.training import Hyperparameters, Trainer


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Configure, load the faces, build the model, train it epoch by epoch."""
    # Configure
    config, origins, resumed_path, resumed = read_settings(argv)
    if resumed:
        run_dir = resumed_path.parent
    else:
        run_dir = choose_run_dir(config.run_dir, f"{Path(config.data).stem}-{config.image_size}")
    device = pick_device(config.device)
    precision = pick_precision(device, config.precision)
    ranks = join_ranks(device)
    ranks.print(as_table(config, origins))

    # Load the faces
    with ranks.main_first():
        if config.download:
            download(Path(config.data))
        faces = load_run_faces(asdict(config))
    counts = ", ".join(f"{len(faces.rows(split)):,} {split}" for split in ("train", "val"))
    ranks.print(f"faces: {counts}; crop: {faces.crop}; packed in {faces.path}")

    # Build the model; take up what the run has learned
    trainer = make_trainer(config, faces, device, precision, ranks)
    run = new_checkpoint(config, origins, trainer)
    if resumed:
        require_same_faces(resumed, faces)
        trainer.load_state(resumed.training)
        if ranks.is_main and resumed_path.name == PREVIOUS:
            # last.pt is damaged: it must not take the place of the one before
            (run_dir / LAST).unlink(missing_ok=True)

    # Train
    place = "on the device" if trainer.resident is not None else "streamed from the file"
    ranks.print(f"computing on {ranks.size} x {device.type} in {precision}; pixels {place}")
    ranks.print(f"writing to {run_dir}")
    if ranks.is_main:
        here = {
            "device": str(device),
            "precision": precision,
            "crop": faces.crop,
            "origins": origins,
        }
        write_text(run_dir / "config.json", json.dumps({**run.config, **here}, indent=2) + "\n")
    with StopSignal() as stop:
        while trainer.epoch < config.epochs:
            advance(trainer, run, run_dir, stop)
            if ranks.is_main:
                print_metrics(trainer.history[-1])
                save_epoch(config, trainer, run, run_dir)
        stop.check(f"trained and saved {run_dir}; its latent statistics come when they are needed")

    # Keep the statistics of the codes beside the weights, for sampling and editing
    if ranks.is_main:
        save_statistics(run, trainer, run_dir)
        print(*sorted(run_dir.iterdir()), sep="\n")


def read_settings(
    argv: Sequence[str] | None,
) -> tuple[TrainConfig, dict[str, str], Path | None, Checkpoint | None]:
    """Return the configuration, where each setting is from, and the checkpoint to go on from.

    What no flag says comes from the run that goes on, else from the recipe and config.py.
    """
    flags = read_flags(TrainConfig, argv, __doc__)
    if "resume" not in flags:
        config, origins = resolve(TrainConfig, recipe=chosen_recipe(flags), flag=flags)
        return config, origins, None, None
    path = find_checkpoint(flags["resume"] or None, LAST)
    resumed = load_checkpoint(path)
    config, origins = resolve(TrainConfig, checkpoint=resumed.config, flag=flags)
    refuse_changes(config, resumed)
    return config, resumed.origins | dict.fromkeys(flags, "flag"), path, resumed


def make_trainer(
    config: TrainConfig, faces: PackedFaces, device: torch.device, precision: str, ranks: Ranks
) -> Trainer:
    """Return the trainer of a new model."""
    torch.manual_seed(config.seed)
    model = VAE(config.image_size, config.channels, config.latent_dim)
    return Trainer(
        model,
        faces,
        device,
        hyperparameters(config),
        precision=precision,
        compile=pick_compile(device, config.compile),
        ranks=ranks,
    )


def hyperparameters(config: TrainConfig) -> Hyperparameters:
    """Return what a configuration says of the objective and its optimizer."""
    names = (entry.name for entry in fields(Hyperparameters))
    return Hyperparameters(**{name: getattr(config, name) for name in names})


def chosen_recipe(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the recipe that the flags name, else of the default one."""
    return RECIPES[flags.get("recipe", TrainConfig.recipe)]


FIXED = ("recipe", "image_size", "crop_size", "max_images", "flip", "channels", "latent_dim")
FIXED += ("likelihood", "beta", "beta_warmup_epochs", "batch_size", "schedule", "clip_norm")
FIXED += ("ema_decay", "seed")
"""What --resume keeps, beside the faces."""


def refuse_changes(config: TrainConfig, resumed: Checkpoint) -> None:
    """Raise UserError where config asks for another run, or for no epoch more."""
    for name in FIXED:
        old, new = resumed.config[name], getattr(config, name)
        if old != new:
            flag = name.replace("_", "-")
            raise UserError(f"the run has --{flag} {old}; asked for {new}: start a new run")
    epochs = resumed.training["epoch"]
    if epochs >= config.epochs:
        raise UserError(f"the run has had {epochs} epochs: pass an --epochs above")


def new_checkpoint(config: TrainConfig, origins: dict[str, str], trainer: Trainer) -> Checkpoint:
    """Return the run's checkpoint, but for what training changes."""
    # where the run lies and how it was started are not what it is
    settings = {**asdict(config), "run_dir": None, "resume": None, "download": False}
    faces = trainer.faces
    return Checkpoint(
        settings, trainer.model.arch, faces.crop, faces.digest(), origins, training={}
    )


def advance(trainer: Trainer, run: Checkpoint, run_dir: Path, stop: StopSignal) -> None:
    """Run an epoch. Save where it stands if it is interrupted; advise if it breaks down."""
    last = run_dir / LAST
    try:
        trainer.run_epoch(stop)
    except Interrupted as error:
        run.training = trainer.state()
        if trainer.ranks.is_main:
            save_checkpoint(run, last, run_dir / PREVIOUS)
        note = f"saved {last}; go on with: python train.py --resume {run_dir}"
        raise Interrupted(error.signal_number, note) from error
    except RunStopped as error:
        advice = f"resume from {last}" if last.exists() else "start again"
        raise RunStopped(f"{error}: {advice} with a lower --learning-rate") from error


def print_metrics(metrics: dict[str, float]) -> None:
    """Print an epoch as a line."""
    print("  ".join(f"{name} {value:.4g}" for name, value in metrics.items()), flush=True)


def save_epoch(config: TrainConfig, trainer: Trainer, run: Checkpoint, run_dir: Path) -> None:
    """Write what an epoch leaves: metrics, curves, now and then pictures, and the checkpoints."""
    epoch, history = trainer.epoch, trainer.history
    is_final = epoch == config.epochs
    run.training = trainer.state()
    write_csv(run_dir / "metrics.csv", history)
    if history[-1]["val_total"] == min(row["val_total"] for row in history):
        save_checkpoint(run, run_dir / BEST)
    if is_final or epoch % config.save_every_epochs == 0:
        save_checkpoint(run, run_dir / LAST, run_dir / PREVIOUS)
    if is_final or epoch == 1 or epoch % config.sample_every_epochs == 0:
        save_curves(history, run_dir / "curves.png")
        save_samples(config, trainer, run_dir, f"epoch-{epoch:03d}.png")


FACES_FOR_A_PICTURE = 4096


def save_samples(config: TrainConfig, trainer: Trainer, run_dir: Path, suffix: str) -> None:
    """Write the first val faces over their reconstructions, and samples from fixed noise.

    A fitted prior is that of some of the training faces, and a mixture shows as one Gaussian:
    both are fitted anew to all of them when training ends.
    """
    model, faces = trainer.averaged_model, trainer.faces
    (x,) = batches(faces, faces.rows("val")[:32])
    mu, _ = encode_batches(model, [x])
    save_grid(above(x, decode_codes(model, mu), 8), run_dir / f"reconstructions-{suffix}", 8)
    rows = faces.rows("train")[:FACES_FOR_A_PICTURE]
    images = batches(faces, rows, device=trainer.device, resident=trainer.resident)
    statistics = latent_statistics(*encode_batches(model, images), None)
    name = "standard" if config.prior == "standard" else "gaussian"
    prior = make_prior(name, statistics, config.latent_dim)
    z = prior.sample(config.seed, range(64), config.temperature)
    save_grid(decode_codes(model, z), run_dir / f"samples-{suffix}", 8)


def save_statistics(run: Checkpoint, trainer: Trainer, run_dir: Path) -> None:
    """Store the statistics of the training codes in last.pt and best.pt."""
    run.statistics = training_statistics(trainer.averaged_model, trainer.faces, run.config)
    save_checkpoint(run, run_dir / LAST)
    model, best = load_model(run_dir / BEST, trainer.device)
    if best.training["epoch"] == trainer.epoch:
        best.statistics = run.statistics
    else:
        best.statistics = training_statistics(model, trainer.faces, run.config)
    save_checkpoint(best, run_dir / BEST)


if __name__ == "__main__":
    sys.exit(main())
