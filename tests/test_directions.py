"""The smile and the glasses of drawn faces, learned by a small model and measured on pictures."""

import numpy as np
import pytest
import torch
from test_training import hyperparameters

from vae import VAE
from vae.celeba import find_attribute
from vae.errors import StopSignal
from vae.images import crop_box
from vae.latent import attribute_direction, decode_codes, encode_batches, latent_statistics
from vae.loader import batches, load_faces
from vae.synthetic import (
    EYES_BOX,
    FACE_SIZE,
    MOUTH_BOX,
    draw_attributes,
    draw_face,
    write_synthetic,
)
from vae.training import Trainer

SIDE, COUNT = 32, 1000


@pytest.fixture(scope="module")
def edits(tmp_path_factory):
    """Return a function from an attribute to what its direction does to decoded faces' pixels."""
    root = tmp_path_factory.mktemp("drawn")
    write_synthetic(root / "set", COUNT)
    faces = load_faces(str(root / "set"), SIDE, str(root))
    torch.manual_seed(0)
    trainer = Trainer(
        VAE(SIDE, (16, 32, 64), 32),
        faces,
        torch.device("cpu"),
        hyperparameters(beta=0.03, batch_size=32, learning_rate=3e-3, seed=0),
    )
    for _ in range(30):
        trainer.run_epoch(StopSignal())
    rows = faces.rows("train")
    mu, logvar = encode_batches(trainer.model, batches(faces, rows, 128))
    statistics = latent_statistics(mu, logvar, faces.attributes[rows])

    def change(name):
        z = mu[~torch.from_numpy(faces.attributes[rows, find_attribute(name)])]
        direction = attribute_direction(statistics, name)
        before, after = decode_codes(trainer.model, z), decode_codes(trainer.model, z + direction)
        return (after - before).mean(0).numpy()

    return change


def drawn_change(name):
    """Return what the drawing itself changes when an attribute is toggled, as a mean (3, S, S)."""
    crop = crop_box(*FACE_SIZE, "celeba")
    changes = []
    for index, row in enumerate(draw_attributes(40, seed=9)):
        pair = []
        for value in (False, True):
            row[find_attribute(name)] = value
            face = draw_face(row, np.random.default_rng(index)).crop(crop).resize((SIDE, SIDE))
            pair.append(np.asarray(face, np.float32) / 255)
        changes.append(pair[1] - pair[0])
    return np.mean(changes, axis=0).transpose(2, 0, 1)


def mask_of(box):
    """Return which pixels of the cropped picture lie in a box of the frame, (S, S) bool."""
    left, top, right, _ = crop_box(*FACE_SIZE, "celeba")
    corners = (np.array(box) - np.array([left, top, left, top])) * SIDE / (right - left)
    x0, y0, x1, y1 = corners.round().astype(int)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


# a smile moves fewer pixels than glasses do, beside what else differs between the class means
@pytest.mark.parametrize(
    ("name", "box", "ratio"), [("Smiling", MOUTH_BOX, 2.0), ("Eyeglasses", EYES_BOX, 5.0)]
)
def test_a_direction_changes_what_the_drawing_changes_and_where(edits, name, box, ratio):
    mask, decoded, drawn = mask_of(box), edits(name), drawn_change(name)
    strength = np.abs(decoded).mean(0)
    assert strength[mask].mean() > ratio * strength[~mask].mean()
    likeness = np.corrcoef(decoded[:, mask].ravel(), drawn[:, mask].ravel())[0, 1]
    assert likeness > 0.8


def test_glasses_darken_the_eyes(edits):
    assert edits("Eyeglasses")[:, mask_of(EYES_BOX)].mean() < -0.02
