"""Evaluations are values: kept under all that determines them, and taken apart as a naive count would."""

import importlib
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from labkit import attacks, generative, robustness
from labkit.generative.cvae import cross_entropy, kl_divergence
from labkit.generative.networks import CVAE
from labkit.identity import described, fingerprint
from labkit.robustness import STANDS, Survival, measured, survive
from labkit.store import Store, sources


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(seed=0):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=gen(seed)) / 20)
    return model.eval()


@pytest.fixture
def batch():
    images = torch.rand(40, 1, 28, 28, generator=gen(1))
    return images, linear()(images).argmax(1).where(torch.arange(40) % 8 > 0, torch.arange(40) % 10)


CHAIN = {"fgsm": attacks.fgsm, "pgd": partial(attacks.pgd, steps=5, seed=3)}


def outcome(model, attack, images, labels, eps):
    return attacks.correct(model, attack(model, images, labels, eps), labels)


def test_survival_equals_attacks_one_by_one(batch, tmp_path):
    images, labels = batch
    models = [linear(), linear(5)]
    found = survive([models], CHAIN, images, labels, 0.02, store=Store(tmp_path))
    for index, model in enumerate(models):
        right = attacks.correct(model, images, labels)
        one = right & outcome(model, CHAIN["fgsm"], images, labels, 0.02)
        both = one & outcome(model, CHAIN["pgd"], images, labels, 0.02)
        assert torch.equal(found.right[index], right)
        assert torch.equal(found.after("fgsm")[index], one)
        assert torch.equal(found.taken("fgsm")[index], right & ~one)
        assert found.stands[index].sum() <= one.sum()
        assert both.sum() - 1 <= found.stands[index].sum() <= both.sum() + 1  # starts are drawn for what is left
    assert 0 < found.stands[0].sum() < found.right[0].sum()


def test_steadiness_is_how_often_noisy_copies_are_classified_right(batch):
    images, labels = batch
    for scale in (1e-6, 0.3):
        found = robustness.steadiness(linear(), images, labels, scale=scale, queries=40, seed=1)
        draw = torch.Generator().manual_seed(9)
        copies = [(images + scale * torch.randn(images.shape, generator=draw)).clamp(0, 1) for _ in range(400)]
        often = torch.stack([linear()(x).argmax(1) == labels for x in copies]).double().mean(0)  # other noise
        error = (often * (1 - often) * (1 / 40 + 1 / 400)).sqrt()
        assert ((found - often).abs() <= 4.5 * error + 1e-6).all()
    assert 0 < found.unique().numel() > 5


def test_an_evaluation_is_not_done_twice(batch, tmp_path, monkeypatch):
    images, labels = batch
    call = {"store": Store(tmp_path)}
    first = survive([[linear()]], CHAIN, images, labels, 0.02, **call)
    done = []
    real = robustness.evaluate
    monkeypatch.setattr(robustness, "evaluate", lambda *a, **k: done.append(a) or real(*a, **k))
    again = survive([[linear()]], CHAIN, images, labels, 0.02, **call)
    assert torch.equal(again.fell, first.fell)
    assert not done
    other = {**CHAIN, "pgd": partial(attacks.pgd, steps=6, seed=3)}
    for count, change in enumerate(
        (
            lambda: survive([[linear(1)]], CHAIN, images, labels, 0.02, **call),
            lambda: survive([[linear()]], other, images, labels, 0.02, **call),
            lambda: survive([[linear()]], CHAIN, images, labels, 0.03, **call),
            lambda: survive([[linear()]], CHAIN, images[:9], labels[:9], 0.02, **call),
            lambda: survive([[linear()]], CHAIN, images, labels.roll(1), 0.02, **call),
            lambda: survive([[linear()]], CHAIN, images, labels, 0.02, standing=torch.arange(40)[None] < 20, **call),
        )
    ):
        change()
        assert len(done) == count + 1


