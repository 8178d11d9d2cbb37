import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_celeba

import train_judge
from config import JudgeConfig
from vae.celeba import ATTRIBUTE_NAMES, find_attribute, find_identities
from vae.checkpoint import load_checkpoint, load_model
from vae.errors import UserError
from vae.identity import (
    different_pairs,
    explained_share,
    same_pairs,
    verification_auc,
    within_whitening,
)
from vae.judge import COMMON, Judge, find_judge, load_judge, mean_auc, open_judge, predict
from vae.judge_training import augment
from vae.loader import batches, load_faces

SMALL = ["--image-size", "32", "--guide-channels", "4", "6", "--judge-channels", "5", "7", "8"]
SMALL += ["--epochs", "3", "--batch-size", "8", "--device", "cpu", "--precision", "fp32"]
GUIDE, JUDGE = Path("runs/celeba-32-judges/guide.pt"), Path("runs/celeba-32-judges/judge.pt")


def write_identities(root, people):
    rows = (f"{index:06d}.jpg {person}\n" for index, person in enumerate(people, start=1))
    (root / "identity_CelebA.txt").write_text("".join(rows))


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Return a folder in which guide and judge were trained on a tiny CelebA of 20 people."""
    home = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        root = write_celeba(Path("data/celeba"))
        # nobody in the first 30 faces is in the rest, where the held-out ones are
        write_identities(root, [i // 3 if i < 30 else 10 + i % 10 for i in range(60)])
        assert train_judge.main(SMALL) == 0
    return home


@pytest.fixture
def judges(judged, monkeypatch):
    monkeypatch.chdir(judged)
    return load_judge(GUIDE), load_judge(JUDGE)


def tiny_faces():
    return load_faces("data/celeba", 32, "data/cache")


# The script


def test_the_two_differ_in_width_and_seed_and_share_the_faces(judges):
    (guide, guide_file), (judge, judge_file) = judges
    assert (guide.arch["channels"], judge.arch["channels"]) == ([4, 6], [5, 7, 8])
    assert (guide_file.seed, judge_file.seed) == (0, 1)
    assert guide_file.digest == judge_file.digest == tiny_faces().digest()
    assert (judge_file.crop, judge_file.image_size) == ("celeba", 32)


def test_the_tables_are_those_of_the_files_and_unmeasured_is_null(judges):
    _, (_, checkpoint) = judges
    report = json.loads(Path("runs/celeba-32-judges/judges.json").read_text())
    assert report["held_out"] == 20
    assert report["judge"]["attributes"] == checkpoint.attributes
    assert report["judge"]["attributes"]["Bald"] == {
        "positives": 0,
        "val": None,
        "test": None,
        "held_out": None,
    }
    assert report["judge"]["mean_auc"] is None


def test_what_can_be_seen_is_learned(celeba):
    flags = [*SMALL, "--epochs", "12", "--learning-rate", "0.01"]
    assert train_judge.main(flags) == 0
    _, checkpoint = load_judge(JUDGE)
    assert checkpoint.attributes["Smiling"]["held_out"] == 1.0
    assert checkpoint.identity is None


def test_the_same_seed_gives_the_same_judge(celeba, judged):
    assert train_judge.main(SMALL) == 0
    (once, _), (twice, _) = load_judge(judged / JUDGE), load_judge(JUDGE)
    for name, value in once.state_dict().items():
        if not name.startswith("identity"):  # this set knows of no identities
            assert torch.equal(value, twice.state_dict()[name]), name


def test_judges_are_not_overwritten(judges, capsys):
    assert train_judge.main([*SMALL, "--run-dir", str(JUDGE.parent)]) == 2
    assert "name another --run-dir" in capsys.readouterr().err


def test_the_newest_judge_is_taken_and_the_advice_has_the_runs_crop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = {"data": "some/celeba", "image_size": 32, "crop_size": 40}
    with pytest.raises(UserError, match=r"--data some/celeba --image-size 32 --crop-size 40, or"):
        find_judge("judge", None, run)
    for age, name in enumerate(["celeba-32-judges-2", "celeba-32-judges", "celeba-32-judges-3"]):
        path = Path("runs", name, "guide.pt" if age == 2 else "judge.pt")
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, ns=(0, age))
    assert find_judge("judge", None, run) == Path("runs/celeba-32-judges/judge.pt")
    assert find_judge("guide", None, run) == Path("runs/celeba-32-judges-3/guide.pt")


def test_faces_without_attributes_are_refused(celeba, capsys):
    (celeba / "list_attr_celeba.txt").unlink()
    assert train_judge.main(SMALL) == 2
    assert "list_attr_celeba.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", 40, "--image-size must be a multiple of 16, at least 32"),
        ("guide_channels", (8, 0, 8, 8), "--guide-channels must be positive"),
        ("guide_channels", (8,) * 7, "so many --guide-channels need an --image-size of 256"),
        ("epochs", 0, "--epochs must be at least 1"),
        ("learning_rate", math.nan, "--learning-rate must be positive"),
    ],
)
def test_a_setting_out_of_range_is_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        JudgeConfig(**({"image_size": 128} | {field: value}))


# The network and its file


def test_the_file_holds_the_deviation_of_the_logits_of_real_held_out_faces(judges):
    _, (judge, checkpoint) = judges
    faces = tiny_faces()
    rows = np.flatnonzero(faces.splits > 0)
    logits = predict(judge, torch.cat(list(batches(faces, rows))))
    assert logits.shape == (20, 40)
    deviation = logits.numpy().std(0, ddof=1)
    measured = [checkpoint.attributes[name]["held_out"] is not None for name in ATTRIBUTE_NAMES]
    assert 0 < sum(measured) < 40
    np.testing.assert_allclose(judge.attribute_std, deviation * measured, rtol=1e-4)


def test_aucs_count_the_pairs_that_are_in_the_right_order(judges):
    _, (judge, checkpoint) = judges
    faces = tiny_faces()
    rows = np.flatnonzero(faces.splits > 0)
    column = find_attribute("Eyeglasses")
    logits = predict(judge, torch.cat(list(batches(faces, rows))))[:, column].numpy()
    has = faces.attributes[rows, column]
    pairs = np.sign(logits[has][:, None] - logits[~has][None])
    row = checkpoint.attributes["Eyeglasses"]
    assert row["held_out"] == pytest.approx((pairs.mean() + 1) / 2)
    assert row["positives"] == has.sum()


def test_a_gradient_reaches_the_pixels(judges):
    (guide, _), _ = judges
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    guide(x)[:, find_attribute("Smiling")].sum().backward()
    assert x.grad.abs().sum() > 0


def test_identity_features_have_norm_one(judges):
    _, (judge, _) = judges
    unit = judge.identify(judge.features(torch.rand(3, 3, 32, 32)))
    assert unit.shape == (3, 8)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))


def test_neither_kind_of_checkpoint_passes_for_the_other(judges, trained):
    with pytest.raises(UserError, match="is not a checkpoint of this project"):
        load_checkpoint(JUDGE)
    with pytest.raises(UserError, match="is not a checkpoint of this project"):
        load_judge(trained / "runs/celeba-32/last.pt")


def test_a_judge_whose_weights_do_not_fit_is_refused(judges, tmp_path):
    stored = torch.load(JUDGE, weights_only=True)
    torch.save({**stored, "arch": {"channels": [5, 7, 9]}}, tmp_path / "judge.pt")
    with pytest.raises(UserError, match="do not fit"):
        load_judge(tmp_path / "judge.pt")


def test_distorted_images_stay_images_and_near_what_they_were():
    torch.manual_seed(0)
    x = torch.rand(6, 3, 1, 1).expand(6, 3, 32, 32) * 0.6 + 0.2
    for _ in range(20):
        distorted = augment(x)
        assert distorted.shape == x.shape
        # a plain colour cannot show shift or blur: contrast changes it by 0.08, brightness by 0.1
        assert (distorted - x).abs().max() <= 0.181
    assert (distorted - x).abs().max() > 0.01


def test_the_mean_is_over_attributes_that_enough_held_out_faces_have():
    rows = {"a": (COMMON, 0.9), "b": (COMMON + 7, 0.7), "c": (COMMON - 1, 0.1), "d": (500, None)}
    table = {name: {"positives": n, "held_out": auc} for name, (n, auc) in rows.items()}
    assert mean_auc(table) == pytest.approx(0.8)


# Identity


def test_whitening_makes_the_covariance_within_people_the_identity():
    rng = np.random.default_rng(3)
    people = np.repeat(np.arange(4), [5, 2, 6, 4])
    mixing = rng.normal(size=(3, 3))
    features = torch.from_numpy(
        rng.normal(size=(17, 3)) @ mixing + 9 * rng.normal(size=(4, 3))[people]
    )
    mean, whitening = within_whitening(features, people, shrinkage=0.0)
    whitened = ((features - mean) @ whitening.double()).numpy()
    residuals = np.concatenate(
        [whitened[people == person] - whitened[people == person].mean(0) for person in range(4)]
    )
    np.testing.assert_allclose(residuals.T @ residuals / (17 - 4), np.eye(3), atol=1e-5)


def test_whitening_survives_a_feature_that_never_fires_and_needs_somebody_twice():
    features = torch.rand(6, 3) * torch.tensor([1.0, 0.0, 2.0])
    _, whitening = within_whitening(features, np.array([1, 1, 2, 2, 3, 3]))
    assert whitening.isfinite().all()
    with pytest.raises(ValueError, match="two faces"):
        within_whitening(features, np.arange(6))


def test_pairs_are_of_one_person_or_of_two():
    people = np.array([7, 3, 7, 5, 7, 3])
    assert {tuple(sorted(pair)) for pair in same_pairs(people)} == {(0, 2), (0, 4), (2, 4), (1, 5)}
    assert len(same_pairs(people)) == 4
    assert len(same_pairs(np.arange(3))) == 0
    pairs = different_pairs(people, np.array([0, 1]), np.arange(6), count=300)
    assert set(pairs[:, 0]) == {0, 1}
    assert len(pairs) > 100
    assert (people[pairs[:, 0]] != people[pairs[:, 1]]).all()


def test_verification_counts_how_often_one_person_is_more_alike_than_two():
    unit = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
    same, different = np.array([[0, 1], [0, 3]]), np.array([[0, 2], [1, 2]])
    # 0.8 beats 0 and 0.6, -1 beats neither
    assert verification_auc(unit, same, different) == 0.5


def test_the_explained_share_is_one_where_the_classes_are_two_points():
    has = torch.tensor([True, False, True, False, False])
    points = torch.where(has[:, None], torch.tensor([1.0, 2.0]), torch.tensor([0.0, 5.0]))
    assert explained_share(points, has) == pytest.approx(1.0)
    assert math.isnan(explained_share(points, torch.ones(5, dtype=torch.bool)))


def test_nobody_who_is_held_out_has_a_part_in_the_identity_fit(judges):
    _, (_, checkpoint) = judges
    assert checkpoint.identity["fitted_faces"] == 30
    assert checkpoint.identity["fitted_people"] == 10
    # the 20 held-out faces are of ten people, two of each; each has one training face as well
    assert checkpoint.identity["held_out"]["same"] == 10
    assert checkpoint.identity["any"]["same"] == 10 + 20


def test_identities_are_read_by_name_and_a_bad_table_is_named(celeba):
    names = ("000004.jpg", "000001.jpg")
    assert find_identities(celeba, names) is None
    write_identities(celeba, range(100, 160))
    np.testing.assert_array_equal(find_identities(celeba, names), [103, 100])
    with pytest.raises(UserError, match="no row for x"):
        find_identities(celeba, ("x.jpg",))
    (celeba / "identity_CelebA.txt").write_text("000001.jpg 5\n000002.jpg\n")
    with pytest.raises(UserError, match="on line 2"):
        find_identities(celeba, names)


def test_there_is_a_logit_for_each_attribute():
    assert Judge((4, 5)).eval()(torch.rand(3, 3, 32, 32)).shape == (3, len(ATTRIBUTE_NAMES))


def test_a_judge_of_another_crop_or_size_is_refused(judges, trained):
    _, run = load_model(trained / "runs/celeba-32")
    _, _, checkpoint = open_judge("judge", str(JUDGE), run, torch.device("cpu"))
    assert checkpoint.crop == "celeba"
    run.crop = "largest"
    with pytest.raises(UserError, match=r"32 px, crop celeba; the run's are of 32 px, crop larg"):
        open_judge("judge", str(JUDGE), run, torch.device("cpu"))
