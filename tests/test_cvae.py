"""The conditional VAE and the reconstruction attack: the objective, the training, the store, what leaks."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import distributions

from labkit import data
from labkit.generative import (
    CVAE,
    ElboLogits,
    Recipe,
    cvae,
    fit,
    gap,
    reconstruct,
    sample,
    score,
    set_accuracy,
    split,
    train,
    verdict,
)
from labkit.membership import roc
from labkit.store import Store
from labkit.workers import Crew

TINY = Recipe(latent=8, epochs=2, learning_rate=2e-3, batch_size=32)


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", autouse=True)
def _one_core() -> Iterator[None]:
    """As :func:`train` takes: how sums of float32 are rounded depends on the number of cores."""
    with Crew(1):
        yield


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", train_size=200, test_size=100)


@pytest.fixture(scope="module")
def trained(digits) -> cvae.Trained:
    return fit(TINY, digits.train.images, digits.train.labels, split(200, draw(0)), seed=3)


@pytest.fixture(scope="module")
def overfitted(digits) -> cvae.Trained:
    """Sixty epochs on 20 images."""
    members = torch.zeros(200, dtype=torch.bool)
    members[torch.randperm(200, generator=draw(1))[:20]] = True
    recipe = replace(TINY, latent=16, epochs=60, batch_size=4)
    return fit(recipe, digits.train.images, digits.train.labels, members, seed=0)


# The objective


def test_kl_is_that_of_torch_distributions():
    mean, log_variance = torch.randn(50, 7, generator=draw(0)), torch.randn(50, 7, generator=draw(1))
    posterior = distributions.Normal(mean, (log_variance / 2).exp())
    expected = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(cvae.kl_divergence(mean, log_variance), expected)
    assert cvae.kl_divergence(torch.zeros(3, 7), torch.zeros(3, 7)).abs().max() == 0


def test_cross_entropy_is_the_bernoulli_log_likelihood_of_binary_images():
    logits = torch.randn(5, 1, 28, 28, generator=draw(0))
    images = torch.randint(0, 2, (5, 1, 28, 28), generator=draw(1)).float()
    expected = -distributions.Bernoulli(logits=logits).log_prob(images).sum((1, 2, 3))
    torch.testing.assert_close(cvae.cross_entropy(logits, images), expected)


def test_elbo_is_below_the_importance_weighted_bound(trained, digits):
    """Burda et al. (2016): log mean_k p(x, z_k) / q(z_k | x) lies between the ELBO and the log-likelihood."""
    x, y = digits.test.images[:40], digits.test.labels[:40]
    draws = 500
    with torch.no_grad():
        mean, log_variance = trained.model.encode(x, y)
        posterior = distributions.Normal(mean, (log_variance / 2).exp())
        prior = distributions.Normal(0.0, 1.0)
        weights = []
        generator = draw(0)
        for _ in range(draws):
            z = mean + posterior.scale * torch.randn(mean.shape, generator=generator)
            likelihood = -cvae.cross_entropy(trained.model.decode(z, y), x)
            weights.append(likelihood + prior.log_prob(z).sum(1) - posterior.log_prob(z).sum(1))
        weights = torch.stack(weights)  # [K, N] log-weights
    importance = weights.logsumexp(0) - math.log(draws)
    elbo = score(trained.model, x, y, samples=200).elbo
    torch.testing.assert_close(elbo, weights.mean(0), rtol=0, atol=1.0)  # the same bound, by other draws
    assert (elbo <= importance + 0.5).all()
    assert (importance - elbo).mean() > 0


def test_no_model_reaches_less_than_the_entropy_of_the_image(overfitted, digits):
    scores = score(overfitted.model, digits.train.images, digits.train.labels)
    assert (scores.bce >= scores.entropy - 1e-3).all()
    assert (scores.entropy > 0).all()
    assert (scores.kl >= 0).all()


# Training


@pytest.mark.parametrize("n", [2, 7, 200])
def test_exactly_half_are_members(n):
    members = split(n, draw(4))
    assert members.dtype == torch.bool
    assert members.shape == (n,)
    assert members.sum() == n // 2


def test_halves_are_random():
    assert not torch.equal(split(200, draw(4)), split(200, draw(5)))
    assert torch.equal(split(200, draw(4)), split(200, draw(4)))


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_state_alone(trained, digits):
    before = torch.get_rng_state()
    again = fit(TINY, digits.train.images, digits.train.labels, trained.members, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    assert all(torch.equal(again.history[name], curve) for name, curve in trained.history.items())
    other = fit(TINY, digits.train.images, digits.train.labels, trained.members, seed=4)
    assert not torch.equal(other.history["bce_in"], trained.history["bce_in"])


def test_training_raises_the_elbo(trained):
    for part in ("in", "out"):
        assert trained.history[f"bce_{part}"].shape == trained.history[f"kl_{part}"].shape == (TINY.epochs,)
        assert trained.history[f"bce_{part}"].min() > trained.history[f"entropy_{part}"] > 0
    losses = trained.history["bce_out"] + trained.history["kl_out"]
    assert losses[-1] < losses[0]


def test_one_epoch_is_enough():
    images = torch.rand(10, 1, 28, 28, generator=draw(0))  # five images a half, one batch
    found = fit(replace(TINY, epochs=1), images, torch.arange(10), split(10, draw(1)), seed=0)
    assert found.history["bce_in"].isfinite().all()


def test_images_that_are_out_do_not_touch_the_model(trained, digits):
    images = torch.where(trained.members[:, None, None, None], digits.train.images, 1.0)
    again = fit(TINY, images, digits.train.labels, trained.members, seed=3)
    assert torch.equal(again.model.posterior[0].weight, trained.model.posterior[0].weight)
    assert not torch.equal(again.history["bce_out"], trained.history["bce_out"])


def test_a_half_that_is_empty_is_an_error(digits):
    with pytest.raises(ValueError, match="200 images IN and 0 OUT"):
        fit(TINY, digits.train.images, digits.train.labels, torch.ones(200, dtype=torch.bool), seed=0)


def test_a_diverged_training_says_what_to_lower(digits):
    wild = replace(TINY, learning_rate=1e6)
    with pytest.raises(FloatingPointError, match="lower cvae_learning_rate"):
        fit(wild, digits.train.images, digits.train.labels, split(200, draw(0)), seed=0)


def test_a_training_ends_when_work_beside_it_fails(digits):
    begun, steps = threading.Event(), []
    long, halves = replace(TINY, epochs=3000), split(200, draw(0))

    def trains():
        tick = lambda images: (steps.append(images), begun.set())  # noqa: E731
        fit(long, digits.train.images, digits.train.labels, halves, seed=0, tick=tick)

    def fails():
        begun.wait()
        raise OSError("no room")

    with Crew(2) as crew, pytest.raises(OSError, match="no room"):
        crew.map(lambda work: work(), [trains, fails])
    assert 0 < len(steps) < 100  # of some ten thousand


def test_asking_twice_trains_once(trained, digits, tmp_path):
    opened, ticks = [], []

    @contextmanager
    def bar(total):
        opened.append(total)
        yield ticks.append

    call = {"seed": 3, "store": Store(tmp_path), "bar": bar}
    first = train(TINY, digits, trained.members, **call)
    assert opened == [sum(ticks)] == [TINY.epochs * 100]
    second = train(TINY, digits, trained.members, **call)
    assert len(opened) == 1
    assert second.seconds == first.seconds
    for made in (first, second):
        assert torch.equal(made.members, trained.members)
        assert torch.equal(made.history["kl_out"], trained.history["kl_out"])
        assert torch.equal(made.model.posterior[0].weight, trained.model.posterior[0].weight)
    train(replace(TINY, latent=4), digits, trained.members, **call)
    assert opened == 2 * [TINY.epochs * 100]


# Images


def test_samples_are_images_of_the_class_asked_for(trained):
    labels = torch.tensor([0, 0, 1, 7])
    images = sample(trained.model, labels, draw(0))
    assert images.shape == (4, 1, 28, 28)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, sample(trained.model, labels, draw(0)))
    assert not torch.allclose(images, sample(trained.model, labels + 1, draw(0)), atol=1e-3)  # the label matters
    assert not torch.allclose(images[0], images[1], atol=1e-3)  # and so does the draw


def test_reconstructions_are_images(trained, digits):
    decoded = reconstruct(trained.model, digits.test.images, digits.test.labels)
    assert decoded.shape == digits.test.images.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_the_model_is_light():
    """Well under 15 MFLOP an image, so that training is quick on two cores."""
    from torch.utils.flop_counter import FlopCounterMode

    model = CVAE(32)
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 1, 28, 28), torch.tensor([3]), torch.randn(1, 32))
    assert counter.get_total_flops() < 15e6


# What leaks


def test_scores_do_not_depend_on_chunks(trained, digits, monkeypatch):
    whole = score(trained.model, digits.train.images, digits.train.labels, samples=3)
    assert whole.bce.shape == (3, 200)
    monkeypatch.setattr(cvae, "CHUNK", 7)
    pieces = score(trained.model, digits.train.images, digits.train.labels, samples=3)
    for name in ("bce", "kl", "mse", "entropy"):
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name), rtol=1e-5, atol=1e-4)


def test_an_overfitted_model_is_found_out(overfitted, digits):
    scores, members = score(overfitted.model, digits.train.images, digits.train.labels), overfitted.members
    value, (low, high) = gap(scores.mse, members)
    assert 0 < low < value < high
    for name, attack in scores.attacks.items():
        if name != "reconstruction_bce":  # the images' own entropy drowns it
            assert roc(attack.numpy(), members.numpy()).auc > 0.8, name


def test_images_of_neither_half_score_at_chance(overfitted, digits):
    scores = score(overfitted.model, digits.test.images, digits.test.labels)
    aucs = [roc(scores.attacks["reconstruction"].numpy(), split(100, draw(i)).numpy()).auc for i in range(50)]
    assert sum(aucs) / 50 == pytest.approx(0.5, abs=0.03)  # standard error 0.058 / sqrt(50)


def test_gap_is_welchs():
    errors, members = torch.tensor([1.0, 2.0, 3.0, 5.0, 9.0]), torch.tensor([True, True, True, False, False])
    value, (low, high) = gap(errors, members)
    assert value == pytest.approx(5.0)
    # Welch by hand: the variances of the two means are 8/2 and 1/3, so there are 1.17 degrees of freedom.
    freedom = (4 + 1 / 3) ** 2 / (4**2 / 1 + (1 / 3) ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(4 + 1 / 3)
    assert (low, high) == pytest.approx((5 - half, 5 + half))


def test_set_attack_follows_the_normal_law():
    """Means of n Gaussian scores that lie d apart are told apart with probability Phi(d sqrt(n / 2))."""
    members = torch.arange(4000) < 2000
    noise = torch.randn(4000, generator=draw(0))
    noise = torch.where(members, noise - noise[members].mean(), noise - noise[~members].mean())
    scores = noise + 0.2 * members
    sizes = [1, 10, 100]
    for size, (value, (low, high)) in zip(sizes, set_accuracy(scores, members, sizes, seed=0), strict=True):
        assert value == pytest.approx(stats.norm.cdf(0.2 * math.sqrt(size / 2)), abs=0.02)
        assert low < value < high
    single = set_accuracy(scores, members, [1], seed=0)[0][0]
    assert single == pytest.approx(roc(scores.numpy(), members.numpy()).auc, abs=0.005)


def test_set_attack_on_equal_scores_is_a_coin():
    ((value, bounds),) = set_accuracy(torch.zeros(40), torch.arange(40) < 20, [5], seed=0, resamples=20)
    assert value == 0.5
    assert bounds == (0.5, 0.5)


def test_a_set_larger_than_its_half_is_an_error():
    with pytest.raises(ValueError, match=r"set sizes \[21\]: need 1 to 20"):
        set_accuracy(torch.zeros(40), torch.arange(40) < 20, [5, 21], seed=0)


def test_the_highest_elbo_names_the_class(digits):
    everyone = torch.arange(200) < 199
    recipe = Recipe(latent=8, epochs=25, learning_rate=4e-3, batch_size=16)
    model = fit(recipe, digits.train.images, digits.train.labels, everyone, seed=0).model
    answers = ElboLogits(model, samples=4)(digits.test.images).argmax(1)
    assert (answers == digits.test.labels).float().mean() > 0.6


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.51, 0.55, "beats chance"), (0.48, 0.55, "cannot be told from chance with 1,000 images"), (0.4, 0.45, "falls")],
)
def test_verdict_follows_the_interval(low, high, words):
    assert words in verdict({"value": (low + high) / 2, "low": low, "high": high, "n": 1000})
