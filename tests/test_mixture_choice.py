"""Mixtures: which candidate is the best, and what a fit is kept under."""

import numpy as np
import pytest
import torch

from labkit.data import Split
from labkit.device import generator
from labkit.mixture import PCA, Candidate, MixtureClassifier, best, candidates, em, fit
from labkit.store import Store


def images(n=240, seed=0):
    labels = torch.arange(n) % 3
    noise = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return Split((255 * (noise + labels[:, None, None, None] / 4) / 1.5).to(torch.uint8), labels)


def test_of_equals_the_simplest_is_the_best():
    tried = [
        Candidate({"n_components": k}, accuracy, 100, 0.0) for k, accuracy in ((5, 0.8), (2, 0.9), (1, 0.9), (8, 0.9))
    ]
    assert best(tried).settings["n_components"] == 1


def test_fits_and_candidates_are_kept_under_all_that_determines_them(tmp_path, monkeypatch):
    train, store, fits = images(), Store(tmp_path), []
    real = em.fit
    monkeypatch.setattr(em, "fit", lambda *a, **k: fits.append(1) or real(*a, **k))
    everyone = torch.ones(240, dtype=torch.bool)
    settings = {"n_components": 1, "max_iter": 3}
    fit(train, everyone, settings, store=store)
    for count, (split, members, given) in enumerate(
        (
            (Split(train.pixels, train.labels.roll(1)), everyone, settings),
            (Split(train.pixels.roll(1, 0), train.labels), everyone, settings),
            (train, torch.arange(240) > 20, settings),
            (train, everyone, settings | {"seed": 1}),
        ),
        start=2,
    ):
        fit(split, members, given, store=store)
        assert len(fits) == count
    fits.clear()
    call = {"pca_dim": 5, "max_iter": 3, "seed": 0, "covariances": ["diag"], "shrinkages": [0.0]}
    candidates(train, [1], store=store, **call)
    for count, changed in enumerate(
        ({"pca_dim": 4}, {"max_iter": 4}, {"seed": 1}, {"covariances": ["full"]}, {"shrinkages": [1.0]}), start=2
    ):
        candidates(train, [1], store=store, **call | changed)
        assert len(fits) == count, changed


def test_full_samples_have_the_covariances_of_the_data():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(900, 3)) @ rng.normal(size=(3, 3)), np.repeat([0, 1, 2], 300)
    drawn = MixtureClassifier(1, "full").fit(x, y).sample(50_000, seed=1)
    for c in range(3):
        np.testing.assert_allclose(np.cov(drawn[c].T), np.cov(x[y == c].T, bias=True), rtol=0.03, atol=0.05)


def test_the_bic_of_a_candidate_is_that_of_what_was_fitted(tmp_path):
    (one,) = candidates(images(), [2], pca_dim=5, covariances=["diag"], shrinkages=[0.0], store=Store(tmp_path))
    assert one.n == 36
    order = torch.randperm(240, generator=generator(0, "mixture", "holdout"))[36:]
    x, y = images().batch(order)
    assert one.bic == pytest.approx(MixtureClassifier(**one.settings).fit(x, y).bic(x, y), rel=1e-6)


def test_held_out_images_do_not_choose_the_plane(tmp_path, monkeypatch):
    rows, real = [], PCA.fit
    monkeypatch.setattr(PCA, "fit", lambda x, dimensions: rows.append(len(x)) or real(x, dimensions))
    candidates(images(), [1], pca_dim=5, store=Store(tmp_path))
    assert rows == [204]


def test_the_floor_is_a_share_of_the_variance_over_all_classes():
    x, y = np.random.default_rng(0).normal(size=(60, 2)), np.repeat([0, 1], 30)
    x[y == 0] = 3.0  # one class is a point
    found = MixtureClassifier(1, "diag", reg_covar=1e-3).fit(x, y)
    np.testing.assert_allclose(found.mixtures_.covariances[0, 0], 1e-3 * x.var(0), rtol=1e-9)
