"""Train the VAE on CelebA, on a folder of images, or on the synthetic faces; then its refiner.

The run's folder gets config.json, metrics.csv (a line per epoch), curves.png, pictures of
reconstructions and samples, last.pt, and best.pt (the best validation total). The refiner has
metrics and curves of its own.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # until main begins, Ctrl-C ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # figures are files: the backend that a notebook exports may not be here
    os.environ.pop("MPLBACKEND", None)

import torch

from config import RECIPES, TrainConfig
from vae.checkpoint import Checkpoint, build_model, build_refiner, load_checkpoint, save_checkpoint
from vae.data.batches import batches
from vae.data.download import download
from vae.data.faces import PackedFaces, load_config_faces
from vae.device import (
    float64_device,
    pick_compile,
    pick_device,
    pick_precision,
    prepare_backend,
    require_memory,
)
from vae.editing.folder import align_folder
from vae.errors import Interrupted, NotFinite, StopSignal, UserError, script
from vae.files import require_writable, write_csv, write_text
from vae.flags import as_flag, make_parser, read_flags
from vae.latent.codes import Statistics, latent_statistics
from vae.latent.prior import make_prior
from vae.models.build import build
from vae.models.coding import encode_batches
from vae.models.pca import fit_pca, rows_to_fit
from vae.models.refiner import Refiner
from vae.pictures.figures import save_curves
from vae.pictures.images import above, save_grid
from vae.run import face_finder, require_same_faces
from vae.run_folders import BEST, FACES, LAST, find_checkpoint, newest_run, own_run_dir, run_name
from vae.training.parallel import Ranks, join_ranks
from vae.training.phases import RefinerTrainer, VAETrainer, residual_of
from vae.training.statistics import training_statistics
from vae.training.trainer import Trainer

FEW_FACES = 512
"""number of training faces for the pictures' prior and the refiner's residual"""
SAMPLING = ("prior", "temperature", "refine_steps", "refine_strength")
"""settings that a finished run may change"""


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Configure, take the folder of the run, train."""
    config, old_dir, resumed = read_config(argv)
    device = pick_device(config.device)
    prepare_backend(device)
    ranks = join_ranks(device)
    name = run_name(config.data, config.image_size)
    with contextlib.ExitStack() as held:
        run_dir = ""
        if ranks.is_main:
            wanted = config.run_dir if old_dir is None else str(old_dir)
            run_dir = held.enter_context(own_run_dir(wanted, name, bool(resumed)))
        train_run(config, Path(ranks.same(str(run_dir))), resumed, device, ranks)


def train_run(
    config: TrainConfig,
    run_dir: Path,
    resumed: Checkpoint | None,
    device: torch.device,
    ranks: Ranks,
) -> None:
    """Load the faces, train the VAE, store its statistics, train the refiner."""
    precision = pick_precision(device, config.precision)
    require_equal_shares(config, ranks)
    require_writable(run_dir / LAST)
    with ranks.main_first():
        config, aligned = align(config)
    ranks.print(describe_config(config))
    with ranks.main_first():
        finished = resumed and is_finished(config, run_dir, resumed)
    if finished:
        ranks.print(f"{run_dir} is finished: nothing is missing")
        return

    # Load the faces
    with ranks.main_first():
        if config.download:
            download(Path(config.data))
        faces = load_config_faces(config)
    ranks.print("\n".join([*aligned, *faces.description]))
    if resumed:
        require_same_faces(resumed, faces, run_dir)

    # Train
    compile = pick_compile(device, config.compile, ranks.size)
    options = {"precision": precision, "compile": compile, "ranks": ranks}
    ranks.print(f"computing on {ranks.size} x {device.type} in {precision}, writing to {run_dir}")
    if ranks.is_main:
        stored = stored_config(config) | {"device": str(device), "precision": precision}
        write_text(run_dir / "config.json", json.dumps(stored, indent=2) + "\n")
        write_text(run_dir / FACES, "".join(f"{name}\n" for name in faces.names))
        if resumed and was_killed_before_best(resumed, run_dir):
            save_checkpoint(replace(resumed, training=None), run_dir / BEST)
    with StopSignal() as stop:
        if not resumed or not resumed.refiner:
            trainer = new_vae_trainer(config, faces, device, resumed, **options)
            run_epochs(config, trainer, run_dir, stop)
        # keep the statistics of the codes beside the weights, for sampling and editing
        with ranks.main_first():
            if ranks.is_main:
                add_statistics(config, faces, device, run_dir)
        if config.refiner_epochs:
            trainer = new_refiner_trainer(config, faces, device, run_dir, resumed, **options)
            run_epochs(config, trainer, run_dir, stop)
    if ranks.is_main:
        print(*sorted(run_dir.iterdir()), sep="\n")


