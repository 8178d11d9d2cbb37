"""Measure a trained VAE on a split of its data: likelihood, images, codes, attributes, FID.

With --edits, measure attribute edits instead; this needs the two classifiers of train_judge.py.
The numbers are printed, and written as JSON with the protocol they were measured by.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config import DEFAULT_ATTRIBUTES, EvaluateConfig
from vae.editing.steering import keep_still
from vae.errors import UserError, script
from vae.evaluation.edits import measure_methods, seen_on_real_faces
from vae.evaluation.frechet import frechet_distance, load_fid
from vae.evaluation.health import latent_health, squared_distance
from vae.evaluation.metrics import attribute_areas, bits_per_dimension, mean_ssim
from vae.evaluation.report import Section, print_edits, print_report
from vae.files import require_writable, write_text
from vae.flags import read_flags
from vae.latent.codes import sample_posterior
from vae.latent.directions import find_attribute, linear_probe
from vae.models.judge import Judge
from vae.pictures.figures import save_latent_health
from vae.run import OpenedJudge, Run, open_judge, open_run
from vae.training.validation import validate


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Configure, open the run, find the faces, measure and report."""
    config = read_flags(EvaluateConfig, argv, __doc__)
    run = open_run(config.checkpoint, config.device, config.data)
    name = "edits" if config.edits else f"evaluation-{config.split}"
    output = Path(config.output or run.folder / f"{name}.json")
    require_writable(output)
    trained = run.checkpoint.config
    scale = trained["temperature"] if config.temperature is None else config.temperature
    config = replace(config, prior=config.prior or trained["prior"], temperature=scale)
    rows = run.faces.rows(config.split)
    if config.edits:
        report_edits(run, config, rows, output)
    else:
        report_model(run, config, rows, output)


def report_model(run: Run, config: EvaluateConfig, rows: np.ndarray, output: Path) -> None:
    """Measure the model itself; print and write the report."""
    # FID first: a mistake in --fid-weights is found before the long work
    report = {"protocol": describe(run, config, rows), "samples": measure_fid(run, config, rows)}
    mu, logvar = run.encode(run.images(rows, "encoding"))
    report |= measure_images(run, config, rows, mu)
    gaussian = run.prior("gaussian")
    mean, covariance = gaussian.means[0], gaussian.covariances[0]
    codes = {"faces": sample_posterior(mu, logvar, config.seed)}
    codes["standard"] = run.prior("standard").sample(config.seed, range(len(rows)))
    if config.prior != "standard":
        codes[config.prior] = draw_codes(run, config, len(rows))
    medians = {
        f"distance_{kind}": squared_distance(z, mean, covariance).median().item()
        for kind, z in codes.items()
    }
    report["codes"] = latent_health(mu, logvar, mean, covariance) | medians
    report["attributes"] = measure_attributes(run, config, rows, mu)
    print_report(report)
    title = f"{run.path}, epoch {run.checkpoint.epoch}: codes of {len(rows):,} {config.split} faces"
    print(write_text(output, json.dumps(report, indent=2) + "\n"))
    print(save_latent_health(report["codes"], output.with_suffix(".png"), title))


def report_edits(run: Run, config: EvaluateConfig, rows: np.ndarray, output: Path) -> None:
    """Measure the methods' edits of each attribute; print and write the report."""
    judges = {role: open_judge(role, run, config.judges) for role in ("guide", "judge")}
    guide, judge = judges["guide"].model, judges["judge"].model
    names = run.chosen_attributes(config.attribute, DEFAULT_ATTRIBUTES)
    # all attributes first: one that cannot be measured is found before the long work
    chosen = {name: choose_rows(run, config, rows, name) for name in names}
    directions = {name: find_directions(run, config, guide, name) for name in names}
    report = {"protocol": describe(run, config, rows) | describe_judges(run, judges)}
    print_report(report)
    for name in names:
        having, lacking = chosen[name]
        mu, _ = run.encode(run.images(lacking, "encoding"))
        report[name] = measure_methods(
            run.decode, guide, judge, mu, directions[name], name, config.to
        )
        x = torch.cat([x.cpu() for x in run.images(having, "reconstructing")])
        mu, _ = run.encode(x)
        report[name]["having"] = seen_on_real_faces(run.decode, judge, x, mu, name)
        print_edits(report[name])
    print(write_text(output, json.dumps(report, indent=2) + "\n"))


def describe(run: Run, config: EvaluateConfig, rows: np.ndarray) -> Section:
    """Return the protocol: what the numbers were measured on, and how."""
    trained = run.checkpoint.config
    return {
        "checkpoint": str(run.path),
        "epoch": run.checkpoint.epoch,
        **{name: trained[name] for name in ("recipe", "likelihood", "beta")},
        "data": config.data or trained["data"],
        "split": config.split,
        "n": len(rows),
        "faces": run.faces.digest(),
        "trained_on": run.checkpoint.digest,
        "crop": run.faces.crop,
        "resize": "bicubic",
        "image_size": run.arch["image_size"],
        "prior": config.prior,
        "temperature": config.temperature,
        "seed": config.seed,
    }


