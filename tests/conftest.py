"""A tiny CelebA, made up, and small runs trained on it; pytest hands them to every test file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
from vae.data.synthetic.attributes import ATTRIBUTE_NAMES

COUNT, WIDTH, HEIGHT = 60, 44, 54
TRAIN, VAL = 40, 12


def write_celeba(root: Path) -> Path:
    """Write small pictures in CelebA's layout: bright ones smile, every other pair has glasses."""
    rng = np.random.default_rng(7)
    folder = root / "img_align_celeba"
    folder.mkdir(parents=True)
    rows, splits = [], []
    for index in range(COUNT):
        name = f"{index + 1:06d}.jpg"
        has = dict.fromkeys(ATTRIBUTE_NAMES, -1)
        has["Smiling"] = 1 if index % 2 else -1
        has["Eyeglasses"] = 1 if index % 4 < 2 else -1
        pixels = rng.integers(0, 60, (HEIGHT // 6, WIDTH // 4, 3)) + (120 if index % 2 else 20)
        picture = Image.fromarray(pixels.astype(np.uint8))
        picture.resize((WIDTH, HEIGHT)).save(folder / name, quality=95)
        rows.append(f"{name} " + " ".join(f"{value:2d}" for value in has.values()))
        splits.append(f"{name} {0 if index < TRAIN else 1 if index < TRAIN + VAL else 2}")
    header = [str(COUNT), " ".join(ATTRIBUTE_NAMES)]
    (root / "list_attr_celeba.txt").write_text("\n".join([*header, *rows]) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(splits) + "\n")
    return root


SIZES = ["--image-size", "32", "--channels", "4", "6", "--latent-dim", "5"]
SIZES += ["--batch-size", "16", "--device", "cpu"]
SMALL = [*SIZES, "--recipe", "calibrated"]
"""Flags of a model that trains in a second."""
SHARP = [*SIZES, "--refiner-channels", "8", "8", "--epochs", "2"]
SHARP += ["--refine-steps", "8", "--refine-strength", "0.8"]
"""Flags of a small model of the default recipe, refined in as many steps that noise shows."""


def move_pretrained(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let folder stand for pretrained/."""
    for module in ("run", "run_folders"):
        monkeypatch.setattr(f"vae.{module}.PRETRAINED", folder)


@pytest.fixture
def celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a tiny CelebA of one's own, in an empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return write_celeba(Path("data/celeba"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where a small run was trained: runs/celeba-32 beside its data."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        write_celeba(Path("data/celeba"))
        assert train.main([*SMALL, "--epochs", "2"]) == 0
    return home


@pytest.fixture
def home(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the small run, as the current one."""
    monkeypatch.chdir(trained)
    return trained


@pytest.fixture(scope="session")
def trained_sharp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where a small run of the default recipe was trained, with a refiner."""
    home = tmp_path_factory.mktemp("sharp")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        write_celeba(Path("data/celeba"))
        assert train.main([*SHARP, "--refiner-epochs", "1"]) == 0
    return home


@pytest.fixture
def sharp(trained_sharp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder of one's own, as the current one."""
    shutil.copytree(trained_sharp, tmp_path / "sharp")
    monkeypatch.chdir(tmp_path / "sharp")
    return tmp_path / "sharp"
