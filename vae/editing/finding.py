"""Find faces in a picture: OpenCV's cascade gives coarse boxes, the aligner refines them.

Points are complex numbers x + iy, as in vae/editing/alignment.py. A view is what the aligner sees:
a square that reaches VIEW pixels from the centre of a model's image of 64 pixels to each side.
"""

import cmath
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from vae.data.decoding import to_float
from vae.editing.alignment import Similarity, cut, eyes_of, frame_box
from vae.errors import UserError
from vae.models.aligner import SIDE, Aligner, look_twice

SIZE, VIEW = 64, 40
"""side of the model's image that views are measured in; half the side of a view; in its pixels"""
_LEFT, _TOP, _, _ = frame_box(SIZE)
TEMPLATE = tuple(
    (complex(x + 0.5, y + 0.5) * SIZE / 128 + complex(_LEFT - 32, _TOP - 32)) / VIEW
    for x, y in ((69, 111), (108, 111), (88, 136), (72, 152), (105, 152))
)
"""eyes, nose and corners of the mouth of an aligned face in a view, whose sides are at -1 and 1"""
CASCADE = "haarcascade_frontalface_alt.xml"
LARGEST = 1024
"""longest side of the picture that the cascade searches, in pixels"""
TURNS = (0, 25, -25)
"""degrees by which a picture is turned, in this order, until a face is found: the cascade sees
upright faces alone"""
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
    found: list[FoundFace] = []
    for guess in coarse_places(picture):
        face = refine(picture, guess, aligner)
        apart = [abs(face.eyes.mean() - other.eyes.mean()) for other in found]
        if face.probability > 0.5 and all(one > _width(face) for one in apart):
            found.append(face)
    return sorted(found, key=_width, reverse=True)


def _width(face: FoundFace) -> float:
    return abs(face.eyes[1] - face.eyes[0])


def refine(
    picture: Image.Image, guess: Similarity, aligner: Aligner, looks: int = LOOKS
) -> FoundFace:
    """Return the face at a guessed place, the similarity of a model's image of 64 pixels."""
    centre, half = (1 + 1j) * SIZE / 2, SIZE / 2
    box = (half - VIEW, half - VIEW, half + VIEW, half + VIEW)
    for _ in range(looks):
        view = np.asarray(cut(picture, guess, box, (SIDE, SIDE)))
        turn, shift, logit = look_twice(aligner, to_float(torch.from_numpy(view)[None]))
        turn, shift = turn.item(), shift.item()
        # a point p of a view is centre + VIEW p in the model's image
        guess = guess.after(Similarity(turn, centre + VIEW * shift - turn * centre))
    return FoundFace(guess(eyes_of(SIZE)), torch.sigmoid(logit).item())


def coarse_places(picture: Image.Image) -> list[Similarity]:
    """Return where the cascade sees faces, as similarities of a model's image of 64 pixels.

    If it sees none, turned pictures are searched. Raises UserError without OpenCV 4.
    """
    search = make_detector()
    scale = max(1.0, max(picture.size) / LARGEST)
    small = picture.convert("L").resize([max(1, round(side / scale)) for side in picture.size])
    centre = complex(*picture.size) / 2
    for degrees in TURNS:
        turned = small.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        back = scale * cmath.exp(1j * math.radians(degrees))
        middle = complex(*turned.size) / 2
        to_picture = Similarity(back, centre - back * middle)
        places = [to_picture.after(place_of(*box)) for box in search(np.asarray(turned))]
        if places:
            return places
    return []


def place_of(x: float, y: float, width: float, height: float) -> Similarity:
    """Return the usual place of a face in a box of the cascade, fitted to training faces."""
    turn = complex(width * BOX_SCALE)
    return Similarity(turn, complex(x + width / 2, y + height * BOX_DOWN) - turn * (1 + 1j) * 32)


BOX_SCALE, BOX_DOWN = 1 / 56, 0.5


def make_detector() -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from grey pixels (H, W) to boxes (n, 4): x, y, width, height.

    Raises UserError without OpenCV or with its version 5, which has no cascades.
    """
    try:
        import cv2

        cascade = cv2.CascadeClassifier(cv2.data.haarcascades + CASCADE)
    except (ImportError, AttributeError) as error:
        raise UserError(
            "faces are found by OpenCV 4: pip install 'opencv-python-headless<5', or pass --eyes X "
            "Y X Y, or --aligned if pictures are framed as the training images are"
        ) from error
    settings = {"scaleFactor": 1.1, "minNeighbors": 3, "minSize": (32, 32)}
    return lambda grey: np.array(cascade.detectMultiScale(grey, **settings)).reshape(-1, 4)