def read_config(argv: Sequence[str] | None) -> tuple[TrainConfig, Path | None, Checkpoint | None]:
    """Return the configuration, and of a run to resume the folder and the checkpoint.

    What no flag sets comes from the resumed run, else from the recipe, else from config.py.
    """
    given = vars(make_parser(TrainConfig, __doc__).parse_args(argv))
    if "resume" in given:
        return read_resumed(given["resume"], argv)
    defaults = RECIPES[given["recipe"]]
    if given.get("init"):
        config = read_init(given["init"], defaults, argv)
    else:
        config = read_flags(TrainConfig, argv, __doc__, **defaults)
    with torch.device("meta"):
        weights = sum(map(torch.numel, build(network_of(config)).parameters()))
    # with their average, gradients and two moments
    require_memory(weights, 5 * 4, "weights in training")
    return config, None, None


def read_resumed(run: str, argv: Sequence[str] | None) -> tuple[TrainConfig, Path, Checkpoint]:
    """Return the configuration, the folder and the checkpoint of a run to resume."""
    path = find_checkpoint(run or newest_run(), LAST)
    resumed = load_checkpoint(path)
    if resumed.training is None:
        raise UserError(f"{path} has no training state: pass the run's folder or its {LAST}")
    phase = RefinerTrainer if resumed.refiner else VAETrainer
    if len(resumed.training["sums"]) != len((*phase.TERMS, "gradient_norm")):
        raise UserError(f"{path} is damaged: training sums is not that of its phase")
    known = {entry.name for entry in fields(TrainConfig)}
    if resumed.config.keys() != known:
        name = min(resumed.config.keys() ^ known)
        raise UserError(f"{path} has other settings than this code: {name}")
    config = read_flags(TrainConfig, argv, __doc__, **resumed.config)
    require_same_settings(config, resumed)
    return config, path.parent, resumed


def require_same_settings(config: TrainConfig, resumed: Checkpoint) -> None:
    """Raise UserError if a flag changes what a run keeps, or has fewer epochs than it has begun."""
    for entry in fields(TrainConfig):
        if entry.name.startswith("refiner_") and not resumed.refiner:
            continue
        old, new = resumed.config[entry.name], getattr(config, entry.name)
        if entry.metadata.get("fixed") and old != new:
            flag = as_flag(entry.name)
            raise UserError(f"the run has {flag} {old}; asked for {new}: start a new run")
    field, epoch = "epochs", resumed.epoch
    if resumed.refiner:
        field, epoch = "refiner_epochs", resumed.refiner["epoch"]
    begun = epoch + bool(resumed.training["steps"])
    if getattr(config, field) < begun:
        given = f"{as_flag(field)} is {getattr(config, field)}"
        raise UserError(f"{given}, but the run has begun epoch {begun}")
    if resumed.refiner and config.epochs != resumed.config["epochs"]:
        kept = f"--epochs must stay {resumed.config['epochs']}"
        raise UserError(f"{kept}: the run has a refiner, which is trained on this VAE")


def require_equal_shares(config: TrainConfig, ranks: Ranks) -> None:
    """Raise UserError if the ranks cannot have equal parts of a batch."""
    for name in ("batch_size", *(["refiner_batch_size"] if config.refiner_epochs else [])):
        if (given := getattr(config, name)) % ranks.size:
            raise UserError(f"{as_flag(name)} must be a multiple of {ranks.size} ranks: {given}")


def align(config: TrainConfig) -> tuple[TrainConfig, Sequence[str]]:
    """Return the configuration with the folder of aligned faces as --data, and lines about it.

    Without --align nothing changes.
    """
    if not config.align:
        return config, ()
    find = face_finder()
    folder, lines = align_folder(config.data, config.image_size, config.cache_dir, find)
    return replace(config, data=str(folder), align=False), lines


def read_init(init: str, defaults: dict[str, Any], argv: Sequence[str] | None) -> TrainConfig:
    """Return the configuration with these defaults and the sizes of --init's networks.

    Raises UserError if a flag has another size.
    """
    path = find_checkpoint(init)
    stored = load_checkpoint(path)
    arch = dict(stored.arch)
    if stored.refiner:
        arch |= {f"refiner_{name}": stored.refiner["arch"][name] for name in ("channels", "noise")}
    config = read_flags(TrainConfig, argv, __doc__, **defaults | arch)
    for name, value in arch.items():
        given = getattr(config, name)
        if (list(given) if isinstance(given, tuple) else given) != value:
            raise UserError(f"{path} has {as_flag(name)} {value}; asked for {given}")
    if stored.refiner and not config.refiner_epochs:
        print(f"the refiner of {path} is not taken over: --refiner-epochs N trains it on")
    return config