def test_a_measurement_is_done_once_a_model_and_setting(batch, tmp_path, monkeypatch):
    images, labels = batch
    under = partial(robustness.under_pgd, eps=0.02, steps=3, seed=1)
    found = measured(under, [linear(), linear(1)], images, labels, store=Store(tmp_path))
    for model, logits in zip([linear(), linear(1)], found, strict=True):
        torch.testing.assert_close(logits, model(attacks.pgd(model, images, labels, 0.02, steps=3, seed=1)))
    monkeypatch.setattr(robustness, "pgd", lambda *a, **k: pytest.fail("attacked again"))
    assert torch.equal(measured(under, [linear(1)], images, labels, store=Store(tmp_path))[0], found[1])
    distance = partial(attacks.boundary_distance, steps=5, targets=2)
    said = measured(robustness.answers, [linear(1)], images, labels, store=Store(tmp_path))
    torch.testing.assert_close(said[0], linear(1)(images))
    (away,) = measured(distance, [linear()], images, labels, store=Store(tmp_path))
    torch.testing.assert_close(away, distance(linear(), images, labels))


def test_a_repaired_model_is_evaluated_anew(batch, tmp_path, monkeypatch):
    """Its class, and what that rests on, are part of the key; so are the attack, and the order of sums."""
    images, labels = (part[:2] for part in batch)
    rested, keys = [], []

    def version(*modules):
        rested.append(sources(*modules))
        return "version"

    def get(kind, key, make):
        keys.append(key)
        return {"right": labels, "fell": labels, "found": labels}, {}

    monkeypatch.setattr(robustness, "code_version", version)
    store = Store(tmp_path)
    monkeypatch.setattr(store, "get", get)
    for model in (generative.ElboLogits(CVAE(4)), linear()):
        survive([[model]], CHAIN, images, labels, 0.02, store=store)
        measured(attacks.boundary_distance, [model], images, labels, store=store)
    with_model, without = set.intersection(*map(set, rested[:2])), set.union(*map(set, rested[2:]))
    rests_on = {f"labkit.generative.{m}" for m in ("bayes", "cvae", "networks")}
    rests_on |= {"labkit.data", "labkit.training.capture", "labkit.training.optimisers"}
    assert with_model - without == rests_on
    assert {"labkit.robustness", "labkit.attacks.boundary"} <= without
    assert [(key["device"], key["deterministic"]) for key in keys] == [("cpu", False)] * 4


def test_what_does_not_stand_is_left_alone(batch, tmp_path):
    images, labels = batch
    standing = torch.arange(40)[None] % 2 == 0
    found = survive([[linear()]], CHAIN, images, labels, 0.5, store=Store(tmp_path), standing=standing)
    assert (found.fell[~standing] == STANDS).all()
    assert torch.equal(found.right[0], attacks.correct(linear(), images, labels))
    assert not (found.stands & standing & found.right).any()


def test_an_image_must_survive_behind_every_face(batch, tmp_path):
    store, faces = Store(tmp_path), [[linear()], [linear(1)]]
    both = survive(faces, CHAIN, *batch, 0.02, store=store)
    first, second = (survive([models], CHAIN, *batch, 0.02, store=store) for models in faces)
    assert torch.equal(both.stands, first.stands & (second.fell == STANDS))


def test_then_is_the_sequence_of_both():
    right = torch.tensor([[True, True, True, True, False]])
    first = Survival(("a", "b"), right, torch.tensor([[0, STANDS, STANDS, STANDS, STANDS]], dtype=torch.int8))
    second = Survival(("b", "c"), right, torch.tensor([[0, 0, 1, STANDS, STANDS]], dtype=torch.int8))
    both = first.then(second)
    assert both.attacks == ("a", "b", "c")
    assert both.fell.tolist() == [[0, 1, 2, STANDS, STANDS]]
    assert both.stands.tolist() == [[False, False, False, True, False]]
    assert sum(int(both.taken(name).sum()) for name in both.attacks) + int(both.stands.sum()) == int(right.sum())


def test_a_fingerprint_is_the_model_s_not_its_mode_s():
    model = linear()
    assert fingerprint(model) == fingerprint(linear())
    assert fingerprint(model.train()) == fingerprint(linear())
    assert fingerprint(model) != fingerprint(linear(1))
    cvae = CVAE(4)
    soft, sharp = (generative.ElboLogits(cvae, temperature=t) for t in (10.0, 1.0))
    assert fingerprint(soft) != fingerprint(sharp)


