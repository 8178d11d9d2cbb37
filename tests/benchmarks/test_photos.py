import numpy as np
from PIL import Image

from benchmarks import photos
from vae.editing.photos import cut_face


def test_a_pasted_face_lies_at_its_place():
    pixels = np.random.default_rng(0).integers(0, 256, (14, 12, 3), np.uint8)
    face = Image.fromarray(pixels).resize((89, 109), Image.Resampling.BICUBIC)
    crop = np.asarray(face.crop((12, 22, 76, 86)), float)
    for seed in range(8):
        photo, place = photos.paste(face, face, np.random.default_rng(seed), 64)
        assert photo.size == photos.SIZE
        assert 1 <= abs(place.turn) <= 4
        assert abs(np.angle(place.turn, deg=True)) <= 30
        error = np.square(np.asarray(cut_face(photo, place, 64), float) - crop).mean()
        assert 10 * np.log10(255**2 / error) > 30


def test_the_photographs_are_written_as_data_to_train_on(home, tmp_path, capsys):
    flags = ["runs/celeba-32", "--data", "data/celeba", "--count", "3"]
    assert photos.main([*flags, "--folder", str(tmp_path / "photos")]) == 0
    counts = [len(list((tmp_path / "photos" / split).glob("*.png"))) for split in ("train", "test")]
    assert counts == [12, 3]
