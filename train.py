"""Train the VAE on CelebA, on a folder of images, or on the synthetic faces.

The run's folder gets config.json, metrics.csv (a line per epoch), curves.png, pictures of
reconstructions and samples, last.pt, and best.pt (the best validation total).
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from config import RECIPES, TrainConfig
from vae.checkpoint import Checkpoint, build_model, load_checkpoint, save_checkpoint
from vae.data.batches import batches
from vae.data.download import download
from vae.data.faces import load_config_faces
from vae.device import pick_compile, pick_device, pick_precision, prepare_backend
from vae.errors import Interrupted, RunStopped, StopSignal, UserError, script
from vae.files import require_writable, write_csv, write_text
from vae.flags import as_flag, read_flags
from vae.latent.codes import latent_statistics
from vae.latent.prior import make_prior
from vae.models.build import build
from vae.models.coding import decode_codes, encode_batches
from vae.pictures.figures import save_curves
from vae.pictures.images import above, save_grid
from vae.run import (
    BEST,
    FACES,
    LAST,
    choose_run_dir,
    find_checkpoint,
    require_same_faces,
    run_name,
)
from vae.training.parallel import join_ranks
from vae.training.statistics import training_statistics
from vae.training.trainer import Trainer


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Configure, load the faces, build the model, train it epoch by epoch."""
    # Configure
    config, run_dir, resumed = read_config(argv)
    device = pick_device(config.device)
    prepare_backend(device)
    precision = pick_precision(device, config.precision)
    ranks = join_ranks(device)
    require_writable(run_dir / LAST)
    ranks.print(describe_config(config))
    with ranks.main_first():
        finished = resumed and is_finished(config, run_dir, resumed)
    if finished:
        ranks.print(f"{run_dir} has finished all {resumed.epoch} epochs: nothing is missing")
        return

    # Load the faces
    with ranks.main_first():
        if config.download:
            download(Path(config.data))
        faces = load_config_faces(config)
    ranks.print("\n".join(faces.description))

    # Build the model, or take up where the run stopped
    torch.manual_seed(config.seed)
    names = ("architecture", "image_size", "channels", "latent_dim")
    model = build({name: getattr(config, name) for name in names})
    compile = pick_compile(device, config.compile, ranks.size)
    trainer = Trainer(
        model, faces, config, device, precision=precision, compile=compile, ranks=ranks
    )
    if resumed:
        require_same_faces(resumed, faces, run_dir)
        trainer.load_state(resumed.training, resumed.weights, resumed.epoch, resumed.variance)
    where = "on the device" if trainer.resident is not None else "read from the file"
    ranks.print(f"computing on {ranks.size} x {device.type} in {precision}; pixels {where}")
    ranks.print(f"writing to {run_dir}")
    if ranks.is_main:
        stored = stored_config(config) | {"device": str(device), "precision": precision}
        write_text(run_dir / "config.json", json.dumps(stored, indent=2) + "\n")
        write_text(run_dir / FACES, "".join(f"{name}\n" for name in faces.names))

    # Train
    with StopSignal() as stop:
        while trainer.epoch < config.epochs:
            run_epoch(config, trainer, run_dir, stop)
        stop.check(f"trained and saved {run_dir}; --resume adds the latent statistics")

    # Keep the statistics of the codes beside the weights, for sampling and editing
    if ranks.is_main:
        add_statistics(trainer, run_dir)
        print(*sorted(run_dir.iterdir()), sep="\n")


def read_config(argv: Sequence[str] | None) -> tuple[TrainConfig, Path, Checkpoint | None]:
    """Return the configuration, the run's folder, and the checkpoint to resume from.

    What no flag sets comes from the resumed run, else from the recipe, else from config.py.
    """
    config = read_flags(TrainConfig, argv, __doc__)
    if config.resume is None:
        config = read_flags(TrainConfig, argv, __doc__, **RECIPES[config.recipe])
        name = run_name(config.data, config.image_size)
        return config, choose_run_dir(config.run_dir, name), None
    path = find_checkpoint(config.resume or None, LAST)
    resumed = load_checkpoint(path)
    if resumed.training is None:
        raise UserError(f"{path} has no training state: pass the run's folder or its {LAST}")
    known = {entry.name for entry in fields(TrainConfig)}
    if resumed.config.keys() != known:
        name = min(resumed.config.keys() ^ known)
        raise UserError(f"{path} has other settings than this code: {name}")
    config = read_flags(TrainConfig, argv, __doc__, **resumed.config)
    for entry in fields(TrainConfig):
        old, new = resumed.config[entry.name], getattr(config, entry.name)
        if entry.metadata.get("fixed") and old != new:
            flag = as_flag(entry.name)
            raise UserError(f"the run has {flag} {old}; asked for {new}: start a new run")
    begun = resumed.epoch + bool(resumed.training["steps"])
    if config.epochs < begun:
        raise UserError(f"--epochs is {config.epochs}, but the run has begun epoch {begun}")
    return config, path.parent, resumed


def describe_config(config: TrainConfig) -> str:
    """Return the recipe, and the settings that differ from the field defaults."""
    changed = [
        f"{as_flag(entry.name)} {getattr(config, entry.name)}"
        for entry in fields(config)
        if entry.name != "recipe" and getattr(config, entry.name) != entry.default
    ]
    return f"recipe {config.recipe}; not the defaults: {', '.join(changed) or 'nothing'}"