class Times(nn.Module):
    """What it multiplies by is no parameter, and not in its name."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def twice(x):
    return 2 * x


@pytest.mark.parametrize(
    "other", [-1, torch.tensor(2.0), True, (1.0,), [-1.0], {"by": 2}, np.ones(2), twice, partial(twice), nn.ReLU]
)
def test_a_fingerprint_looks_into_every_part(other):
    first, second = (nn.Sequential(nn.Flatten(), Times(factor)) for factor in (torch.tensor(1.0), other))
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(second) == fingerprint(nn.Sequential(nn.Flatten(), Times(other)))


def scaled(by):
    return lambda x: by * x


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ((1.0,), (-1.0,)),
        ({"by": 1}, {"by": 2}),
        (np.zeros(3), np.ones(3)),
        (scaled(1), scaled(2)),
        (F.relu, F.gelu),
        (partial(twice), twice),
        ([nn.Linear(2, 2)], [nn.Linear(2, 2)]),
    ],
)
def test_a_fingerprint_looks_into_what_a_part_holds(one, another):
    assert fingerprint(Times(one)) != fingerprint(Times(another))


def test_a_fingerprint_sees_buffers_that_are_not_saved():
    found = []
    for value in (1.0, 2.0):
        model = nn.Flatten()
        model.register_buffer("scale", torch.tensor(value), persistent=False)
        found.append(fingerprint(model))
    assert found[0] != found[1]


def test_what_a_fingerprint_cannot_tell_is_an_error():
    with pytest.raises(ValueError, match="factor: what a Generator holds cannot be told"):
        fingerprint(Times(torch.Generator()))
    hooked = nn.Flatten()
    hooked.register_forward_hook(lambda module, x, y: -y)
    with pytest.raises(ValueError, match="has forward_hooks, which may change its answers"):
        fingerprint(hooked)


def test_a_fingerprint_is_of_the_source_of_a_user_s_class(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for power in (1, 2):
        source = "from torch import nn\nclass Own(nn.Module):\n    def forward(self, x):\n"
        source += f"        return x.flatten(1) ** {power}\n"
        (tmp_path / f"own_{power}.py").write_text(source)
        found.append(fingerprint(importlib.import_module(f"own_{power}").Own()))
    assert found[0] != found[1]
    nowhere = {}
    exec(source, nowhere)
    with pytest.raises(ValueError, match="put it into a file"):
        fingerprint(nowhere["Own"]())


def test_described_says_function_and_settings():
    inner = partial(attacks.pgd, steps=5, seed=1)
    assert described(partial(inner, seed=2)) == {"function": "labkit.attacks.gradient.pgd", "steps": 5, "seed": 2}


@pytest.mark.parametrize("nameless", [lambda model, x, y, eps: x, partial(attacks.pgd, None)])
def test_what_another_could_be_taken_for_is_not_kept(nameless):
    with pytest.raises(ValueError, match="store's key"):
        described(nameless)


# The CVAE as a classifier


@pytest.mark.parametrize("samples", [1, 3])
def test_elbo_logits_equal_a_loop_over_images_and_classes(samples):
    torch.manual_seed(0)
    cvae = CVAE(4).eval()
    model = generative.ElboLogits(cvae, samples=samples, seed=2)
    images = torch.rand(3, 1, 28, 28, generator=gen())
    found = model.bounds(images)
    for i in range(3):
        for c in range(10):
            x, y = images[i : i + 1], torch.tensor([c])
            mean, log_variance = cvae.encode(x, y)
            draws = [mean + (log_variance / 2).exp() * e for e in model.noise]
            bce = torch.stack([cross_entropy(cvae.decode(z, y), x) for z in draws]).mean()
            torch.testing.assert_close(found[i, c], -(bce + kl_divergence(mean, log_variance))[0], rtol=1e-4, atol=1e-2)


def test_a_temperature_changes_no_answer_and_brings_the_gradient_back():
    torch.manual_seed(0)
    cvae = CVAE(4).eval()
    images = torch.rand(6, 1, 28, 28, generator=gen())
    sharp, soft = (generative.ElboLogits(cvae, temperature=t) for t in (1.0, 50.0))
    assert torch.equal(sharp(images).argmax(1), soft(images).argmax(1))
    assert torch.equal(sharp(images), sharp(images))
    y = sharp(images).argmax(1)
    slope = attacks.input_gradient(soft, images, y)
    assert (slope.abs().flatten(1).amax(1) > 0).all()
