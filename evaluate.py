"""Measure a trained VAE on a split of its data: likelihood, images, codes, attributes, samples.

PCA of the same dimension is measured beside it. Samples are compared with held-out faces, and
searched for copies of training faces, in the features of the judge (train_judge.py).
With --edits, measure attribute edits instead; this needs the guide and the judge.
The numbers are printed, and written as JSON with the protocol they were measured by.
"""

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    # until main begins, Ctrl-C ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # figures are files: the backend that a notebook exports may not be here
    os.environ.pop("MPLBACKEND", None)

import numpy as np
import torch
from torch import Tensor

from config import DEFAULT_ATTRIBUTES, EvaluateConfig
from vae.data.batches import batches
from vae.editing.steering import keep_still
from vae.errors import UserError, script
from vae.evaluation.copies import Seen, measure_copies, see
from vae.evaluation.distributions import HELD_OUT, NEIGHBOURS, compare, held_out_halves
from vae.evaluation.edits import measure_methods, seen_on_faces
from vae.evaluation.fid import inception_distance, load_fid
from vae.evaluation.health import latent_health, squared_distance
from vae.evaluation.metrics import attribute_areas, bits_per_dimension, compare_images
from vae.evaluation.report import Section, print_edits, print_report
from vae.files import require_writable, write_text
from vae.flags import read_flags
from vae.latent.codes import sample_posterior
from vae.latent.directions import find_attribute, linear_probe
from vae.models.judge import Judge
from vae.models.pca import PCA, fit_pca, rows_to_fit
from vae.pictures.figures import save_latent_health
from vae.run import OpenedJudge, Run, open_judge, open_run
from vae.training.validation import validate

OTHER_FACES = "it needs the run's training faces, and the data has others"


@script
def main(argv: Sequence[str] | None = None) -> None:
    """Configure, open the run, find the faces, measure and report."""
    config = read_flags(EvaluateConfig, argv, __doc__)
    run = open_run(config.checkpoint, config.device, config.data)
    name = "edits" if config.edits else f"evaluation-{config.split}"
    output = Path(config.output or run.folder / f"{name}.json")
    require_writable(output)
    trained = run.checkpoint.config
    names = ("prior", "temperature", "refine_steps", "refine_strength")
    asked = {name: getattr(config, name) for name in names}
    config = replace(
        config, **{name: trained[name] if one is None else one for name, one in asked.items()}
    )
    rows = run.faces.rows(config.split)
    if config.edits:
        report_edits(run, config, rows, output)
    else:
        report_model(run, config, rows, output)


def report_model(run: Run, config: EvaluateConfig, rows: np.ndarray, output: Path) -> None:
    """Measure the model itself; print and write the report."""
    # first what a mistake in a flag would stop: it is found before the long work
    judge = find_judge(run, config)
    report = {"protocol": describe(run, config, rows), "samples": measure_fid(run, config, rows)}
    pca = fit_baseline(run)
    mu, logvar = run.encode(run.images(rows, "encoding"))
    report |= measure_images(run, config, rows, mu)
    report["pca"] = measure_pca(run, rows, pca)
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
    report |= measure_with_judge(run, config, judge, pca)
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
        shown = {"reconstructed": run.decode(mu)}
        if run.refiner and config.refine:
            shown["refined"] = torch.cat(list(refined(run, config, mu)))
        report[name]["having"] = seen_on_faces(judge, {"real": x} | shown, name)
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
        "refined": run.refiner is not None and config.refine,
        "refine_steps": config.refine_steps,
        "refine_strength": config.refine_strength,
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
    samples = refined(run, config, draw_codes(run, config, config.samples))
    fid = inception_distance(metric, run.images(rows, "features of faces"), samples)
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
    reconstruction = compare_images((run.decode(part), x.cpu()) for part, x in pairs)
    sections = {"likelihood": likelihood, "reconstruction": reconstruction}
    if run.refiner and config.refine:
        pairs = zip(refined(run, config, mu), run.images(rows, "refining"), strict=True)
        sections["refined_reconstruction"] = compare_images((x_hat, x.cpu()) for x_hat, x in pairs)
    return sections


def refined(run: Run, config: EvaluateConfig, z: Tensor) -> Iterator[Tensor]:
    """Yield the refined images of codes z in batches of 128."""
    for start in range(0, len(z), 128):
        part = z[start : start + 128]
        yield run.render(part, range(start, start + len(part)), config)


