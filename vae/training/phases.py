"""The two phases of a run: the VAE, then the refiner of what it decodes."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vae.checkpoint import Checkpoint
from vae.data.faces import PackedFaces
from vae.device import autocast
from vae.errors import StopSignal
from vae.latent.codes import image_noise
from vae.models.coding import decode_codes, refine_images
from vae.models.refiner import Refiner, flow_loss
from vae.training.loss import CLASSIC_VARIANCE, Loss, vae_loss
from vae.training.trainer import Trainer
from vae.training.validation import validate, validate_refiner

SKIP_RATE = 0.1
"""learning rate of the linear skip, as a fraction of the layers'"""
REFINER_CLIP_NORM = 1.0
"""maximum gradient norm of the refiner"""


class VAETrainer(Trainer):
    """The VAE in training."""

    TERMS: ClassVar = Loss._fields

    @property
    def trained_vae(self) -> nn.Module:
        """The VAE as it would be used now."""
        return self.averaged_model

    def render(self, z: Tensor) -> Tensor:
        """Return the decoded images of codes z."""
        return decode_codes(self.averaged_model, z)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the layers, and the linear skip, which starts at PCA and moves slowly."""
        named = list(self.model.named_parameters())
        skip = [parameter for name, parameter in named if name.startswith("skip")]
        layers = [parameter for name, parameter in named if not name.startswith("skip")]
        groups = [{"params": layers, "scale": 1.0}]
        return groups + ([{"params": skip, "scale": SKIP_RATE}] if skip else [])

    def losses(self, x: Tensor) -> Loss:
        """Return total = recon + beta * kl, its parts, and the decoder's variance."""
        with autocast(x.device, self.precision):
            x_hat, mu, logvar = self.network(x)
        return vae_loss(x_hat, x, mu, logvar, self.config.beta, self.config.likelihood)

    def validate(self, means: Mapping[str, float], stop: StopSignal | None) -> dict[str, float]:
        """Return the bound and the reconstructions of the val split."""
        settings = (self.config.beta, self.config.seed, self.config.likelihood, means["variance"])
        return validate(self.averaged_model, self.val_batches(), *settings, stop)

    def checkpoint(self, config: dict[str, Any]) -> Checkpoint:
        """Return a checkpoint of the present state, with the settings of the run."""
        return Checkpoint(
            config=config,
            arch=self.model.arch,
            weights=self.averaged_model.state_dict(),
            crop=self.faces.crop,
            digest=self.faces.digest(),
            epoch=self.epoch,
            # of the last epoch
            variance=self.history[-1]["train_variance"] if self.history else CLASSIC_VARIANCE,
            training=self.state(),
        )


@torch.no_grad()
def residual_of(vae: nn.Module, images: Iterable[Tensor]) -> float:
    """Return the standard deviation of what images lose when a VAE reconstructs them from mu.

    At least one step of 8 bits: fewer images than dimensions may lose nothing.
    """
    errors = [
        (x - vae.decode(vae.encode(x)[0]).clamp(0, 1)).square().mean(dim=(1, 2, 3)) for x in images
    ]
    return max(torch.cat(errors).mean().sqrt().item(), 1 / 255)


class RefinerTrainer(Trainer):
    """The refiner in training, on what a trained VAE decodes from posterior samples."""

    TERMS: ClassVar = ("total",)
    prefix: ClassVar = "refiner-"

    def __init__(
        self,
        checkpoint: Checkpoint,
        vae: nn.Module,
        refiner: Refiner,
        faces: PackedFaces,
        config: Any,
        device: torch.device,
        **options: Any,
    ) -> None:
        settings = replace(
            config,
            epochs=config.refiner_epochs,
            batch_size=config.refiner_batch_size,
            learning_rate=config.refiner_learning_rate,
            clip_norm=REFINER_CLIP_NORM,
            # resampling a warped image takes a fifth of its finest detail away
            warp=0.0,
        )
        super().__init__(refiner, faces, settings, device, **options)
        self.vae_checkpoint, self.trained_vae = checkpoint, vae

    def render(self, z: Tensor) -> Tensor:
        """Return the decoded images of codes z, refined."""
        noise = image_noise(self.config.seed, range(len(z)), self.faces.pixels.shape[1])
        steps, strength = self.config.refine_steps, self.config.refine_strength
        x_hat = decode_codes(self.trained_vae, z)
        return refine_images(self.averaged_model, x_hat, noise, steps, strength)

    def losses(self, x: Tensor) -> tuple[Tensor]:
        """Return the mean squared error of the velocity."""
        noise = self.model.noise * torch.randn_like(x)
        time = torch.rand(len(x), device=x.device)
        _, scale, _ = self.model.coefficients(time)
        with autocast(x.device, self.precision):
            with torch.no_grad():
                x_hat = self.trained_vae(x)[0].float().clamp(0, 1)
            return (flow_loss(self.network, scale, x, x_hat, noise, time).mean(),)

    def validate(self, means: Mapping[str, float], stop: StopSignal | None) -> dict[str, float]:
        """Return the loss on the val split."""
        images = self.val_batches()
        return validate_refiner(
            self.trained_vae, self.averaged_model, images, self.config.seed, stop
        )

    def checkpoint(self, config: dict[str, Any]) -> Checkpoint:
        """Return the VAE's checkpoint with the refiner in its present state."""
        refiner = {
            "arch": self.model.arch,
            "weights": self.averaged_model.state_dict(),
            "epoch": self.epoch,
        }
        return replace(self.vae_checkpoint, config=config, refiner=refiner, training=self.state())
