"""Measure a trained VAE on a split of its data: likelihood, pictures, codes, attributes, samples.

With --edits, measure instead what attribute edits do to faces, by a judge (train_judge.py).
The numbers are printed and written as JSON with the protocol that they were measured by; a figure
beside it shows how far the codes are from N(0, I).
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config import EvaluateConfig, read_flags, resolve
from vae.celeba import ATTRIBUTE_NAMES, find_attribute
from vae.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_model,
    require_prior,
    require_statistics,
)
from vae.device import pick_device
from vae.directions import attribute_direction
from vae.edits import keep_still, measure_methods, seen_on_real_faces
from vae.errors import UserError, script
from vae.figures import save_latent_health, save_shifts
from vae.files import write_text
from vae.inception import feature_distances, inception_features, load_inception
from vae.judge import Judge, JudgeCheckpoint, mean_auc, open_judge
from vae.latent import decode_codes, encode_batches, sample_posterior
from vae.loader import PackedFaces, batches, load_run_faces
from vae.metrics import (
    bits_per_dimension,
    correlations,
    latent_health,
    probe_attributes,
    squared_distance,
    ssim,
)
from vae.model import VAE
from vae.prior import Mixture
from vae.report import Section, edit_lines, print_report
from vae.training import validate


@dataclass(frozen=True)
class Job:
    """What all sections of a report are measured on."""

    config: EvaluateConfig
    path: Path
    model: VAE
    checkpoint: Checkpoint
    faces: PackedFaces
    rows: np.ndarray

    def images(self, rows: np.ndarray, label: str) -> Iterator[Tensor]:
        """Yield these rows' faces, in order."""
        device = self.model.fc_mu.weight.device
        return batches(self.faces, rows, device=device, label=label)

    @cached_property
    def codes(self) -> tuple[Tensor, Tensor]:
        """mu and logvar of the split's faces, (N, D)."""
        return encode_batches(self.model, self.images(self.rows, "encoding"))

    @property
    def prior_name(self) -> str:
        return self.config.prior or self.checkpoint.config["prior"]

    @property
    def temperature(self) -> float:
        asked = self.config.temperature
        return self.checkpoint.config["temperature"] if asked is None else asked

    def prior(self, name: str) -> Mixture:
        """Return the prior of this name for the checkpoint's codes."""
        return require_prior(self.path, self.model, self.checkpoint, name, self.config.data)

    @cached_property
    def aggregate(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) of the training faces' codes, posteriors and all."""
        gaussian = self.prior("gaussian")
        return gaussian.means[0], gaussian.covariances[0]

    @cached_property
    def distances(self) -> dict[str, Tensor]:
        """How far the split's codes, N(0, I)'s and the prior's are from the training codes."""
        codes = {"faces": sample_posterior(*self.codes, self.config.seed)}
        rows = range(len(self.rows))
        codes["standard"] = self.prior("standard").sample(self.config.seed, rows)
        if self.prior_name != "standard":
            codes[self.prior_name] = self.drawn_codes(len(rows))
        return {kind: squared_distance(z, *self.aggregate) for kind, z in codes.items()}

    def drawn_codes(self, count: int) -> Tensor:
        """Return codes (count, D) from the report's prior at its temperature."""
        prior = self.prior(self.prior_name)
        return prior.sample(self.config.seed, range(count), self.temperature)


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Load a model and its faces, measure, print and write the numbers and their protocol."""
    config, _ = resolve(EvaluateConfig, flag=read_flags(EvaluateConfig, argv, __doc__))
    path = find_checkpoint(config.checkpoint)
    model, checkpoint = load_model(path, pick_device(config.device))
    faces = load_run_faces(checkpoint.config, config.data, checkpoint.crop)
    job = Job(config, path, model, checkpoint, faces, faces.rows(config.split))
    name = "edits" if config.edits else f"evaluation-{config.split}"
    output = Path(config.output or path.parent / f"{name}.json")
    (report_edits if config.edits else report_model)(job, output)


def report_model(job: Job, output: Path) -> None:
    """Measure the model itself; print and write the report."""
    # samples first: a mistake in --fid-weights is said before the long work
    report = {
        "protocol": describe(job),
        "samples": measure_samples(job),
        **measure_images(job),
        "codes": measure_codes(job),
        "attributes": measure_attributes(job),
    }
    print_report(report)
    write_text(output, json.dumps(report, indent=2) + "\n")
    figure = output.with_suffix(".png")
    draw_codes(job, report["codes"], figure)
    print(output, figure, sep="\n")


def report_edits(job: Job, output: Path) -> None:
    """Measure the methods' edits, attribute by attribute; print and write the report."""
    device = pick_device(job.config.device)
    judges = {
        role: open_judge(role, getattr(job.config, role), job.checkpoint, device)
        for role in ("guide", "judge")
    }
    names = [ATTRIBUTE_NAMES[find_attribute(name)] for name in job.config.attribute]
    guide = judges["guide"][1]
    rows = {name: pick_rows(job, name) for name in names}
    directions = {name: find_directions(job, guide, name) for name in names}
    report = {"protocol": describe(job) | describe_judges(job, judges)}
    print_report(report)
    for name in names:
        report[name] = measure_edits(job, judges, name, directions[name], *rows[name])
        print(*edit_lines(report[name]), "", sep="\n")
    write_text(output, json.dumps(report, indent=2) + "\n")
    figures = [output.with_name(f"{output.stem}-{name}.png") for name in names]
    for name, figure in zip(names, figures, strict=True):
        save_shifts(report[name], figure)
    print(output, *figures, sep="\n")