def fit_baseline(run: Run) -> PCA | None:
    """Return the PCA of the training faces with the model's dimension; None if they are gone."""
    if run.checkpoint.digest != run.faces.digest():
        return None
    rows = rows_to_fit(run.faces.rows("train"))
    return fit_pca(lambda: batches(run.faces, rows, label="PCA"), run.arch["latent_dim"])


def measure_pca(run: Run, rows: np.ndarray, pca: PCA | None) -> Section:
    """Return the quality of PCA's reconstructions, and the KL term of the probabilistic PCA."""
    if pca is None:
        return {"not_measured": OTHER_FACES}
    quality = compare_images((project(pca, x), x) for x in batches(run.faces, rows))
    nats = sum(pca.kl(x) * len(x) for x in batches(run.faces, rows))
    return {"dimensions": run.arch["latent_dim"]} | quality | {"kl": nats / len(rows)}


def project(pca: PCA, x: Tensor) -> Tensor:
    """Return PCA's reconstructions of images x (B, 3, S, S), clamped to [0, 1]."""
    return pca.project(x).clamp(0, 1)


def find_judge(run: Run, config: EvaluateConfig) -> OpenedJudge | str:
    """Return the judge, or what is missing. Raises UserError if --judges does not hold it."""
    try:
        return open_judge("judge", run, config.judges)
    except UserError as error:
        if config.judges:
            raise
        return str(error)


def measure_with_judge(
    run: Run, config: EvaluateConfig, judge: OpenedJudge | str, pca: PCA | None
) -> dict[str, Section]:
    """Return how near samples and reconstructions are to held-out faces, and to training faces.

    The held-out faces are cut in halves. One is the reference; of the other the reconstructions
    are made. The other half itself shows what real faces reach, at the same numbers.
    """
    halves = held_out_halves(run.faces, config.samples)
    count = len(halves[0])
    missing = judge if isinstance(judge, str) else None
    if config.split == "train":
        missing = "samples are compared with held-out faces: pass --split test"
    elif count <= NEIGHBOURS:
        missing = f"{2 * count} held-out faces are too few"
    if missing:
        absent = {"not_measured": missing}
        return {"features_of_the_judge": absent, "copies": absent}
    see_images = partial(see, judge.model, run.model)
    reference = see_images(run.images(halves[0], "looking"))
    images = image_sets(run, config, halves[1], pca)
    sets = {name: see_images(batched) for name, batched in images.items()}
    features = describe_judges(run, {"judge": judge}) | {
        "faces": f"{' and '.join(HELD_OUT)}, cut in halves: one is the reference",
        "rows": {name: compare(seen.features, reference.features) for name, seen in sets.items()},
    }
    copies = {"not_measured": OTHER_FACES}
    if pca:
        training = run.faces.rows("train")
        held_out = Seen(*map(torch.cat, zip(reference, sets["real"], strict=True)))
        faces = partial(run.images, label="looking")
        table = measure_copies(see_images, run.decode, faces, training, held_out, sets)
        copies = {
            "training_faces": len(training),
            "held_out_faces": 2 * count,
            "controls": "the rows of copies: training faces, changed on purpose, to be found",
            "rows": table,
        }
    return {"features_of_the_judge": features, "copies": copies}


def image_sets(
    run: Run, config: EvaluateConfig, rows: np.ndarray, pca: PCA | None
) -> dict[str, Iterable[Tensor]]:
    """Return what is compared with real faces: batches of images, as many as rows."""
    mu, _ = run.encode(run.images(rows, "encoding"))
    z = draw_codes(run, config, len(rows))
    sets = {
        "real": run.images(rows, "looking"),
        "reconstructions": map(run.decode, mu.split(128)),
        "samples": map(run.decode, z.split(128)),
    }
    if run.refiner and config.refine:
        sets["reconstructions, refined"] = refined(run, config, mu)
        sets["samples, refined"] = refined(run, config, z)
    if pca:
        noise = run.prior("standard").sample(config.seed, range(len(rows)))
        sets["PCA reconstructions"] = (project(pca, x) for x in batches(run.faces, rows))
        sets["PCA samples"] = (pca.decode(part).clamp(0, 1) for part in noise.split(128))
    return sets


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
