"""Every setting of every script. Edit a default here, or pass the flag of the same name.

A field's comment is its --help text. Units stand in it where they are not obvious.
"""

import argparse
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

Config = typing.TypeVar("Config")


def option(default: Any, comment: str, **argument: Any) -> Any:
    """Return a field with its default, its comment, and what else argparse should know of it."""
    return field(default=default, metadata={"help": comment, **argument})


_LARGEST = 65_536


RECIPES: dict[str, dict[str, Any]] = {
    # the field defaults below
    "best": {},
    # what was published: a decoder variance of 1/2, plain Adam, samples from N(0, I)
    "classic": {
        "likelihood": "classic",
        "batch_size": 128,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "clip_norm": 0.0,
        "ema_decay": 0.0,
        "beta_warmup_epochs": 0.0,
        "prior": "standard",
        "temperature": 1.0,
    },
}
"""Named sets of differences from the field defaults of TrainConfig."""

METHODS = ("mean", "balanced", "round-trip", "lda", "logistic")
"""of finding the direction of an attribute"""

_GUIDE = "the guide's file; default: that of train_judge.py for the run's data and size"
_PRIORS = ("standard", "gaussian", "mixture")


@dataclass(frozen=True)
class _DataConfig:
    """What the scripts that train on a data set have in common."""

    # Data
    data: str = option("data/celeba", "CelebA folder or zip, a folder of images, or 'synthetic'")
    image_size: int = option(128, "side of the square images, in pixels")
    crop_size: int | None = option(
        None, "side of the square cut from a picture, in its pixels; default: the layout's own"
    )
    max_images: int | None = option(None, "take so many images, evenly over the list; default: all")
    cache_dir: str = option("data/cache", "where packed arrays live")
    skip_bad_images: bool = option(False, "leave out images that cannot be read")

    def __post_init__(self) -> None:
        _require_choices(self)
        _require_at_least(self, 1, "crop_size")
        _require_at_least(self, 10, "max_images")

    def require_channels(self, name: str) -> None:
        """Raise ValueError unless the field's widths are in range and halve the images evenly."""
        channels = getattr(self, name)
        _require(
            min(channels) >= 1 and max(channels) <= _LARGEST,
            f"{_flag(name)} must be positive, at most {_LARGEST}; got {channels}",
        )
        multiple = 2 ** len(channels)
        _require(
            self.image_size >= 32 and self.image_size % multiple == 0,
            f"--image-size must be a multiple of {multiple}, at least 32; got {self.image_size}",
        )