def describe(job: Job) -> Section:
    """Return the protocol: what the numbers were measured on, and how."""
    trained = job.checkpoint.config
    return {
        "checkpoint": str(job.path),
        "epoch": job.checkpoint.training["epoch"],
        "recipe": trained["recipe"],
        "likelihood": trained["likelihood"],
        "beta": trained["beta"],
        "data": job.config.data or trained["data"],
        "split": job.config.split,
        "n": len(job.rows),
        "faces": job.faces.digest(),
        "trained_on": job.checkpoint.digest,
        "crop": job.faces.crop,
        "resize": "bicubic",
        "image_size": job.model.arch["image_size"],
        "prior": job.prior_name,
        "temperature": job.temperature,
        "seed": job.config.seed,
    }


def measure_images(job: Job) -> dict[str, Section]:
    """Return the terms of the likelihood, and what the reconstructions from mu are like."""
    beta, variance = job.checkpoint.config["beta"], job.checkpoint.training["variance"]
    images = job.images(job.rows, "validating")
    numbers = validate(job.model, images, beta, job.config.seed, variance)
    likelihood = {name: numbers[name] for name in ("total", "recon", "kl")}
    likelihood["sigma"] = variance**0.5
    likelihood["bits_per_dimension"] = bits_per_dimension(
        numbers["recon"], numbers["kl"], variance, count=3 * job.model.arch["image_size"] ** 2
    )
    mu, _ = job.codes
    pairs = zip(mu.split(128), job.images(job.rows, "comparing"), strict=True)
    likeness = torch.cat([ssim(decode_codes(job.model, part), x.cpu()) for part, x in pairs])
    reconstruction = {"sse": numbers["sse"], "psnr": numbers["psnr"]}
    reconstruction["ssim"] = likeness.double().mean().item()
    return {"likelihood": likelihood, "reconstruction": reconstruction}


def measure_codes(job: Job) -> Section:
    """Return the latent health report: the codes beside N(0, I)."""
    health = latent_health(*job.codes, *job.aggregate)
    medians = {f"distance_{kind}": d.median().item() for kind, d in job.distances.items()}
    return {**health, **medians}


def draw_codes(job: Job, health: Section, path: Path) -> None:
    """Write the figure of the latent health report."""
    title = f"{job.path}, epoch {job.checkpoint.training['epoch']}: "
    title += f"the codes of {len(job.rows):,} {job.config.split} faces, and all training codes"
    save_latent_health(health, correlations(job.aggregate[1]), job.distances, path, title)


