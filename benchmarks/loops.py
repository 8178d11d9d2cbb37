"""The two training loops that are compared: the field's usual one, and ours.

The reference opens each JPEG with Pillow in the workers of a DataLoader and steps in float32,
contiguous, with unfused Adam and the loss read every step. Random pixels are nowhere a JPEG: it
then takes them from memory.
"""

import argparse
import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from config import RECIPES, TrainConfig
from train import hyperparameters
from vae.celeba import find_faces
from vae.device import pick_compile, pick_precision
from vae.errors import UserError
from vae.images import crop_box
from vae.loader import PackedFaces
from vae.loss import Loss
from vae.model import VAE
from vae.schedule import epoch_order
from vae.steps import RunningLoss
from vae.training import READ_EVERY_STEPS, Trainer

LEARNING_RATE = 1e-3


class Pictures(Dataset):
    """Picture files, or pixels (N, S, S, 3) to be made pictures, opened and transformed singly."""

    def __init__(self, sources: Sequence[str] | np.ndarray, transform: Callable) -> None:
        self.sources, self.transform = sources, transform

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Tensor:
        source = self.sources[index]
        opened = Image.open(source) if isinstance(source, str) else Image.fromarray(source)
        with opened as picture:
            return self.transform(picture.convert("RGB"))


def training_pictures(faces: PackedFaces, root: Path | None, image_size: int) -> Pictures:
    """Return the training pictures under root as a tutorial reads them; without root, in memory.

    Raises UserError if they lie in a zip.
    """
    sources: Sequence[str] | np.ndarray = faces.pixels[: len(faces.rows("train"))]
    side = image_size
    if root:
        folder = find_faces(root).source
        if folder.is_file():
            raise UserError(f"{folder} is a zip: the reference loop reads a folder of pictures")
        sources = [str(folder / faces.names[row]) for row in faces.rows("train")]
        with Image.open(sources[0]) as picture:
            left, _, right, _ = crop_box(*picture.size, faces.crop)
        side = right - left
    resize = [transforms.Resize(image_size)] if side != image_size else []
    cut = [transforms.CenterCrop(side), *resize, transforms.ToTensor()]
    return Pictures(sources, transforms.Compose([*cut, transforms.RandomHorizontalFlip()]))


@contextlib.contextmanager
def random_faces(count: int, image_size: int) -> Iterator[PackedFaces]:
    """Yield count random images for training, and an eighth of it for validation, on disk."""
    splits = np.repeat([0, 1], [count, max(1, count // 8)]).astype(np.uint8)
    shape = (len(splits), image_size, image_size, 3)
    names = tuple(f"{index}.jpg" for index in range(len(splits)))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "random.npy")
        pixels = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        for start in range(0, len(pixels), 1024):
            part = pixels[start : start + 1024]
            part[:] = rng.integers(0, 256, part.shape, np.uint8)
        pixels.flush()
        yield PackedFaces(np.load(path, mmap_mode="r"), names, splits, None, "largest", path)


class Reference:
    """The field's usual loop: DataLoader, float32, contiguous, plain Adam, item() every step."""

    def __init__(self, args: argparse.Namespace, pictures: Dataset, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = VAE(args.image_size, latent_dim=args.latent_dim).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), LEARNING_RATE, foreach=False)
        self.device, self.read = device, np.zeros(4)
        self.loader = DataLoader(
            pictures,
            args.batch_size,
            shuffle=True,
            num_workers=args.workers,
            pin_memory=device.type == "cuda",
        )

    def batches(self) -> Iterator[Tensor]:
        """Yield batches on the device without end."""
        while True:
            for x in self.loader:
                yield x.to(self.device)

    def step(self, x: Tensor) -> None:
        """Take a training step and read its loss."""
        loss = self.loss(x)
        self.optimizer.zero_grad()
        loss.total.backward()
        self.optimizer.step()
        self.read += [term.item() for term in loss]

    def loss(self, x: Tensor) -> Loss:
        """Return the loss of a batch, layer by layer as it is usually written."""
        model = self.model
        h = model.encoder(x).flatten(1)
        mu, logvar = model.fc_mu(h), model.fc_logvar(h)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(logvar)
        x_hat = model.decoder(model.fc_decode(z).unflatten(1, model.code_shape))
        recon = functional.mse_loss(x_hat, x, reduction="sum") / len(x)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
        return Loss(recon + kl, recon, kl, recon.detach() / x[0].numel())

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """Put torch back to its defaults, which pick_device changes on cuda, for a while."""
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.deterministic = False
        yield
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.deterministic = before[1]


class Ours:
    """The trainer's own batches and steps."""

    settings = staticmethod(contextlib.nullcontext)

    def __init__(
        self,
        args: argparse.Namespace,
        faces: PackedFaces,
        device: torch.device,
        recipe: str = "classic",
        flip: bool = True,
    ) -> None:
        torch.manual_seed(0)
        settings = {**RECIPES[recipe], "flip": flip}
        if recipe == "classic":
            settings["batch_size"] = args.batch_size
        self.trainer = Trainer(
            VAE(args.image_size, latent_dim=args.latent_dim),
            faces,
            device,
            hyperparameters(TrainConfig(**settings)),
            precision=pick_precision(device, args.precision),
            compile=pick_compile(device, args.compile),
        )
        self.optimizer, self.device = self.trainer.optimizer, device
        self.rows, self.running = faces.rows("train"), RunningLoss(self.trainer.ranks)

    def batches(self) -> Iterator[Tensor]:
        """Yield batches on the device without end."""
        for epoch in itertools.count(1):
            yield from self.epoch(epoch)

    def epoch(self, epoch: int) -> Iterator[Tensor]:
        """Return the batches of one epoch."""
        trainer, settings = self.trainer, self.trainer.settings
        order = epoch_order(self.rows, settings.seed, epoch, settings.flip)
        return trainer.training_batches(*order)

    def step(self, x: Tensor) -> None:
        """Take a training step; read the losses as seldom as training does."""
        self.running.add(self.trainer.step(x), len(x))
        if self.running.steps % READ_EVERY_STEPS == 0:
            self.running.read(epoch=1)

    def loss(self, x: Tensor) -> Loss:
        """Return the loss of a batch, as the trainer's step computes it."""
        return self.trainer.loss(x)
