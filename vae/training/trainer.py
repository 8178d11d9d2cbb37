"""A model in training: one step, one epoch, and the state from which a run resumes."""

import copy
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from vae.data.batches import batches, place_pixels
from vae.data.faces import PackedFaces
from vae.device import autocast, memory_format
from vae.errors import Interrupted, RunStopped, StopSignal, UserError
from vae.training.loss import CLASSIC_VARIANCE, vae_loss
from vae.training.parallel import ALONE, Ranks
from vae.training.schedule import epoch_order, learning_rate_at, seed_generators
from vae.training.validation import validate

READ_EVERY_STEPS = 20
"""between two readings of the losses: a reading waits for the device"""

TERMS = ("total", "recon", "kl", "variance", "gradient_norm")


class Trainer:
    """A model in training, and how far it has come.

    config has the training fields of TrainConfig. The order of an epoch and the noise of a step
    depend on the seed and their numbers alone: a resumed run equals a run without interruption.
    """

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
        if config.batch_size % ranks.size:
            given = config.batch_size
            raise UserError(f"--batch-size must be a multiple of {ranks.size} ranks: {given}")
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
        self.optimizer = torch.optim.Adam(self.model.parameters(), config.learning_rate, fused=True)
        self.resident = place_pixels(faces, device)

        self.epoch, self.history = 0, []
        self.variance = CLASSIC_VARIANCE
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.steps = self.images = 0
        self.unread: list[tuple[Tensor, int]] = []
        self.sums = np.zeros(len(TERMS))

    @property
    def averaged_model(self) -> nn.Module:
        """The model for pictures, validation and use: the moving average if there is one."""
        return self.average or self.model

    @property
    def steps_done(self) -> int:
        """Training steps since the run began."""
        return self.epoch * self.steps_per_epoch + self.steps

    def step(self, x: Tensor) -> Tensor:
        """Take one training step on batch x; return its TERMS, detached and not yet read."""
        config, step = self.config, self.steps_done
        steps = config.epochs * self.steps_per_epoch
        rate = learning_rate_at(step, steps, config.learning_rate, config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with autocast(x.device, self.precision):
            x_hat, mu, logvar = self.network(x)
        loss = vae_loss(x_hat, x, mu, logvar, config.beta, config.likelihood)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        norm = clip_grad_norm_(self.model.parameters(), config.clip_norm or math.inf)
        self.optimizer.step()
        if self.average:
            # the average of the first steps follows the weights closely
            update_average(
                self.average, self.model, min(config.ema_decay, (1 + step) / (10 + step))
            )
        terms = torch.stack([term.detach() for term in (*loss, norm)])
        self.steps += 1
        self.images += len(x) * self.ranks.size
        self.unread.append((terms, len(x) * self.ranks.size))
        return terms

    def run_epoch(self, stop: StopSignal) -> None:
        """Train for an epoch, or the rest of it; validate; add a line to the history.

        Raises Interrupted between two steps if a signal came, RunStopped if the loss is not finite.
        """
        start = time.perf_counter()
        trained = self._train(stop)
        speed = trained / (time.perf_counter() - start)
        means = dict(zip(TERMS, self._means(), strict=True))
        self.variance = means["variance"]
        metrics = {"epoch": self.epoch + 1}
        metrics |= {f"train_{name}": value for name, value in means.items()}
        if self.ranks.is_main:
            metrics |= {f"val_{name}": value for name, value in self._validate(stop).items()}
        metrics |= {"learning_rate": self.optimizer.param_groups[0]["lr"], "beta": self.config.beta}
        metrics |= {"images_per_second": speed, "seconds": time.perf_counter() - start}
        self.history.append(metrics)
        self.epoch += 1
        self._start_epoch()

    def _train(self, stop: StopSignal) -> int:
        """Take the remaining steps of the epoch; return the number of images."""
        epoch, count, done = self.epoch + 1, self.images_per_epoch, self.images
        rows, config = self.faces.rows("train"), self.config
        order, mirrored = epoch_order(rows, config.seed, epoch, config.flip)
        self.model.train()
        hidden = None if self.ranks.is_main else True
        bar = tqdm(
            total=count,
            initial=done,
            desc=f"epoch {epoch}",
            unit="image",
            leave=False,
            disable=hidden,
        )
        with bar:
            for x in self.training_batches(order[done:count], mirrored[done:count]):
                seed_generators(config.seed, self.steps_done, self.ranks.rank)
                self.step(x)
                bar.update(len(x) * self.ranks.size)
                if self.steps % READ_EVERY_STEPS == 0:
                    self._read()
                    bar.set_postfix(total=f"{self._means()[0]:.5g}")
                    self._share_signal(stop)
                if self.ranks.size == 1:
                    stop.check()
        self._read()
        self._share_signal(stop)
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

    def _validate(self, stop: StopSignal) -> dict[str, float]:
        rows = self.faces.rows("val")
        images = batches(self.faces, rows, device=self.device, label="validating")
        # with several ranks, one must not stop while the others go on
        alone = stop if self.ranks.size == 1 else None
        config, model = self.config, self.averaged_model
        settings = (config.beta, config.seed, config.likelihood, self.variance)
        return validate(model, images, *settings, alone)

    def _read(self) -> None:
        """Add the unread terms to the sums. Raises RunStopped, naming the step, if not finite."""
        if not self.unread:
            return
        terms = torch.stack([terms for terms, _ in self.unread])
        terms = self.ranks.mean(terms).cpu().double().numpy()
        for step, values in enumerate(terms, self.steps - len(terms) + 1):
            for name, value in zip(("recon", "kl"), values[1:3], strict=True):
                if not math.isfinite(value):
                    where = f"at epoch {self.epoch + 1}, step {step}"
                    raise RunStopped(f"{name} became {value} {where}")
        self.sums += np.array([count for _, count in self.unread]) @ terms
        self.unread.clear()

    def _means(self) -> list[float]:
        """Return the means of TERMS over the images of the epoch that have been read."""
        unread = sum(count for _, count in self.unread)
        return (self.sums / max(self.images - unread, 1)).tolist()

    def _share_signal(self, stop: StopSignal) -> None:
        """Raise Interrupted on all ranks if one of them received a signal."""
        if received := self.ranks.largest(stop.received or 0, self.device):
            raise Interrupted(received)

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

    def load_state(
        self, state: dict[str, Any], averaged: dict[str, Tensor], epoch: int, variance: float
    ) -> None:
        """Take up a state, with what the checkpoint keeps beside it."""
        self.model.load_state_dict(state["weights"])
        if self.average:
            self.average.load_state_dict(averaged)
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.variance, self.history = epoch, variance, list(state["history"])
        self.steps, self.images = state["steps"], state["images"]
        self.sums = np.array(state["sums"])


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights and buffers towards the model's; decay weighs the old average."""
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    for averaged, current in pairs:
        if averaged.is_floating_point():
            averaged.lerp_(current, 1 - decay)
        else:
            averaged.copy_(current)
