"""The built-in data set: synthetic faces with known attributes, written in CelebA's layout.

It replaces CelebA where CelebA is not available.
"""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vae.data.packing import usable_cores
from vae.data.synthetic.attributes import ATTRIBUTE_NAMES
from vae.data.synthetic.portrait import draw_face
from vae.errors import UserError
from vae.files import whole_file, write_text

VERSION = 1  # of the drawing: a data set of another version is replaced

# The mouth and the eyes of every face, in any pose: left, top, right, bottom in the 178 x 218
# frame. In the square crop of 128 pixels subtract (25, 45).
MOUTH_BOX = (55, 138, 123, 173)
EYES_BOX = (46, 97, 132, 129)

# The probability of each attribute where no other attribute excludes it. Other names are never set.
FREQUENCIES = {
    "Big_Nose": 0.25,
    "Bushy_Eyebrows": 0.2,
    "Eyeglasses": 0.25,
    "Male": 0.5,
    "Mouth_Slightly_Open": 0.45,
    "Pale_Skin": 0.1,
    "Rosy_Cheeks": 0.15,
    "Smiling": 0.45,
    "Wearing_Earrings": 0.2,
    "Wearing_Hat": 0.08,
    "Young": 0.6,
    "Bald": 0.16,  # of men without a hat
    "Bangs": 0.2,  # of those with hair and no hat
    "Goatee": 0.2,  # of men
    "Mustache": 0.2,  # of men
    "Wearing_Lipstick": 0.5,  # of women
}
_HAIR_COLOURS = {"Black_Hair": 0.3, "Brown_Hair": 0.3, "Blond_Hair": 0.2, "Gray_Hair": 0.15}


def draw_attributes(count: int, seed: int) -> np.ndarray:
    """Draw the attributes of count faces, (count, 40) bool in CelebA's order.

    They are independent of one another, except that
    - only men have Bald, Goatee and Mustache, only women have Wearing_Lipstick;
    - Bald excludes Bangs and every hair colour;
    - Wearing_Hat excludes Bald and Bangs, which a hat would hide;
    - hair has at most one colour: one head in twenty is red, for which CelebA has no name;
    - No_Beard means neither Goatee nor Mustache.

    Face i depends on seed and i only.
    """
    rows = [_draw_row(_generator(seed, i, "row")) for i in range(count)]
    return np.array(rows, dtype=bool)


def _draw_row(rng: np.random.Generator) -> np.ndarray:
    """Draw one row of attributes, (40,) bool."""
    has = {name: rng.uniform() < frequency for name, frequency in FREQUENCIES.items()}
    colour = rng.choice(5, p=[*_HAIR_COLOURS.values(), 1 - sum(_HAIR_COLOURS.values())])
    has["Bald"] &= has["Male"] and not has["Wearing_Hat"]
    has["Bangs"] &= not has["Bald"] and not has["Wearing_Hat"]
    has["Goatee"] &= has["Male"]
    has["Mustache"] &= has["Male"]
    has["Wearing_Lipstick"] &= not has["Male"]
    has["No_Beard"] = not has["Goatee"] and not has["Mustache"]
    has |= {name: i == colour and not has["Bald"] for i, name in enumerate(_HAIR_COLOURS)}
    return np.array([has.get(name, False) for name in ATTRIBUTE_NAMES])


def _generator(seed: int, index: int, purpose: str) -> np.random.Generator:
    """Return the generator of one face for one purpose: its "row" or its "picture"."""
    return np.random.default_rng((seed, index, ("row", "picture").index(purpose)))


def write_synthetic(root: Path, count: int = 4000, seed: int = 0) -> None:
    """Write count synthetic faces into root in CelebA's layout, unless they are there already.

    Writes img_align_celeba/000001.jpg ..., list_attr_celeba.txt, list_eval_partition.txt (the first
    80 % train, the next 10 % val, the rest test) and finally .synthetic.json: a set without it
    is incomplete and is drawn again.

    Raises UserError if count < 10.
    """
    if count < 10:
        raise UserError(f"the built-in data set needs at least 10 faces; got {count}")
    marker = root / ".synthetic.json"
    label = json.dumps({"count": count, "seed": seed, "version": VERSION})
    if marker.is_file() and marker.read_text(encoding="utf-8") == label:
        return
    marker.unlink(missing_ok=True)
    attributes = draw_attributes(count, seed)
    names = [f"{i + 1:06d}.jpg" for i in range(count)]
    _write_pictures(root / "img_align_celeba", names, attributes, seed)
    write_text(root / "list_attr_celeba.txt", _attribute_list(names, attributes))
    write_text(root / "list_eval_partition.txt", _partition_list(names))
    write_text(marker, label)


def _write_pictures(folder: Path, names: list[str], attributes: np.ndarray, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = set(names)
    for stale in folder.glob("*.jpg"):
        if stale.name not in wanted:
            stale.unlink()
    paths = [folder / name for name in names]
    with ThreadPoolExecutor(usable_cores()) as pool:
        drawn = pool.map(
            _write_picture, paths, attributes, itertools.repeat(seed), range(len(paths))
        )
        for _ in tqdm(drawn, desc="drawing faces", total=len(paths), unit="face", disable=None):
            pass


def _write_picture(path: Path, attributes: np.ndarray, seed: int, index: int) -> None:
    with whole_file(path) as partial:
        draw_face(attributes, _generator(seed, index, "picture")).save(partial, quality=92)


def _attribute_list(names: list[str], attributes: np.ndarray) -> str:
    """Return CelebA's list_attr_celeba.txt: count, names, a row of -1 and 1 for each picture."""
    rows = [
        f"{name} " + " ".join(" 1" if value else "-1" for value in row)
        for name, row in zip(names, attributes, strict=True)
    ]
    return "\n".join([str(len(names)), " ".join(ATTRIBUTE_NAMES), *rows]) + "\n"


def _partition_list(names: list[str]) -> str:
    """Return CelebA's list_eval_partition.txt: 0 for train, 1 for val, 2 for test."""
    train, val = len(names) * 8 // 10, len(names) * 9 // 10
    return "".join(f"{name} {(i >= train) + (i >= val)}\n" for i, name in enumerate(names))
