import io

import numpy as np
from PIL import Image
from test_celeba import NAMES, SIGNS, kaggle_layout, torchvision_layout

from benchmarks import make_celeba8k
from vae.celeba import find_faces


def test_the_small_set_is_the_first_pictures_at_half_scale_with_their_tables(tmp_path, capsys):
    source, target = kaggle_layout(tmp_path / "full"), tmp_path / "sets" / "small"
    (source / "identity_CelebA.txt").write_text("".join(f"{name} {name[3:6]}\n" for name in NAMES))
    assert make_celeba8k.main([str(source), str(target), "--count", "16"]) == 0
    small = find_faces(target)
    assert small.names == NAMES[:16]
    assert np.bincount(small.splits).tolist() == [14, 1, 1]
    np.testing.assert_array_equal(small.attributes, SIGNS[:16] == 1)
    assert len((target / "identity_CelebA.txt").read_text().splitlines()) == 16
    with small.reader() as read:
        assert Image.open(io.BytesIO(read(NAMES[15]))).size == (9, 11)
    assert capsys.readouterr().out.strip() == str(target)
    assert [path.name for path in target.parent.iterdir()] == ["small"]


def test_the_small_set_is_not_made_over_another_nor_from_too_few(tmp_path, capsys):
    source, target = torchvision_layout(tmp_path / "full"), tmp_path / "small"
    assert make_celeba8k.main([str(source), str(target)]) == 2
    assert "--count must be from 1 to 20; got 8000" in capsys.readouterr().err
    assert make_celeba8k.main([str(source), str(source), "--count", "4"]) == 2
    assert "is there already" in capsys.readouterr().err
    (source / "list_attr_celeba.txt").unlink()
    assert make_celeba8k.main([str(source), str(target), "--count", "4"]) == 2
    assert "has no list_attr_celeba.txt beside it" in capsys.readouterr().err
