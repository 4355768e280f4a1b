"""EM against scikit-learn, closed forms and finite differences; the edges where mixtures usually break."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, make_blobs
from sklearn.decomposition import PCA as ReferencePCA
from sklearn.mixture import GaussianMixture as Reference

from labkit.data import Split
from labkit.device import generator
from labkit.mixture import PCA, GaussianMixture, MixtureClassifier, best, candidates, em, fit
from labkit.mixture.covariance import FORMS
from labkit.store import Store

BOTH = pytest.mark.parametrize("covariance", ["diag", "full"])


def points(n=300, d=4, seed=0):
    """Three overlapping clusters of unequal shape, [n, d] float64."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(3, d, d)) * 0.7
    return np.concatenate([rng.normal(size=(n // 3, d)) @ mix[k] + rng.normal(size=d) * 2 for k in range(3)])


def labelled(counts=(40, 25, 60), d=5, seed=0):
    """Rows and labels of classes of unequal sizes, in random order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return rng.normal(size=(len(y), d)) + np.eye(len(counts), d)[y] * 2.5, y


def start(x, k, covariance, seed=0):
    """The same start for both implementations."""
    rng = np.random.default_rng(seed)
    spread = x.var(0) if covariance == "diag" else np.cov(x.T)
    precision = 1 / spread if covariance == "diag" else np.linalg.inv(spread)
    precisions = np.repeat(precision[None], k, 0)
    means = x[rng.choice(len(x), k, replace=False)]
    return {"weights_init": np.full(k, 1 / k), "means_init": means, "precisions_init": precisions}


@BOTH
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_em_takes_the_steps_of_scikit_learn(covariance, steps):
    x = points()
    same = start(x, 3, covariance)
    ours = GaussianMixture(3, covariance, tol=0, max_iter=steps, **same).fit(x)
    with pytest.warns(match="did not converge"):
        theirs = Reference(3, covariance_type=covariance, tol=0, max_iter=steps, reg_covar=0, **same).fit(x)
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-8)
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-8)
    assert ours.n_iter_ == theirs.n_iter_ == steps


@BOTH
def test_stops_where_scikit_learn_stops(covariance):
    x = points()
    same = start(x, 3, covariance)
    ours = GaussianMixture(3, covariance, **same).fit(x)
    theirs = Reference(3, covariance_type=covariance, **same).fit(x)
    assert ours.converged_
    assert ours.n_iter_ == theirs.n_iter_


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_density_and_bic_of_given_parameters(covariance, dtype):
    x = points().astype(dtype)
    ours = GaussianMixture(4, covariance, seed=1).fit(x)
    theirs = Reference(4, covariance_type=covariance, means_init=ours.means_).fit(x.astype(float))
    theirs.weights_, theirs.means_ = ours.weights_.numpy(), ours.means_.numpy()
    theirs.covariances_ = ours.covariances_.numpy()
    invert = np.sqrt if covariance == "diag" else np.linalg.cholesky
    precisions = 1 / theirs.covariances_ if covariance == "diag" else np.linalg.inv(theirs.covariances_)
    theirs.precisions_cholesky_ = invert(precisions)
    other = points(seed=5)
    np.testing.assert_allclose(ours.score_samples(other), theirs.score_samples(other), rtol=1e-7, atol=1e-7)
    assert ours.bic(other) == pytest.approx(theirs.bic(other), rel=1e-9)
    assert isinstance(ours.score_samples(other), np.ndarray)
    torch.testing.assert_close(ours.score_samples(torch.tensor(other)), torch.tensor(ours.score_samples(other)))


@BOTH
def test_as_likely_as_scikit_learn_from_own_starts(covariance):
    x, _ = make_blobs(400, centers=5, n_features=3, random_state=3)
    ours = GaussianMixture(5, covariance, n_init=5).fit(x)
    theirs = Reference(5, covariance_type=covariance, n_init=5, random_state=0).fit(x)
    assert ours.score_samples(x).mean() == pytest.approx(theirs.score_samples(x).mean(), abs=1e-3)


@BOTH
def test_one_component_is_the_maximum_likelihood_estimate(covariance):
    x = points() + 1e4  # far from the origin, where subtracting squares would lose the variance
    found = GaussianMixture(1, covariance).fit(x)
    truth = np.cov(x.T, bias=True)
    np.testing.assert_allclose(found.means_[0], x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariances_[0], np.diag(truth) if covariance == "diag" else truth, rtol=1e-8)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(3, 40),
    d=st.integers(1, 4),
    k=st.integers(1, 3),
    levels=st.integers(1, 6),
    scale=st.sampled_from([1e-3, 1.0, 255.0]),
    shrinkage=st.sampled_from([0.0, 5.0]),
    covariance=st.sampled_from(["diag", "full"]),
    seed=st.integers(0, 2**16),
)
def test_the_objective_never_falls(n, d, k, levels, scale, shrinkage, covariance, seed):
    # Few levels make duplicate rows, constant features and components that collapse onto a point.
    x = scale * np.random.default_rng(seed).integers(0, levels, (n, d)).astype(float)
    found = GaussianMixture(k, covariance, tol=0, max_iter=30, shrinkage=shrinkage, seed=seed).fit(x)
    gains = np.diff(found.history_)
    assert np.isfinite(found.history_).all()
    assert gains.min(initial=0) >= -1e-7 * max(1, np.abs(found.history_).max())
    assert np.isfinite(found.score_samples(x)).all()


@BOTH
@pytest.mark.parametrize("shrinkage", [0.0, 20.0])
def test_all_classes_at_once_equal_one_at_a_time(covariance, shrinkage):
    x, y = labelled()
    x = torch.tensor(x)
    form, floor = FORMS[covariance], em.variance_floor(x, 1e-6)
    prior = em.Prior(floor, shrinkage, form.part(torch.eye(5, dtype=x.dtype)))
    stacked, mask = torch.zeros(3, 60, 5, dtype=x.dtype), torch.zeros(3, 60, dtype=x.dtype)
    for c in range(3):
        rows = x[torch.tensor(y == c)]
        stacked[c, : len(rows)], mask[c, : len(rows)] = rows, 1

    def run(x, mask, classes):
        centres = em.seed_centres(x, mask, 3, [generator(0, c) for c in classes])
        begin = em.from_centres(x, mask, em.lloyd(x, mask, centres), form, prior)
        return em.maximise(x, mask, begin, form, prior, tol=1e-4, max_iter=50)

    together = run(stacked, mask, range(3))
    for c in range(3):
        size = int(mask[c].sum())
        alone = run(stacked[c : c + 1, :size], mask[c : c + 1, :size], [c])
        assert len(alone.history[0]) == len(together.history[c])
        for one, all_ in zip(alone.mixtures, together.mixtures, strict=True):
            torch.testing.assert_close(one[0], all_[c], rtol=1e-9, atol=1e-10)
    assert len({len(h) for h in together.history}) > 1  # they stopped at different steps, so freezing was exercised


@BOTH
def test_classifier_is_bayes_rule_on_a_mixture_a_class(covariance):
    x, y = labelled()
    found = MixtureClassifier(2, covariance).fit(x, y)
    joint = np.empty((len(x), 3))
    for c in range(3):
        theirs = Reference(2, covariance_type=covariance, tol=1e-8, max_iter=1000, reg_covar=0)
        weights, means, covariances = (part[c].numpy() for part in found.mixtures_)
        theirs.weights_, theirs.means_ = weights, means
        precisions = 1 / covariances if covariance == "diag" else np.linalg.inv(covariances)
        theirs.precisions_cholesky_ = np.sqrt(precisions) if covariance == "diag" else np.linalg.cholesky(precisions)
        joint[:, c] = theirs.score_samples(x) + np.log((y == c).mean())
    posterior = joint - np.logaddexp.reduce(joint, 1, keepdims=True)
    np.testing.assert_allclose(found.log_posterior(x), posterior, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(found.predict(x), joint.argmax(1))
    free = 2 + 3 * (1 + 2 * 5 + 2 * (5 if covariance == "diag" else 15))
    own = joint[np.arange(len(x)), y].sum()
    assert found.bic(x, y) == pytest.approx(free * np.log(len(x)) - 2 * own)


def test_labels_may_be_any_whole_numbers():
    x, y = labelled()
    names = np.array([7, -2, 30])
    found = MixtureClassifier(2).fit(x, names[y])
    assert found.classes_.tolist() == [-2, 7, 30]
    assert (found.predict(x) == names[y]).mean() > 0.8
    assert found.log_posterior(x).shape == (len(x), 3)


@BOTH
def test_order_of_rows_does_not_matter(covariance):
    x = points()
    same, shuffled = start(x, 3, covariance), np.random.default_rng(1).permutation(x)
    one, other = (GaussianMixture(3, covariance, max_iter=20, **same).fit(rows) for rows in (x, shuffled))
    torch.testing.assert_close(one.means_, other.means_, rtol=1e-8, atol=1e-9)


@BOTH
def test_units_of_a_feature_do_not_matter(covariance):
    x, units = points(), np.array([1e-6, 1.0, 1e3, 1e6])
    same = start(x, 3, covariance)
    inverse = 1 / units**2 if covariance == "diag" else 1 / np.outer(units, units)
    scaled = same | {"means_init": same["means_init"] * units, "precisions_init": same["precisions_init"] * inverse}
    one = GaussianMixture(3, covariance, max_iter=20, **same).fit(x)
    other = GaussianMixture(3, covariance, max_iter=20, **scaled).fit(x * units)
    np.testing.assert_allclose(one.score_samples(x), other.score_samples(x * units) + np.log(units).sum(), atol=1e-6)


def test_seed_determines_the_fit():
    x = points()
    one, same, other = (GaussianMixture(5, seed=seed, max_iter=3).fit(x) for seed in (0, 0, 1))
    assert torch.equal(one.means_, same.means_)
    assert not torch.equal(one.means_, other.means_)


def test_restarts_keep_the_best_of_each_class():
    x, y = labelled(seed=3)
    once, often = (MixtureClassifier(4, n_init=n).fit(x, y) for n in (1, 6))
    last = np.array([[h[-1] for h in found.history_] for found in (once, often)])
    assert (last[1] >= last[0]).all()
    assert (last[1] > last[0]).any()
    # The parameters that were kept belong to the history that was kept.
    found = MixtureClassifier(4, n_init=6, max_iter=1000, tol=0).fit(x, y)
    own = torch.as_tensor(found.log_joint(x))[range(len(y)), y] - found.log_priors_[y]
    np.testing.assert_allclose([own[y == c].mean() for c in range(3)], [h[-1] for h in found.history_], atol=1e-6)


@BOTH
def test_collapsing_component_stops_at_the_floor(covariance):
    x = np.concatenate([points(), np.full((20, 4), 9.0)])  # a component can sit on twenty equal rows
    centres = np.array([x[:-20].mean(0), x[-1]])
    found = GaussianMixture(2, covariance, means_init=centres, reg_covar=1e-5).fit(x)
    floor = 1e-5 * x.var(0)
    spread = found.covariances_[1] if covariance == "diag" else found.covariances_[1].diagonal()
    np.testing.assert_allclose(spread, floor, rtol=1e-6)
    np.testing.assert_allclose(found.means_[1], 9.0)


def test_full_floor_is_the_most_likely_covariance_above_it():
    rng = np.random.default_rng(0)
    floor = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    scatter = torch.tensor(rng.normal(size=(3, 2)))
    scatter = scatter @ scatter.T  # of rank two, so the floor binds

    def likelihood(cov):
        return float(-(torch.logdet(cov) + torch.trace(torch.linalg.solve(cov, scatter))))

    found = FORMS["full"].at_least(scatter[None, None], floor)[0, 0]
    assert torch.linalg.eigvalsh(found - floor.diag()).min() > -1e-12
    for _ in range(200):
        root = torch.tensor(rng.normal(size=(3, 3))) * rng.choice([0.01, 0.1, 1.0])
        near = found + rng.choice([0.05, 0.5]) * (floor.diag() + root @ root.T - found)  # inside: the set is convex
        assert likelihood(near) <= likelihood(found) + 1e-12


@BOTH
def test_component_that_answers_for_nothing_keeps_its_place(covariance):
    x = points()
    means = np.stack([x.mean(0), x.mean(0) + 1e6])  # so far away that its responsibilities are exactly zero
    given = start(x, 2, covariance) | {"means_init": means}
    found = GaussianMixture(2, covariance, **given).fit(x)
    assert found.weights_.tolist() == [1.0, 0.0]
    np.testing.assert_allclose(found.means_[1], means[1])
    np.testing.assert_allclose(found.score_samples(x), GaussianMixture(1, covariance).fit(x).score_samples(x))


@BOTH
def test_equal_rows_and_constant_features(covariance):
    flat = GaussianMixture(3, covariance).fit(np.ones((10, 2)))
    assert np.isfinite(flat.score_samples(np.ones((2, 2)))).all()
    x = np.column_stack([points(), np.full(300, 0.1)])
    theirs = Reference(1, covariance_type=covariance).fit(x)
    ours = GaussianMixture(1, covariance).fit(x)
    np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x), atol=1e-5)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.ones((3, 2)), "n_components = 4, but X has 3 rows only; try to decrease n_components"),
        (np.array([[1.0, 2], [np.nan, 1], [3, 4]]), "NaN or infinite values in 1 of 3 rows .* row 1"),
        (np.array([[np.inf, 2.0]]), "NaN or infinite"),
        (np.ones(5), r"shape \(5,\), but must be \[N, D\]"),
        (np.ones((0, 3)), "N >= 1"),
    ],
)
def test_bad_data_is_named(x, says):
    with pytest.raises(ValueError, match=says):
        GaussianMixture(4).fit(x)
    with pytest.raises(ValueError, match=r"shape|NaN|n_components"):
        MixtureClassifier(4).fit(x, np.zeros(len(x), dtype=int))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"n_components": 0}, "n_components = 0"),
        ({"n_components": 2.5}, "n_components = 2.5"),
        ({"covariance": "tied"}, "'diag', 'full'"),
        ({"max_iter": 0}, "max_iter = 0"),
        ({"reg_covar": 0.0}, "reg_covar = 0.0"),
        ({"shrinkage": -1.0}, "shrinkage = -1.0"),
    ],
)
def test_bad_settings_are_named(bad, says):
    for kind in (GaussianMixture, MixtureClassifier):
        with pytest.raises(ValueError, match=says):
            kind(**bad)


@BOTH
def test_far_from_the_origin_densities_are_what_they_are_near_it(covariance):
    x = points()
    near = GaussianMixture(3, covariance, max_iter=5).fit(x)
    far = GaussianMixture(3, covariance, max_iter=5).fit(x + 1e8)
    np.testing.assert_allclose(far.score_samples(x + 1e8), near.score_samples(x), atol=1e-4)


@pytest.mark.parametrize(("precisions", "says"), [(-1.0, "positive"), (0.0, "positive"), (math.nan, "NaN")])
def test_precisions_of_a_start_are_positive(precisions, says):
    for covariance, start in (
        ("diag", np.full((2, 2), precisions)),
        ("full", precisions * np.eye(2)[None].repeat(2, 0)),
    ):
        with pytest.raises(ValueError, match=says):
            GaussianMixture(2, covariance, precisions_init=start).fit(points()[:, :2])


@pytest.mark.parametrize("weights", [[5.0, -1.0], [1.5, -0.5], [0.5, 0.4]])
def test_weights_of_a_start_are_shares(weights):
    with pytest.raises(ValueError, match="must be shares"):
        GaussianMixture(2, weights_init=weights).fit(points())


def test_misuse_of_the_classifier_is_named():
    x, y = labelled()
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive and finite"):
            MixtureClassifier(2, temperature=temperature)
    with pytest.raises(ValueError, match="not fitted"):
        MixtureClassifier(2).predict(x)
    with pytest.raises(ValueError, match="not fitted"):
        GaussianMixture(2).score_samples(x)
    with pytest.raises(ValueError, match="class 3 has 0 rows only; try to decrease"):
        MixtureClassifier(2).fit(x, y, classes=range(4))
    with pytest.raises(ValueError, match="class 1 has 25 rows only"):
        MixtureClassifier(30).fit(x, y)
    with pytest.raises(ValueError, match=r"\[2\], which are not among"):
        MixtureClassifier(2).fit(x, y, classes=range(2))
    with pytest.raises(ValueError, match="one label a row"):
        MixtureClassifier(2).fit(x, y[:-1])
    with pytest.raises(ValueError, match="whole numbers"):
        MixtureClassifier(2).fit(x, y.astype(float))
    with pytest.raises(ValueError, match="vary along 5 directions only"):
        MixtureClassifier(2, pca_dim=6).fit(np.hstack([x, x]), y)
    with pytest.raises(ValueError, match="has 3 features a row, but the mixture was fitted on 5"):
        MixtureClassifier(2).fit(x, y).predict(x[:, :3])
    with pytest.raises(ValueError, match=r"means_init has shape \[3, 5\], but must be \[2, 5\]"):
        GaussianMixture(2, means_init=x[:3]).fit(x)


def test_pca_agrees_with_scikit_learn():
    x, _ = labelled((50, 30, 30), d=8)
    ours, theirs = PCA.fit(torch.tensor(x), 3), ReferencePCA(3).fit(x)
    signs = np.sign((ours.components.numpy() * theirs.components_).sum(1, keepdims=True))
    np.testing.assert_allclose(ours.components, signs * theirs.components_, atol=1e-8)
    np.testing.assert_allclose(ours.variance, theirs.explained_variance_ratio_, rtol=1e-8)
    z = ours.transform(torch.tensor(x))
    np.testing.assert_allclose(ours.inverse(z), theirs.inverse_transform(theirs.transform(x)), atol=1e-8)


@BOTH
def test_gradient_of_the_log_posterior(covariance):
    x, y = labelled(d=8)
    found = MixtureClassifier(2, covariance, pca_dim=4).fit(x, y)
    some = torch.tensor(x[:3]).requires_grad_()
    assert torch.autograd.gradcheck(found.log_posterior, some)


def test_gradient_survives_a_component_of_weight_zero():
    x, y = labelled()
    found = MixtureClassifier(2).fit(x, y)
    found.mixtures_.weights[:] = torch.tensor([1.0, 0.0])
    some = torch.tensor(x[:3]).requires_grad_()
    found.log_posterior(some).sum().backward()
    assert torch.isfinite(some.grad).all()


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]  # [1797, 1, 8, 8]
    return images[:1200], torch.tensor(data.target[:1200]), images[1200:], torch.tensor(data.target[1200:])


def test_in_float32_a_density_is_as_exact_as_its_differences():
    """Of squares that are multiplied out little is left where a component is narrow and far from the others."""
    rng = np.random.default_rng(0)
    means = torch.tensor(rng.uniform(0, 1, (2, 3, 700)))
    factor = torch.tensor(10 ** rng.uniform(0, 3, (2, 3, 700)))
    x = means[0, 1] + torch.tensor(rng.normal(0, 1e-3, (1, 5, 700)))
    exact, found = (
        FORMS["diag"].log_density(*(part.to(d) for part in (x, means, factor))) for d in (torch.double, torch.float)
    )
    torch.testing.assert_close(found[0, :, 1].double(), exact[0, :, 1], rtol=1e-5, atol=0.05)


def test_classifies_images_and_their_module_agrees(digits):
    images, labels, test_images, test_labels = digits
    found = MixtureClassifier(2, "full", pca_dim=20, shrinkage=10).fit(images, labels)
    module = found.calibrate(test_images, test_labels).as_module()
    assert (found.predict(test_images) == test_labels).double().mean() > 0.93
    scaled = found.log_posterior(test_images) / found.settings["temperature"]
    torch.testing.assert_close(module(test_images).double(), scaled, rtol=1e-3, atol=1e-3)
    assert module(test_images).dtype == torch.float32
    assert found.settings["temperature"] > 1
    loss = torch.nn.functional.cross_entropy
    assert loss(scaled, test_labels) < loss(found.log_posterior(test_images), test_labels)


def test_survives_the_store(digits, tmp_path):
    images, labels, test_images, _ = digits
    made = []

    def make():
        made.append(MixtureClassifier(2, "full", pca_dim=20, shrinkage=10).fit(images, labels))
        made[0].settings["temperature"] = 3.0
        return made[0].state()

    for _ in range(2):
        again = MixtureClassifier.from_state(*Store(tmp_path).get("mixture", {"a": 1}, make))
        assert torch.equal(again.log_posterior(test_images), made[0].log_posterior(test_images))
        assert torch.equal(again.as_module()(test_images), made[0].as_module()(test_images))
        assert again.settings == made[0].settings
        assert again.history_ == made[0].history_
    assert len(made) == 1


@BOTH
def test_bit_equal_on_any_number_of_cores(digits, covariance):
    images, labels, test_images, test_labels = digits
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            model = MixtureClassifier(2, covariance, pca_dim=30, shrinkage=10).fit(images, labels)
            model.calibrate(test_images, test_labels)
            found.append((*model.state()[0].values(), model.as_module().factor, model._joint(test_images)))
            found[-1] += (torch.tensor(model.bic(images, labels)), torch.tensor(model.settings["temperature"]))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@BOTH
def test_samples_follow_the_mixture(covariance):
    x, y = labelled((400, 300, 500), d=3)
    found = MixtureClassifier(2, covariance).fit(x, y)
    drawn = found.sample(20_000, seed=1)  # [C, n, F]
    assert drawn.shape == (3, 20_000, 3)
    for c in range(3):
        # EM matches the first two moments of the data (the diagonal form: the variances).
        np.testing.assert_allclose(drawn[c].mean(0), x[y == c].mean(0), atol=0.03)
        np.testing.assert_allclose(drawn[c].var(0), x[y == c].var(0), rtol=0.05)
    assert torch.equal(drawn, found.sample(20_000, seed=1))


def test_shrinkage_with_one_component_is_regularised_discriminant_analysis():
    x, y = labelled()
    found = MixtureClassifier(1, "full", shrinkage=30).fit(x, y)
    own = [np.cov(x[y == c].T, bias=True) for c in range(3)]
    counts = np.bincount(y)
    pooled = sum(n * s for n, s in zip(counts, own, strict=True)) / counts.sum()
    for c in range(3):
        expected = (counts[c] * own[c] + 30 * pooled) / (counts[c] + 30)
        np.testing.assert_allclose(found.mixtures_.covariances[c, 0], expected, rtol=1e-9, atol=1e-12)


def split(images, labels):
    return Split((255 * images).to(torch.uint8), labels)


def test_candidates_are_scored_on_rows_that_were_not_fitted(tmp_path):
    noise = split(torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(400) % 4)
    tried = candidates(noise, [1, 3], pca_dim=60, covariances=["full"], shrinkages=[0.0], store=Store(tmp_path))
    fitted = fit(noise, torch.ones(400, dtype=torch.bool), tried[1].settings, store=Store(tmp_path))
    assert (fitted.predict(noise.images) == noise.labels).double().mean() > 0.9  # learned by heart,
    assert all(c.accuracy < 0.5 for c in tried)  # while there is nothing to learn


def test_selection_and_fits_come_from_the_store(digits, tmp_path, monkeypatch):
    images, labels, test_images, test_labels = digits
    train, store = split(images, labels), Store(tmp_path)
    options = {"pca_dim": 15, "shrinkages": [10.0], "store": store}
    tried = candidates(train, [1, 4], **options)
    assert [(c.settings["covariance"], c.settings["n_components"]) for c in tried] == [
        ("diag", 1), ("diag", 4), ("full", 1), ("full", 4),
    ]  # fmt: skip
    assert {c.n for c in tried} == {180}
    assert best(tried).accuracy == max(c.accuracy for c in tried)
    half = torch.arange(1200) % 2 == 0
    found = fit(train, half, best(tried).settings, store=store)
    assert (found.predict(test_images) == test_labels).double().mean() > 0.85
    direct = MixtureClassifier(**best(tried).settings).fit(train.images[half], labels[half])
    torch.testing.assert_close(found.log_posterior(test_images), direct.log_posterior(test_images))
    monkeypatch.setattr(em, "fit", None)  # from here on nothing can be fitted
    assert candidates(train, [1, 4], **options) == tried
    assert torch.equal(fit(train, half, best(tried).settings, store=store).mixtures_.means, found.mixtures_.means)
    with pytest.raises(TypeError, match="not callable"):
        fit(train, ~half, best(tried).settings, store=store)
