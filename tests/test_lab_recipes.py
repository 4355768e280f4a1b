"""The lab: recipes are as the parameters say, each ensemble its own."""

from dataclasses import replace

import pytest
import torch

from labkit import lab as lab_module
from labkit.lab import Lab
from labkit.params import ParameterError, validate
from labkit.store import Store
from labkit.training import REGIMES, Adversarial

GIVEN = {"dataset": "digits", "train_size": 400, "test_size": 100, "gmm_components": [1], "train_steps": 1}
GIVEN |= {"batch_size": 32, "dp_batch_size": 64}
EPOCHS = {
    "epochs": 2,
    "pgd_epochs": 3,
    "dp_epochs": 4,
    "shadow_epochs": 2,
    "shadow_pgd_epochs": 6,
    "shadow_dp_epochs": 7,
}
MODELS = {"seeds": 2, "shadow_models": 6, "shadow_pgd_models": 5, "shadow_dp_models": 4}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A lab that trains nothing, and the trainings that it asked for."""
    calls = []

    def train(recipe, data, members, **more):
        calls.append((recipe, data, members, more))
        return calls[-1]

    monkeypatch.setattr(lab_module, "train", train)
    return Lab(validate(GIVEN | EPOCHS | MODELS), Store(tmp_path)), calls


def test_classifiers_and_shadows_have_their_own_lengths_sizes_and_seeds(asked):
    lab, calls = asked
    for regime, epochs, shadow_epochs, models in (("standard", 2, 2, 6), ("pgd", 3, 6, 5), ("dp", 4, 7, 4)):
        whole, half = lab.classifiers(regime), lab.shadows(regime)
        assert (whole[0].epochs, half[0].epochs) == (epochs, shadow_epochs)
        assert whole[2].all()
        assert whole[2].shape == (2, 400)
        assert torch.equal(half[2], lab.members("standard")[:models])
        for (recipe, *_), size in ((whole, 400), (half, 200)):
            assert recipe == replace(REGIMES[regime](lab.params, size, recipe.epochs), piece=recipe.piece)
        assert lab.classifiers(regime) is whole
        assert lab.shadows(regime) is half
    assert len({(call[3]["seed"], call[0]) for call in calls}) == len(calls) == 6


def test_the_same_halves_train_every_regime(asked):
    lab, _ = asked
    assert torch.equal(lab.members("pgd"), lab.members("standard")[:5])
    assert torch.equal(lab.members("dp"), lab.members("standard")[:4])
    assert not torch.equal(lab.members("dp")[0], lab.members("dp")[1])


def test_private_classifiers_keep_the_epsilon_that_they_are_asked_for(asked):
    lab, _ = asked
    recipe, _, members, _ = lab.private(2.0)
    assert 1.99 <= recipe.guarantee(lab.params.dp_delta) <= 2.0
    assert members.all()


def test_overfitted_models_are_trained_against_one_radius_and_never_on_a_mirror_image(asked):
    lab, _ = asked
    _, (recipe, few, members, _) = lab.overfitted()
    assert recipe.rule == Adversarial(recipe.rule.rule, lab.params.train_eps, 1, 0.0)
    assert not recipe.mirror
    assert members.shape == (5, len(few.train))


def test_canaries_are_trained_on_with_their_wrong_labels(asked):
    lab, _ = asked
    planted, (_, data, members, _) = lab.planted()
    assert torch.equal(data.train.labels, planted.data.train.labels)
    assert torch.equal(members, planted.members)


def test_facts_of_a_private_model_are_its_guarantee_at_the_delta_of_the_parameters(asked):
    lab, _ = asked
    recipe = lab.classifiers("dp")[0]
    ensemble = type("Ensemble", (), {"recipe": recipe})()
    assert lab.facts(ensemble) == {"epsilon": recipe.guarantee(1e-5), "delta": 1e-5}


def test_a_mixture_a_row_of_members(asked):
    lab, _ = asked
    halves = lab.members("dp")
    one, two = lab.mixtures(halves[:2])
    assert not torch.equal(one.mixtures_.means, two.mixtures_.means)


@pytest.mark.parametrize(("steps", "stride"), [(5, 0.25), (10, 0.25), (20, 0.125)])
def test_the_stronger_attack_steps_no_farther_than_a_quarter_of_a_radius(steps, stride, tmp_path):
    lab = Lab(validate(GIVEN | {"pgd_steps": steps}), Store(tmp_path))
    assert lab.stride == stride


@pytest.mark.parametrize("delta", [1 / 400, 0.01])
def test_a_delta_of_one_record_is_refused(delta):
    with pytest.raises(ParameterError, match=r"dp_delta: .* is not below 1/train_size"):
        validate(GIVEN | {"dp_delta": delta})
    assert validate(GIVEN | {"dp_delta": 0.99 / 400})


@pytest.mark.parametrize("name", ["frontier_epsilon", "end_to_end_epsilon"])
def test_epsilons_ascend(name):
    with pytest.raises(ParameterError, match=rf"{name}: .* must ascend"):
        validate(GIVEN | {name: [3.0, 1.0]})
