"""Steps, epochs and validation."""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from vae.device import autocast, memory_format
from vae.errors import Interrupted, RunStopped, UserError
from vae.latent import sample_posterior
from vae.loader import PackedFaces, batches, place_pixels
from vae.loss import Loss, kl_divergence, psnr, squared_error, vae_loss
from vae.model import VAE
from vae.parallel import Ranks

READ_EVERY_STEPS = 20


class StopSignal:
    """Notes Ctrl-C and SIGTERM while it is entered, so that work stops where it can go on.

    The second signal is not waited for.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "StopSignal":
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted(number, "not saved again")
        self.received = number

    def check(self, note: str = "") -> None:
        """Raise Interrupted, with a note for the user, if a signal came."""
        if self.received is not None:
            raise Interrupted(self.received, note)


def epoch_order(
    rows: np.ndarray, seed: int, epoch: int, flip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows in the order of an epoch, and which of them are mirrored in it.

    Both depend on seed and epoch alone, so that a resumed run goes on as if never stopped.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(rows)
    mirrored = rng.random(len(rows)) < 0.5 if flip else np.zeros(len(rows), bool)
    return order, mirrored


def seed_noise(seed: int, epoch: int, rank: int = 0, step: int = 0) -> None:
    """Seed torch on all devices with what depends on the arguments alone."""
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, rank, step)).generate_state(1)[0]))


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


def batch_loss(model: nn.Module, x: Tensor, beta: float, precision: str) -> Loss:
    """Return the loss of a batch; convolutions run in the given precision, sums in x's own."""
    with autocast(x.device, precision):
        x_hat, mu, logvar = model(x)
    return vae_loss(x_hat, x, mu.to(x.dtype), logvar.to(x.dtype), beta)


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    beta: float,
    precision: str = "fp32",
    loss_function: Callable[..., Loss] = batch_loss,
) -> Loss:
    """Take one step down the gradient on batch x; return the loss terms before it, detached."""
    loss = loss_function(model, x, beta, precision)
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    optimizer.step()
    # clones: a CUDA graph writes its next loss where it wrote this one
    return Loss(*(term.detach().clone() for term in loss))


