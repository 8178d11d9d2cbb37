import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import COUNT, SMALL, TRAIN, VAL
from PIL import Image

import evaluate
import manipulate
import train
import train_judge
from vae.checkpoint import load_checkpoint
from vae.models.pca import fit_pca
from vae.run import open_run


def report_of(path):
    return json.loads(path.read_text())


@pytest.fixture
def report(home, tmp_path):
    """Return what is reported of the small run's val split."""
    output = tmp_path / "numbers.json"
    assert evaluate.main(["--split", "val", "--output", str(output)]) == 0
    return report_of(output)


def test_a_report_contains_its_protocol(report):
    checkpoint = open_run("runs/celeba-32", "cpu").checkpoint
    expected = {
        "checkpoint": "runs/celeba-32/best.pt",
        "epoch": checkpoint.epoch,
        "data": "data/celeba",
        "split": "val",
        "n": VAL,
        "crop": "frame",
        "resize": "bicubic",
        "image_size": 32,
        "seed": 0,
    }
    named = ("recipe", "likelihood", "beta", "prior", "temperature")
    named += ("refine_steps", "refine_strength")
    expected |= {"refined": False} | {name: checkpoint.config[name] for name in named}
    expected |= {"faces": checkpoint.digest, "trained_on": checkpoint.digest}
    assert report["protocol"] == expected


def test_the_likelihood_is_that_of_the_validation_in_training(report):
    checkpoint = load_checkpoint(Path("runs/celeba-32/best.pt"))
    history = load_checkpoint(Path("runs/celeba-32/last.pt")).training["history"]
    best = next(row for row in history if row["epoch"] == checkpoint.epoch)
    for name in ("total", "recon", "kl"):
        assert report["likelihood"][name] == pytest.approx(best[f"val_{name}"], rel=1e-5)
    assert report["reconstruction"]["psnr"] == pytest.approx(best["val_psnr"], rel=1e-5)
    assert report["likelihood"]["sigma"] == pytest.approx(checkpoint.variance**0.5)
    kl = sum(report["codes"]["kl_per_dimension"])
    assert kl == pytest.approx(report["likelihood"]["kl"], rel=1e-5)


