"""The whole quick report, against plain loops doing the same work with the same networks: each kind of work measured on
a slice, and multiplied by how much of it the report holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from opacus import PrivacyEngine
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import plain
from benchmarks.attackers import EPS, of_torchattacks
from benchmarks.protocol import Result, seconds
from labkit import data
from labkit.attacks import withstand
from labkit.lab import Lab
from labkit.networks import build
from labkit.paramfiles import read
from labkit.params import Params, validate
from labkit.training import REGIMES

FEATURES = 81 * 7 * 7  # of a scattering transform
PROFILE = Path(__file__).parent.parent / "params" / "quick.yaml"


def report(device: torch.device, slice_size: int = 2_000, made: Path | None = None) -> tuple[list[Result], dict]:
    """labkit's side is a report made from an empty store; it has more than is counted for the peers.

    The CVAE is counted at labkit's own time, figures and statistics at nothing.
    The plain loops' side is measured on slices, and multiplied by how much of each kind of work the report holds.
    ``made`` is the ``summary.json`` of such a report, where one was just made on this machine.
    """
    p = validate(read(PROFILE) | {"device": device.type}, "quick")
    if made is None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "labkit", "report", str(PROFILE), "--out", f"{folder}/report"]
            command += ["--set", f"device={device.type}"]
            subprocess.run(command, check=True, env=os.environ | {"LABKIT_CACHE": f"{folder}/store"})
            summary = json.loads(Path(folder, "report", "summary.json").read_text())
    else:
        summary = json.loads(Path(made).read_text())
    ours = sum(summary["provenance"]["seconds"].values())
    images = data.load(train_size=slice_size, test_size=200, device=device)
    items, ready = plain.Images(images.train), plain.tensors(images.train)

    def per_image(way, count: int) -> float:
        way()
        return min(seconds(way, device) for _ in range(15)) / count

    standard = per_image(lambda: plain.epoch(build(0).to(device), items, device), slice_size)
    attack = lambda m, x, y: plain.pgd(m, x, y, p.train_eps, p.train_steps)  # noqa: E731
    adversarial = per_image(lambda: plain.epoch(build(0).to(device), items, device, attack=attack), slice_size)
    recipe = REGIMES["dp"](p, slice_size, 1)
    private = per_image(lambda: _opacus(recipe.network(0).to(device), ready, device, p), slice_size)
    x, y = images.train.batch(torch.arange(200, device=device))
    attacked = per_image(lambda: plain.pgd(build(0).to(device).eval(), x, y, EPS, p.pgd_steps), 200) / p.pgd_steps
    described = TensorDataset(torch.ones(slice_size, FEATURES), ready.tensors[1])
    linear = per_image(lambda: _opacus(nn.Linear(FEATURES, 10).to(device), described, device, p), slice_size)
    counts = work_of(p) | {"standing": standing(summary["rows"])}
    parts = {
        "standard training": counts["standard"] * standard,
        "PGD training": counts["pgd"] * adversarial,
        "DP-SGD (Opacus, hooks)": counts["dp"] * private,
        "linear classifiers (Opacus, hooks)": counts["linear"] * linear,
        "attacks (every point, every step)": counts["attack_steps"] * attacked,
        "AutoAttack's four (torchattacks)": counts["standing"] * _auto(p),
        "mixtures (scikit-learn)": _mixtures(p),
        "CVAE (labkit's own time)": _cvae(summary),
    }
    theirs = sum(parts.values())
    note = "extrapolated from slices: " + ", ".join(f"{name} {value:.0f} s" for name, value in parts.items())
    result = Result("the whole quick report", "plain loops, same networks", [theirs / ours], ours, theirs, note)
    return [result], {"parts": parts, "counts": counts}


def work_of(p: Params) -> dict[str, float]:
    """Images trained on, by regime, and images times attack steps: what the notebooks ask for, and less.

    FGSM training and interval bounds count as standard training, TRADES and MTL-IBP as PGD training; scattering
    features, white-box audits, learned attackers and the CVAE under attack count as nothing, a step towards the
    boundary as one of PGD.
    """
    n, half = p.train_size, p.train_size / 2
    test = min(p.attack_size or p.test_size, p.test_size)
    few = min(p.autoattack_size or test, test)
    strong = p.strong_steps * p.strong_restarts
    trained = {d: p.robust_seeds * len(p.robust_eps) for d in p.defences}  # models a defence
    attacked = p.seeds * 3 + sum(trained.values())  # chapter 2
    steps = attacked * test * len(p.attack_eps) * (1 + p.pgd_steps)
    steps += (3 + len(trained)) * few * len(p.autoattack_eps) * (1 + p.pgd_steps + strong)
    shadows = p.shadow_models, p.shadow_pgd_models, p.shadow_dp_models
    each = min(p.tradeoff_models, *shadows)  # models a kind in chapter 6, mixtures too
    deep = len({*p.end_to_end_epsilon, p.dp_epsilon})  # epsilons of the end-to-end network
    known = p.shadow_dp_epochs == p.shadow_epochs and p.shadow_dp_models <= p.shadow_models  # DP's controls are there
    steps += (5 if known else 6) * each * p.tradeoff_size * (p.pgd_steps + strong)  # controls are kinds too
    steps += (3 + len(trained)) * min(few, 50) * 30 * 4  # distances to the boundary: steps, targets
    steps += p.shadow_models * p.distance_size * 20 * 3 + sum(shadows) * p.query_size * p.pgd_steps  # chapter 3
    quick = p.robust_epochs * trained.get("fgsm", 0) + p.ibp_epochs * trained.get("ibp", 0)
    slow = p.robust_epochs * sum(trained.get(defence, 0) for defence in ("pgd", "trades", "mtl_ibp"))
    halves = p.shadow_models * p.shadow_epochs  # and the controls
    halves += p.shadow_pgd_models * p.shadow_pgd_epochs + (0 if known else p.shadow_dp_models * p.shadow_dp_epochs)
    return {
        "standard": n * (p.seeds * p.epochs + quick) + halves * half,
        "pgd": n * (p.seeds * p.pgd_epochs + slow) + p.shadow_pgd_models * p.shadow_pgd_epochs * half,
        "dp": n * (p.seeds * p.dp_epochs * deep + p.shadow_dp_epochs) + p.shadow_dp_models * p.shadow_dp_epochs * half,
        "linear": p.seeds * n * p.frontier_epochs * len(p.frontier_epsilon),
        "attack_steps": steps,
    }


def standing(rows: list[dict]) -> float:
    """Images that AutoAttack meets, over models and radii: what strong PGD leaves, generative classifiers left out."""
    met = [r for r in rows if r["notebook"] == "02_robustness" and r["metric"] == "robust_accuracy"]
    return sum(r["value"] * r["n"] for r in met if r["attack"] == "pgd_strong" and r["model"] not in ("gmm", "cvae"))


def _cvae(summary: dict) -> float:
    """Seconds of chapter 4, and of the training, which chapter 2 does beside others."""
    trained = [r["value"] for r in summary["rows"] if (r["model"], r["metric"]) == ("cvae", "train_seconds")]
    return summary["provenance"]["seconds"]["04_cvae"] + max(trained)


def _auto(p: Params, size: int = 32) -> float:
    """torchattacks' seconds for an image that stands under PGD, of ``size`` at once, on the PGD-trained model."""
    lab = Lab(p)
    model = lab.classifiers("pgd").model(0)
    x, y = lab.data.test.batch(torch.arange(200, device=lab.device))
    left = withstand(model, x, y, EPS, steps=p.pgd_steps).nonzero()[:size, 0]
    way = of_torchattacks("APGD-CE", "APGD-T", "FAB-T", "Square")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return min(seconds(lambda: way(model, x[left], y[left], size), lab.device) for _ in range(3)) / len(left)


def _opacus(model: nn.Module, ready, device: torch.device, p: Params) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, optimiser, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
            data_loader=DataLoader(ready, min(p.dp_batch_size, len(ready))),
            noise_multiplier=1.0,
            max_grad_norm=p.dp_clip,
        )
        for x, y in loader:
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x.to(device)), y.to(device)).backward()
            optimiser.step()


def _mixtures(p: Params) -> float:
    """scikit-learn's seconds for one candidate of each form at the middle K, times the candidates that are tried."""
    train = data.load(train_size=p.train_size).train
    z = PCA(p.gmm_pca_dim, random_state=0).fit_transform(train.images.flatten(1).numpy())
    labels, middle = train.labels.numpy(), p.gmm_components[len(p.gmm_components) // 2]

    def fitted(form: str) -> None:
        for c in range(10):
            GaussianMixture(middle, covariance_type=form, random_state=0).fit(z[labels == c])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        each = sum(seconds(lambda: fitted(form), torch.device("cpu")) for form in ("diag", "full"))  # noqa: B023
    fewest = min(p.shadow_models, p.shadow_pgd_models, p.shadow_dp_models)
    return len(p.gmm_components) * each + fewest * each / 2