class RunningLoss:
    """Sums loss terms over the images of an epoch, reading them from the device once in a while.

    Reading waits for the device, so it is not done every step.
    """

    def __init__(
        self, ranks: Ranks, steps: int = 0, images: int = 0, sums: Sequence[float] = (0, 0, 0)
    ) -> None:
        self.ranks, self.steps, self.images = ranks, steps, images
        self.sums = np.array(sums, np.float64)
        self.unread: list[tuple[Loss, int]] = []

    def add(self, loss: Loss, count: int) -> None:
        """Take in the loss of one step on count images, of all ranks together."""
        self.unread.append((loss, count))
        self.steps += 1
        self.images += count

    def read(self, epoch: int) -> None:
        """Bring the sums up to date. Raises RunStopped, naming the step, if one was not finite."""
        if not self.unread:
            return
        unread = torch.stack([torch.stack(loss) for loss, _ in self.unread])
        terms = self.ranks.mean(unread).cpu().double().numpy()
        for step, values in enumerate(terms, self.steps - len(terms) + 1):
            for name, value in zip(("recon", "kl"), values[1:], strict=True):
                if not math.isfinite(value):
                    raise RunStopped(f"{name} became {value} at epoch {epoch}, step {step}")
        self.sums += np.array([count for _, count in self.unread]) @ terms
        self.unread.clear()

    def means(self) -> Loss:
        """Return the terms read so far, in nats per image."""
        images = self.images - sum(count for _, count in self.unread)
        return Loss(*(self.sums / max(images, 1)).tolist())


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
        *,
        beta: float,
        batch_size: int,
        learning_rate: float,
        flip: bool,
        seed: int,
        precision: str = "fp32",
        compile: bool = False,
        ranks: Ranks = Ranks(),  # noqa: B008  frozen
    ) -> None:
        if batch_size % ranks.size:
            raise UserError(f"--batch-size must be a multiple of {ranks.size} ranks: {batch_size}")
        self.model = model.to(device, memory_format=memory_format(device))
        self.shared_model = ranks.share(self.model)
        self.loss_function = (
            torch.compile(batch_loss, dynamic=False, mode="reduce-overhead")
            if compile
            else batch_loss
        )
        self.optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
        self.faces, self.device, self.precision, self.ranks = faces, device, precision, ranks
        self.resident = place_pixels(faces, device)
        self.beta, self.batch_size, self.flip, self.seed = beta, batch_size, flip, seed
        self.epoch = 0
        self.running = RunningLoss(ranks)
        self.history: list[dict[str, float]] = []

    def run_epoch(self, stop: StopSignal) -> None:
        """Train for an epoch, or what is left of it; validate; add a line to the history.

        Raises Interrupted between two steps if stop says so, RunStopped if the loss is not finite.
        """
        start = time.perf_counter()
        trained = self._train(stop)
        speed = trained / (time.perf_counter() - start)
        val_rows = self.faces.rows("val")
        val_images = batches(
            self.faces,
            val_rows,
            device=self.device,
            label="validating" if self.ranks.is_main else None,
            resident=self.resident,
        )
        # a rank must not leave the others alone: several stop between epochs or steps only
        alone = stop if self.ranks.size == 1 else None
        val = validate(self.model, val_images, self.beta, self.seed, alone)
        means = self.running.means()
        metrics = {"epoch": self.epoch + 1}
        metrics |= {f"train_{name}": value for name, value in means._asdict().items()}
        metrics |= {f"val_{name}": value for name, value in val.items()}
        metrics |= {"images_per_second": speed, "seconds": time.perf_counter() - start}
        self.history.append(metrics)
        self.epoch += 1
        self.running = RunningLoss(self.ranks)

    def step(self, x: Tensor) -> Loss:
        """Take one training step on batch x, this rank's share; return its loss terms."""
        return train_step(
            self.shared_model, self.optimizer, x, self.beta, self.precision, self.loss_function
        )

    def training_batches(self, order: np.ndarray, mirrored: np.ndarray) -> Iterator[Tensor]:
        """Yield this rank's share of each batch of the rows in order, mirrored where told."""
        rank, size = self.ranks.rank, self.ranks.size
        return batches(
            self.faces,
            order[rank::size],
            self.batch_size // size,
            self.device,
            mirrored[rank::size],
            resident=self.resident,
        )

    def _train(self, stop: StopSignal) -> int:
        """Take the epoch's remaining steps; return how many images they saw."""
        epoch, running = self.epoch + 1, self.running
        order, mirrored = epoch_order(self.faces.rows("train"), self.seed, epoch, self.flip)
        # all ranks take the same steps: the few images that do not go round sit this epoch out
        count = len(order) - len(order) % self.ranks.size
        if not running.steps:
            seed_noise(self.seed, epoch, self.ranks.rank)
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
                    bar.set_postfix({name: f"{value:.1f}" for name, value in terms})
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
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(self.device),
            "ranks": self.ranks.size,
            "epoch": self.epoch,
            "steps": self.running.steps,
            "images": self.running.images,
            "sums": self.running.sums.tolist(),
            "history": self.history,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a state. The learning rate stays what it was set to here."""
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.epoch, self.history = state["epoch"], list(state["history"])
        self.running = RunningLoss(self.ranks, state["steps"], state["images"], state["sums"])
        if self.ranks.size == state["ranks"] == 1:
            set_rng_state(state["rng"], self.device)
        else:
            # only rank 0's generators were saved: the rest of the epoch gets noise of its own
            seed_noise(self.seed, self.epoch + 1, self.ranks.rank, state["steps"])


@torch.no_grad()
def validate(
    model: VAE, images: Iterable[Tensor], beta: float, seed: int, stop: StopSignal | None = None
) -> dict[str, float]:
    """Return total, recon, kl in nats per image; sse per image and psnr in dB.

    recon and total are those of z drawn from the posterior with noise that depends on the seed
    and the image alone: a bound comparable with training's. sse and psnr are the
    reconstruction's from mu. Computed in float32 whatever training's precision.

    Raises RunStopped if a term is not finite.
    """
    model.eval()
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    device = model.fc_mu.weight.device
    for x in images:
        x = x.to(device)
        mu, logvar = model.encode(x)
        z = sample_posterior(mu, logvar, seed, first=count)
        recon = squared_error(model.decode(z), x).sum()
        sse = squared_error(model.decode(mu), x).sum()
        sums += torch.stack([recon, kl_divergence(mu, logvar).sum(), sse]).cpu().double()
        count += len(x)
        if stop:
            stop.check()
    recon, kl, sse = (sums / count).tolist()
    if not math.isfinite(recon + kl + sse):
        raise RunStopped(f"validation came to recon {recon}, kl {kl}, sse {sse}")
    image_size = model.arch["image_size"]
    total = recon + beta * kl
    return {"total": total, "recon": recon, "kl": kl, "sse": sse, "psnr": psnr(sse, image_size)}
