"""The lab in a real IPython shell: what a notebook's parameters cell says is what is checked."""

from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from labkit.lab import Lab
from labkit.params import ParameterError, validate
from labkit.store import Store

OPEN = "import labkit\nlab = labkit.open(globals())"
SMALL = 'dataset = "digits"\ntrain_size = 1000\nbatch_size = 64\ngmm_components = [1, 2]'


@pytest.fixture
def shell(tmp_path, monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    yield shell
    shell.reset(new_session=False)
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, *cells: str) -> Any:
    """Run cells as Run All does, and return the lab; the first error is raised."""
    for cell in cells:
        shell.run_cell(cell, store_history=True).raise_error()
    return shell.user_ns["lab"]


def test_parameters_of_the_cell_are_used(shell: InteractiveShell) -> None:
    params = run(shell, f"# Parameters\n{SMALL}\nlearning_rate = '1e-3'  # text, as YAML 1.1 has it", OPEN).params
    assert (params.dataset, params.train_size, params.learning_rate) == ("digits", 1000, 1e-3)


def test_the_injected_cell_wins(shell: InteractiveShell) -> None:
    first, injected = f"# Parameters\n{SMALL}\nepochs = 3", "# Parameters\nepochs = 5\n"
    assert run(shell, first, injected, OPEN).params.epochs == 5


@pytest.mark.parametrize(
    "cells",
    [
        ["# Parameters\nepoch = 3"],
        ["# Parameters\nepoch: int = 3"],
        [f"# Parameters\n{SMALL}", "# Parameters\nepoch = 3\n"],  # as papermill injects it
        ["# Parameters\nepoch = 3", "# Parameters\nseed = 1\n"],
        ["\n# Parameters\n%pwd\nepoch = 3"],
    ],
)
def test_a_misspelt_parameter_is_an_error(shell: InteractiveShell, cells: list[str]) -> None:
    with pytest.raises(ParameterError, match=r"epoch: unknown parameter; did you mean (epochs|pgd_epochs)\?"):
        run(shell, *cells, OPEN)


def test_every_problem_of_the_cell_is_listed(shell: InteractiveShell) -> None:
    with pytest.raises(ParameterError) as caught:
        run(shell, "# Parameters\nepoch = 3\nseed = -1\ndevice = 'tpu'", OPEN)
    assert str(caught.value).startswith("3 problems in this notebook's parameters:")


def test_mixtures_that_the_images_at_hand_do_not_bear_are_refused_at_once(shell: InteractiveShell) -> None:
    """There are 60 000 images of FashionMNIST, and fewer of the digits."""
    with pytest.raises(ParameterError, match="gmm_components: K = 150 may be more than a class has images"):
        run(shell, "# Parameters\ndataset = 'digits'\ntrain_size = None\ngmm_components = [1, 150]", OPEN)


def test_who_names_no_mixture_is_not_told_of_any(shell: InteractiveShell) -> None:
    assert run(shell, "# Parameters\ndataset = 'digits'\ntrain_size = 200", OPEN).params.train_size == 200


def test_variables_of_other_cells_are_left_alone(shell: InteractiveShell) -> None:
    assert run(shell, "helper = 3\nepoch = 7", f"# Parameters\n{SMALL}", OPEN).params.train_size == 1000


def test_running_all_again_in_the_same_kernel(shell: InteractiveShell) -> None:
    cells = [f"# Parameters\n{SMALL}\nseed = 3", OPEN, "epoch = 3\nlab.say('seed 3')"]
    assert run(shell, *cells, *cells).params.seed == 3


def test_a_mended_cell_runs(shell: InteractiveShell) -> None:
    with pytest.raises(ParameterError):
        run(shell, "# Parameters\nepoch = 3", OPEN)
    assert run(shell, f"# Parameters\n{SMALL}\nepochs = 3", OPEN).params.epochs == 3


def test_parameters_by_name_go_over_the_cells(shell: InteractiveShell) -> None:
    opened = "import labkit\nlab = labkit.open(globals(), seed=9)"
    assert run(shell, f"# Parameters\n{SMALL}\nseed = 3", opened).params.seed == 9
    with pytest.raises(ParameterError, match="sed: unknown parameter; did you mean seed"):
        run(shell, "labkit.open(globals(), sed=9)")


def test_models_that_overfit_have_few_images_and_their_halves(tmp_path) -> None:
    small = {"dataset": "digits", "train_size": 400, "overfit_size": 200, "overfit_epochs": 1, "gmm_components": [1]}
    lab = Lab(validate(small | {"shadow_pgd_models": 4, "train_steps": 1}), Store(tmp_path))
    few, ensemble = lab.overfitted()
    assert len(few.train) == 200
    assert len(few.test) == len(lab.data.test)
    assert few.sha256 not in (lab.data.sha256, lab.data.fewer(torch.arange(200)).sha256)
    whole = {p.numpy().tobytes() for p in lab.data.train.pixels}
    assert {p.numpy().tobytes() for p in few.train.pixels} <= whole
    assert ensemble.members.shape == (4, 200)
    assert ensemble.members.sum(1).tolist() == pytest.approx([100] * 4, abs=40)
    assert (ensemble.recipe.regime, ensemble.recipe.epochs) == ("pgd", 1)


def test_provenance_says_what_was_used(shell: InteractiveShell) -> None:
    lab = run(shell, f"# Parameters\n{SMALL}\ntest_size = 12e2", OPEN)
    facts = lab.provenance
    assert (facts["dataset"], facts["train_images"], facts["test_images"]) == ("digits", 1000, 500)
    assert facts["dataset_sha256"] == lab.data.sha256
    assert facts["parameters"]["test_size"] == 1200


def test_controls_differ_from_shadows_by_the_regime_alone(tmp_path) -> None:
    small = {"dataset": "digits", "train_size": 400, "test_size": 200, "shadow_models": 4, "shadow_pgd_models": 4}
    epochs = {"shadow_epochs": 2, "shadow_pgd_epochs": 1, "train_steps": 1}
    lab = Lab(validate(small | epochs, "test"), store=Store(tmp_path))
    defended, control = lab.shadows("pgd"), lab.controls("pgd")
    assert torch.equal(control.members, defended.members)
    assert (
        (control.recipe.epochs, control.recipe.mirror) == (defended.recipe.epochs, defended.recipe.mirror) == (1, True)
    )
    assert control.recipe.rule == lab.shadows("standard").recipe.rule != defended.recipe.rule


@pytest.mark.parametrize(("shadow_epochs", "same"), [(1, True), (2, False)])
def test_shadows_that_are_trained_as_controls_would_be_are_the_controls(tmp_path, shadow_epochs, same) -> None:
    small = {"dataset": "digits", "train_size": 400, "test_size": 200, "shadow_models": 6, "shadow_dp_models": 4}
    given = small | {"shadow_epochs": shadow_epochs, "shadow_dp_epochs": 1, "dp_batch_size": 100}
    lab = Lab(validate(given, "test"), store=Store(tmp_path))
    private, control = lab.shadows("dp"), lab.controls("dp")
    assert (control is lab.shadows("standard")) == same
    assert control.recipe.epochs == private.recipe.epochs == 1
    assert torch.equal(control.members[:4], private.members)