def draw_codes(run: Run, config: EvaluateConfig, count: int) -> Tensor:
    """Return codes (count, D) from the prior of the report."""
    return run.prior(config.prior).sample(config.seed, range(count), config.temperature)


def measure_fid(run: Run, config: EvaluateConfig, rows: np.ndarray) -> Section:
    """Return the FID between the split's faces and samples, or say what is missing."""
    if config.fid_weights is None:
        return {"not_measured": "FID needs --fid-weights, torchmetrics and torch-fidelity"}
    metric = load_fid(Path(config.fid_weights), run.device)
    samples = (run.decode(z) for z in draw_codes(run, config, config.samples).split(128))
    fid = frechet_distance(metric, run.images(rows, "features of faces"), samples)
    return {"fid": fid, "faces": len(rows), "samples": config.samples}


def measure_images(
    run: Run, config: EvaluateConfig, rows: np.ndarray, mu: Tensor
) -> dict[str, Section]:
    """Return the terms of the likelihood, and the quality of the reconstructions from mu."""
    trained, variance = run.checkpoint.config, run.checkpoint.variance
    images, settings = run.images(rows, "validating"), (trained["likelihood"], variance)
    numbers = validate(run.model, images, trained["beta"], config.seed, *settings)
    likelihood = {name: numbers[name] for name in ("total", "recon", "kl")}
    likelihood["sigma"] = variance**0.5
    likelihood["bits_per_dimension"] = bits_per_dimension(
        numbers["recon"], numbers["kl"], variance, count=3 * run.arch["image_size"] ** 2
    )
    pairs = zip(mu.split(128), run.images(rows, "comparing"), strict=True)
    similarity = mean_ssim((run.decode(part), x.cpu()) for part, x in pairs)
    reconstruction = {"sse": numbers["sse"], "psnr": numbers["psnr"], "ssim": similarity}
    return {"likelihood": likelihood, "reconstruction": reconstruction}


def measure_attributes(run: Run, config: EvaluateConfig, rows: np.ndarray, mu: Tensor) -> Section:
    """Return the AUC of a linear probe of mu for each attribute, or why it is not measured."""
    if run.faces.attributes is None:
        return {"not_measured": "the data has no attributes"}
    if config.split == "train":
        return {"not_measured": "the probe is fitted to the training faces: pass --split test"}
    names = list(run.faces.attribute_names)
    if run.statistics.get("attribute_names") != names:
        return {"not_measured": "the run was trained with other attributes, or none"}
    known = np.isin(rows, run.faces.with_attributes(rows))
    has = torch.from_numpy(run.faces.attributes[rows[known]])
    return attribute_areas(mu[known].double() @ linear_probe(run.statistics).T, has, names)


def describe_judges(run: Run, judges: Mapping[str, OpenedJudge]) -> Section:
    """Return which guide and judge were used, and how well they see attributes and people."""
    section: Section = {}
    for role, opened in judges.items():
        same = opened.checkpoint.digest == run.faces.digest()
        section |= {role: str(opened.path), f"{role}_faces": "the same set" if same else "another"}
        section[f"{role}_mean_auc"] = opened.checkpoint.attributes["mean_auc"]
    identity = judges["judge"].checkpoint.identity
    return section | {"identity_auc": identity and identity["auc"]}


def choose_rows(
    run: Run, config: EvaluateConfig, rows: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of the split with an attribute and without it, at most --count of each."""
    if run.faces.attributes is None:
        raise UserError("edits are measured on faces with known attributes; the data has none")
    rows = run.faces.with_attributes(rows)
    has = run.faces.attributes[rows, find_attribute(name, run.faces.attribute_names)]
    having, lacking = rows[has][: config.count], rows[~has][: config.count]
    if min(len(having), len(lacking)) < 2:
        found = f"{has.sum():,} of the {has.size:,} {config.split} faces have it"
        raise UserError(f"{name}: {found}; measuring needs two with it and two without")
    return having, lacking


def find_directions(run: Run, config: EvaluateConfig, guide: Judge, name: str) -> dict[str, Tensor]:
    """Return the direction of an attribute by each method; with --keep also the corrected ones."""
    directions = {method: run.direction(name, method) for method in config.method}
    column, keep = run.column(name), config.keep
    return directions | {
        f"{method}, keeping {' '.join(keep)}": keep_still(
            run.decode, guide, run.statistics, column, direction, keep
        )
        for method, direction in (directions.items() if keep else ())
    }


if __name__ == "__main__":
    sys.exit(main())