@dataclass(frozen=True)
class TrainConfig(_DataConfig):
    """train.py: the defaults are the best recipe for CelebA."""

    recipe: str = option(
        "best",
        "named settings: best, the defaults here, or classic, the published ones; flags win",
        choices=tuple(RECIPES),
    )

    # Data
    download: bool = option(False, "fetch what is missing of CelebA into --data first")
    flip: bool = option(True, "mirror training images at random")

    # Model
    latent_dim: int = option(200, "dimensions of the latent code")
    channels: tuple[int, ...] = option((32, 64, 128, 256), "widths of the convolutions")

    # Objective
    likelihood: str = option(
        "calibrated",
        "the decoder's variance: calibrated, each batch's optimum, or classic, 1/2",
        choices=("calibrated", "classic"),
    )
    beta: float = option(1.0, "weight of the KL term; 1 gives the ELBO")
    beta_warmup_epochs: float = option(0.0, "epochs over which beta rises from 0")

    # Optimizer
    epochs: int = option(50, "passes over the training split")
    batch_size: int = option(64, "images per step")
    learning_rate: float = option(3e-3, "Adam's learning rate, at the schedule's peak")
    schedule: str = option(
        "one-cycle",
        "of the learning rate: one-cycle rises over 0.3 of the run, then falls to nothing",
        choices=("one-cycle", "constant"),
    )
    clip_norm: float = option(1e4, "largest norm of a step's gradient; 0: any")
    ema_decay: float = option(
        0.999, "of the weights' moving average, a step; pictures and metrics show it; 0: none"
    )

    # Sampling
    prior: str = option(
        "mixture",
        "density that new faces are drawn from: standard is N(0, I); gaussian and mixture are "
        "fitted to the training codes",
        choices=_PRIORS,
    )
    temperature: float = option(1.0, "scale of the sampled codes' distance to their mean")
    mixture_components: int = option(5, "Gaussians of the mixture")

    # Machine
    seed: int = option(0, "seed of weights, order and noise")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: str = option(
        "auto", "of training steps; auto: bf16 where it is native", choices=("auto", "fp32", "bf16")
    )

    compile: str = option(
        "auto",
        "compile training steps; auto: on cuda, where a compiler is",
        choices=("auto", "on", "off"),
    )

    # Run
    run_dir: str | None = option(None, "folder of the run; default: runs/DATA-SIZE, then -2 ...")
    resume: str | None = option(
        None, "go on with this run's folder; bare: the newest run", nargs="?", const=""
    )
    sample_every_epochs: int = option(5, "epochs between pictures")
    save_every_epochs: int = option(1, "epochs between writing last.pt")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_channels("channels")
        _require_at_least(self, 1, "epochs", "sample_every_epochs")
        _require_at_least(self, 1, "save_every_epochs", "mixture_components")
        _require_at_least(self, 2, "latent_dim", "batch_size")
        _require_at_least(self, 0, "beta", "beta_warmup_epochs", "clip_norm", "ema_decay")
        _require_at_least(self, 0, "temperature", "seed")
        _require(self.ema_decay < 1, f"--ema-decay must be below 1; got {self.ema_decay}")
        _require(
            self.latent_dim <= _LARGEST,
            f"--latent-dim must be at most {_LARGEST}; got {self.latent_dim}",
        )
        _require(self.seed < 2**63, f"--seed must be below 2^63; got {self.seed}")
        _require(
            0 < self.learning_rate < math.inf,
            f"--learning-rate must be positive; got {self.learning_rate}",
        )
        _require(
            self.run_dir is None or self.resume is None,
            "--run-dir starts a run and --resume goes on with one: pass one of them",
        )
        _require(
            not (self.download and self.data == "synthetic"),
            "--download fetches CelebA: pass a folder for it as --data",
        )


@dataclass(frozen=True)
class _ModelConfig:
    """What the scripts that use a trained model have in common."""

    checkpoint: str | None = option(None, "checkpoint file or run folder; default: the newest run")
    data: str | None = option(None, "data set of the run, where it lies elsewhere now")
    prior: str | None = option(
        None, "density of new faces' codes; default: the recipe's", choices=_PRIORS
    )
    temperature: float | None = option(
        None, "scale of the sampled codes' distance to their mean; default: the recipe's"
    )
    seed: int = option(0, "seed of the noise")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")

    def __post_init__(self) -> None:
        _require_choices(self)
        _require_at_least(self, 0, "temperature", "seed")


@dataclass(frozen=True)
class _PictureConfig(_ModelConfig):
    """What generate.py and manipulate.py have in common."""

    image: tuple[str, ...] = option((), "picture files to start from", metavar="PICTURE")
    output: str | None = option(None, "picture to write; default: into the run's folder")
    files: str | None = option(None, "folder that gets each face as a PNG", metavar="DIR")

    def __post_init__(self) -> None:
        super().__post_init__()
        suffixes = (".png", ".jpg", ".jpeg", ".webp")
        _require(
            self.output is None or Path(self.output).suffix.lower() in suffixes,
            f"--output must end in {', '.join(suffixes)}; got {self.output}",
        )


