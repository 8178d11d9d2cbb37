import io

import numpy as np
from layouts import NAMES, SIGNS, kaggle_layout, torchvision_layout
from PIL import Image

from benchmarks import make_celeba8k
from vae.data.celeba import find_faces


def test_the_small_set_is_the_first_pictures_at_half_size_with_their_tables(tmp_path, capsys):
    source, target = kaggle_layout(tmp_path / "full"), tmp_path / "sets" / "small"
    (source / "identity_CelebA.txt").write_text("".join(f"{name} {name[3:6]}\n" for name in NAMES))
    assert make_celeba8k.main([str(source), str(target), "--count", "16"]) == 0
    small = find_faces(target)
    assert small.names == NAMES[:16]
    assert np.bincount(small.splits).tolist() == [14, 1, 1]
    assert small.attribute_names == find_faces(source).attribute_names
    np.testing.assert_array_equal(small.attributes, SIGNS[:16] == 1)
    assert small.people.tolist() == [int(name[3:6]) for name in NAMES[:16]]
    assert Image.open(io.BytesIO(small.read(NAMES[15]))).size == (9, 11)
    assert capsys.readouterr().out.strip() == str(target)
    assert [path.name for path in target.parent.iterdir()] == ["small"]


def test_a_set_without_identities_gives_a_small_set_without_identities(tmp_path):
    source, target = torchvision_layout(tmp_path / "full"), tmp_path / "small"
    assert make_celeba8k.main([str(source), str(target), "--count", "16"]) == 0
    assert find_faces(target).people is None


def test_an_existing_folder_too_few_pictures_and_missing_attributes_are_refused(tmp_path, capsys):
    source, target = torchvision_layout(tmp_path / "full"), tmp_path / "small"
    assert make_celeba8k.main([str(source), str(target)]) == 2
    assert "--count must be from 1 to 20; got 8000" in capsys.readouterr().err
    assert make_celeba8k.main([str(source), str(source), "--count", "4"]) == 2
    assert "exists already" in capsys.readouterr().err
    (source / "list_attr_celeba.txt").unlink()
    assert make_celeba8k.main([str(source), str(target), "--count", "4"]) == 2
    assert "has no list_attr_celeba.txt beside it" in capsys.readouterr().err
    assert not target.exists()