def stored_config(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that describe the run, and not where it is or how it was started."""
    return asdict(config) | {"run_dir": None, "resume": None, "download": False}


def is_finished(config: TrainConfig, run_dir: Path, resumed: Checkpoint) -> bool:
    """Return whether the run has had its epochs, and has the statistics that come at the end."""
    # what samples are drawn with is stored in best.pt
    sampling = all(getattr(config, one) == resumed.config[one] for one in ("prior", "temperature"))
    if resumed.epoch < config.epochs or not resumed.statistics or not sampling:
        return False
    best = run_dir / BEST
    if not best.exists() or load_checkpoint(best).statistics is None:
        return False
    return not has_new_table(config, resumed)


def has_new_table(config: TrainConfig, resumed: Checkpoint) -> bool:
    """Return whether the data has a table of attributes that the statistics are not of."""
    try:
        faces = load_config_faces(config)
    except UserError:  # a finished run needs no data
        return False
    return faces.attributes is not None and faces.table_digest() != resumed.statistics["table"]


def run_epoch(config: TrainConfig, trainer: Trainer, run_dir: Path, stop: StopSignal) -> None:
    """Train for an epoch and save; if interrupted, save the state; if stopped, give advice."""
    last = run_dir / LAST
    try:
        trainer.run_epoch(stop)
    except Interrupted as error:
        if trainer.ranks.is_main:
            save_checkpoint(new_checkpoint(trainer), last)
        note = f"saved {last}; continue with: python train.py --resume {run_dir}"
        raise Interrupted(error.signal_number, note) from error
    except RunStopped as error:
        advice = f"resume from {last}" if last.exists() else "start again"
        raise RunStopped(f"{error}: {advice} with a lower --learning-rate") from error
    if trainer.ranks.is_main:
        print_epoch(trainer)
        save_epoch(config, trainer, run_dir)


def new_checkpoint(trainer: Trainer) -> Checkpoint:
    """Return the checkpoint of the trainer's present state."""
    model, faces = trainer.averaged_model, trainer.faces
    return Checkpoint(
        config=stored_config(trainer.config),
        arch=model.arch,
        weights=model.state_dict(),
        crop=faces.crop,
        digest=faces.digest(),
        epoch=trainer.epoch,
        variance=trainer.variance,
        training=trainer.state(),
    )


def print_epoch(trainer: Trainer) -> None:
    """Print the most important numbers of the last epoch in one line; metrics.csv has all."""
    row = trainer.history[-1]
    names = ("val_total", "val_recon", "val_kl", "train_total")
    # four significant digits
    total, recon, kl, trained = (f"{float(f'{row[name]:.4g}'):,g}" for name in names)
    print(
        f"epoch {row['epoch']}/{trainer.config.epochs}  val {total} (recon {recon}, kl {kl})"
        f"  PSNR {row['val_psnr']:.2f} dB  train {trained}"
        f"  {row['images_per_second']:,.0f} images/s",
        flush=True,
    )


def save_epoch(config: TrainConfig, trainer: Trainer, run_dir: Path) -> None:
    """Write metrics, curves, checkpoints, and from time to time pictures."""
    epoch, history = trainer.epoch, trainer.history
    is_last = epoch == config.epochs
    checkpoint = new_checkpoint(trainer)
    write_csv(run_dir / "metrics.csv", history)
    # best.pt first: a run that is killed in between repeats the epoch
    if history[-1]["val_total"] == min(row["val_total"] for row in history):
        save_checkpoint(replace(checkpoint, training=None), run_dir / BEST)
    if is_last or epoch % config.save_every_epochs == 0:
        save_checkpoint(checkpoint, run_dir / LAST)
    if is_last or epoch == 1 or epoch % config.sample_every_epochs == 0:
        save_curves(history, run_dir / "curves.png")
        save_epoch_pictures(config, trainer, run_dir, f"epoch-{epoch:03d}.png")


FACES_FOR_A_PICTURE = 512


def save_epoch_pictures(config: TrainConfig, trainer: Trainer, run_dir: Path, suffix: str) -> None:
    """Write the first val faces above their reconstructions, and samples from fixed noise.

    A fitted prior is here one Gaussian of a part of the training faces' codes.
    """
    model, faces = trainer.averaged_model, trainer.faces
    x = next(batches(faces, faces.rows("val")[:32]))
    mu, _ = encode_batches(model, [x])
    save_grid(above(x, decode_codes(model, mu), 8), run_dir / f"reconstructions-{suffix}", 8)
    rows = faces.rows("train")[:FACES_FOR_A_PICTURE]
    images = batches(faces, rows, device=trainer.device, resident=trainer.resident)
    name = "standard" if config.prior == "standard" else "gaussian"
    prior = make_prior(name, latent_statistics(*encode_batches(model, images)), config.latent_dim)
    z = prior.sample(config.seed, range(64), config.temperature)
    save_grid(decode_codes(model, z), run_dir / f"samples-{suffix}", 8)


def add_statistics(trainer: Trainer, run_dir: Path) -> None:
    """Store the statistics of the training codes in last.pt and best.pt, where they are missing."""
    last, best_path = new_checkpoint(trainer), run_dir / BEST
    last.statistics = training_statistics(trainer.averaged_model, trainer.faces, trainer.resident)
    best = load_checkpoint(best_path) if best_path.exists() else last
    if best.epoch == last.epoch:
        best.statistics = last.statistics
    elif best.statistics is None or best.statistics["table"] != last.statistics["table"]:
        model = build_model(best_path, best, trainer.device)
        best.statistics = training_statistics(model, trainer.faces, trainer.resident)
    save_checkpoint(replace(best, config=last.config, training=None), best_path)
    save_checkpoint(last, run_dir / LAST)


if __name__ == "__main__":
    sys.exit(main())
