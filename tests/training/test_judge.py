import dataclasses
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_celeba

import train_judge
from config import JudgeConfig
from vae.checkpoint import Checkpoint, JudgeCheckpoint, build_model, load_checkpoint
from vae.data.batches import batches
from vae.data.faces import PackedFaces, load_faces
from vae.data.synthetic.attributes import ATTRIBUTE_NAMES
from vae.errors import RunStopped, UserError
from vae.flags import check
from vae.models.judge import Judge, look, predict
from vae.run import open_judge, open_run
from vae.training.judge import (
    augment,
    measure_attributes,
    measure_identity,
    train_epochs,
)

NAMES = ("Bright", "Hat", "Red hair")
SMALL = ["--image-size", "32", "--epochs", "2", "--batch-size", "16", "--device", "cpu"]
SMALL += ["--precision", "fp32"]
FOLDER = Path("runs/celeba-32-judges")
GUIDE, JUDGE = FOLDER / "guide.pt", FOLDER / "judge.pt"


def make_faces(people=None):
    """Return 60 faces of noise, 40 of them to train on; the bright half has the first attribute."""
    rng = np.random.default_rng(0)
    bright = np.arange(60) % 2 == 0
    pixels = rng.integers(0, 60, (60, 16, 16, 3)) + np.where(bright, 150, 20)[:, None, None, None]
    splits = np.repeat([0, 1, 2], [40, 12, 8]).astype(np.uint8)
    attributes = np.stack([bright, rng.random(60) < 0.5, np.zeros(60, bool)], axis=1)
    names = tuple(f"{row}.png" for row in range(60))
    path = Path("none.npy")
    pixels = pixels.astype(np.uint8)
    return PackedFaces(pixels, names, splits, attributes, "frame", path, NAMES, people)


def train(faces, epochs=8, learning_rate=0.01, seed=0):
    torch.manual_seed(seed)
    judge = Judge((4, 6), NAMES)
    config = JudgeConfig(epochs=epochs, batch_size=8, learning_rate=learning_rate)
    losses = list(train_epochs(judge, faces, config, seed))
    return judge, losses


# Training and measuring


def test_what_can_be_seen_is_learned_on_a_table_of_three_attributes():
    faces = make_faces()
    judge, losses = train(faces)
    assert losses[-1] < 0.7 * losses[0]
    measured = measure_attributes(judge, faces)
    assert measured["auc"]["Bright"] == 1.0
    assert measured["positives"]["Bright"] == 10
    assert measured["too_rare"] == ["Red hair"]


