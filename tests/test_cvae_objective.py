"""The CVAE: what is minimised, by torch.distributions; attacks by their signs."""

from dataclasses import replace

import pytest
import torch
from torch import distributions

from labkit import data
from labkit.device import derive, generator
from labkit.generative import CVAE, ElboLogits, Recipe, cvae, fit, score, split, train
from labkit.generative.leakage import Scores
from labkit.store import Store
from labkit.training.optimisers import warm_cosine
from labkit.workers import Crew


def draw(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def digits():
    return data.load("digits", train_size=200, test_size=100)


def test_decoded_is_a_draw_from_the_posterior():
    torch.manual_seed(0)
    model, x, y = CVAE(4), torch.rand(6, 1, 28, 28), torch.arange(6)
    noise = torch.randn(6, 4)
    logits, mean, log_variance = model(x, y, noise)
    z = distributions.Normal(mean, log_variance.exp().sqrt()).icdf(distributions.Normal(0.0, 1.0).cdf(noise))
    torch.testing.assert_close(logits, model.decode(z, y), rtol=1e-3, atol=1e-4)


def test_training_climbs_the_elbo_by_adam(monkeypatch):
    """A few steps, the objective by torch.distributions."""
    monkeypatch.setattr(cvae, "training_precision", lambda device: torch.autocast("cpu", enabled=False))
    images, labels = torch.rand(20, 1, 28, 28, generator=draw(0)).round(), torch.arange(20) % 10
    recipe = Recipe(latent=3, epochs=6, learning_rate=1e-2, batch_size=10)
    with Crew(1):
        found = fit(recipe, images, labels, members := split(20, draw(1)), seed=5)
        with torch.random.fork_rng():
            torch.manual_seed(derive(5, "weights"))
            model = CVAE(3)
        optimiser = torch.optim.AdamW(model.parameters(), 1.0)
        order, noise, mine = generator(5, "order"), generator(5, "noise"), members.nonzero()[:, 0]
        for t in range(6):
            chosen = mine[torch.randperm(10, generator=order)]
            x, y = images[chosen], labels[chosen]
            logits, mean, log_variance = model(x, y, torch.randn(10, 3, generator=noise))
            posterior = distributions.Normal(mean, (log_variance / 2).exp())
            likelihood = distributions.Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
            loss = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0)).sum(1) - likelihood
            optimiser.param_groups[0]["lr"] = 1e-2 * warm_cosine(t, 6)
            optimiser.zero_grad()
            loss.mean().backward()
            optimiser.step()
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], expected, rtol=1e-3, atol=1e-3)


def test_attacks_call_a_member_what_the_model_explains_well():
    made = Scores(
        torch.tensor([[3.0, 5.0], [5.0, 7.0]]),
        torch.tensor([1.0, 4.0]),
        torch.tensor([0.1, 0.3]),
        torch.tensor([2.0, 1.0]),
    )
    found = {name: scores.tolist() for name, scores in made.attacks.items()}
    assert found["reconstruction"] == [2 - 4, 1 - 6]
    assert found["reconstruction_bce"] == [-4, -6]
    assert found["reconstruction_mse"] == pytest.approx([-0.1, -0.3])
    assert found["elbo"] == [2 - 4 - 1, 1 - 6 - 4]
    assert made.elbo.tolist() == [-5, -10]


def test_each_latent_draw_is_another(digits):
    model = CVAE(4)
    bce = score(model, digits.test.images, digits.test.labels, samples=3).bce
    assert not torch.equal(bce[0], bce[1])
    assert not torch.equal(bce[1], bce[2])


def test_a_cvae_is_found_again_under_all_that_determines_it(digits, tmp_path, opened):
    made, bar = opened
    recipe, members = Recipe(latent=2, epochs=1, learning_rate=1e-3), split(200, draw(0))
    given = {"recipe": recipe, "data": digits, "members": members, "seed": 0}
    others = {"recipe": replace(recipe, learning_rate=2e-3), "data": data.load("digits", train_size=200, test_size=99)}
    others |= {"members": ~members, "seed": 1}

    def run(**changed):
        call = given | changed
        train(call["recipe"], call["data"], call["members"], seed=call["seed"], store=Store(tmp_path), bar=bar)

    run()
    for count, (name, value) in enumerate(others.items(), start=2):
        run(**{name: value})
        assert len(made) == count, name


def test_the_elbo_classifier_pays_for_its_latents():
    """A fresh encoder's KL is lost in the rounding of the cross-entropy; mean 3, variance 1 costs 4.5 D."""
    torch.manual_seed(0)
    model, x = CVAE(4).eval(), torch.rand(3, 1, 28, 28, generator=draw(0))
    with torch.no_grad():
        model.posterior[-1].weight.zero_()
        model.posterior[-1].bias.copy_(torch.tensor([3.0] * 4 + [0.0] * 4))
    made = ElboLogits(model, samples=1, seed=2)
    for c in range(10):
        y = torch.full((3,), c)
        bce = cvae.cross_entropy(model.decode((3 + made.noise).expand(3, -1), y), x)
        torch.testing.assert_close(made.bounds(x)[:, c], -bce - 4.5 * 4, rtol=0, atol=0.1)
