from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import make_aligner
from vae.checkpoint import AlignerCheckpoint, build_model, load_checkpoint
from vae.run import ALIGNER


def test_an_aligner_is_written_in_16_bits(celeba, capsys):
    flags = ["--data", str(celeba), "--width", "44", "--epochs", "1", "--output", "aligner.pt"]
    assert make_aligner.main(flags) == 0
    assert "epoch 1/1  eyes " in capsys.readouterr().out
    stored = load_checkpoint(Path("aligner.pt"), AlignerCheckpoint)
    assert {w.dtype for w in stored.weights.values()} == {torch.float16, torch.int64}
    build_model(Path("aligner.pt"), stored, torch.device("cpu"))


def test_pictures_in_another_frame_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (60, 50, 3), np.uint8)
        Image.fromarray(pixels).save(f"{index}.png")
    assert make_aligner.main(["--data", ".", "--width", "50", "--epochs", "1"]) == 2
    assert "outside of CelebA's frame" in capsys.readouterr().err


def test_the_shipped_aligner_is_small_and_finite():
    stored = load_checkpoint(ALIGNER, AlignerCheckpoint)
    aligner = build_model(ALIGNER, stored, torch.device("cpu"))
    assert ALIGNER.stat().st_size < 1e6
    with torch.no_grad():
        turn, shift, logit = aligner(torch.zeros(2, 3, 64, 64))
    assert turn.shape == shift.shape == logit.shape == (2,)
    assert turn.isfinite().all()