@dataclass(frozen=True)
class GenerateConfig(_PictureConfig):
    """generate.py."""

    show: tuple[str, ...] = option(
        ("grid",),
        "what to show",
        choices=("grid", "reconstructions", "interpolation", "histograms", "traversal"),
    )
    count: int = option(64, "faces of a grid; pictures in all where rows are shown")
    columns: int = option(8, "pictures to a row")
    dimensions: tuple[int, ...] = option(
        (), "latent dimensions for histograms (default: the first 50) and traversal (the widest 8)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_at_least(self, 1, "count")
        _require_at_least(self, 2, "columns")
        _require(
            min(self.dimensions, default=0) >= 0,
            f"--dimensions count from 0; got {self.dimensions}",
        )


@dataclass(frozen=True)
class ManipulateConfig(_PictureConfig):
    """manipulate.py."""

    attribute: tuple[str, ...] = option(
        ("Smiling", "Eyeglasses"), "attributes to sweep, in any case", metavar="NAME"
    )
    method: str = option(
        "round-trip", "how directions are found (README, 'Edits')", choices=METHODS
    )
    keep: tuple[str, ...] = option(
        (), "attributes that the guide is to see unchanged", metavar="NAME"
    )
    to: float | None = option(
        None, "instead of strengths: go on until the guide sees the attribute with this P"
    )
    guide: str | None = option(None, _GUIDE)
    strengths: tuple[float, ...] = option(
        (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0),
        "steps along the direction; 1 is the distance between the class means",
    )
    source: str = option(
        "random", "faces to edit where no --image is given", choices=("random", "val", "mean")
    )
    faces: tuple[int, ...] = option(tuple(range(8)), "which faces of the source, from 0")
    add: tuple[str, ...] = option((), "plain arithmetic: attributes to add", metavar="NAME")
    remove: tuple[str, ...] = option((), "plain arithmetic: attributes to remove", metavar="NAME")
    gif: bool = option(False, "also write each sweep as a GIF")

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            min(self.faces) >= 0, f"--faces count from 0; got {' '.join(map(str, self.faces))}"
        )
        _require(
            all(abs(strength) <= 1000 for strength in self.strengths),
            f"--strengths go to 1000 either way; got {self.strengths}",
        )
        _require(self.to is None or 0 < self.to < 1, f"--to is a P in 0 to 1; got {self.to}")
        _require(
            self.to is None or not (self.add or self.remove),
            "--to is for --attribute: --add and --remove have strength 1",
        )
        _require(
            not (self.gif and (self.to or self.add or self.remove)),
            "--gif is of sweeps: --to, --add and --remove make none",
        )


@dataclass(frozen=True)
class EvaluateConfig(_ModelConfig):
    """evaluate.py."""

    split: str = option("test", "split to measure on", choices=("train", "val", "test"))
    fid_weights: str | None = option(
        None, "weights of torch-fidelity's Inception network; with them FID and KID are measured"
    )
    samples: int = option(10_000, "faces drawn for FID and KID")
    output: str | None = option(
        None, "JSON file to write, a figure beside it; default: into the run's folder"
    )

    # Edits
    edits: bool = option(False, "measure edits instead (needs train_judge.py)")
    attribute: tuple[str, ...] = option(
        ("Smiling", "Eyeglasses"), "attributes to add, in any case", metavar="NAME"
    )
    method: tuple[str, ...] = option(METHODS, "how directions are found", choices=METHODS)
    keep: tuple[str, ...] = option(
        (), "attributes that the guide is to see unchanged, beside the plain edits", metavar="NAME"
    )
    to: float = option(
        0.8, "mean P of the attribute, by the guide, that all methods are brought to"
    )
    count: int = option(256, "most faces that are edited")
    guide: str | None = option(None, _GUIDE)
    judge: str | None = option(None, "the judge's file; default: beside the guide's default")

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_at_least(self, 2, "samples", "count")
        _require(0 < self.to < 1, f"--to is a P in 0 to 1; got {self.to}")
        _require(
            self.output is None or Path(self.output).suffix.lower() == ".json",
            f"--output must end in .json; got {self.output}",
        )