def describe_config(config: TrainConfig) -> str:
    """Return the recipe, and the settings that differ from the field defaults."""
    changed = [
        f"{as_flag(entry.name)} {getattr(config, entry.name)}"
        for entry in fields(config)
        if entry.name != "recipe" and getattr(config, entry.name) != entry.default
    ]
    return f"recipe {config.recipe}; not the defaults: {', '.join(changed) or 'nothing'}"


def stored_config(config: TrainConfig) -> dict[str, Any]:
    """Return the settings without the place of the run and the way that it was started."""
    return asdict(config) | {"run_dir": None, "resume": None, "download": False}


def is_finished(config: TrainConfig, run_dir: Path, resumed: Checkpoint) -> bool:
    """Return whether the run has had its epochs, and has the statistics that come at the end."""
    # what samples are drawn with is stored in best.pt
    sampling = all(getattr(config, one) == resumed.config[one] for one in SAMPLING)
    refined = resumed.refiner["epoch"] if resumed.refiner else 0
    if (not resumed.refiner and resumed.epoch < config.epochs) or refined < config.refiner_epochs:
        return False
    if not resumed.statistics or not sampling:
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


def network_of(config: TrainConfig) -> dict[str, Any]:
    """Return the description of a new VAE, for build."""
    names = ("architecture", "image_size", "channels", "latent_dim")
    return {name: getattr(config, name) for name in names}


def new_vae_trainer(
    config: TrainConfig,
    faces: PackedFaces,
    device: torch.device,
    resumed: Checkpoint | None,
    **options: Any,
) -> VAETrainer:
    """Return the trainer of a new VAE, or of a resumed one."""
    torch.manual_seed(config.seed)
    if config.init is not None and not resumed:
        path = find_checkpoint(config.init)
        model = build_model(path, load_checkpoint(path), device)
    else:
        model = build(network_of(config))
    if config.architecture == "skip" and not resumed and config.init is None:
        rows, place = rows_to_fit(faces.rows("train")), float64_device(device)
        label = "principal components" if options["ranks"].is_main else None
        images = partial(batches, faces, rows, 512, place, label=label)
        model.start_at(fit_pca(images, config.latent_dim))
    trainer = VAETrainer(model, faces, config, device, **options)
    if resumed:
        trainer.load_state(resumed.training, resumed.weights, resumed.epoch)
    return trainer


def new_refiner_trainer(
    config: TrainConfig,
    faces: PackedFaces,
    device: torch.device,
    run_dir: Path,
    resumed: Checkpoint | None,
    **options: Any,
) -> RefinerTrainer:
    """Return the trainer of a new refiner of the run's best VAE, or of a resumed one."""
    best = load_checkpoint(run_dir / BEST)
    vae = build_model(run_dir / BEST, best, device)
    torch.manual_seed(config.seed)
    if resumed and resumed.refiner:
        refiner = build_refiner(run_dir / LAST, resumed, device)
    elif config.init is not None and (path := find_checkpoint(config.init)):
        refiner = build_refiner(path, load_checkpoint(path), device)
    else:
        refiner = None
    if refiner is None:
        images = batches(faces, faces.rows("train")[:FEW_FACES], device=device)
        sizes = (config.image_size, config.refiner_channels, config.refiner_noise)
        refiner = Refiner(*sizes, residual_of(vae, images))
    trainer = RefinerTrainer(best, vae, refiner, faces, config, device, **options)
    if resumed and resumed.refiner:
        stored = resumed.refiner
        trainer.load_state(resumed.training, stored["weights"], stored["epoch"])
    return trainer


def run_epochs(config: TrainConfig, trainer: Trainer, run_dir: Path, stop: StopSignal) -> None:
    """Train the remaining epochs of a phase; save each one, and the state if interrupted."""
    last = run_dir / LAST

    def save() -> None:
        save_checkpoint(trainer.checkpoint(stored_config(config)), last)

    while trainer.epoch < trainer.config.epochs:
        try:
            trainer.run_epoch(stop, save)
        except Interrupted as error:
            if trainer.ranks.is_main:
                save()
            note = f"saved {last}; continue with: python train.py --resume {run_dir}"
            raise Interrupted(error.signal_number, note) from error
        except NotFinite as error:
            advice = f"resume from {last}" if last.exists() else "start again"
            if trainer.failed_step and trainer.ranks.is_main:
                listed = run_dir / "not-finite.txt"
                write_text(listed, "".join(f"{name}\n" for name in trainer.failed_names()))
                advice = f"its images are in {listed}; {advice}"
            raise NotFinite(
                f"{error}: {advice} with a lower --{trainer.prefix}learning-rate"
            ) from error
        if trainer.ranks.is_main:
            print_epoch(trainer)
            save_epoch(config, trainer, run_dir)
    trainer.share_signal(stop, f"saved {run_dir}; --resume does the rest")