def test_the_same_seed_gives_the_same_judge_and_another_seed_another():
    faces = make_faces()
    once, twice, other = (train(faces, epochs=2, seed=seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert not torch.equal(once["head.weight"], other["head.weight"])


def test_only_the_training_split_is_trained_on():
    faces = make_faces()
    held_out = faces.splits > 0
    pixels, attributes = faces.pixels.copy(), faces.attributes.copy()
    pixels[held_out], attributes[held_out] = 0, True
    changed = replace(faces, pixels=pixels, attributes=attributes)
    one, other = (train(both, epochs=1)[0].state_dict() for both in (faces, changed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_faces_without_attributes_are_refused():
    with pytest.raises(UserError, match=r"list_attr_celeba\.txt"):
        train(replace(make_faces(), attributes=None))


def test_a_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(RunStopped, match="in epoch 1: lower --learning-rate"):
        train(make_faces(), learning_rate=1e30)


def test_attribute_std_is_that_of_the_logits_on_held_out_faces_and_0_where_not_measured():
    faces = make_faces()
    judge, _ = train(faces, epochs=1)
    measure_attributes(judge, faces)
    logits = predict(judge, torch.cat(list(batches(faces, np.flatnonzero(faces.splits > 0)))))
    std = logits.numpy().std(0, ddof=1) * [1, 1, 0]
    np.testing.assert_allclose(judge.attribute_std, std, rtol=1e-4)


def test_aucs_count_the_pairs_that_are_in_the_right_order():
    faces = make_faces()
    judge, _ = train(faces, epochs=1)
    rows = np.flatnonzero(faces.splits > 0)
    logits = predict(judge, torch.cat(list(batches(faces, rows))))[:, 1].numpy()
    has = faces.attributes[rows, 1]
    pairs = np.sign(logits[has][:, None] - logits[~has][None])
    measured = measure_attributes(judge, faces)
    assert measured["auc"]["Hat"] == pytest.approx((pairs.mean() + 1) / 2)
    assert measured["positives"]["Hat"] == has.sum()


def test_faces_without_a_row_of_attributes_are_neither_trained_nor_measured_on():
    faces = make_faces()
    known = np.arange(60) % 4 != 1
    wrong = faces.attributes ^ ~known[:, None]
    measured, weights = [], []
    for attributes in (faces.attributes, wrong):
        some = dataclasses.replace(faces, attributes=attributes, known=known)
        judge, _ = train(some, epochs=1)
        measured.append(measure_attributes(judge, some))
        weights.append(judge.state_dict())
    assert measured[0] == measured[1]
    torch.testing.assert_close(*weights)
    held = known & (faces.splits > 0)
    assert measured[0]["positives"]["Hat"] == faces.attributes[held, 1].sum()
    nobody = dataclasses.replace(faces, known=faces.splits != 1)
    with pytest.raises(UserError, match="no row for any face of the val split"):
        train(nobody, epochs=1)


def test_pairs_of_people_are_told_apart_by_the_cosine_of_the_features():
    # each held-out person has two held-out faces; ten people have training faces as well
    people = np.array([i // 3 if i < 30 else 10 + i % 10 for i in range(60)])
    faces = make_faces(people)
    judge, _ = train(faces, epochs=1)
    measured = measure_identity(judge, faces)
    assert measured["same"] == 10
    held = np.flatnonzero(faces.splits > 0)
    _, features = look(judge, batches(faces, held))
    vectors = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    cosine, equal = vectors @ vectors.T, people[held][:, None] == people[held]
    same = cosine[np.triu(equal, 1)]
    below = np.mean([(cosine[~equal] < value).mean() for value in same])
    assert measured["auc"] == pytest.approx(below, abs=0.01)


@pytest.mark.parametrize("people", [None, np.arange(60)])
def test_identity_is_not_measured_without_two_faces_of_somebody(people):
    faces = make_faces(people)
    assert measure_identity(train(faces, epochs=1)[0], faces) is None


def test_augmented_images_stay_images_and_close_to_the_originals():
    torch.manual_seed(0)
    x = torch.rand(6, 3, 1, 1).expand(6, 3, 32, 32) * 0.6 + 0.2
    for _ in range(20):
        augmented = augment(x)
        assert augmented.shape == x.shape
        # shift and blur do not change a plain colour; contrast does by 0.08, brightness by 0.1
        assert (augmented - x).abs().max() <= 0.181
    assert (augmented - x).abs().max() > 0.01


def test_augmenting_shifts_by_at_most_a_sixteenth_and_sometimes_blurs():
    torch.manual_seed(0)
    x = torch.zeros(1, 3, 32, 32)
    x[..., 16:] = 1
    edges = [augment(x)[0, 0, 16] for _ in range(200)]
    positions = torch.stack([(edge > edge.mean()).float().argmax() for edge in edges])
    assert 14 <= positions.min() < 16 < positions.max() <= 18


# The script


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Return a folder in which guide and judge were trained on a tiny CelebA of 20 people."""
    home = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        root = write_celeba(Path("data/celeba"))
        # the people of the first 30 faces have no other faces
        people = [i // 3 if i < 30 else 10 + i % 10 for i in range(60)]
        rows = (f"{index:06d}.jpg {person}\n" for index, person in enumerate(people, start=1))
        (root / "identity_CelebA.txt").write_text("".join(rows))
        assert train_judge.main(SMALL) == 0
    return home


@pytest.fixture
def judges(judged, monkeypatch):
    """Return the guide's and the judge's checkpoint, in their folder."""
    monkeypatch.chdir(judged)
    return load_checkpoint(GUIDE, JudgeCheckpoint), load_checkpoint(JUDGE, JudgeCheckpoint)


def test_guide_and_judge_differ_in_width_and_seed_and_share_the_faces(judges):
    guide, judge = judges
    assert guide.arch["channels"] == [24, 48, 96, 192]
    assert judge.arch["channels"] == [32, 64, 128, 192]
    assert guide.arch["attribute_names"] == judge.arch["attribute_names"] == list(ATTRIBUTE_NAMES)
    assert (guide.seed, judge.seed) == (0, 1)
    assert guide.digest == judge.digest == load_faces("data/celeba", 32, "data/cache").digest()
    assert (judge.crop, judge.config["image_size"]) == ("frame", 32)


def test_the_written_tables_are_those_of_the_checkpoints(judges):
    report = json.loads((FOLDER / "judges.json").read_text())
    for role, checkpoint in zip(("guide", "judge"), judges, strict=True):
        written = {name: report[role][name] for name in checkpoint.attributes}
        assert written == checkpoint.attributes
        assert report[role]["identity_auc"] == checkpoint.identity["auc"]
        assert report[role]["seed"] == checkpoint.seed
    assert "Bald" in report["judge"]["too_rare"]


def test_the_aucs_are_printed_and_the_paths_come_last(celeba, capsys):
    assert train_judge.main(SMALL) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3:] == [str(GUIDE), str(JUDGE), str(FOLDER / "judges.json")]
    measured = load_checkpoint(JUDGE, JudgeCheckpoint).attributes
    entry = f"{measured['auc']['Smiling']:.3f} ({measured['positives']['Smiling']})"
    assert any("Smiling" in line and entry in line for line in printed)


def test_the_script_gives_the_same_judges_again(judges, celeba):
    assert train_judge.main(SMALL) == 0
    for role, checkpoint in zip(("guide", "judge"), judges, strict=True):
        weights = load_checkpoint(FOLDER / f"{role}.pt", JudgeCheckpoint).weights
        for name, value in checkpoint.weights.items():
            assert torch.equal(value, weights[name]), (role, name)


def test_judges_are_not_overwritten(judges, capsys):
    assert train_judge.main([*SMALL, "--run-dir", str(FOLDER)]) == 2
    assert "pass another --run-dir" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_found_before_the_training(celeba, capsys):
    Path("taken").write_text("a file")
    assert train_judge.main([*SMALL, "--run-dir", "taken"]) == 2
    printed = capsys.readouterr()
    assert "taken" in printed.err
    assert "epoch" not in printed.out


def test_data_without_attributes_is_refused(celeba, capsys):
    (celeba / "list_attr_celeba.txt").unlink()
    assert train_judge.main(SMALL) == 2
    assert "list_attr_celeba.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", 40, "--image-size must be a multiple of 16, at least 32"),
        ("epochs", 0, "--epochs must be at least 1"),
        ("learning_rate", math.nan, "--learning-rate must be above 0"),
    ],
)
def test_a_setting_out_of_range_is_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        check(JudgeConfig(**({"image_size": 128} | {field: value})))


# The file


def test_neither_kind_of_checkpoint_is_taken_for_the_other(judges, trained):
    with pytest.raises(UserError, match="is not a checkpoint of this project"):
        load_checkpoint(JUDGE, Checkpoint)
    with pytest.raises(UserError, match="is not a checkpoint of this project"):
        load_checkpoint(trained / "runs/celeba-32/last.pt", JudgeCheckpoint)


def test_a_judge_whose_weights_do_not_fit_is_refused(judges):
    changed = replace(judges[1], arch={**judges[1].arch, "channels": [32, 64, 128, 9]})
    with pytest.raises(UserError, match="do not fit"):
        build_model(JUDGE, changed, torch.device("cpu"))


@pytest.fixture
def run_with_judges(trained, judged, tmp_path, monkeypatch):
    """Return the small run, opened in a folder of one's own with the judges of the same data."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    shutil.copytree(judged / FOLDER, tmp_path / FOLDER)
    monkeypatch.chdir(tmp_path)
    return open_run("runs/celeba-32", "cpu")


def test_the_newest_judge_of_the_runs_data_is_opened(run_with_judges):
    later = [shutil.copytree(FOLDER, FOLDER.with_name(f"{FOLDER.name}-{i}")) for i in (2, 3)]
    for age, path in enumerate([later[0] / "judge.pt", JUDGE, later[1] / "judge.pt"]):
        os.utime(path, ns=(0, age))
    (later[1] / "judge.pt").unlink()
    assert open_judge("judge", run_with_judges).path == JUDGE
    assert open_judge("judge", run_with_judges, str(later[0])).path == later[0] / "judge.pt"


def test_without_a_judge_the_command_that_trains_one_is_given(run_with_judges):
    shutil.rmtree(FOLDER)
    config = run_with_judges.checkpoint.config
    config["crop_size"] = 40
    with pytest.raises(UserError, match=r"--data data/celeba --image-size 32 --crop-size 40, or"):
        open_judge("judge", run_with_judges)


def test_a_judge_of_another_crop_or_size_is_refused(run_with_judges):
    assert open_judge("judge", run_with_judges).checkpoint.crop == "frame"
    run_with_judges.checkpoint.crop = 40
    with pytest.raises(UserError, match=r"32 px, crop frame; the run's are of 32 px, crop 40"):
        open_judge("judge", run_with_judges)
