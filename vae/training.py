"""Epochs and validation: a run, where it stands, and how it goes on."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from vae.device import memory_format
from vae.errors import RunStopped, StopSignal, UserError
from vae.latent import sample_posterior
from vae.loader import PackedFaces, batches, place_pixels
from vae.loss import CLASSIC_VARIANCE, Loss, gaussian_nll, kl_divergence, psnr, squared_error
from vae.model import VAE
from vae.parallel import ALONE, Ranks
from vae.schedule import beta_at, epoch_order, learning_rate_at, seed_noise
from vae.steps import RunningLoss, batch_loss, descend

READ_EVERY_STEPS = 20


@dataclass(frozen=True)
class Hyperparameters:
    """What is minimised, and how. train.py takes each from the configuration's field."""

    likelihood: str
    """classic: the decoder's variance is 1/2; calibrated: it is each batch's optimum"""
    beta: float
    beta_warmup_epochs: float
    epochs: int
    batch_size: int
    """of all ranks together"""
    learning_rate: float
    """the schedule's peak"""
    schedule: str
    """constant or one-cycle"""
    clip_norm: float
    """largest norm of a step's gradient; 0: any"""
    ema_decay: float
    """of the weights' moving average, a step; 0: none is kept"""
    flip: bool
    seed: int

    @property
    def variance(self) -> float | None:
        """The decoder's variance; None where each batch's optimum is taken."""
        return CLASSIC_VARIANCE if self.likelihood == "classic" else None


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators that training on device draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Take up the states that rng_state returned; those of other devices are left out."""
    torch.set_rng_state(state["cpu"])
    if device.type != "cpu" and device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type])


class Trainer:
    """A model in training: where it stands, and how it goes on.

    All randomness of an epoch depends on the seed and the epoch's number, so a run that stopped
    and went on ends with the weights of one that never stopped.
    """

    def __init__(
        self,
        model: VAE,
        faces: PackedFaces,
        device: torch.device,
        settings: Hyperparameters,
        *,
        precision: str = "fp32",
        compile: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        if settings.batch_size % ranks.size:
            given = settings.batch_size
            raise UserError(f"--batch-size must be a multiple of {ranks.size} ranks: {given}")
        self.settings, self.faces, self.device = settings, faces, device
        self.precision, self.ranks = precision, ranks
        self.model = model.to(device, memory_format=memory_format(device))
        # it counts on the CPU, where asking for the count does not wait for the device
        self.average = (
            AveragedModel(self.model, multi_avg_fn=self._mix, use_buffers=True)
            if settings.ema_decay
            else None
        )
        self.shared_model = ranks.share(self.model)
        self.loss_function: Callable[..., Loss] = (
            torch.compile(batch_loss, dynamic=False, mode="reduce-overhead")
            if compile
            else batch_loss
        )
        self.optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate, fused=True)
        self.resident = place_pixels(faces, device)
        # all ranks take the same steps: the few images that do not go round sit an epoch out
        count = len(faces.rows("train"))
        if count < 2:
            raise UserError("the train split has one face, and its codes have no covariance")
        self.images_an_epoch = count - count % ranks.size
        self.steps_an_epoch = -(-self.images_an_epoch // settings.batch_size)
        self.epoch = 0
        self.variance = CLASSIC_VARIANCE
        self.running = RunningLoss(ranks)
        self.history: list[dict[str, float]] = []

    @property
    def averaged_model(self) -> VAE:
        """The model that is shown and measured: the moving average of the weights, if one is kept.

        Without one, the model in training itself.
        """
        return self.average.module if self.average else self.model

    @property
    def steps_done(self) -> int:
        """Training steps since the run began."""
        return self.epoch * self.steps_an_epoch + self.running.steps

    def run_epoch(self, stop: StopSignal) -> None:
        """Train for an epoch, or what is left of it; validate; add a line to the history.

        Raises Interrupted between two steps if stop says so, RunStopped if the loss is not finite.
        """
        start = time.perf_counter()
        trained = self._train(stop)
        speed = trained / (time.perf_counter() - start)
        means = self.running.means()
        if self.settings.variance is None:
            self.variance = means.variance
        metrics = {"epoch": self.epoch + 1}
        metrics |= {f"train_{name}": value for name, value in means._asdict().items()}
        metrics |= {f"val_{name}": value for name, value in self._validate(stop).items()}
        metrics |= {"images_per_second": speed, "seconds": time.perf_counter() - start}
        self.history.append(metrics)
        self.epoch += 1
        self.running = RunningLoss(self.ranks)

    def _validate(self, stop: StopSignal) -> dict[str, float]:
        images = batches(
            self.faces,
            self.faces.rows("val"),
            device=self.device,
            label="validating" if self.ranks.is_main else None,
            resident=self.resident,
        )
        settings = self.settings
        # a rank must not leave the others alone: several stop between epochs or steps only
        alone = stop if self.ranks.size == 1 else None
        return validate(
            self.averaged_model, images, settings.beta, settings.seed, self.variance, alone
        )

    def loss(self, x: Tensor) -> Loss:
        """Return the loss of batch x, this rank's share, at the step that the run has come to."""
        settings = self.settings
        warmup_steps = settings.beta_warmup_epochs * self.steps_an_epoch
        beta = beta_at(self.steps_done, settings.beta, warmup_steps)
        # filled on the device: a number would be compiled in, and copying one would wait
        beta = torch.full((), beta, device=self.device)
        return self.loss_function(
            self.shared_model, x, beta, self.precision, settings.variance, self.ranks
        )

    def step(self, x: Tensor) -> Loss:
        """Take one training step on batch x, this rank's share; return its loss terms."""
        settings = self.settings
        steps = settings.epochs * self.steps_an_epoch
        rate = learning_rate_at(self.steps_done, steps, settings.learning_rate, settings.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = descend(self.optimizer, self.loss(x), settings.clip_norm)
        if self.average:
            self.average.update_parameters(self.model)
        return loss

    def _mix(self, averages: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
        """Move each average towards the weights.

        Early in a run the decay is (1 + steps) / (10 + steps), so that an average of few steps is
        not one of the first weights (as tf.train.ExponentialMovingAverage does).
        """
        decay = min(self.settings.ema_decay, (1 + self.steps_done) / (10 + self.steps_done))
        get_ema_multi_avg_fn(decay)(averages, weights, count)

    def training_batches(self, order: np.ndarray, mirrored: np.ndarray) -> Iterator[Tensor]:
        """Yield this rank's share of each batch of the rows in order, mirrored where told."""
        rank, size = self.ranks.rank, self.ranks.size
        return batches(
            self.faces,
            order[rank::size],
            self.settings.batch_size // size,
            self.device,
            mirrored[rank::size],
            resident=self.resident,
        )

    def _train(self, stop: StopSignal) -> int:
        """Take the epoch's remaining steps; return how many images they saw."""
        epoch, running, settings = self.epoch + 1, self.running, self.settings
        rows, count = self.faces.rows("train"), self.images_an_epoch
        order, mirrored = epoch_order(rows, settings.seed, epoch, settings.flip)
        if not running.steps:
            seed_noise(settings.seed, epoch, self.ranks.rank)
        done = running.images
        self.model.train()
        with tqdm(
            total=count,
            initial=done,
            desc=f"epoch {epoch}",
            unit="image",
            disable=None if self.ranks.is_main else True,
        ) as bar:
            for x in self.training_batches(order[done:count], mirrored[done:count]):
                images = len(x) * self.ranks.size
                running.add(self.step(x), images)
                bar.update(images)
                if running.steps % READ_EVERY_STEPS == 0:
                    running.read(epoch)
                    terms = running.means()._asdict().items()
                    bar.set_postfix({name: f"{value:.5g}" for name, value in terms})
                    self._agree(stop)
                if self.ranks.size == 1 or not running.unread:
                    stop.check()
            running.read(epoch)
            self._agree(stop)
            stop.check()
        return count - done

    def _agree(self, stop: StopSignal) -> None:
        """Let a signal that one rank received be known to all."""
        stop.received = self.ranks.largest(stop.received or 0, self.device) or None

    def state(self) -> dict[str, Any]:
        """Return all that load_state needs to go on from here."""
        self.running.read(self.epoch + 1)
        return {
            "weights": self.model.state_dict(),
            "average": self.average.module.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(self.device),
            "ranks": self.ranks.size,
            "epoch": self.epoch,
            "variance": self.variance,
            "steps": self.running.steps,
            "images": self.running.images,
            "sums": self.running.sums.tolist(),
            "history": self.history,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a state. The learning rate is what it is set to here."""
        self.model.load_state_dict(state["weights"])
        if self.average:
            self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.history = state["epoch"], list(state["history"])
        self.variance = state["variance"]
        self.running = RunningLoss(self.ranks, state["steps"], state["images"], state["sums"])
        if self.average:
            self.average.n_averaged.fill_(self.steps_done)
        if self.ranks.size == state["ranks"] == 1:
            set_rng_state(state["rng"], self.device)
        else:
            # only rank 0's generators were saved: the rest of the epoch gets noise of its own
            seed = self.settings.seed
            seed_noise(seed, self.epoch + 1, self.ranks.rank, state["steps"])


@torch.no_grad()
def validate(
    model: VAE,
    images: Iterable[Tensor],
    beta: float,
    seed: int,
    variance: float = CLASSIC_VARIANCE,
    stop: StopSignal | None = None,
) -> dict[str, float]:
    """Return total, recon, kl in nats per image; sse per image and psnr in dB.

    recon and total are those of z drawn from the posterior with noise that depends on the seed
    and the image alone: a bound comparable with training's. variance is the decoder's. sse and
    psnr are the reconstruction's from mu. Computed in float32 whatever training's precision.

    Raises RunStopped if a term is not finite.
    """
    model.eval()
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    device = model.fc_mu.weight.device
    for x in images:
        x = x.to(device)
        mu, logvar = model.encode(x)
        z = sample_posterior(mu, logvar, seed, first=count)
        sampled = squared_error(model.decode(z), x).sum()
        sse = squared_error(model.decode(mu), x).sum()
        sums += torch.stack([sampled, kl_divergence(mu, logvar).sum(), sse]).cpu().double()
        count += len(x)
        if stop:
            stop.check()
    sampled, kl, sse = sums / count
    image_size = model.arch["image_size"]
    recon = gaussian_nll(sampled, variance, 3 * image_size**2).item()
    kl, sse = kl.item(), sse.item()
    if not math.isfinite(recon + kl + sse):
        raise RunStopped(f"validation came to recon {recon}, kl {kl}, sse {sse}")
    total = recon + beta * kl
    return {"total": total, "recon": recon, "kl": kl, "sse": sse, "psnr": psnr(sse, image_size)}
