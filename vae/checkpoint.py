"""The file format: save and load checkpoints. Loading executes no code."""

import io
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vae.checkpoint_form import find_misfit, is_finite
from vae.data.decoding import Crop
from vae.device import memory_format
from vae.errors import NotFinite, UserError
from vae.files import write_whole
from vae.models.build import build
from vae.models.refiner import Refiner

FORMAT = 4


@dataclass
class Checkpoint:
    """A VAE in training or trained: tensors and JSON-like primitives."""

    config: dict[str, Any]
    """the training configuration, every field"""
    arch: dict[str, Any]
    """what build needs"""
    weights: dict[str, Tensor]
    """the weights that are used: the moving average, where one is kept"""
    crop: Crop
    digest: str
    """of the names, splits and pixels of the faces that it is trained on"""
    epoch: int
    variance: float
    """of the decoder"""
    statistics: dict[str, Any] | None = None
    """of the training codes under weights, and what is fitted to them; None before the end"""
    refiner: dict[str, Any] | None = None
    """arch, weights and epoch of the refiner; None before it is trained"""
    training: dict[str, Any] | None = None
    """optimizer, counters and history of the phase for --resume; None in best.pt"""
    format: int = FORMAT


@dataclass
class JudgeCheckpoint:
    """A trained judge and what was measured of it: tensors and JSON-like primitives."""

    config: dict[str, Any]
    arch: dict[str, Any]
    weights: dict[str, Tensor]
    crop: Crop
    digest: str
    """of the faces that it is trained and measured on"""
    seed: int
    attributes: dict[str, Any]
    """what measure_attributes returned"""
    identity: dict[str, Any] | None
    """what measure_identity returned"""
    format: int = FORMAT


@dataclass
class AlignerCheckpoint:
    """A trained aligner: tensors and JSON-like primitives."""

    config: dict[str, Any]
    arch: dict[str, Any]
    weights: dict[str, Tensor]
    digest: str
    """of the faces that it is trained on"""
    format: int = FORMAT


AnyCheckpoint = Checkpoint | JudgeCheckpoint | AlignerCheckpoint
Record = TypeVar("Record", Checkpoint, JudgeCheckpoint, AlignerCheckpoint)


def save_checkpoint(checkpoint: AnyCheckpoint, path: Path) -> None:
    """Write a checkpoint, whole or not at all.

    Raises RunStopped if it cannot be written, or if a weight is not finite.
    """
    if not all(map(is_finite, checkpoint.weights.values())):
        raise NotFinite(f"{path} was not written: weights became infinite or not a number")
    buffer = io.BytesIO()
    torch.save(vars(checkpoint), buffer)
    write_whole(path, buffer.getvalue())


def load_checkpoint(path: Path, record: type[Record] = Checkpoint) -> Record:
    """Return the checkpoint at path, on the CPU; nothing in the file is executed.

    Raises UserError if it is damaged, of another project, of another kind or of another format, or
    if its parts do not belong together.
    """
    _require_whole(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except _NOT_OURS as error:
        raise _foreign(path) from error
    if not isinstance(stored, dict) or not isinstance(stored.get("format"), int):
        raise _foreign(path)
    if stored["format"] != FORMAT:
        raise UserError(f"{path} has format {stored['format']}, this code reads {FORMAT}")
    if stored.keys() != {entry.name for entry in fields(record)}:
        raise _foreign(path)
    if wrong := find_misfit(stored):
        raise UserError(f"{path} is damaged: {wrong}")
    return record(**stored)


_NOT_OURS = (pickle.UnpicklingError, RuntimeError, ValueError, LookupError, EOFError, struct.error)
_NOT_OURS += (AttributeError, TypeError)


def build_model(path: Path, checkpoint: AnyCheckpoint, device: torch.device) -> Any:
    """Return the network of the checkpoint at path with its weights, on device, for use.

    Raises UserError if the weights do not fit.
    """
    return _with_weights(path, vars(checkpoint), device)


def build_refiner(path: Path, checkpoint: Checkpoint, device: torch.device) -> Refiner | None:
    """Return the refiner of the checkpoint at path, on device, for use; None if it has none.

    Raises UserError if the weights do not fit.
    """
    if checkpoint.refiner is None:
        return None
    return _with_weights(path, checkpoint.refiner, device)


def _with_weights(path: Path, stored: dict[str, Any], device: torch.device) -> Any:
    try:
        model: nn.Module = build(stored["arch"])
        model.load_state_dict(stored["weights"])
    except (TypeError, ValueError, LookupError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: its weights do not fit its network") from error
    return model.to(device, memory_format=memory_format(device)).eval()


def _require_whole(path: Path) -> None:
    """Raise UserError unless path is a whole zip archive, as torch writes it."""
    if path.exists() and not path.is_file():
        raise UserError(f"cannot read {path}: it is not a file")
    try:
        with zipfile.ZipFile(path) as archive:
            # torch compresses nothing: such a file could take any memory
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                raise _foreign(path)
            # torch does not check the checksums
            damage = "a checksum is wrong" if archive.testzip() else None
    except OSError as error:
        found = "there is no checkpoint" if isinstance(error, FileNotFoundError) else "cannot read"
        raise UserError(f"{found} {path}") from error
    except zipfile.BadZipFile as error:
        if not b"PK".startswith(path.read_bytes()[:2]):
            raise _foreign(path) from error
        damage = "unexpected end"
    except (*_NOT_OURS, zlib.error):
        damage = "its directory is wrong"
    if damage:
        best, uses = path.with_name("best.pt"), ""
        if path.name == "last.pt" and best.exists():
            uses = f": the run cannot continue from it; {best} still generates"
        raise UserError(f"{path} is damaged ({damage}){uses}")


def _foreign(path: Path) -> UserError:
    return UserError(f"{path} is not a checkpoint of this project")
