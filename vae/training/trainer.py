"""A network in training: one step, one epoch, and the state from which a run resumes."""

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from vae.checkpoint import Checkpoint
from vae.data.batches import batches, place_pixels
from vae.data.faces import PackedFaces
from vae.device import memory_format
from vae.errors import Interrupted, NotFinite, StopSignal, UserError
from vae.training.augmentation import warp
from vae.training.parallel import ALONE, Ranks
from vae.training.schedule import epoch_order, learning_rate_at, seed_generators

READ_EVERY_STEPS = 20
"""between two readings of the losses: a reading waits for the device"""


class Trainer(ABC):
    """A network in training, and how far it has come; a subclass says what it is trained for.

    config has the training fields of TrainConfig. The order of an epoch and the noise of a step
    depend on the seed and their numbers alone: a resumed run equals a run without interruption.
    """

    TERMS: ClassVar[tuple[str, ...]]
    """names of what losses returns"""
    prefix: ClassVar[str] = ""
    """of the phase's files and flags"""
    trained_vae: nn.Module
    """the VAE as it would be used now"""

    def __init__(
        self,
        model: nn.Module,
        faces: PackedFaces,
        config: Any,
        device: torch.device,
        *,
        precision: str = "fp32",
        compile: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        # every rank takes the same steps: each epoch leaves out the remainder of its order
        count = len(faces.rows("train"))
        if count < 2:
            raise UserError("the train split has one face, and its codes have no covariance")
        self.images_per_epoch = count - count % ranks.size
        self.steps_per_epoch = -(-self.images_per_epoch // config.batch_size)

        self.config, self.faces, self.device = config, faces, device
        self.precision, self.ranks = precision, ranks
        self.model = model.to(device, memory_format=memory_format(device))
        shared = ranks.share(self.model)
        self.network = torch.compile(shared) if compile else shared
        self.average = copy.deepcopy(self.model) if config.ema_decay else None
        self.optimizer = torch.optim.Adam(self.parameter_groups(), config.learning_rate, fused=True)
        self.resident = place_pixels(faces, device)

        self.epoch, self.history = 0, []
        self.failed_step = 0  # the step of the epoch, from 1, whose loss is not finite
        self.terms = (*self.TERMS, "gradient_norm")
        self._start_epoch()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups of parameters; scale multiplies the learning rate."""
        return [{"params": list(self.model.parameters()), "scale": 1.0}]

    @abstractmethod
    def render(self, z: Tensor) -> Tensor:
        """Return the images (N, 3, S, S) that the codes z (N, D) would give now, on the CPU."""

    @abstractmethod
    def losses(self, x: Tensor) -> Sequence[Tensor]:
        """Return the TERMS of a batch of training images x; the first is minimised."""

    @abstractmethod
    def checkpoint(self, config: dict[str, Any]) -> Checkpoint:
        """Return a checkpoint of the present state, with the settings of the run."""

    @abstractmethod
    def validate(self, means: Mapping[str, float], stop: StopSignal | None) -> dict[str, float]:
        """Return what is measured on the val split after an epoch with these means of TERMS."""

    def _start_epoch(self) -> None:
        self.steps = self.images = 0
        self.unread: list[tuple[Tensor, int]] = []
        self.sums = np.zeros(len(self.terms))

    @property
    def averaged_model(self) -> nn.Module:
        """The model for validation and use: the moving average if there is one."""
        return self.average or self.model

    @property
    def steps_done(self) -> int:
        """Training steps since the phase began."""
        return self.epoch * self.steps_per_epoch + self.steps

    def step(self, x: Tensor) -> Tensor:
        """Take one training step on batch x; return its terms, detached and not yet read."""
        config, step = self.config, self.steps_done
        steps = config.epochs * self.steps_per_epoch
        rate = learning_rate_at(step, steps, config.learning_rate, config.schedule)
        if config.warp:
            x = warp(x, config.warp)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        losses = self.losses(x)
        self.optimizer.zero_grad(set_to_none=True)
        losses[0].backward()
        norm = clip_grad_norm_(self.model.parameters(), config.clip_norm or math.inf)
        self.optimizer.step()
        if self.average:
            # the average of the first steps follows the weights closely
            update_average(
                self.average, self.model, min(config.ema_decay, (1 + step) / (10 + step))
            )
        terms = torch.stack([term.detach() for term in (*losses, norm)])
        self.steps += 1
        self.images += len(x) * self.ranks.size
        self.unread.append((terms, len(x) * self.ranks.size))
        return terms

    def run_epoch(self, stop: StopSignal, save: Callable[[], None] | None = None) -> None:
        """Train for an epoch, or the rest of it; validate; add a line to the history.

        save, if given, is called on the main rank every save_every_minutes of a long epoch.

        Raises Interrupted between two steps if a signal came, NotFinite if the loss is not finite.
        """
        start = time.perf_counter()
        trained = self._train(stop, save)
        speed = trained / (time.perf_counter() - start)
        means = dict(zip(self.terms, self._means(), strict=True))
        metrics = {"epoch": self.epoch + 1}
        metrics |= {f"train_{name}": value for name, value in means.items()}
        if self.ranks.is_main:
            # with several ranks, one must not stop while the others go on
            measured = self.validate(means, stop if self.ranks.size == 1 else None)
            metrics |= {f"val_{name}": value for name, value in measured.items()}
        metrics |= {"learning_rate": self.optimizer.param_groups[0]["lr"]}
        metrics |= {"images_per_second": speed, "seconds": time.perf_counter() - start}
        self.history.append(metrics)
        self.epoch += 1
        self._start_epoch()

    def _train(self, stop: StopSignal, save: Callable[[], None] | None) -> int:
        """Take the remaining steps of the epoch; return the number of images."""
        saved = time.monotonic()
        epoch, count, done = self.epoch + 1, self.images_per_epoch, self.images
        rows, config = self.faces.rows("train"), self.config
        order, mirrored = epoch_order(rows, config.seed, epoch, config.flip)
        self.model.train()
        hidden = None if self.ranks.is_main else True
        options = {"initial": done, "unit": "image", "leave": False, "disable": hidden}
        with tqdm(desc=f"epoch {epoch}", total=count, **options) as bar:
            for x in self.training_batches(order[done:count], mirrored[done:count]):
                seed_generators(config.seed, self.steps_done, self.ranks.rank)
                self.step(x)
                bar.update(len(x) * self.ranks.size)
                if self.steps % READ_EVERY_STEPS == 0:
                    self._read()
                    bar.set_postfix(total=f"{self._means()[0]:.5g}")
                    self.share_signal(stop)
                    minutes = (time.monotonic() - saved) / 60
                    if save and self.ranks.is_main and minutes >= config.save_every_minutes:
                        save()
                        saved = time.monotonic()
                if self.ranks.size == 1:
                    stop.check()
        self._read()
        self.share_signal(stop)
        return count - done

    def training_batches(self, order: np.ndarray, mirrored: np.ndarray) -> Iterator[Tensor]:
        """Yield this rank's part of each batch of the rows in order, mirrored where told."""
        rank, size = self.ranks.rank, self.ranks.size
        return batches(
            self.faces,
            order[rank::size],
            self.config.batch_size // size,
            self.device,
            mirrored[rank::size],
            resident=self.resident,
        )

    def val_batches(self) -> Iterator[Tensor]:
        """Yield the images of the val split."""
        rows = self.faces.rows("val")
        return batches(self.faces, rows, device=self.device, label="validating")

    def _read(self) -> None:
        """Add the unread terms to the sums. Raises NotFinite, naming the step, if not finite."""
        if not self.unread:
            return
        terms = torch.stack([terms for terms, _ in self.unread])
        terms = self.ranks.mean(terms).cpu().double().numpy()
        for step, values in enumerate(terms, self.steps - len(terms) + 1):
            # the total comes last: its parts say more
            for term in (*range(1, len(self.TERMS)), 0):
                if not math.isfinite(values[term]):
                    where = f"at epoch {self.epoch + 1}, step {step}"
                    self.failed_step = step
                    raise NotFinite(f"{self.TERMS[term]} became {values[term]} {where}")
        self.sums += np.array([count for _, count in self.unread]) @ terms
        self.unread.clear()

    def failed_names(self) -> list[str]:
        """Return the names of the images of the step whose loss is not finite."""
        rows, config = self.faces.rows("train"), self.config
        order, _ = epoch_order(rows, config.seed, self.epoch + 1, config.flip)
        end = self.failed_step * config.batch_size
        batch = order[: self.images_per_epoch][max(0, end - config.batch_size) : end]
        return [self.faces.names[row] for row in batch]

    def _means(self) -> list[float]:
        """Return the means of the terms over the images of the epoch that have been read."""
        unread = sum(count for _, count in self.unread)
        return (self.sums / max(self.images - unread, 1)).tolist()

    def share_signal(self, stop: StopSignal, note: str = "") -> None:
        """Raise Interrupted on all ranks if one of them received a signal."""
        if received := self.ranks.largest(stop.received or 0, self.device):
            raise Interrupted(received, note)

    def state(self) -> dict[str, Any]:
        """Return all that load_state needs, beside the averaged weights, to go on from here."""
        self._read()
        return {
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "images": self.images,
            "sums": self.sums.tolist(),
            "history": self.history,
        }

    def load_state(self, state: dict[str, Any], averaged: dict[str, Tensor], epoch: int) -> None:
        """Take up a state, with what the checkpoint keeps beside it."""
        self.model.load_state_dict(state["weights"])
        if self.average:
            self.average.load_state_dict(averaged)
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.history = epoch, list(state["history"])
        self.steps, self.images = state["steps"], state["images"]
        self.sums = np.array(state["sums"])


def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights and buffers towards the model's; decay weighs the old average.

    Weights move together: a GPU waits for the start of a kernel longer than for its work.
    """
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    moving = [(averaged, current) for averaged, current in pairs if averaged.is_floating_point()]
    get_ema_multi_avg_fn(decay)(*map(list, zip(*moving, strict=True)), None)
    for averaged, current in pairs:
        if not averaged.is_floating_point():
            averaged.copy_(current)
