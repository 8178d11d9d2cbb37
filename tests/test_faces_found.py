import itertools
import json
import shutil
import sys

import numpy as np
import pytest

from benchmarks import faces_found
from vae.images import crop_box
from vae.synthetic import draw_attributes, draw_face


def row(found, count):
    return {"found": found, "count": count, "share": found / count}


def test_without_opencv_one_line_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert faces_found.main(["runs"]) == 2
    err = capsys.readouterr().err
    assert "pip install 'opencv-python-headless<5'" in err
    assert err.count("\n") == 1


def test_wilson_intervals_are_those_of_its_paper():
    # the roots of (p - share)^2 = z^2 p (1 - p) / n
    for found, count in ((0, 10), (7, 10), (485, 500), (10, 10)):
        z2 = faces_found.NORMAL_95**2
        share = found / count
        roots = np.roots([1 + z2 / count, -2 * share - z2 / count, share**2])
        np.testing.assert_allclose(faces_found.wilson_interval(found, count), sorted(roots))


def test_the_interval_of_a_ratio_holds_the_true_one_about_95_times_in_100():
    rng = np.random.default_rng(0)
    for share, real in ((0.6, 0.96), (0.9, 0.96)):
        held = 0
        for samples, crops in zip(
            rng.binomial(400, share, 1000), rng.binomial(300, real, 1000), strict=True
        ):
            _, (low, high) = faces_found.ratio_to(row(samples, 400), row(crops, 300))
            held += low <= share / real <= high
        assert 930 <= held <= 970


def test_a_ratio_has_an_interval_even_if_nothing_is_found():
    ratio, (low, high) = faces_found.ratio_to(row(0, 100), row(96, 100))
    assert ratio == 0
    assert 0 < low < high < 0.1


def test_shuffled_pieces_are_the_same_pixels_elsewhere():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    mixed = faces_found.shuffle_pieces(pixels, np.random.default_rng(1))
    assert (mixed != pixels).any()
    pieces = {pixels[top : top + 4, left : left + 4].tobytes() for top, left in corners()}
    assert {mixed[top : top + 4, left : left + 4].tobytes() for top, left in corners()} == pieces


def corners():
    return [(top, left) for top in range(0, 16, 4) for left in range(0, 16, 4)]


def test_drawn_faces_are_found_and_shuffled_ones_hardly_ever():
    pytest.importorskip("cv2")
    find, rng = faces_found.make_detector(), np.random.default_rng(0)
    found = {"whole": 0, "shuffled": 0}
    for row, side in itertools.product(draw_attributes(5, seed=0), (64, 128)):
        face = draw_face(row, rng).convert("RGB")
        pixels = np.asarray(face.crop(crop_box(*face.size, "celeba")).resize((side, side)))
        found["whole"] += find(pixels)
        found["shuffled"] += find(faces_found.shuffle_pieces(pixels, rng))
    assert found["whole"] >= 9
    assert found["shuffled"] <= 2


def test_a_plain_picture_has_no_face():
    pytest.importorskip("cv2")
    find = faces_found.make_detector()
    assert not find(np.full((64, 64, 3), 128, np.uint8))
    assert not find(np.full((32, 32, 3), 250, np.uint8))


def test_each_checkpoint_is_sampled_from_each_prior_and_compared_with_crops(home, tmp_path, capsys):
    pytest.importorskip("cv2")
    shutil.copy("runs/celeba-32/last.pt", tmp_path)
    runs = ["runs/celeba-32", str(tmp_path / "last.pt")]
    flags = ["--prior", "mixture", "--count", "6", "--split", "val", "--device", "cpu"]
    assert faces_found.main([*runs, *flags]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(figures["runs"]) == 2
    for run in figures["runs"]:
        labels = [row["pictures"].split(",")[0] for row in run["rows"]]
        assert labels == ["val crops", "shuffled crops", "gaussian", "mixture", "standard"]
        assert all(row["count"] == 6 for row in run["rows"])