@dataclass(frozen=True)
class JudgeConfig(_DataConfig):
    """train_judge.py."""

    image_size: int = option(64, "side of the square images, in pixels: that of the faces to judge")

    # Networks
    guide_channels: tuple[int, ...] = option((24, 48, 96, 192), "widths of the guide's stages")
    judge_channels: tuple[int, ...] = option((32, 64, 128, 192), "widths of the judge's stages")

    # Optimizer
    epochs: int = option(15, "passes over the training split, for each of the two")
    batch_size: int = option(64, "images per step")
    learning_rate: float = option(3e-3, "AdamW's highest learning rate, a fifth of the way in")

    # Machine
    seed: int = option(0, "seed of the guide's weights and order; the judge's is the next")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: str = option(
        "auto", "of training steps; auto: bf16 where it is native", choices=("auto", "fp32", "bf16")
    )

    # Run
    run_dir: str | None = option(
        None, "folder to write to; default: runs/DATA-SIZE-judges, then -2 ..."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_at_least(self, 1, "epochs")
        _require_at_least(self, 2, "batch_size")
        _require_at_least(self, 0, "seed")
        for name in ("guide_channels", "judge_channels"):
            self.require_channels(name)
            least = 2 * 2 ** len(getattr(self, name))
            _require(
                self.image_size >= least,
                f"so many {_flag(name)} need an --image-size of {least}; got {self.image_size}",
            )
        _require(self.seed < 2**63 - 1, f"--seed must be below 2^63 - 1; got {self.seed}")
        _require(
            0 < self.learning_rate < math.inf,
            f"--learning-rate must be positive; got {self.learning_rate}",
        )


def _require_choices(config: Any) -> None:
    """Raise ValueError if a field is not among its choices, or has no value where it needs one."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        choices = entry.metadata.get("choices")
        _require(value != "" or entry.name == "resume", f"{_flag(entry.name)} is empty")
        for chosen in value if isinstance(value, tuple) else (value,):
            _require(
                choices is None or chosen in choices or chosen is None,
                f"{_flag(entry.name)} must be one of {choices}; got {chosen}",
            )
        _require(value != () or entry.default == (), f"{_flag(entry.name)} needs a value")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _require_at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            value is None or (value >= least and math.isfinite(value)),
            f"{_flag(name)} must be at least {least}; got {value}",
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def read_flags(
    config_class: type, argv: Sequence[str] | None, description: str | None
) -> dict[str, Any]:
    """Return the fields that the command line names; --help shows all of them.

    Exits with 2 and one line where a flag is unknown or its value has the wrong type.
    """
    parser = _Parser(description=description, allow_abbrev=False)
    hints = typing.get_type_hints(config_class)
    for entry in fields(config_class):
        parser.add_argument(_flag(entry.name), **_argument(entry, hints[entry.name]))
    return vars(parser.parse_args(argv))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _exit(f"{message} (--help shows all flags)")


class _StoreTuple(argparse.Action):
    def __call__(self, _parser: Any, values: Any, many: Any, _flag: Any = None) -> None:
        setattr(values, self.dest, tuple(many))


def _argument(entry: Any, hint: Any) -> dict[str, Any]:
    """Return what argparse needs to know of a field: its type, its help, its choices."""
    argument: dict[str, Any] = {"default": argparse.SUPPRESS, **entry.metadata}
    value_type, many = _value_type(hint)
    if value_type is bool:
        argument["action"] = argparse.BooleanOptionalAction
    else:
        argument["type"] = value_type
        if "choices" not in argument:
            argument.setdefault("metavar", value_type.__name__.upper())
    if many:
        argument["nargs"], argument["action"] = "+", _StoreTuple
    if entry.default not in (None, ()):
        argument["help"] += f" (default: {_as_text(entry.default)})"
    return argument


def _value_type(hint: Any) -> tuple[type, bool]:
    """Return the type of one value of a field, and whether it takes many."""
    if isinstance(hint, types.UnionType):
        hint = next(member for member in typing.get_args(hint) if member is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def resolve(
    config_class: type[Config], **layers: Mapping[str, Any]
) -> tuple[Config, dict[str, str]]:
    """Return the configuration in which later layers win, and which layer each value is from.

    Each layer has a name, such as checkpoint or flag. Exits with 2 and one line where a value is
    out of range.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys((entry.name for entry in fields(config_class)), "default")
    for origin, layer in layers.items():
        unknown = sorted(layer.keys() - origins.keys())
        if unknown:
            _exit(f"the {origin} has a setting that this code does not know: {unknown[0]}")
        values.update(layer)
        origins.update(dict.fromkeys(layer, origin))
    try:
        config = config_class(**values)
    except (ValueError, TypeError) as error:
        _exit(str(error))
    return config, origins


def as_table(config: Any, origins: Mapping[str, str]) -> str:
    """Return a line for each field: its name, its value, and the layer that it is from."""
    return "\n".join(
        f"{name:<20} {_as_text(value):<24} {origins[name]}"
        for name, value in asdict(config).items()
    )


def _exit(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)
