"""Find faces in a picture: OpenCV's cascade gives coarse boxes, the aligner refines them.

Points are complex numbers x + iy, as in vae/editing/alignment.py. A view is what the aligner sees:
a square that reaches VIEW pixels of a model's image of 64 pixels from CENTRE to each side.
"""

import cmath
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from vae.data.decoding import to_float
from vae.editing.alignment import Similarity, cut, eyes_of, frame_box, from_eyes
from vae.errors import UserError
from vae.models.aligner import SIDE, Aligner, look_twice

SIZE, VIEW = 64, 40
"""side of the model's image that views are measured in; half the side of a view; in its pixels"""
CENTRE = 32.5 + 32j
"""of a view, between the eyes: the mirror image of an aligned face is aligned"""
_LEFT, _TOP, _, _ = frame_box(SIZE)
TEMPLATE = tuple(
    (complex(x + 0.5, y + 0.5) * SIZE / 128 + complex(_LEFT, _TOP) - CENTRE) / VIEW
    for x, y in ((69, 111), (108, 111), (88, 136), (72, 152), (105, 152))
)
"""eyes, nose and corners of the mouth of an aligned face in a view, whose sides are at -1 and 1"""
CASCADE, LARGEST = "haarcascade_frontalface_alt2.xml", 1024
"""the cascade, and the longest side of the picture that it searches, in pixels"""
TURNS = (0, 20, -20, 40, -40)
"""degrees by which a picture is turned, one after the other, until a face is found: the cascade
sees upright faces alone"""
EYES_APART, EYES_DOWN = 0.375, 0.38
"""distance of the eyes, and their height from the top, as fractions of the side of a cascade's box:
medians over training faces"""
SURE = 0.8
"""probability from which on a place is a face: what is none had less among celeba8k's val faces"""
LOOKS = 3
"""times that the aligner looks, each time at the place that it found"""


class FoundFace(NamedTuple):
    """A face in a picture."""

    eyes: np.ndarray
    """(2,) complex, left of the picture first"""
    probability: float
    """that there is a face, by the aligner"""


def find_faces(picture: Image.Image, aligner: Aligner) -> list[FoundFace]:
    """Return the faces in an RGB picture, the largest first.

    Raises UserError without OpenCV 4.
    """
    cascade = open_cascade(CASCADE)
    scale = max(1.0, max(picture.size) / LARGEST)
    small = picture.convert("L").resize([max(1, round(side / scale)) for side in picture.size])
    found: list[FoundFace] = []
    for degrees in TURNS:
        for eyes in search(cascade, small, degrees):
            face = refine(picture, scale * eyes, aligner)
            if face.probability > SURE and all(are_apart(face, other) for other in found):
                found.append(face)
        if found:
            break
    return sorted(found, key=width, reverse=True)


def width(face: FoundFace) -> float:
    """Return the distance between the eyes of a face, in pixels."""
    return abs(face.eyes[1] - face.eyes[0])


def are_apart(one: FoundFace, other: FoundFace) -> bool:
    """Return whether these are two faces and not one, found twice."""
    return abs(one.eyes.mean() - other.eyes.mean()) > max(width(one), width(other))


def search(cascade: Any, grey: Image.Image, degrees: float) -> list[np.ndarray]:
    """Return where a cascade sees faces in a grey picture after a turn: the eyes, (2,) complex."""
    turned = grey.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    middle, turned_middle = complex(*grey.size) / 2, complex(*turned.size) / 2
    back = cmath.exp(1j * math.radians(degrees))
    settings = {"scaleFactor": 1.1, "minNeighbors": 3, "minSize": (24, 24)}
    found = []
    for x, y, side, _ in cascade.detectMultiScale(np.asarray(turned), **settings):
        centre = complex(x + side / 2, y + EYES_DOWN * side)
        eyes = centre + EYES_APART * side * np.array([-0.5, 0.5])
        found.append(middle + back * (eyes - turned_middle))
    return found


def refine(
    picture: Image.Image, eyes: np.ndarray, aligner: Aligner, looks: int = LOOKS
) -> FoundFace:
    """Return the face in a picture near guessed eyes, (2,) complex, left of the picture first."""
    x, y = CENTRE.real, CENTRE.imag
    box = (x - VIEW, y - VIEW, x + VIEW, y + VIEW)
    guess = from_eyes(eyes, SIZE)
    for _ in range(looks):
        view = np.array(cut(picture, guess, box, (SIDE, SIDE)))
        turn, shift, logit = look_twice(aligner, to_float(torch.from_numpy(view)[None]))
        turn, shift = turn.item(), VIEW * shift.item()
        guess = guess.after(Similarity(turn, CENTRE + shift - turn * CENTRE))
    return FoundFace(guess(eyes_of(SIZE)), torch.sigmoid(logit).item())


def open_cascade(file: str) -> Any:
    """Return one of OpenCV's cascades (Viola & Jones, 2001).

    Raises UserError without OpenCV or with its version 5, which has no cascades.
    """
    try:
        import cv2

        return cv2.CascadeClassifier(cv2.data.haarcascades + file)
    except (ImportError, AttributeError) as error:
        raise UserError(
            "faces are found by OpenCV 4: pip install 'opencv-python-headless<5'; without it, "
            "--image needs --eyes X Y X Y, or --aligned if it is framed as the training images are"
        ) from error
