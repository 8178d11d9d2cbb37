"""The file format: save and load checkpoints. Loading executes no code."""

import io
import itertools
import pickle
import struct
import textwrap
import warnings
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

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
    if not all(map(_is_finite, checkpoint.weights.values())):
        raise NotFinite(f"{path} was not written: weights became infinite or not a number")
    buffer = io.BytesIO()
    torch.save(vars(checkpoint), buffer)
    write_whole(path, buffer.getvalue())


def load_checkpoint(path: Path, record: type[Record] = Checkpoint) -> Record:
    """Return the checkpoint at path, on the CPU; nothing in the file is executed.

    Raises UserError if it is damaged, of another project, of another kind or of another format, or
    if its parts do not belong together. Shapes are compared before a network takes memory.
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
    _require_fitting(path, stored)
    return record(**stored)


def _require_fitting(path: Path, stored: dict[str, Any]) -> None:
    """Raise UserError, naming the part, if a part of a record does not have its form."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, where a tensor stands for a dict
            wrong = _misfit(stored, _form_of(stored))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        wrong = "a description in it is wrong"
    if wrong:
        raise UserError(f"{path} is damaged: {wrong}")


def _misfit(value: Any, form: Any, name: str = "") -> str:
    """Return what is wrong with a value that must have a form, "" if nothing is.

    A form is a dict (of the forms of some entries), a list (the shape of a tensor of finite
    numbers), a type, or a function that says whether a value is right.
    """
    if isinstance(form, dict):
        if not isinstance(value, dict) or not form.keys() <= value.keys():
            return f"{name or 'the file'} lacks an entry"
        parts = ((value[entry], part, f"{name} {entry}".strip()) for entry, part in form.items())
        return next(filter(None, itertools.starmap(_misfit, parts)), "")
    if isinstance(form, list):
        # a tensor may claim more elements than it has bytes
        if not isinstance(value, Tensor) or list(value.shape) != form or not _is_backed(value):
            return f"{name} does not fit the network"
        return "" if _is_finite(value) else f"{name} is not finite"
    right = isinstance(value, form) if isinstance(form, type | UnionType) else form(value)
    return "" if right else f"{name} cannot be {textwrap.shorten(repr(value), 40)}"


def _is_backed(value: Tensor) -> bool:
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e18


def _is_plain(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(one, str | int | float | None) for one in values)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**60


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and all(
        {"epoch", "train_total", "val_total"} <= row.keys() and all(map(_is_number, row.values()))
        for row in value
    )


_SETTINGS = {"data": str, "image_size": _is_count, "cache_dir": str, "skip_bad_images": bool}
_SETTINGS |= {"crop_size": int | None, "max_images": int | None}
_SETTINGS |= {"prior": str, "recipe": str, "likelihood": str, "refine_steps": _is_positive}
_SETTINGS |= dict.fromkeys(("beta", "temperature", "refine_strength"), _is_number)
"""The settings that scripts read from a checkpoint."""


def _form_of(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the form that a record must have; its shapes follow from the arch of its networks."""
    network = _shapes(stored["arch"])
    if not all(map(_is_plain, stored["config"].values())):
        raise ValueError("settings that no flag gives")
    form = {"config": dict, "weights": network, "digest": str}
    if "crop" not in stored:  # an aligner
        return form
    form |= {"crop": str | int}
    if "seed" in stored:
        judged = {"seed": _is_count, "attributes": dict, "identity": dict | None}
        judged |= {"config": {"image_size": _is_count}, "arch": {"attribute_names": _are_names}}
        return form | judged
    form |= {"config": _SETTINGS, "epoch": _is_count, "variance": _is_positive}
    if stored["statistics"] is not None:
        form["statistics"] = _form_of_statistics(stored["statistics"], stored["arch"]["latent_dim"])
    if (refiner := stored["refiner"]) is not None:
        network = _shapes(refiner["arch"])
        levels = dict.fromkeys(("noise", "residual"), _is_positive)
        form["refiner"] = {"arch": levels, "weights": network, "epoch": _is_count}
    if stored["training"] is not None:
        form["training"] = _form_of_training(stored["training"], network)
    return form


def _shapes(arch: dict[str, Any]) -> dict[str, list[int]]:
    """Return the shapes of the weights of the network that arch describes; takes no memory."""
    with torch.device("meta"):
        return {name: list(one.shape) for name, one in build(arch).state_dict().items()}


def _form_of_statistics(statistics: dict[str, Any], dim: int) -> dict[str, Any]:
    form = {"n": _is_positive, "mean": [dim], "covariance": [dim, dim], "mean_variance": [dim]}
    counts = {name: len(prior["weights"]) for name, prior in statistics["priors"].items()}
    form |= {"table": int, "priors": {"mixture": {}}}
    for name, count in counts.items():
        shapes = {"weights": [count], "means": [count, dim], "covariances": [count, dim, dim]}
        form["priors"][name] = shapes
    if "attribute_names" in statistics:
        kinds = len(statistics["attribute_names"])
        form |= {
            "attribute_names": _are_names,
            "attribute_n": _is_positive,
            "attribute_mean": [dim],
        }
        form |= {"class_sums": [kinds, dim], "cooccurrence": [kinds, kinds]}
        form |= {"round_trips": [kinds, kinds]}
    return form


def _form_of_training(training: dict[str, Any], network: dict[str, list[int]]) -> dict[str, Any]:
    # Adam's state has an entry for each parameter; its first moment has the parameter's shape
    state = {
        number: {"step": [], "exp_avg": (shape := list(one["exp_avg"].shape)), "exp_avg_sq": shape}
        for number, one in training["optimizer"]["state"].items()
    }
    group = dict.fromkeys(("lr", "eps", "weight_decay", "scale"), _is_number)
    groups = training["optimizer"]["param_groups"]
    if any(_misfit(one, group | {"params": list, "betas": list | tuple}) for one in groups):
        raise ValueError("an optimizer without its settings")
    return {
        "weights": network,
        "optimizer": {"state": state, "param_groups": list},
        "steps": _is_count,
        "images": _is_count,
        "sums": lambda value: all(map(_is_number, value)),
        "history": _is_history,
    }


def _is_finite(value: Tensor) -> bool:
    # if the sum is finite, so are the values; a sum takes a tenth of the time
    return bool(value.sum().isfinite() or value.isfinite().all())


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
