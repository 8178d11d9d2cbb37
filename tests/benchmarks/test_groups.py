import math

import pytest
import torch

from benchmarks import groups
from vae import open_run


def test_each_group_has_the_psnr_and_the_detections_of_its_own_faces(sharp, capsys, monkeypatch):
    def find(pixels):
        return pixels.mean() > 100

    monkeypatch.setattr(groups, "make_detector", lambda: find)
    assert groups.main(["runs/celeba-32"]) == 0
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ")
    ]
    table = {name: numbers for name, *numbers in cells[1:]}
    # of the 20 held-out faces every second smiles, and nobody has a beard
    assert {name: table[name][0] for name in ("all", "Smiling", "Eyeglasses")} == {
        "all": "20",
        "Smiling": "10",
        "Eyeglasses": "10",
    }
    assert "Goatee" not in table
    run = open_run("runs/celeba-32")
    x = torch.cat([x for split in ("val", "test") for x in run.images(run.faces.rows(split))])
    smiling = x[1::2]
    error = (run.decode(run.encode(smiling)[0]) - smiling).square().mean().item()
    assert float(table["Smiling"][1]) == pytest.approx(-10 * math.log10(error), abs=0.011)
    assert table["Smiling"][2] == f"{sum(map(find, 255 * smiling)) / 10:.0%}"
    decibels = [float(numbers[1]) for numbers in table.values()]
    assert decibels == sorted(decibels)
