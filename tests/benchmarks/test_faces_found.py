import itertools
import re
import sys

import numpy as np
import pytest

from benchmarks import faces_found
from vae.data.decoding import crop_box
from vae.data.synthetic.attributes import ATTRIBUTE_NAMES
from vae.data.synthetic.dataset import draw_attributes
from vae.data.synthetic.portrait import draw_face


def test_without_opencv_one_line_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert faces_found.main(["runs"]) == 2
    err = capsys.readouterr().err
    assert "pip install 'opencv-python-headless<5'" in err
    assert err.count("\n") == 1


def test_shuffled_squares_are_the_same_pixels_in_other_places():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    mixed = faces_found.shuffle(pixels, np.random.default_rng(1))
    assert mixed.shape == pixels.shape
    assert (mixed != pixels).any()
    assert squares(mixed) == squares(pixels)


def squares(pixels):
    corners = itertools.product(range(0, 16, 4), repeat=2)
    return sorted(pixels[top : top + 4, left : left + 4].tobytes() for top, left in corners)


def test_the_printed_fraction_has_the_standard_error_of_a_binomial(capsys):
    faces_found.print_found("crops", [True] * 30 + [False] * 10)
    # sqrt(0.75 * 0.25 / 40) = 0.0685
    assert capsys.readouterr().out == "  crops: 75.0% of 40, standard error 6.8%\n"


def test_synthetic_faces_are_found_and_few_shuffled_ones():
    pytest.importorskip("cv2")
    find, rng = faces_found.make_detector(), np.random.default_rng(0)
    found = {"whole": 0, "shuffled": 0}
    rows = draw_attributes(5, seed=0)
    rows[:, ATTRIBUTE_NAMES.index("Pale_Skin")] = True  # the detector misses many dark faces
    for row, side in itertools.product(rows, (64, 128)):
        face = draw_face(row, rng).convert("RGB")
        pixels = np.asarray(face.crop(crop_box(*face.size, "frame")).resize((side, side)))
        found["whole"] += find(pixels)
        found["shuffled"] += find(faces_found.shuffle(pixels, rng))
    assert found["whole"] >= 9
    assert found["shuffled"] <= 2


def test_a_picture_of_one_color_has_no_face():
    pytest.importorskip("cv2")
    find = faces_found.make_detector()
    assert not find(np.full((64, 64, 3), 128, np.uint8))
    assert not find(np.full((32, 32, 3), 250, np.uint8))


def test_crops_shuffled_crops_and_samples_of_each_prior_are_counted_for_each_run(home, capsys):
    pytest.importorskip("cv2")
    runs = ["runs/celeba-32", "runs/celeba-32/last.pt"]
    assert faces_found.main([*runs, "--prior", "mixture", "standard", "--count", "6"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^runs.*$", out, re.MULTILINE) == [f"{runs[0]}/best.pt", runs[1]]
    rows = re.findall(r"^(?:  (.+): [\d.]+% of 6,|prior: (\w+),)", out, re.MULTILINE)
    labels = [label or f"prior {prior}" for label, prior in rows]
    crops = ["test crops", "shuffled crops"]
    samples = ["prior mixture", "samples", "prior standard", "samples"]
    assert labels == 2 * [*crops, *samples]