def test_each_section_is_printed_and_the_paths_come_last(home, tmp_path, capsys):
    output = tmp_path / "numbers.json"
    assert evaluate.main(["--split", "val", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    report = report_of(output)
    lines = [line.split() for line in printed.splitlines()]
    for heading, section in report.items():
        assert heading.upper().split("_") in lines
        for name, value in section.items():
            if isinstance(value, int | float):
                assert any(line[:1] == [name] for line in lines), name
    assert f"{report['reconstruction']['psnr']:.3f}" in printed
    assert f"{report['attributes']['auc']['Smiling']:.3f} (6)" in printed
    assert "FID needs --fid-weights" in printed
    missing = "not_measured         there is no judge at runs/celeba-32-judges/judge.pt: "
    assert printed.count(missing) == 2
    assert printed.splitlines()[-2:] == [str(output), str(tmp_path / "numbers.png")]


def test_pca_of_the_models_dimension_is_measured_beside_the_model(report):
    faces = open_run("runs/celeba-32", "cpu").faces
    flat = torch.from_numpy(faces.pixels.copy()).permute(0, 3, 1, 2).flatten(1).double() / 255
    training, x = flat[faces.rows("train")], flat[faces.rows("val")]
    mean = training.mean(0)
    axes = torch.linalg.svd(training - mean, full_matrices=False).Vh[:5]
    x_hat = (mean + (x - mean) @ axes.T @ axes).clamp(0, 1)
    pca = report["pca"]
    assert pca["dimensions"] == 5
    assert pca["sse"] == pytest.approx((x_hat - x).square().sum(1).mean().item(), rel=1e-3)
    mse = pca["sse"] / (3 * 32**2)
    assert pca["psnr"] == pytest.approx(-10 * math.log10(mse))
    assert 0 < pca["ssim"] <= 1
    assert pca["kl"] > 0


def test_reconstructions_of_pca_are_images():
    x = (torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    pca = fit_pca(lambda: x.split(16), 20)
    assert pca.project(x).min() < -0.05
    torch.testing.assert_close(evaluate.project(pca, x), pca.project(x).clamp(0, 1))


def test_an_earlier_report_is_replaced_and_this_is_printed(home, tmp_path, capsys):
    flags = ["--split", "val", "--output", str(tmp_path / "numbers.json")]
    (tmp_path / "numbers.json").write_text("{}")
    assert evaluate.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert lines == [f"{tmp_path}/numbers.json (replaced)", f"{tmp_path}/numbers.png"]


def test_an_output_that_cannot_be_written_is_found_before_the_work(home, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    assert evaluate.main(["--split", "val", "--output", f"{tmp_path}/taken/numbers.json"]) == 2
    printed = capsys.readouterr()
    assert f"cannot write {tmp_path}/taken/numbers.json" in printed.err
    assert "PROTOCOL" not in printed.out


def test_rare_attributes_are_named_but_not_measured(report):
    assert list(report["attributes"]["auc"]) == ["Eyeglasses", "Smiling"]
    assert "Bald" in report["attributes"]["too_rare"]


def test_the_prior_and_its_temperature_can_be_chosen(home, tmp_path):
    output = tmp_path / "numbers.json"
    flags = ["--split", "val", "--prior", "mixture", "--temperature", "0.7"]
    assert evaluate.main([*flags, "--output", str(output)]) == 0
    protocol = report_of(output)["protocol"]
    assert (protocol["prior"], protocol["temperature"]) == ("mixture", 0.7)
    assert Image.open(output.with_suffix(".png")).size[0] > 1000


def test_at_temperature_zero_there_is_a_report_and_a_figure(home, tmp_path):
    output = tmp_path / "numbers.json"
    flags = ["--split", "val", "--prior", "gaussian", "--temperature", "0"]
    assert evaluate.main([*flags, "--output", str(output)]) == 0
    assert report_of(output)["codes"]["distance_gaussian"] == pytest.approx(0, abs=1e-6)
    assert output.with_suffix(".png").exists()


def test_samples_of_n_0_i_do_not_depend_on_the_temperature(home, tmp_path):
    distances = []
    for number in ("1", "0.5"):
        output = tmp_path / f"{number}.json"
        flags = ["--split", "val", "--prior", "standard", "--temperature", number]
        assert evaluate.main([*flags, "--output", str(output)]) == 0
        distances.append(report_of(output)["codes"]["distance_standard"])
    assert distances[0] == distances[1]


def test_the_same_call_gives_the_same_report(report, tmp_path):
    again = tmp_path / "again.json"
    assert evaluate.main(["--split", "val", "--output", str(again)]) == 0
    assert report_of(again) == report


def test_a_probe_is_not_measured_on_the_faces_it_is_fitted_to(home, tmp_path):
    output = tmp_path / "numbers.json"
    assert evaluate.main(["--split", "train", "--output", str(output)]) == 0
    report = report_of(output)
    assert "fitted to the training faces" in report["attributes"]["not_measured"]
    assert "psnr" in report["pca"]


def test_attributes_that_few_faces_have_are_listed_and_not_measured(home, tmp_path):
    output = tmp_path / "numbers.json"
    assert evaluate.main(["--split", "test", "--output", str(output)]) == 0
    measured = report_of(output)["attributes"]
    assert measured["mean_auc"] is None
    assert len(measured["too_rare"]) == 40


def test_pictures_without_attributes_are_measured_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    for index in range(60):
        Image.new("RGB", (50, 40), (4 * index, 90, 0)).save(f"mine/{index}.png")
    assert train.main([*SMALL, "--data", "mine", "--epochs", "1"]) == 0
    assert evaluate.main([]) == 0
    assert "the data has no attributes" in capsys.readouterr().out
    assert Path("runs/mine-32/evaluation-test.json").exists()


@pytest.mark.parametrize("package", ["torchmetrics", "torch_fidelity"])
def test_without_the_packages_one_line_says_what_to_install(home, capsys, monkeypatch, package):
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert evaluate.main(["--fid-weights", "weights.pth"]) == 2
    err = capsys.readouterr().err
    assert "pip install torchmetrics torch-fidelity" in err
    assert err.count("\n") == 1


def test_a_file_that_is_not_the_network_is_one_line(home, tmp_path, capsys):
    pytest.importorskip("torch_fidelity")
    shutil.copy("data/celeba/list_attr_celeba.txt", tmp_path / "text.pth")
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    for name, reason in {"no.pth": "no such file", "text.pth": "not", "other.pth": "not"}.items():
        assert evaluate.main(["--fid-weights", str(tmp_path / name)]) == 2
        err = capsys.readouterr().err
        assert f"{name}: {reason}" in err
        assert err.count("\n") == 1


@pytest.fixture(scope="module")
def judged(trained, tmp_path_factory):
    """Return the folder of the small run with a guide and a judge of the same faces."""
    home = tmp_path_factory.mktemp("judged")
    shutil.copytree(trained, home, dirs_exist_ok=True)
    small = ["--image-size", "32", "--epochs", "2", "--batch-size", "8", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert train_judge.main(small) == 0
    return home


@pytest.fixture(scope="module")
def judged_report(judged):
    """Return what is reported of the small run's val split where there is a judge."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(judged)
        assert evaluate.main(["--split", "val", "--output", "runs/judged.json"]) == 0
        return report_of(Path("runs/judged.json"))


def test_samples_and_reconstructions_are_compared_with_half_of_the_held_out_faces(judged_report):
    section = judged_report["features_of_the_judge"]
    assert section["judge"] == "runs/celeba-32-judges/judge.pt"
    assert section["judge_faces"] == "the same set"
    assert section["faces"].startswith("val and test, cut in halves")
    names = ["real", "reconstructions", "samples", "PCA reconstructions", "PCA samples"]
    assert list(section["rows"]) == names
    columns = ["n", "judge_frechet", "judge_kernel", "judge_precision", "judge_recall"]
    for row in section["rows"].values():
        assert list(row) == columns
        assert row["n"] == (COUNT - TRAIN) // 2
    assert "fid" not in json.dumps(section)
    real, samples = section["rows"]["real"], section["rows"]["samples"]
    assert real["judge_frechet"] < samples["judge_frechet"]
    assert real["judge_recall"] >= samples["judge_recall"]


def test_the_sets_and_the_planted_copies_are_looked_for_among_the_training_faces(judged_report):
    section = judged_report["copies"]
    assert (section["training_faces"], section["held_out_faces"]) == (TRAIN, COUNT - TRAIN)
    planted = ["mirrored and brighter", "moved by a pixel", "decoded"]
    sets = list(judged_report["features_of_the_judge"]["rows"])
    assert list(section["rows"]) == sets + [f"copies, {what}" for what in planted]
    # the other two distances depend on how well the small judge has learned
    assert section["rows"]["copies, mirrored and brighter"]["code_ratio"] < 1
    assert section["rows"]["copies, moved by a pixel"]["feature_ratio"] < 1
    for row in section["rows"].values():
        assert list(row) == [
            "n",
            "feature_ratio",
            "feature_copies",
            "code_ratio",
            "code_copies",
        ]
        assert row["feature_ratio"] > 0
        assert 0 <= row["code_copies"] <= 1


def test_the_halves_do_not_depend_on_the_split_or_the_seed_and_can_be_smaller(
    judged, judged_report, monkeypatch, tmp_path
):
    monkeypatch.chdir(judged)
    flags = ["--split", "test", "--seed", "5", "--output", str(tmp_path / "other.json")]
    assert evaluate.main(flags) == 0
    key = "features_of_the_judge"
    before, other = judged_report[key]["rows"], report_of(tmp_path / "other.json")[key]["rows"]
    for name in ("real", "reconstructions", "PCA reconstructions"):
        assert other[name] == before[name]
    assert other["samples"] != before["samples"]
    assert evaluate.main([*flags, "--samples", "4"]) == 0
    assert report_of(tmp_path / "other.json")[key]["rows"]["samples"]["n"] == 4


def test_training_faces_are_not_compared_with_themselves(judged, monkeypatch, tmp_path):
    monkeypatch.chdir(judged)
    output = tmp_path / "numbers.json"
    assert evaluate.main(["--split", "train", "--output", str(output)]) == 0
    for section in ("features_of_the_judge", "copies"):
        assert "held-out faces" in report_of(output)[section]["not_measured"]


def test_without_the_training_faces_the_rest_is_measured(judged, monkeypatch, tmp_path):
    monkeypatch.chdir(judged)
    shutil.copytree("data/celeba", tmp_path / "fewer")
    for number in range(1, 9):
        (tmp_path / f"fewer/img_align_celeba/{number:06d}.jpg").unlink()
    output = tmp_path / "numbers.json"
    assert evaluate.main(["--data", str(tmp_path / "fewer"), "--output", str(output)]) == 0
    report = report_of(output)
    for section in ("pca", "copies"):
        assert report[section] == {"not_measured": evaluate.OTHER_FACES}
    assert list(report["features_of_the_judge"]["rows"]) == ["real", "reconstructions", "samples"]


def test_a_folder_without_a_judge_is_one_line(judged, monkeypatch, capsys):
    monkeypatch.chdir(judged)
    assert evaluate.main(["--judges", "data"]) == 2
    printed = capsys.readouterr()
    assert "there is no judge at data/judge.pt" in printed.err
    assert "PROTOCOL" not in printed.out


def test_edits_are_reported_for_each_attribute_and_method(judged, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(judged)
    output = tmp_path / "edits.json"
    flags = ["--edits", "--split", "val", "--method", "mean", "balanced", "--keep", "Eyeglasses"]
    flags += ["--attribute", "smiling", "--to", "0.6", "--output", str(output)]
    assert evaluate.main(flags) == 0
    report = json.loads(output.read_text())
    kept = ["mean, keeping Eyeglasses", "balanced, keeping Eyeglasses"]
    assert list(report["Smiling"]["methods"]) == ["mean", "balanced", *kept]
    assert report["Smiling"]["n"] == 6
    assert report["Smiling"]["having"]["n"] == 6
    assert report["Smiling"]["matched"] <= 0.6
    assert report["protocol"]["judge"] == "runs/celeba-32-judges/judge.pt"
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(output)
    assert any(line.startswith("balanced, keeping Eyeglasses") for line in printed)


def test_an_attribute_too_rare_to_measure_is_found_before_the_work(judged, monkeypatch, capsys):
    monkeypatch.chdir(judged)
    assert evaluate.main(["--edits", "--split", "val", "--attribute", "Smiling", "Bald"]) == 2
    printed = capsys.readouterr()
    assert "Bald: " in printed.err
    assert "measuring needs two with it and two without" in printed.err
    assert "SMILING" not in printed.out.upper()


def test_without_a_judge_the_command_that_trains_one_is_given(home, capsys):
    assert evaluate.main(["--edits"]) == 2
    assert (
        "there is no guide at runs/celeba-32-judges/guide.pt: python train_judge.py "
        "--data data/celeba --image-size 32, or pass --judges"
    ) in capsys.readouterr().err


def test_manipulate_moves_each_face_until_the_guide_sees_the_attribute(
    judged, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(judged)
    output = ["--output", str(tmp_path / "to.png"), "--files", str(tmp_path / "faces")]
    flags = ["--attribute", "Smiling", "--source", "val", "--faces", "0", "1", "2"]
    assert manipulate.main([*flags, "--to", "0.000001", *output]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": +0.00") == 3
    assert len(list((tmp_path / "faces").iterdir())) == 6
    assert "Smiling: round-trip, from 20 faces with it, 20 without" in printed
    assert manipulate.main([*flags, "--to", "0.999999", *output]) == 0
    assert capsys.readouterr().out.count("not reached, 0.") == 3


def test_methods_default_to_those_without_logistic_and_judges_can_be_named(
    judged, tmp_path, monkeypatch
):
    monkeypatch.chdir(judged)
    shutil.copytree("runs/celeba-32-judges", tmp_path / "mine")
    output = ["--output", str(tmp_path / "edits.json"), "--judges", str(tmp_path / "mine")]
    assert evaluate.main(["--edits", "--split", "val", "--count", "3", *output]) == 0
    report = report_of(tmp_path / "edits.json")
    assert list(report) == ["protocol", "Smiling", "Eyeglasses"]
    assert list(report["Smiling"]["methods"]) == ["mean", "balanced", "round-trip"]
    assert report["Smiling"]["n"] == 3
    assert report["protocol"]["guide"] == str(tmp_path / "mine/guide.pt")


def test_the_logistic_method_is_measured_on_request(judged, tmp_path, monkeypatch):
    monkeypatch.chdir(judged)
    output = tmp_path / "edits.json"
    flags = ["--edits", "--split", "val", "--method", "logistic", "--attribute", "Smiling"]
    assert evaluate.main([*flags, "--output", str(output)]) == 0
    assert list(report_of(output)["Smiling"]["methods"]) == ["logistic"]


def test_a_table_of_three_attributes_is_trained_on_judged_and_measured(celeba):
    path = celeba / "list_attr_celeba.txt"
    count, names, *rows = path.read_text().splitlines()
    columns = [1 + names.split().index(name) for name in ("Smiling", "Eyeglasses", "Male")]
    cells = [row.split() for row in rows]
    kept = [" ".join([row[0], *(row[column] for column in columns)]) for row in cells]
    path.write_text("\n".join([count, "Cheerful Goggles Tall", *kept]) + "\n")
    assert train.main([*SMALL, "--epochs", "1"]) == 0
    assert evaluate.main(["--split", "val"]) == 0
    probe = report_of(Path("runs/celeba-32/evaluation-val.json"))["attributes"]
    assert (list(probe["auc"]), probe["too_rare"]) == (["Cheerful", "Goggles"], ["Tall"])
    assert train_judge.main(["--image-size", "32", "--epochs", "2", "--device", "cpu"]) == 0
    judges = report_of(Path("runs/celeba-32-judges/judges.json"))
    assert list(judges["guide"]["auc"]) == ["Cheerful", "Goggles"]
    assert evaluate.main(["--edits", "--split", "val"]) == 0
    report = report_of(Path("runs/celeba-32/edits.json"))
    assert list(report) == ["protocol", "Cheerful", "Goggles"]
    assert list(report["Cheerful"]["methods"]["mean"]["shifts"]) == ["Goggles"]
