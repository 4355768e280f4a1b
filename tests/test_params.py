"""Parameters: what is wrong is said at once, all of it, with the value, the limit and the remedy."""

import contextlib
import math
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.paramfiles import parse_assignment, read
from labkit.params import ParameterError, Params, mixture_problems, validate

PROFILE_FILES = sorted((Path(__file__).parents[1] / "params").glob("*.yaml"))

# name -> (the file's text, fragments of the message)
MALFORMED: dict[str, tuple[str | bytes, list[str]]] = {
    # unknown names
    "misspelt": ("epoch: 3", ["epoch: unknown parameter; did you mean epochs?"]),
    "misspelt, dashes": ("batch-size: 3", ["did you mean batch_size?"]),
    "other case": ("Seed: 3", ["Seed: unknown parameter; did you mean seed?"]),
    "far from all": ("zzz: 3", ["zzz: unknown parameter; known are seed, device, deterministic"]),
    "empty name": ("'': 3", [": unknown parameter; known are"]),
    "nested": ("attack:\n  eps: 0.1", ["attack: unknown parameter"]),
    "name with a space": ("'seed ': 3", ["did you mean seed?"]),
    # wrong types
    "text for a number": ("seed: many", ["seed: 'many' given, but must be a number"]),
    "text for a rate": ("learning_rate: fast", ["learning_rate: 'fast' given, but must be a number"]),
    "empty text": ("epochs: ''", ["epochs: '' given, but must be a number"]),
    "truth value": ("epochs: true", ["epochs: True given, but must be a number, not true or false"]),
    "yes is a truth value": ("seed: yes", ["seed: True given, but must be a number, not true or false"]),
    "truth value for a rate": ("dp_delta: false", ["dp_delta: False given, but must be a number"]),
    "truth value in a list": ("attack_eps: [0.1, true]", ["attack_eps.1: True given, but must be a number"]),
    "null where a value is needed": ("seed: null", ["seed: None given", "valid integer"]),
    "nothing after the colon": ("epochs:", ["epochs: None given"]),
    "fraction for a count": ("epochs: 2.5", ["epochs: 2.5 given", "integer"]),
    "small power for a count": ("epochs: 1e-3", ["epochs: 0.001 given", "integer"]),
    "list for a number": ("train_size: [300]", ["train_size: [300] given"]),
    "mapping for a number": ("seed: {a: 1}", ["seed: {'a': 1} given"]),
    "mapping for a list": ("attack_eps: {a: 1}", ["attack_eps.0: {'a': 1} given"]),
    "text in a list": ("gmm_components: [1, two]", ["gmm_components.1: 'two' given, but must be a number"]),
    "nested list": ("attack_eps: [[0.1]]", ["attack_eps.0: [0.1] given"]),
    "a date": ("seed: 2026-01-01", ["seed: datetime.date(2026, 1, 1) given"]),
    "a list that holds itself": ("attack_eps: &a [*a]", ["attack_eps.0: [[...]] given"]),
    # out of range
    "negative": ("seed: -1", ["seed: -1 given", "greater than or equal to 0"]),
    "zero": ("epochs: 0", ["epochs: 0 given", "greater than or equal to 1"]),
    "too large": ("train_size: 60001", ["train_size: 60001 given", "less than or equal to 60000"]),
    "too small": ("train_size: 199", ["train_size: 199 given", "greater than or equal to 200"]),
    "eps above the box": ("attack_eps: [0.1, 1.5]", ["attack_eps.1: 1.5 given", "less than or equal to 1"]),
    "eps in units of 255": ("train_eps: 8", ["train_eps: 8 given", "less than or equal to 1"]),
    "rate of zero": ("learning_rate: 0", ["learning_rate: 0 given", "greater than 0"]),
    "delta of one": ("dp_delta: 1", ["dp_delta: 1 given", "less than 1"]),
    "not a number": ("learning_rate: .nan", ["learning_rate: nan given, but must be a finite number"]),
    "not a number, as text": ("dp_epsilon: nan", ["dp_epsilon: 'nan' given, but must be a finite number"]),
    "not a number, in a list": ("attack_eps: [.nan]", ["attack_eps.0: nan given, but must be a finite number"]),
    "infinite": ("dp_epsilon: .inf", ["dp_epsilon: inf given, but must be a finite number"]),
    "infinite count": ("seed: -.inf", ["seed: -inf given", "finite"]),
    "beyond floats": ("learning_rate: 1e400", ["learning_rate: '1e400' given, but must be a finite number"]),
    "huge integer": ("seed: 99999999999999999999999999", ["seed: 99999999999999999999999999 given"]),
    "huge integer, hexadecimal": ("seed: 0x" + "f" * 5000, ["seed: a number of thousands of digits given"]),
    "huge integer, decimal": ("seed: " + "9" * 5000, ["is not valid YAML", "4300 digits"]),
    "huge time-out": ("cell_timeout: 0x" + "f" * 5000, ["cell_timeout: a number of thousands of digits given"]),
    "empty list": ("attack_eps: []", ["attack_eps: [] given", "at least 1"]),
    "long list": (f"attack_eps: {[i / 100 for i in range(33)]}", ["attack_eps", "at most 32"]),
    "no such device": ("device: tpu", ["device: 'tpu' given", "'auto', 'cpu' or 'cuda'"]),
    "no such dataset": ("dataset: mnist", ["dataset: 'mnist' given", "'fashion_mnist'"]),
    "long text is cut": ("device: " + "x" * 1000, ["xxx... given"]),
    # contradictions
    "descending radii": ("attack_eps: [0.2, 0.1]", ["attack_eps: [0.2, 0.1] must ascend"]),
    "descending defences": ("robust_eps: [0.2, 0.1]", ["robust_eps: [0.2, 0.1] must ascend"]),
    "an attack of no radius": ("autoattack_eps: [0, 0.1]", ["autoattack_eps: a radius of 0 is no attack"]),
    "a defence against nothing": ("robust_eps: [0, 0.1]", ["robust_eps: a radius of 0 is no defence"]),
    "all held out": ("validation_share: 0.7", ["validation_share: 0.7 given", "less than or equal to 0.5"]),
    "repeated candidates": ("gmm_components: [2, 2]", ["gmm_components: [2, 2] must ascend, without repeats"]),
    "no such defence": ("defences: [pgd, magic]", ["defences", "magic", "'trades'"]),
    "descending AutoAttack": ("autoattack_eps: [0.2, 0.1]", ["autoattack_eps: [0.2, 0.1] must ascend"]),
    "stronger attack is weaker": ("pgd_steps: 50\nstrong_steps: 40", ["pgd_steps: 50 is more than strong_steps = 40"]),
    "delta gives a record away": (
        "train_size: 12e3\ndp_delta: 1e-3",
        ["dp_delta: 0.001 is not below 1/train_size = 8.3e-05"],
    ),
    "components without points": (
        "train_size: 6e3\ngmm_components: 500",
        ["gmm_components: K = 500 may be more than a class has images"],
    ),
    "delta that no accountant reaches": ("dp_delta: 1e-20", ["dp_delta: 1e-20 given", "equal to 0.000000000001"]),
    "repeated defences": ("defences: [pgd, ibp, pgd]", ["defences: ['pgd', 'ibp', 'pgd'] names one twice"]),
    "components without points, by chance": (
        "train_size: 400\ngmm_components: 8",
        ["gmm_components: K = 8 may be more than a class has images", "as few as 6 in a random half of 400"],
    ),
    "directions without images": (
        "train_size: 200\ngmm_components: 1\ngmm_pca_dim: 78",
        ["gmm_pca_dim: 78 may be more than the directions in which images vary: as few as 77 in a random half"],
    ),
    # not the form
    "key that stands twice": ("seed: 1\nepochs: 2\nseed: 3", ["seed stands twice (line 3)"]),
    "tab": ("seed:\n\t1", ["is not valid YAML", "'\\t'"]),
    "unclosed": ("attack_eps: [0.1", ["is not valid YAML"]),
    "two documents": ("seed: 1\n---\nseed: 2", ["is not valid YAML", "single document"]),
    "a list": ("- seed", ["must map names to values, but holds a list"]),
    "a word": ("quick", ["must map names to values, but holds a str"]),
    "names that are numbers": ("1: 2", ["names must be text, but 1 is not"]),
    "a name that is a truth value": ("on: 1", ["names must be text, but True is not"]),
    "a list as a name": ("? [a]\n: 1", ["is not valid YAML", "unhashable"]),
    "unknown alias": ("seed: *s", ["is not valid YAML", "undefined alias"]),
    "unsafe object": ("seed: !!python/object/apply:os.getcwd []", ["is not valid YAML", "could not determine"]),
    "unsafe name": ("seed: !!python/name:os.system", ["is not valid YAML", "could not determine"]),
    "empty integer": ("seed: !!int ''", ["is not valid YAML"]),
    "no truth value": ("device: !!bool x", ["is not valid YAML"]),
    "no timestamp": ("seed: !!timestamp x", ["is not valid YAML"]),
    "no such month": ("seed: 2026-13-01", ["is not valid YAML", "month must be in 1..12"]),
    "sexagesimal overflow": ("seed: 1" + ":1" * 300 + ".5", ["is not valid YAML"]),
    "bottomless": ("[" * 5000, ["is not valid YAML", "recursion"]),
    "binary": (b"\x00\x01\x02", ["is not valid YAML", "special characters"]),
    "not UTF-8": (b"seed: \xff", ["is not UTF-8 text"]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file(name: str, tmp_path: Path) -> None:
    text, fragments = MALFORMED[name]
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParameterError) as caught:
        validate(read(path), str(path))
    message = str(caught.value)
    assert message.startswith(f"1 problem in {path}:\n  - ")
    assert all(fragment in message for fragment in fragments), message
    assert len(message) < 1000


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ParameterError, match=f"cannot be read: {reason}"):
            read(path)


