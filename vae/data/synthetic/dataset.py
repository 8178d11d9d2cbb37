"""The built-in data set: synthetic faces with known attributes, written in CelebA's layout."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vae.data.synthetic.attributes import ATTRIBUTE_NAMES
from vae.data.synthetic.portrait import draw_face
from vae.errors import UserError
from vae.files import write_text, write_whole

VERSION = 2  # of the drawings; a data set of another version is drawn again

# The probability of each attribute if no other attribute excludes it. _draw_row also sets the hair
# colours and No_Beard. The remaining attributes are never set.
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
    - hair has at most one colour; one in twenty is red, which is not an attribute of CelebA;
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

    Writes img_align_celeba/000001.jpg ..., list_attr_celeba.txt and list_eval_partition.txt (the
    first 80 % train, the next 10 % val, the rest test). .synthetic.json is written last: a data set
    without it is incomplete and is drawn again.

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
    folder = root / "img_align_celeba"
    for stale in {*folder.glob("*.jpg")} - {folder / name for name in names}:
        stale.unlink()

    def draw(i: int) -> None:
        # encoded in memory: on a full disk Pillow leaves a truncated JPEG and raises nothing
        content = io.BytesIO()
        draw_face(attributes[i], _generator(seed, i, "picture")).save(content, "JPEG", quality=92)
        write_whole(folder / names[i], content.getvalue())

    with ThreadPoolExecutor() as pool:  # some threads draw while others wait for the disk
        list(tqdm(pool.map(draw, range(count)), "drawing faces", count, unit="face", disable=None))
    rows = zip(names, np.where(attributes, " 1", "-1"), strict=True)
    head = [str(count), " ".join(ATTRIBUTE_NAMES)]
    table = [*head, *(f"{name} " + " ".join(values) for name, values in rows)]
    splits = [(10 * i >= 8 * count) + (10 * i >= 9 * count) for i in range(count)]
    partition = [f"{name} {split}" for name, split in zip(names, splits, strict=True)]
    write_text(root / "list_attr_celeba.txt", "\n".join(table) + "\n")
    write_text(root / "list_eval_partition.txt", "\n".join(partition) + "\n")
    write_text(marker, label)
