"""The form that a stored checkpoint must have: which entries, of which types and shapes."""

import itertools
import textwrap
import warnings
from types import UnionType
from typing import Any

import torch
from torch import Tensor

from vae.models.build import build


def find_misfit(stored: dict[str, Any]) -> str:
    """Return what is wrong with a record that was read from a file, "" if nothing is.

    The shapes are those of a network on the meta device, which takes no memory.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, where a tensor stands for a dict
            return _misfit(stored, _form_of(stored))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return "a description in it is wrong"


def is_finite(value: Tensor) -> bool:
    """Return whether no value is infinite or not a number."""
    # if the sum is finite, so are the values; a sum takes a tenth of the time
    return bool(value.sum().isfinite() or value.isfinite().all())


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
        return "" if is_finite(value) else f"{name} is not finite"
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