def measure_attributes(job: Job) -> Section:
    """Return how well a straight line reads each attribute off mu, or why that is not known."""
    if job.faces.attributes is None:
        return {"not_measured": "the data has no list_attr_celeba.txt"}
    if job.config.split == "train":
        return {"not_measured": "a probe is judged by faces it was not fitted to: --split test"}
    config, checkpoint = job.config, job.checkpoint
    statistics = require_statistics(job.path, job.model, checkpoint, config.data)
    if "logistic_normals" not in statistics:
        return {"not_measured": "the run was trained without list_attr_celeba.txt"}
    has = torch.from_numpy(job.faces.attributes[job.rows])
    return probe_attributes(statistics["logistic_normals"], job.codes[0], has, ATTRIBUTE_NAMES)


def measure_samples(job: Job) -> Section:
    """Return FID and KID of the prior's faces beside the split's, or what they need."""
    if job.config.fid_weights is None:
        return {"not_measured": "FID and KID need --fid-weights, torchmetrics and torch-fidelity"}
    network = load_inception(Path(job.config.fid_weights), job.model.fc_mu.weight.device)
    real = inception_features(network, job.images(job.rows, "features of faces"))
    z = job.drawn_codes(job.config.samples)
    drawn = (decode_codes(job.model, part) for part in z.split(128))
    distances = feature_distances(real, inception_features(network, drawn), job.config.seed)
    return {**distances, "faces": len(job.rows), "drawn": job.config.samples}


def describe_judges(job: Job, judges: Mapping[str, tuple[Path, Judge, JudgeCheckpoint]]) -> Section:
    """Return which judges steered and scored, and how well they see and tell people apart."""
    section: Section = {}
    for role, (path, _, checkpoint) in judges.items():
        same = checkpoint.digest == job.faces.digest()
        section |= {role: str(path), f"{role}_faces": "the same set" if same else "another set"}
        section[f"{role}_mean_auc"] = mean_auc(checkpoint.attributes)
    identity = judges["judge"][2].identity
    section["identity_auc"] = identity and identity["held_out"]["auc"]
    return {name: value for name, value in section.items() if value is not None}


def find_directions(job: Job, guide: Judge, name: str) -> dict[str, Tensor]:
    """Return each method's direction of an attribute; with --keep, also what keeps these."""
    checkpoint, keep = job.checkpoint, job.config.keep
    statistics = require_statistics(job.path, job.model, checkpoint, job.config.data)
    directions = {
        method: attribute_direction(statistics, name, method) for method in job.config.method
    }
    if not keep:
        return directions
    return directions | {
        f"{method}, keeping {' '.join(keep)}": keep_still(
            job.model, guide, statistics, name, direction, keep
        )
        for method, direction in directions.items()
    }


def pick_rows(job: Job, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the split's faces are looked at: those with an attribute, those without."""
    if job.faces.attributes is None:
        raise UserError("edits are measured on faces of known attributes: list_attr_celeba.txt")
    has = job.faces.attributes[job.rows, find_attribute(name)]
    having, lacking = job.rows[has][: job.config.count], job.rows[~has][: job.config.count]
    if min(len(having), len(lacking)) < 2:
        split = job.config.split
        found = f"{has.sum():,} of the {has.size:,} {split} faces have it"
        raise UserError(f"{name}: {found}; measuring needs two with it and two without")
    return having, lacking


def measure_edits(
    job: Job,
    judges: Mapping[str, tuple[Path, Judge, JudgeCheckpoint]],
    name: str,
    directions: Mapping[str, Tensor],
    having: np.ndarray,
    lacking: np.ndarray,
) -> Section:
    """Return what the methods do to faces without an attribute, at matched success."""
    (_, guide, _), (_, judge, _) = judges["guide"], judges["judge"]
    mu, _ = encode_batches(job.model, job.images(lacking, "encoding"))
    measured = measure_methods(job.model, guide, judge, mu, directions, name, job.config.to)
    x = torch.cat([x.cpu() for x in job.images(having, "looking")])
    mu, _ = encode_batches(job.model, x.split(128))
    return measured | {"having": seen_on_real_faces(job.model, judge, x, mu, name)}


if __name__ == "__main__":
    sys.exit(main())
