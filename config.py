"""The settings of every script. Edit a default here, or pass the flag of the same name.

A field's comment is its --help text. The values that it allows stand beside it; fixed=True marks
what --resume keeps.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PRIORS = ("standard", "gaussian", "mixture")
METHODS = ("mean", "balanced", "round-trip", "logistic")
ARCHITECTURES = ("listed", "skip")
FRACTION = {"at_least": 0, "at_most": 1}
SIDE = {"at_least": 32, "at_most": 1024}
SEED = {"at_least": 0, "below": 2**62}
SCALE = {"at_least": 0, "at_most": 1000}
STEPS = {"at_least": 1, "at_most": 1000}
RATE = {"above": 0, "at_most": 1}
PRECISIONS = ("auto", "fp32", "bf16")
RECIPE_NAMES = ("sharp", "calibrated", "classic")
SHOWS = ("grid", "reconstructions", "interpolation", "histograms", "traversal")


def option(default: Any, comment: str, **rules: Any) -> Any:
    """Return a field with its default, its comment, and its rules (vae/flags.py reads them).

    A number without an upper bound gets 1,000,000: larger ones are typing errors.
    """
    if rules.keys() & {"at_least", "above"} and not rules.keys() & {"at_most", "below"}:
        rules["at_most"] = 1_000_000
    return field(default=default, metadata={"help": comment, **rules})


@dataclass(frozen=True)
class TrainConfig:
    """train.py: the defaults are the recipe `sharp`."""

    recipe: str = option("sharp", "set of defaults", choices=RECIPE_NAMES, fixed=True)

    # Data
    data: str = option("data/celeba", "CelebA folder or zip, a folder of images, or 'synthetic'")
    download: bool = option(False, "download what is missing of CelebA into --data first")
    align: bool = option(False, "first find and cut the faces of the photographs in --data")
    image_size: int = option(128, "side of the square images, in pixels", **SIDE, fixed=True)
    crop_size: int | None = option(
        None, "side of the square cut, in pixels; default: by the data", at_least=1, fixed=True
    )
    max_images: int | None = option(None, "maximum images, evenly sampled", at_least=10, fixed=True)
    cache_dir: str = option("data/cache", "folder of the packed arrays")
    skip_bad_images: bool = option(False, "leave out images that cannot be read")
    flip: bool = option(True, "mirror training images at random", fixed=True)
    warp: float = option(
        0.7, "fraction of training images turned, scaled, shifted, bent", fixed=True, **FRACTION
    )

    # Model
    init: str | None = option(None, "checkpoint, run or 'pretrained' to start from", fixed=True)
    architecture: str = option(
        "skip", "skip: the listed layers and a linear skip", choices=ARCHITECTURES, fixed=True
    )
    latent_dim: int = option(200, "latent dimensions", at_least=2, at_most=65536, fixed=True)
    channels: tuple[int, ...] = option(
        (32, 64, 128, 256), "widths of the convolutions", at_least=1, at_most=65536, fixed=True
    )

    # Objective
    likelihood: str = option(
        "calibrated",
        "variance of the decoder: calibrated, the optimum of each batch; classic, 1/2",
        choices=("calibrated", "classic"),
        fixed=True,
    )
    beta: float = option(1.0, "weight of the KL term; 1 gives the ELBO", at_least=0, fixed=True)

    # Optimizer
    epochs: int = option(50, "passes over the training split", at_least=1)
    batch_size: int = option(64, "images per step", at_least=2, fixed=True)
    learning_rate: float = option(2e-3, "Adam's learning rate, at the schedule's peak", **RATE)
    schedule: str = option(
        "one-cycle",
        "learning rate: one-cycle is a warm-up, then cosine decay",
        choices=("one-cycle", "constant"),
        fixed=True,
    )
    clip_norm: float = option(1e4, "maximum gradient norm; 0 disables", at_least=0, fixed=True)
    ema_decay: float = option(
        0.999, "decay of the weights' moving average; 0 disables", at_least=0, below=1, fixed=True
    )

    # Refiner
    refiner_epochs: int = option(10, "passes that train the refiner; 0: none", at_least=0)
    refiner_channels: tuple[int, ...] = option(
        (40, 80, 160), "the refiner's widths, multiples of 8", at_least=8, at_most=65536, fixed=True
    )
    refiner_noise: float = option(0.15, "noise of the refiner (pixels: 0..1)", **RATE, fixed=True)
    refiner_batch_size: int = option(64, "images per step of the refiner", at_least=2, fixed=True)
    refiner_learning_rate: float = option(1e-3, "the refiner's learning rate, at the peak", **RATE)

    # Sampling
    prior: str = option("mixture", "distribution of the codes of samples", choices=PRIORS)
    temperature: float = option(1.0, "multiplies the noise of samples", **SCALE)
    refine_steps: int = option(2, "steps of the refiner", **STEPS)
    refine_strength: float = option(0.65, "0: the decoded face, 1: the refined one", **FRACTION)

    # Machine
    seed: int = option(0, "seed of weights, order and noise", **SEED, fixed=True)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: str = option("auto", "auto: bf16 where the hardware has it", choices=PRECISIONS)
    compile: str = option("auto", "auto: on one cuda GPU", choices=("auto", "on", "off"))

    # Run
    run_dir: str | None = option(None, "folder of the run; default: runs/DATA-SIZE, then -2 ...")
    resume: str | None = option(None, "run to continue; bare: the newest", nargs="?", const="")
    sample_every_epochs: int = option(5, "epochs between pictures", at_least=1)
    save_every_epochs: int = option(1, "epochs between checkpoints", at_least=1)
    save_every_minutes: float = option(30, "minutes between checkpoints within an epoch", above=0)

    def __post_init__(self) -> None:
        _require_even_halves(self.image_size, len(self.channels))
        multiple = 2 ** len(self.refiner_channels)
        if self.refiner_epochs and self.image_size % multiple:
            needed = f"a multiple of {multiple} with these --refiner-channels"
            raise ValueError(f"--image-size must be {needed}; got {self.image_size}")
        values = 3 * self.image_size**2
        if self.architecture == "skip" and self.latent_dim > values:
            raise ValueError(f"--latent-dim must be at most {values} with --architecture skip")
        if any(width % 8 for width in self.refiner_channels):
            raise ValueError("--refiner-channels must be multiples of 8")
        if self.run_dir is not None and self.resume is not None:
            raise ValueError("--run-dir starts a run and --resume continues one: pass one of them")
        if self.align and (self.download or self.crop_size or self.data == "synthetic"):
            raise ValueError("--align is for a folder of photographs, and cuts the faces itself")
        if self.download and self.data == "synthetic":
            raise ValueError("--download is for CelebA: pass a folder as --data")


LISTED = {"architecture": "listed", "warp": 0.0, "refiner_epochs": 0}  # the listed layers alone
RECIPES: dict[str, dict[str, Any]] = {
    "sharp": {},  # the field defaults: a linear skip, warped images, and a refiner
    "calibrated": {**LISTED, "learning_rate": 3e-3},
    "classic": {  # the published objective and optimizer, samples from N(0, I)
        **LISTED,
        "likelihood": "classic",
        "batch_size": 128,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "clip_norm": 0.0,
        "ema_decay": 0.0,
        "prior": "standard",
    },
}
"""Named sets of differences from the field defaults of TrainConfig; flags win over them."""


@dataclass(frozen=True)
class GenerateConfig:
    """generate.py."""

    checkpoint: str | None = option(
        None, "checkpoint, run folder, or pretrained; default: the newest run, else pretrained"
    )
    data: str | None = option(None, "data set; default: where the run found it")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")

    # Pictures
    show: tuple[str, ...] = option(("grid",), "what to show", choices=SHOWS)
    count: int = option(64, "number of faces", at_least=1, at_most=100_000)
    columns: int = option(8, "pictures per row", at_least=2)
    dimensions: tuple[int, ...] = option((), "which latent dimensions to show", at_least=0)
    image: tuple[str, ...] = option((), "picture files to start from", metavar="PICTURE")
    eyes: tuple[float, ...] = option((), "X Y X Y: pixels of the eyes", at_least=0, metavar="XY")
    aligned: bool = option(False, "--image is cut as training images are: do not search it")
    which: tuple[int, ...] = option((), "which faces of each --image: 0 is the largest", at_least=0)

    # Sampling
    prior: str | None = option(None, "distribution of codes; default: the run's", choices=PRIORS)
    temperature: float | None = option(None, "scale of the noise; default: the run's", **SCALE)
    seed: int = option(0, "seed of the noise", **SEED)

    # Refiner
    refine: bool = option(True, "refine faces, where the checkpoint has a refiner")
    refine_steps: int | None = option(None, "steps of the refiner; default: the run's", **STEPS)
    refine_strength: float | None = option(
        None, "0: the decoded face, 1: the refined one; default: the run's", **FRACTION
    )

    # Output
    output: str | None = option(None, "picture to write; default: in the run's folder")
    files: str | None = option(None, "folder that gets each face as a PNG", metavar="DIR")

    def __post_init__(self) -> None:
        _require_suffix(self.output, ".png", ".jpg", ".jpeg", ".webp")
        _require_refine(self)
        _require_image(self)
        if self.image and not {"reconstructions", "interpolation"} & {*self.show}:
            raise ValueError("--image is for --show reconstructions and interpolation")


# defaults of --strengths, --attribute and --faces
STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
DEFAULT_ATTRIBUTES = ("Smiling", "Eyeglasses")
FACES = tuple(range(8))


@dataclass(frozen=True)
class ManipulateConfig:
    """manipulate.py."""

    checkpoint: str | None = option(
        None, "checkpoint, run folder, or pretrained; default: the newest run, else pretrained"
    )
    data: str | None = option(None, "data set; default: where the run found it")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")

    # Edits: sweeps; or --to; or --add and --remove
    attribute: tuple[str, ...] = option((), "default: Smiling Eyeglasses", metavar="NAME")
    strengths: tuple[float, ...] = option(
        (), "1 is the distance between class means; default: -1 to 2", at_least=-1000, at_most=1000
    )
    to: float | None = option(None, "edit until the guide gives this probability", above=0, below=1)
    add: tuple[str, ...] = option((), "attributes to add, all at once", metavar="NAME")
    remove: tuple[str, ...] = option((), "attributes to remove, all at once", metavar="NAME")
    method: str = option("round-trip", "how directions are found", choices=METHODS)
    keep: tuple[str, ...] = option((), "attributes that must not change", metavar="NAME")
    judges: str | None = option(None, "folder of train_judge.py; default: that of the run's data")

    # Faces
    source: str = option("random", "faces, without --image", choices=("random", "val", "mean"))
    faces: tuple[int, ...] = option(FACES, "their numbers, from 0", **SEED)
    image: tuple[str, ...] = option((), "picture files to edit", metavar="PICTURE")
    eyes: tuple[float, ...] = option((), "X Y X Y: pixels of the eyes", at_least=0, metavar="XY")
    aligned: bool = option(False, "--image is cut as training images are: do not search it")
    which: tuple[int, ...] = option((), "which faces of each --image: 0 is the largest", at_least=0)
    prior: str | None = option(None, "distribution of codes; default: the run's", choices=PRIORS)
    temperature: float | None = option(None, "scale of the noise; default: the run's", **SCALE)
    seed: int = option(0, "seed of the noise", **SEED)

    # Refiner
    refine: bool = option(True, "refine faces, where the checkpoint has a refiner")
    refine_steps: int | None = option(None, "steps of the refiner; default: the run's", **STEPS)
    refine_strength: float | None = option(
        None, "0: the decoded face, 1: the refined one; default: the run's", **FRACTION
    )

    # Output
    gif: bool = option(False, "also write each sweep as a GIF")
    output: str | None = option(None, "picture to write; default: in the run's folder")
    files: str | None = option(None, "folder that gets each face or photo as a PNG", metavar="DIR")
    html: str | None = option(None, "write one page with sliders instead, such as faces.html")

    def __post_init__(self) -> None:
        _require_suffix(self.output, ".png", ".jpg", ".jpeg", ".webp")
        _require_suffix(self.html, ".html", flag="--html")
        _require_refine(self)
        _require_image(self)
        if self.image and (self.source, self.faces) != ("random", FACES):
            raise ValueError("--source and --faces are not for --image: --which chooses its faces")
        if len({f"{one + 0:g}" for one in self.strengths}) < len(self.strengths):
            raise ValueError("--strengths must differ in their first six digits")
        if len({*self.faces}) < len(self.faces):
            raise ValueError("--faces has one twice")
        arithmetic = bool(self.add or self.remove)
        if bool(self.strengths) + (self.to is not None) + arithmetic > 1:
            raise ValueError("pass one of --strengths, --to, and --add with --remove")
        if arithmetic and self.attribute:
            raise ValueError("--attribute is for sweeps: --add and --remove name their own")
        if self.gif and (self.to is not None or arithmetic):
            raise ValueError("--gif is for sweeps: --to, --add and --remove make none")
        others = ("strengths", "to", "add", "remove", "keep", "gif", "output", "files")
        if self.html and (given := [f"--{name}" for name in others if getattr(self, name)]):
            raise ValueError(f"{' and '.join(given)}: for pictures, and --html writes a page")


@dataclass(frozen=True)
class EvaluateConfig:
    """evaluate.py."""

    checkpoint: str | None = option(
        None, "checkpoint, run folder, or pretrained; default: the newest run, else pretrained"
    )
    data: str | None = option(None, "data set; default: where the run found it")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    split: str = option("test", "split to measure on", choices=("train", "val", "test"))
    output: str | None = option(None, "JSON file to write; default: in the run's folder")

    # Samples
    prior: str | None = option(None, "distribution of codes; default: the run's", choices=PRIORS)
    temperature: float | None = option(None, "scale of the noise; default: the run's", **SCALE)
    seed: int = option(0, "seed of the noise", **SEED)
    refine: bool = option(True, "measure refined faces too, where the checkpoint has a refiner")
    refine_steps: int | None = option(None, "steps of the refiner; default: the run's", **STEPS)
    refine_strength: float | None = option(
        None, "0: the decoded face, 1: the refined one; default: the run's", **FRACTION
    )
    fid_weights: str | None = option(None, "torch-fidelity's Inception weights, to measure FID")
    samples: int = option(10_000, "samples for FID; maximum for the judge's features", at_least=4)
    judges: str | None = option(None, "folder of train_judge.py; default: that of the run's data")

    # Edits
    edits: bool = option(False, "measure edits instead (needs train_judge.py)")
    attribute: tuple[str, ...] = option((), "default: Smiling Eyeglasses", metavar="NAME")
    method: tuple[str, ...] = option(METHODS[:3], "how directions are found", choices=METHODS)
    keep: tuple[str, ...] = option((), "also measure edits that keep these", metavar="NAME")
    to: float = option(0.8, "target for the guide's mean probability", above=0, below=1)
    count: int = option(256, "maximum number of faces to edit", at_least=2)

    def __post_init__(self) -> None:
        _require_suffix(self.output, ".json")


@dataclass(frozen=True)
class JudgeConfig:
    """train_judge.py."""

    # Data
    data: str = option("data/celeba", "CelebA folder or zip, a folder of images, or 'synthetic'")
    image_size: int = option(128, "side of the square images, in pixels: the VAE's", **SIDE)
    crop_size: int | None = option(
        None, "side of the square cut, in pixels; default: by the data", at_least=1
    )
    max_images: int | None = option(None, "maximum images, evenly sampled", at_least=10)
    cache_dir: str = option("data/cache", "folder of the packed arrays")
    skip_bad_images: bool = option(False, "leave out images that cannot be read")

    # Optimizer
    epochs: int = option(15, "passes over the training split, for each network", at_least=1)
    batch_size: int = option(64, "images per step", at_least=2)
    learning_rate: float = option(3e-3, "AdamW's learning rate, at the schedule's peak", **RATE)

    # Machine
    seed: int = option(0, "seed of the guide; the judge uses seed + 1", **SEED)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: str = option("auto", "auto: bf16 where the hardware has it", choices=PRECISIONS)
    run_dir: str | None = option(None, "folder to write to; default: runs/DATA-SIZE-judges ...")

    def __post_init__(self) -> None:
        _require_even_halves(self.image_size, 4)


def _require_even_halves(image_size: int, times: int) -> None:
    multiple = 2**times
    if image_size < 32 or image_size % multiple:
        expected = f"a multiple of {multiple}, at least 32"
        raise ValueError(f"--image-size must be {expected}; got {image_size}")


def _require_refine(config: Any) -> None:
    if not config.refine and (config.refine_steps or config.refine_strength is not None):
        raise ValueError("--refine-steps and --refine-strength are for --refine")


def _require_image(config: Any) -> None:
    if not config.image and (config.eyes or config.aligned or config.which):
        raise ValueError("--eyes, --aligned and --which are for --image")
    if bool(config.eyes) + config.aligned + bool(config.which) > 1:
        raise ValueError("pass one of --eyes, --aligned and --which")
    if config.eyes and (len(config.eyes) != 4 or len(config.image) != 1):
        raise ValueError("--eyes needs four numbers, X Y X Y, and one --image")


def _require_suffix(path: str | None, *suffixes: str, flag: str = "--output") -> None:
    if path is not None and Path(path).suffix.lower() not in suffixes:
        raise ValueError(f"{flag} must end in {', '.join(suffixes)}; got {path}")