def print_epoch(trainer: Trainer) -> None:
    """Print the most important numbers of the last epoch in one line; the table has all."""
    row = trainer.history[-1]
    # four significant digits
    parts = {name: f"{float(f'{value:.4g}'):,g}" for name, value in row.items()}
    line = f"{trainer.prefix}epoch {row['epoch']}/{trainer.config.epochs}  val {parts['val_total']}"
    if "val_psnr" in row:
        line += (
            f" (recon {parts['val_recon']}, kl {parts['val_kl']})  PSNR {row['val_psnr']:.2f} dB"
        )
    speed = f"{row['images_per_second']:,.0f} images/s"
    print(f"{line}  train {parts['train_total']}  {speed}", flush=True)


def save_epoch(config: TrainConfig, trainer: Trainer, run_dir: Path) -> None:
    """Write metrics, from time to time curves and pictures, and checkpoints."""
    epoch, history, prefix = trainer.epoch, trainer.history, trainer.prefix
    is_last = epoch == trainer.config.epochs
    checkpoint = trainer.checkpoint(stored_config(config))
    write_csv(run_dir / f"{prefix}metrics.csv", history)
    # checkpoints last: a run that is killed before its last.pt repeats the epoch
    if is_last or epoch == 1 or epoch % config.sample_every_epochs == 0:
        save_curves(history, run_dir / f"{prefix}curves.png")
        save_epoch_pictures(config, trainer, run_dir, f"{prefix}epoch-{epoch:03d}.png")
    last, saves = run_dir / LAST, {}
    if history[-1]["val_total"] == min(row["val_total"] for row in history):
        saves[run_dir / BEST] = replace(checkpoint, training=None)
    if is_last or epoch % config.save_every_epochs == 0 or not last.exists():
        saves[last] = checkpoint
    # best.pt alone cannot be resumed, so a new run writes last.pt first; later last.pt comes after
    # the best.pt of its epoch
    for path in saves if last.exists() else reversed(saves):
        save_checkpoint(saves[path], path)


def was_killed_before_best(resumed: Checkpoint, run_dir: Path) -> bool:
    """Return whether the run was killed between its first two checkpoints."""
    first = resumed.epoch == 1 and not resumed.training["steps"] and not resumed.refiner
    return first and not (run_dir / BEST).exists()


def save_epoch_pictures(config: TrainConfig, trainer: Trainer, run_dir: Path, suffix: str) -> None:
    """Write the first val faces above their reconstructions, and samples from fixed noise.

    A fitted prior is here one Gaussian of a part of the training faces' codes.
    """
    vae, faces = trainer.trained_vae, trainer.faces
    x = next(batches(faces, faces.rows("val")[:32]))
    mu, _ = encode_batches(vae, [x])
    save_grid(above(x, trainer.render(mu), 8), run_dir / f"reconstructions-{suffix}", 8)
    rows = faces.rows("train")[:FEW_FACES]
    images = batches(faces, rows, device=trainer.device, resident=trainer.resident)
    name = "standard" if config.prior == "standard" else "gaussian"
    prior = make_prior(name, latent_statistics(*encode_batches(vae, images)), config.latent_dim)
    z = prior.sample(config.seed, range(64), config.temperature)
    save_grid(trainer.render(z), run_dir / f"samples-{suffix}", 8)


def add_statistics(
    config: TrainConfig, faces: PackedFaces, device: torch.device, run_dir: Path
) -> None:
    """Store the statistics of the training codes in last.pt and best.pt, where they are missing."""
    found: dict[int, Statistics] = {}
    for path in (run_dir / BEST, run_dir / LAST):
        # a best.pt that is gone is made again
        checkpoint = load_checkpoint(path if path.exists() else run_dir / LAST)
        old, epoch = checkpoint.statistics, checkpoint.epoch
        if old is None or old["table"] != faces.table_digest():
            if epoch not in found:
                found[epoch] = training_statistics(build_model(path, checkpoint, device), faces)
            checkpoint.statistics = found[epoch]
        checkpoint.config = stored_config(config)
        if path.name == BEST:
            checkpoint.training = None
        save_checkpoint(checkpoint, path)


if __name__ == "__main__":
    sys.exit(main())
