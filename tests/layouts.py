"""Small data sets in every layout of CelebA that is recognised."""

import shutil
import zipfile

import numpy as np
from PIL import Image

from vae.data.synthetic.attributes import ATTRIBUTE_NAMES

COUNT = 20
NAMES = tuple(f"{i:06d}.jpg" for i in range(1, COUNT + 1))
SIGNS = np.random.default_rng(0).choice([-1, 1], size=(COUNT, 40))
PARTITION = [0] * 14 + [1] * 4 + [2] * 2


def write_picture(path, seed=0, size=(18, 22)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_pictures(folder, names=NAMES):
    for seed, name in enumerate(names):
        write_picture(folder / name, seed)


def write_text_tables(folder, order=range(COUNT)):
    rows = [f"{NAMES[i]} {' '.join(f'{v:2d}' for v in SIGNS[i])}\n" for i in order]
    head = f"{COUNT}\n{' '.join(ATTRIBUTE_NAMES)} \n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "list_attr_celeba.txt").write_text(head + "".join(rows))
    partition = [f"{NAMES[i]} {PARTITION[i]}\n" for i in order]
    (folder / "list_eval_partition.txt").write_text("".join(partition))


def write_zip(path, prefix="img_align_celeba/", names=NAMES):
    write_pictures(path.parent / "unzipped", names)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if prefix:
            archive.writestr(prefix, b"")
        for name in names:
            archive.write(path.parent / "unzipped" / name, prefix + name)
        archive.writestr("__MACOSX/" + prefix + "._000001.jpg", b"resource fork")
    shutil.rmtree(path.parent / "unzipped")


def torchvision_layout(root):
    write_pictures(root / "img_align_celeba")
    write_text_tables(root)
    return root


def torchvision_root(root):
    torchvision_layout(root / "celeba")
    return root


def picture_folder(root):
    return torchvision_layout(root) / "img_align_celeba"


def kaggle_layout(root):
    write_pictures(root / "img_align_celeba" / "img_align_celeba")
    cells = [f"{n},{','.join(map(str, row))}\n" for n, row in zip(NAMES, SIGNS, strict=True)]
    header = f"image_id,{','.join(ATTRIBUTE_NAMES)}\n"
    (root / "list_attr_celeba.csv").write_text(header + "".join(cells))
    partition = [f"{name},{split}\n" for name, split in zip(NAMES, PARTITION, strict=True)]
    (root / "list_eval_partition.csv").write_text("image_id,partition\n" + "".join(partition))
    return root


def kaggle_outer_folder(root):
    return kaggle_layout(root) / "img_align_celeba"


def kaggle_inner_folder(root):
    return kaggle_layout(root) / "img_align_celeba" / "img_align_celeba"


def zip_layout(root):
    write_text_tables(root)
    write_zip(root / "img_align_celeba.zip")
    return root


def doubled_zip(root):
    write_text_tables(root)
    write_zip(root / "img_align_celeba.zip", "img_align_celeba/img_align_celeba/")
    return root


def zip_without_folder(root):
    write_text_tables(root)
    write_zip(root / "img_align_celeba.zip", "")
    return root


def path_of_zip(root):
    return zip_layout(root) / "img_align_celeba.zip"


def folder_of_the_sets_own_name(root):
    return torchvision_layout(root / "img_align_celeba")
