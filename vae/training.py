"""Steps, epochs and validation."""

import math
import signal
import time
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from vae.device import autocast, memory_format
from vae.errors import Interrupted, RunStopped
from vae.latent import sample_posterior
from vae.loader import PackedFaces, batches
from vae.loss import Loss, kl_divergence, psnr, squared_error, vae_loss
from vae.model import VAE

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


def seed_noise(seed: int, epoch: int) -> None:
    """Seed torch on all devices with what depends on seed and epoch alone."""
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))


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


def train_step(
    model: VAE, optimizer: Optimizer, x: Tensor, beta: float, precision: str = "fp32"
) -> Loss:
    """Take one step down the gradient on batch x; return the loss terms before it, detached."""
    with autocast(x.device, precision):
        x_hat, mu, logvar = model(x)
    loss = vae_loss(x_hat, x, mu.to(x.dtype), logvar.to(x.dtype), beta)
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    optimizer.step()
    return Loss(*(term.detach() for term in loss))


class RunningLoss:
    """Sums loss terms over the images of an epoch, reading them from the device once in a while.

    Reading waits for the device, so it is not done every step.
    """

    def __init__(self, steps: int = 0, images: int = 0, sums: Sequence[float] = (0, 0, 0)) -> None:
        self.steps, self.images = steps, images
        self.sums = np.array(sums, np.float64)
        self.unread: list[tuple[Loss, int]] = []

    def add(self, loss: Loss, count: int) -> None:
        """Take in the loss of one step on count images."""
        self.unread.append((loss, count))
        self.steps += 1
        self.images += count

    def read(self, epoch: int) -> None:
        """Bring the sums up to date. Raises RunStopped, naming the step, if one was not finite."""
        if not self.unread:
            return
        terms = torch.stack([torch.stack(loss) for loss, _ in self.unread]).cpu().double().numpy()
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
    ) -> None:
        self.model = model.to(device, memory_format=memory_format(device))
        self.optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
        self.faces, self.device, self.precision = faces, device, precision
        self.beta, self.batch_size, self.flip, self.seed = beta, batch_size, flip, seed
        self.epoch = 0
        self.running = RunningLoss()
        self.history: list[dict[str, float]] = []

    def run_epoch(self, stop: StopSignal) -> None:
        """Train for an epoch, or what is left of it; validate; add a line to the history.

        Raises Interrupted between two steps if stop says so, RunStopped if the loss is not finite.
        """
        start = time.perf_counter()
        trained = self._train(stop)
        speed = trained / (time.perf_counter() - start)
        val_rows = self.faces.rows("val")
        val_images = batches(self.faces, val_rows, device=self.device, label="validating")
        val = validate(self.model, val_images, self.beta, self.seed, stop)
        means = self.running.means()
        metrics = {"epoch": self.epoch + 1}
        metrics |= {f"train_{name}": value for name, value in means._asdict().items()}
        metrics |= {f"val_{name}": value for name, value in val.items()}
        metrics |= {"images_per_second": speed, "seconds": time.perf_counter() - start}
        self.history.append(metrics)
        self.epoch += 1
        self.running = RunningLoss()

    def _train(self, stop: StopSignal) -> int:
        """Take the epoch's remaining steps; return how many images they saw."""
        epoch, running = self.epoch + 1, self.running
        order, mirrored = epoch_order(self.faces.rows("train"), self.seed, epoch, self.flip)
        if not running.steps:
            seed_noise(self.seed, epoch)
        done = running.images
        left = batches(self.faces, order[done:], self.batch_size, self.device, mirrored[done:])
        self.model.train()
        with tqdm(
            total=len(order), initial=done, desc=f"epoch {epoch}", unit="image", disable=None
        ) as bar:
            for x in left:
                loss = train_step(self.model, self.optimizer, x, self.beta, self.precision)
                running.add(loss, len(x))
                bar.update(len(x))
                if running.steps % READ_EVERY_STEPS == 0:
                    running.read(epoch)
                    terms = running.means()._asdict().items()
                    bar.set_postfix({name: f"{value:.1f}" for name, value in terms})
                stop.check()
            running.read(epoch)
        return len(order) - done

    def state(self) -> dict[str, Any]:
        """Return all that load_state needs to go on from here."""
        self.running.read(self.epoch + 1)
        return {
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(self.device),
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
        set_rng_state(state["rng"], self.device)
        self.epoch, self.history = state["epoch"], list(state["history"])
        self.running = RunningLoss(state["steps"], state["images"], state["sums"])


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
