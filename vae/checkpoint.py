"""The file format: saved whole, loaded safely, rebuilds the model by itself."""

import io
import itertools
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae.device import memory_format
from vae.directions import logistic_normals, round_trips
from vae.errors import UserError
from vae.files import whole_file
from vae.images import Crop
from vae.latent import Statistics, encode_batches, latent_statistics, sample_posterior
from vae.loader import PackedFaces, batches, load_run_faces
from vae.model import VAE
from vae.prior import Mixture, fit_mixture, make_prior, mixture_statistics

FORMAT = 2
RUNS = Path("runs")
LAST, PREVIOUS, BEST = "last.pt", "last.prev.pt", "best.pt"


@dataclass
class Checkpoint:
    """All that a run has come to: tensors, and the primitives that JSON knows."""

    config: dict[str, Any]
    """the training configuration, every field"""
    arch: dict[str, Any]
    """VAE's arguments"""
    crop: Crop
    digest: str
    """of the faces that it is trained on"""
    origins: dict[str, str]
    """of each setting: default, recipe or flag"""
    training: dict[str, Any]
    """Trainer.state(): weights, optimizer, generators, and how far the run has come"""
    statistics: Statistics | None = None
    """of the training codes, and what is fitted to them; None until they were needed"""
    format: int = FORMAT


def save_checkpoint(checkpoint: Any, path: Path, previous: Path | None = None) -> None:
    """Write a checkpoint, whole or not at all; the one before it stays as previous, if given.

    It is a Checkpoint, or another dataclass of tensors and primitives that has a format number.

    Raises RunStopped where it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(vars(checkpoint), buffer)
    with whole_file(path, previous) as partial:
        partial.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint at path, on the CPU; nothing in the file is executed.

    Raises UserError if it is damaged, of another project or of a format unknown here.
    """
    stored = read_stored(path, Checkpoint)
    parts = (stored["config"], stored["arch"], stored["training"])
    if not all(isinstance(part, dict) for part in parts) or "epoch" not in stored["training"]:
        raise _foreign(path)
    return Checkpoint(**stored)


def read_stored(path: Path, record: type) -> dict[str, Any]:
    """Return the fields of a stored dataclass, on the CPU; nothing in the file is executed.

    The default of record's field "format" is the format that this code reads. Raises UserError as
    load_checkpoint does.
    """
    _require_whole(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, LookupError, EOFError, struct.error, *_UNPICKLING) as error:
        raise _foreign(path) from error
    if not isinstance(stored, dict) or not isinstance(stored.get("format"), int):
        raise _foreign(path)
    if stored["format"] != record.format:
        raise UserError(f"{path} has format {stored['format']}, this code reads {record.format}")
    if stored.keys() != {entry.name for entry in fields(record)}:
        raise _foreign(path)
    return stored


_UNPICKLING = (pickle.UnpicklingError, AttributeError, TypeError)