@pytest.mark.parametrize("images", [200, 600, 1297, 60_000])
def test_halves_are_seldom_smaller_than_mixtures_take_them_for(images: int) -> None:
    """Among 20 random halves of ten classes no class has fewer images than the largest K needs, and no half fewer."""
    most = next(k for k in range(1, images) if mixture_problems([k + 1], 1, images))
    directions = next(d for d in range(1, images) if mixture_problems([1], d + 1, images))
    draw = torch.Generator().manual_seed(0)
    halves = torch.rand(20, images, generator=draw) < 0.5
    classes = torch.randint(10, (images,), generator=draw)
    smallest = min(int((halves & (classes == c)).sum(1).min()) for c in range(10))
    assert most <= smallest <= 3 * most
    assert directions < halves.sum(1).min() <= 1.3 * directions


def test_who_names_no_mixture_needs_none() -> None:
    assert validate({"train_size": 200}).train_size == 200
    with pytest.raises(ParameterError, match="K = 8 may be more"):
        validate({"train_size": 200, "gmm_components": [1, 8]})


def test_all_problems_are_in_one_message() -> None:
    wrong = {"epoch": 3, "seed": -1, "device": "tpu", "attack_eps": [0.3, 0.1], "pgd_steps": 99, "learning_rate": "x"}
    with pytest.raises(ParameterError) as caught:
        validate(wrong, "mine.yaml")
    assert str(caught.value).startswith("6 problems in mine.yaml:\n")
    assert {problem.split(":")[0] for problem in caught.value.problems} == set(wrong)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 1e-3", "learning_rate", 1e-3),
        ("dp_delta: 1E-6", "dp_delta", 1e-6),
        ("train_size: 12e3", "train_size", 12_000),
        ("train_size: 6_000", "train_size", 6_000),
        ("train_size: null", "train_size", None),
        ("train_size:", "train_size", None),
        ("epochs: 3.0", "epochs", 3),
        ("attack_eps: 1e-2", "attack_eps", [0.01]),
        ("attack_eps: [0, 1e-2, 1]", "attack_eps", [0.0, 0.01, 1.0]),
        ("gmm_components: 4", "gmm_components", [4]),
        ("", "seed", 0),
        ("# only a comment", "dataset", "auto"),
        ("seeds: &few 3\nseed: *few", "seed", 3),
    ],
)
def test_a_sound_file(text: str, name: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    found = getattr(validate(read(path)), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("path", PROFILE_FILES, ids=lambda path: path.stem)
def test_profiles_are_sound(path: Path) -> None:
    given = read(path)
    params = validate(given, path.name)
    assert path.stem in ("smoke", "quick", "full")
    assert all(getattr(params, name) == value for name, value in given.items() if not isinstance(value, list))


def test_every_parameter_says_what_it_is() -> None:
    assert all(field.description for field in Params.model_fields.values())
    assert validate({}) == Params()


def test_parameters_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Params().seed = 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=5", ("epochs", 5)),
        (" device = cpu", ("device", "cpu")),
        ("attack_eps=[0.1, 0.2]", ("attack_eps", [0.1, 0.2])),
        ("train_size=null", ("train_size", None)),
        ("a=b=c", ("a", "b=c")),
    ],
)
def test_an_assignment(text: str, expected: tuple[str, object]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize(
    "text",
    ["epochs", "=3", " =3", "", "a=", "a= ", "a=[1", "a=!!int ''", "a=!!python/name:os.system", "a={b: 1, b: 2}"],
)
def test_a_malformed_assignment(text: str) -> None:
    with pytest.raises(ParameterError, match="in --set"):
        parse_assignment(text)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**300),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["1e-3", "nan", "-inf", "1e999", " 7 ", "1_0", "auto", "cpu", "digits"]),
    st.binary(max_size=4),
    st.dates(),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=3), max_leaves=6
)
NAMES = st.sampled_from(sorted(Params.model_fields)) | st.text(max_size=12)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_validate_raises_nothing_else(given_: dict) -> None:
    try:
        params = validate(given_)
    except ParameterError:
        return
    # What passes is whole: no surprise of type or range is left for the code behind it.
    assert math.isfinite(params.learning_rate)
    assert isinstance(params.seed, int)
    assert validate(params.model_dump()) == params


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.dictionaries(NAMES, VALUES, max_size=4).map(lambda d: yaml.safe_dump(d)))
def test_read_raises_nothing_else(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(ParameterError):
        assert all(isinstance(name, str) for name in read(path))
