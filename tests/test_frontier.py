"""The frontier and the second order of scattering, by their definitions."""

import pytest
import torch
import torch.nn.functional as F

from labkit import data, frontier
from labkit.device import derive
from labkit.features import CHANNELS, PLACES, SAMPLES, _normalised, described, noise_images, whitening
from labkit.scattering import Scattering, filters
from labkit.store import Store
from labkit.training.accounting import composed
from labkit.training.linear import head_logits, private_mean, train_heads

DELTA, RATE = 1e-5, 0.1


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs at two epsilons, on features of nine channels, and how to make another."""
    monkeypatch.setattr(frontier, "TRANSFORM", Scattering(order=1, orientations=4))
    digits = data.load("digits", train_size=300, test_size=50)

    def run(epsilons=(2.0, 8.0), **changed):
        call = {"sample_rate": RATE, "epochs": 2, "delta": DELTA, "seeds": [0, 1], "store": Store(tmp_path)} | changed
        return frontier.frontiers(digits, list(epsilons), **call)

    return digits, run


def test_what_is_proved_includes_the_mean_and_is_the_epsilon_asked_for(runs):
    _, run = runs
    for found in run():
        for target, proved, head in zip((2.0, 8.0), found.epsilons, found.heads, strict=True):
            parts = (head.noise_multiplier, RATE, 20), (frontier.MEAN_NOISE, 1.0, 1)
            assert proved == composed(parts, DELTA)
            assert target - 0.01 <= proved <= target
            assert head.steps == 20
    assert [(head.learning_rate, head.clip) for head in found.heads] == [(0.8, 0.1), (1.2, 12.0)]


def test_a_run_is_private_heads_on_features_about_a_private_mean_of_the_training_images(runs):
    digits, run = runs
    found = run()
    seen, judged = (described(part, frontier.TRANSFORM, frontier.GROUPS) for part in (digits.train, digits.test))
    for seed, one in enumerate(found):
        mean = private_mean(seen, frontier.MEAN_BOUND, frontier.MEAN_NOISE, derive(seed, "mean"))
        white = whitening(frontier.TRANSFORM, frontier.GROUPS)
        weights = train_heads(white(seen, mean), digits.train.labels, one.heads, seed)
        torch.testing.assert_close(one.logits, head_logits(weights, white(judged, mean)))
    assert not torch.allclose(found[0].logits, found[1].logits)


def test_a_run_is_found_again_under_all_that_determines_it(runs, opened):
    (_, run), (made, bar) = runs, opened
    call = {"seeds": [0], "bar": bar}
    run(**call)
    for count, changed in enumerate(({"delta": 1e-6}, {"epochs": 3}, {"sample_rate": 0.2}, {"seeds": [2]}), start=2):
        run(**call | changed)
        assert len(made) == count, changed
    run(epsilons=(2.0,), **call)
    assert len(made) == 6
    run(**call)
    assert len(made) == 6


def test_order_two_by_the_definition():
    """||x * psi_a| * psi_b| * phi: every value of the second convolution, then every second one."""
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    transform, bank = Scattering(), filters(28, 2, 8)
    wide = F.pad(image, (4,) * 4, mode="reflect")[0, 0]
    found = transform(image)[0]
    for a, b in ((3, 1), (0, 6)):
        once = torch.fft.ifft2(torch.fft.fft2(wide) * bank.waves[0, 0][a]).abs()
        twice = torch.fft.ifft2(torch.fft.fft2(once) * bank.waves[0, 1][b])[::2, ::2].abs()
        expected = bank.averages[1] @ twice @ bank.averages[1].T
        torch.testing.assert_close(found[transform.paths.index(((0, a), (1, b)))], expected)


def test_whitening_is_a_power_of_the_second_moments_of_noise():
    transform = Scattering(order=1, orientations=4)
    z = _normalised(transform(noise_images(SAMPLES, 28, 0)), 3)
    z = (z - z.mean(0)).unflatten(1, (9, 49)).double()  # [S, K, P]
    made = whitening(transform, 3)
    for found, moments, (power, floor) in (
        (made.channels, torch.einsum("skp,slp->kl", z, z) / (SAMPLES * 49), CHANNELS),
        (made.places, torch.einsum("skp,skq->pq", z, z) / (SAMPLES * 9), PLACES),
    ):
        back = torch.linalg.matrix_power(found.double(), -round(1 / power))
        expected = moments + floor * moments.trace() * torch.eye(len(moments))
        torch.testing.assert_close(back, expected, rtol=1e-3, atol=1e-3 * moments.trace().item())