def _require_whole(path: Path) -> None:
    """Raise UserError unless path is a zip archive, as torch writes it, with all its sums right."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not look at the sums itself
            damage = "a checksum is wrong" if archive.testzip() else None
    except OSError as error:
        found = "there is no checkpoint" if isinstance(error, FileNotFoundError) else "cannot read"
        raise UserError(f"{found} {path}") from error
    except zipfile.BadZipFile as error:
        if not b"PK".startswith(path.read_bytes()[:2]):
            raise _foreign(path) from error
        damage = "unexpected end"
    if damage:
        previous = path.with_name(PREVIOUS)
        rescued = path.name == LAST and previous.exists()
        rescue = f"; the one before it is {previous}" if rescued else ""
        raise UserError(f"{path} is damaged ({damage}){rescue}")


def _foreign(path: Path) -> UserError:
    return UserError(f"{path} is not a checkpoint of this project")


def load_model(path: Path | str, device: torch.device | str = "cpu") -> tuple[VAE, Checkpoint]:
    """Return the trained model, ready for use on device, and the checkpoint that it came in.

    Where a moving average of the weights was kept, the model has the averaged ones.
    path is a checkpoint file or a run's folder: there best.pt is taken, else last.pt.

    Raises UserError if there is none or it cannot be read.
    """
    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path)
    try:
        model = VAE(**checkpoint.arch)
        model.load_state_dict(checkpoint.training["average"] or checkpoint.training["weights"])
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise UserError(f"{path} is damaged: its weights do not fit its network") from error
    device = torch.device(device)
    return model.to(device, memory_format=memory_format(device)).eval(), checkpoint


def find_checkpoint(path: Path | str | None, prefer: str = BEST) -> Path:
    """Return the checkpoint file that path means: itself, or the preferred one of a run's folder.

    Without path the newest run is taken. Raises UserError if there is none.
    """
    if path is None:
        path = newest_run()
    path = Path(path)
    if not path.is_dir():
        return path
    for name in (prefer, LAST, PREVIOUS, BEST):
        if (path / name).exists():
            return path / name
    raise UserError(f"no checkpoint under {path}: looked for {prefer}, {LAST}")


def newest_run() -> Path:
    """Return the folder under runs/ that holds the newest checkpoint.

    Raises UserError if there is none.
    """
    saved = [path for name in (LAST, PREVIOUS, BEST) for path in RUNS.glob(f"*/{name}")]
    if not saved:
        raise UserError(f"no run under {RUNS}/: train one (python train.py), or pass its path")
    return max(saved, key=lambda path: path.stat().st_mtime).parent


def choose_run_dir(path: str | None, name: str) -> Path:
    """Return the folder of a new run: path, or the first free one of runs/name, runs/name-2 ...

    Raises UserError if path holds a run already.
    """
    if path is None:
        taken = {entry.name for entry in RUNS.glob("*")}
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return RUNS / next(free for free in names if free not in taken)
    if any((Path(path) / file).exists() for file in (LAST, PREVIOUS, BEST)):
        raise UserError(
            f"--run-dir {path} holds a run: go on with --resume {path}, or name another"
        )
    return Path(path)


def training_statistics(model: VAE, faces: PackedFaces, config: Mapping[str, Any]) -> Statistics:
    """Return the statistics of the training split's codes under model, and what is fitted to them.

    config is the run's: it has the components of the mixture, and the seed.
    """
    rows, seed = faces.rows("train"), config["seed"]
    device = model.fc_mu.weight.device
    mu, logvar = encode_batches(model, batches(faces, rows, device=device, label="encoding"))
    attributes = None if faces.attributes is None else faces.attributes[rows]
    z = sample_posterior(mu, logvar, seed)
    mixture = fit_mixture(z, config["mixture_components"], seed)
    statistics = latent_statistics(mu, logvar, attributes) | mixture_statistics(mixture)
    if attributes is not None:
        statistics["logistic_normals"] = logistic_normals(mu, torch.from_numpy(attributes))
        statistics["round_trips"] = round_trips(model, statistics)
    return statistics


def require_statistics(
    path: Path, model: VAE, checkpoint: Checkpoint, data: str | None = None
) -> Statistics:
    """Return the checkpoint's statistics; where it lacks them, compute and store them first.

    Raises UserError if they have to be computed and the training faces are not there.
    """
    stamp, before = path.stat().st_mtime_ns, checkpoint.statistics
    if before is None:
        try:
            faces = load_run_faces(checkpoint.config, data, checkpoint.crop)
            require_same_faces(checkpoint, faces)
        except UserError as error:
            lacks = f"{path} has no latent statistics yet, and they come from its training faces"
            raise UserError(f"{lacks}: {error}") from error
        checkpoint.statistics = training_statistics(model, faces, checkpoint.config)
    elif "class_sums" in before and "round_trips" not in before:
        # written before there were any; they need no faces
        checkpoint.statistics = before | {"round_trips": round_trips(model, before)}
    # a run under way may have written newer weights meanwhile
    if checkpoint.statistics is not before and path.stat().st_mtime_ns == stamp:
        save_checkpoint(checkpoint, path)
    return checkpoint.statistics


def require_prior(
    path: Path, model: VAE, checkpoint: Checkpoint, name: str, data: str | None = None
) -> Mixture:
    """Return the prior of this name for the checkpoint's codes, its statistics computed if need be.

    Raises UserError as require_statistics does; "standard" needs no statistics.
    """
    fitted = name != "standard"
    statistics = require_statistics(path, model, checkpoint, data) if fitted else None
    return make_prior(name, statistics, model.arch["latent_dim"])


def sample_codes(
    path: Path,
    model: VAE,
    checkpoint: Checkpoint,
    seed: int,
    indices: Iterable[int],
    prior: str | None = None,
    temperature: float | None = None,
    data: str | None = None,
) -> Tensor:
    """Return codes of new faces, (N, D), and print what they are drawn from.

    Without prior or temperature, those of the checkpoint's recipe are taken.

    Raises UserError as require_prior does.
    """
    name = prior or checkpoint.config["prior"]
    scale = checkpoint.config["temperature"] if temperature is None else temperature
    mixture = require_prior(path, model, checkpoint, name, data)
    print(f"prior: {name}, temperature {scale:g}")
    return mixture.sample(seed, indices, scale)


def require_same_faces(checkpoint: Checkpoint, faces: PackedFaces) -> None:
    """Raise UserError if these are not the faces, or not the crop, of the checkpoint's run."""
    old = f"faces {checkpoint.digest}, crop {checkpoint.crop}"
    new = f"faces {faces.digest()}, crop {faces.crop}"
    if old != new:
        raise UserError(f"the run has {old}; --data has {new}")
