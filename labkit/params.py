"""What a run may be told: one flat, validated schema, with defaults, units and ranges.

The same check serves the command line (``labkit report``), plain papermill and JupyterLab (the first
cell of every notebook). All problems are reported at once, each with the value, the limit and the remedy.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError


class ParameterError(ValueError):
    """Every problem of a set of parameters, one a line."""

    def __init__(self, problems: list[str], source: str = "parameters"):
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{count} in {source}:\n" + "\n".join(f"  - {p}" for p in problems))


def _number(value: Any) -> Any:
    """A number, also where YAML 1.1 reads one as text (``1e-3``); never a truth value."""
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "must be a number, not true or false")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise PydanticCustomError("not_a_number", "must be a number") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("not_a_number", "must be a finite number")
    return value


def _listed(value: Any) -> Any:
    """A single value stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]
Eps = Annotated[Float, Field(ge=0, le=1)]
Epsilon = Annotated[Float, Field(ge=0.3, le=100)]


class Params(BaseModel):
    """Parameters of a run. Flat; every notebook declares those it uses.

    Sizes are counts of images, ``eps`` are l-infinity radii on pixels in [0, 1], rates are fractions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    # Where and on what
    seed: Int = Field(0, ge=0, lt=2**31, description="root of all randomness")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    deterministic: bool = Field(
        False, strict=True, description="on a GPU: bit-equal numbers from one seed, at a cost; a CPU always gives them"
    )
    dataset: Literal["auto", "fashion_mnist", "digits"] = Field(
        "auto", description="auto: FashionMNIST if it can be had, else the bundled digits"
    )
    train_size: Int | None = Field(12_000, ge=200, le=60_000, description="training images; null: all")
    test_size: Int | None = Field(3_000, ge=100, le=10_000, description="test images; null: all")

    # Classifiers (01, 02)
    seeds: Int = Field(1, ge=1, le=100, description="models a regime, from different seeds")
    epochs: Int = Field(6, ge=1, le=1000, description="passes over the training images (standard)")
    pgd_epochs: Int = Field(15, ge=1, le=1000, description="passes over the training images (pgd)")
    batch_size: Int = Field(128, ge=8, le=16_384, description="images a step (standard, pgd)")
    optimiser: Literal["muon", "adamw"] = Field("muon", description="of standard, PGD, TRADES and MTL-IBP training")
    learning_rate: Float = Field(6e-3, gt=0, le=1, description="peak learning rate (standard, pgd)")
    train_eps: Eps = Field(0.15, gt=0, description="mean radius of the attack trained against")
    train_spread: Float = Field(1.0, ge=0, le=1, description="radii spread over train_eps * (1 -/+ train_spread)")
    train_steps: Int = Field(5, ge=1, le=100, description="steps of the attack trained against")

    # Defences against one radius (02)
    defences: Annotated[
        list[Literal["pgd", "trades", "fgsm", "ibp", "mtl_ibp", "dp_pgd"]], BeforeValidator(_listed)
    ] = Field(
        ["pgd", "trades", "fgsm", "ibp", "mtl_ibp", "dp_pgd"],
        max_length=6,
        description="what is trained against a radius",
    )
    robust_eps: Annotated[list[Eps], BeforeValidator(_listed)] = Field(
        [0.1], min_length=1, max_length=8, description="radii of defences, ascending; each trains models of its own"
    )
    fgsm_eps: Eps = Field(0.3, gt=0, description="radius of FGSM training, which is there to fail")
    robust_seeds: Int = Field(1, ge=1, le=100, description="models a defence and radius, from different seeds")
    robust_epochs: Int = Field(10, ge=1, le=1000, description="passes over the training images (defences)")
    robust_learning_rate: Float = Field(8e-3, gt=0, le=1, description="peak learning rate of defences")
    robust_width: Float = Field(1.0, ge=0.25, le=4, description="channels of the defences' network, in the default's")
    robust_hidden: Int = Field(512, ge=16, le=4096, description="units of their first linear layer; the default's: 128")
    robust_mirror: bool = Field(True, strict=True, description="defences see images mirrored half of the time")
    robust_average: Float = Field(
        0.0, ge=0, lt=1, description="what a step leaves of the average of parameters that is kept; 0: no average"
    )
    validation_share: Float = Field(
        0.05, ge=0, le=0.5, description="share of the training images that defences hold out, to choose checkpoints on"
    )
    trades_beta: Float = Field(6.0, ge=0, le=1000, description="weight of the divergence in TRADES")
    ibp_epochs: Int = Field(12, ge=1, le=1000, description="passes over the training images (ibp)")
    ibp_learning_rate: Float = Field(6e-3, gt=0, le=1, description="peak learning rate (ibp)")
    ibp_kappa: Float = Field(0.0, ge=0, le=1, description="weight of the clean loss beside the bound's, in the end")
    mtl_share: Float = Field(0.1, ge=0, le=1, description="weight of the bound's loss beside the attack's (mtl_ibp)")

    # Differential privacy (01, 03)
    dp_epsilon: Float = Field(8.0, ge=0.1, le=100, description="target epsilon of DP-SGD")
    dp_delta: Float = Field(1e-5, ge=1e-12, lt=1, description="delta of DP-SGD")
    dp_epochs: Int = Field(20, ge=1, le=1000, description="expected passes over the training images")
    dp_batch_size: Int = Field(512, ge=8, le=65_536, description="expected size of a Poisson batch")
    dp_learning_rate: Float = Field(0.5, gt=0, le=100, description="peak learning rate (SGD, momentum 0.9)")
    dp_clip: Float = Field(1.0, gt=0, le=1000, description="l2 bound on each example's gradient")
    dp_black: Float = Field(-1.0, ge=-1, le=0, description="what black enters the private network as; white is 2 above")

    # Attacks (02, 06)
    attack_eps: Annotated[list[Eps], BeforeValidator(_listed)] = Field(
        [0.05, 0.1, 0.2, 0.3, 0.4], min_length=1, max_length=32, description="radii of FGSM and PGD, ascending"
    )
    attack_size: Int | None = Field(
        1_000, ge=16, le=10_000, description="test images under FGSM and PGD at most; null: all of the test set"
    )
    autoattack_eps: Annotated[list[Eps], BeforeValidator(_listed)] = Field(
        [0.1, 0.2, 0.3], min_length=1, max_length=32, description="radii of AutoAttack, ascending"
    )
    autoattack_size: Int | None = Field(
        200, ge=16, le=10_000, description="of the attacked images, those under AutoAttack at most; null: all of them"
    )
    pgd_steps: Int = Field(10, ge=1, le=1000, description="steps of the PGD attack")
    strong_steps: Int = Field(40, ge=1, le=1000, description="steps of the stronger PGD attack")
    strong_restarts: Int = Field(3, ge=1, le=100, description="restarts of the stronger PGD attack")
    tradeoff_eps: Eps = Field(0.1, gt=0, description="radius of the trade-off's robustness axis")
    tradeoff_models: Int = Field(64, ge=4, le=1024, description="models of each kind in the trade-off, at most")
    tradeoff_size: Int = Field(500, ge=16, le=10_000, description="test images attacked, a model, in the trade-off")

    # Privacy (03, 06)
    shadow_models: Int = Field(16, ge=4, le=1024, description="models, each on a random half (standard)")
    shadow_pgd_models: Int = Field(8, ge=4, le=1024, description="models, each on a random half (pgd)")
    shadow_dp_models: Int = Field(8, ge=4, le=1024, description="models, each on a random half (dp)")
    shadow_epochs: Int = Field(15, ge=1, le=1000, description="passes over its half, long enough to overfit (standard)")
    shadow_pgd_epochs: Int = Field(6, ge=1, le=1000, description="passes over its half (pgd)")
    shadow_dp_epochs: Int = Field(10, ge=1, le=1000, description="expected passes over its half (dp)")

    frontier_epsilon: Annotated[list[Epsilon], BeforeValidator(_listed)] = Field(
        [1, 2, 3, 8], min_length=1, max_length=16, description="epsilons of private classifiers on scattering features"
    )
    frontier_sample_rate: Float = Field(
        0.1365, gt=0, le=1, description="share of the training images in a Poisson batch (scattering)"
    )
    frontier_epochs: Int = Field(40, ge=1, le=1000, description="expected passes over the training images (scattering)")
    end_to_end_epsilon: Annotated[list[Epsilon], BeforeValidator(_listed)] = Field(
        [1, 2, 3], max_length=16, description="epsilons at which chapter 1's private network is trained too"
    )
    query_size: Int = Field(
        1_000, ge=16, le=60_000, description="training images that every shadow model is attacked on, to tell members"
    )
    distance_size: Int = Field(
        250, ge=16, le=60_000, description="of those, the ones whose distance to the boundary is found"
    )
    overfit_size: Int = Field(
        2_000, ge=200, le=60_000, description="training images on whose halves PGD training overfits"
    )
    overfit_epochs: Int = Field(25, ge=1, le=1000, description="passes over such a half (pgd)")
    audit_canaries: Int = Field(1_000, ge=50, le=100_000, description="canaries of the audits of DP-SGD")

    # Generative (04)
    cvae_epochs: Int = Field(30, ge=1, le=1000, description="passes over the half it is trained on")
    cvae_latent: Int = Field(32, ge=1, le=512, description="latent dimensions")
    cvae_learning_rate: Float = Field(4e-3, gt=0, le=1, description="peak learning rate (AdamW)")

    # Mixtures (05, 06)
    gmm_components: Annotated[list[Annotated[Int, Field(ge=1, le=500)]], BeforeValidator(_listed)] = Field(
        [1, 2, 3, 5, 8], min_length=1, max_length=32, description="candidates for K, chosen on validation"
    )
    gmm_pca_dim: Int = Field(50, ge=1, le=784, description="principal components kept")
    gmm_iterations: Int = Field(100, ge=1, le=10_000, description="EM steps at most")

    # Running
    cell_timeout: Int | None = Field(None, ge=1, le=604_800, description="seconds a cell may take; null: no limit")


def _contradictions(given: Mapping[str, Any]) -> list[str]:
    """Values that are each in range and cannot hold together; those of wrong type are left out."""
    problems = []

    def number(name: str) -> float | None:
        value = given.get(name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def at_most(small: str, large: str, remedy: str) -> None:
        a, b = number(small), number(large)
        if a is not None and b is not None and a > b:
            problems.append(f"{small}: {a:g} is more than {large} = {b:g}; {remedy}")

    at_most("pgd_steps", "strong_steps", "the stronger attack must not take fewer steps")
    ascending = "attack_eps", "autoattack_eps", "robust_eps", "frontier_epsilon", "end_to_end_epsilon", "gmm_components"
    for name in ascending:
        values = given.get(name)
        if isinstance(values, list) and sorted(set(values)) != values:
            problems.append(f"{name}: {values} must ascend, without repeats; sort it")
    defences = given.get("defences")
    if isinstance(defences, list) and len(set(defences)) < len(defences):
        problems.append(f"defences: {defences} names one twice; leave it out")
    train_size, delta = number("train_size") or 60_000, number("dp_delta")
    radii = given.get("robust_eps")
    if isinstance(radii, list) and 0 in radii:
        problems.append("robust_eps: a radius of 0 is no defence; leave it out")
    if 0 in (given.get("autoattack_eps") or []):
        problems.append("autoattack_eps: a radius of 0 is no attack; leave it out")
    if delta and delta >= 1 / train_size:
        problems.append(
            f"dp_delta: {delta:g} is not below 1/train_size = {1 / train_size:.2g}, "
            "which would allow publishing a whole record; lower dp_delta"
        )
    return problems


def mixture_problems(components: Sequence[int], pca_dim: float, images: float) -> list[str]:
    """Why Gaussian mixtures could not be fitted to random halves of the training images, a line each.

    Args:
        components: candidates for K.
        pca_dim: principal components kept.
        images: training images that there are; a class is taken for a tenth of them. Halves are drawn by coins, so
            sizes are taken for three standard deviations below their mean.
    """
    half, of_class = images / 2, images / 20
    rows, of_class = int(half - 3 * math.sqrt(images / 4)), max(1, int(of_class - 3 * math.sqrt(of_class)))
    problems = []
    if max(components) > of_class:
        problems.append(
            f"gmm_components: K = {max(components)} may be more than a class has images: as few as {of_class} in a "
            f"random half of {images:g} training images; lower K or raise train_size"
        )
    if pca_dim >= rows:  # the mean takes one away
        problems.append(
            f"gmm_pca_dim: {pca_dim:g} may be more than the directions in which images vary: as few as {rows - 1} in a "
            f"random half of {images:g} training images; lower gmm_pca_dim or raise train_size"
        )
    return problems


def _shown(value: Any) -> str:
    """The value as it was given, cut where nobody reads on."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:97]}..."


def _describe(error: Any) -> str:
    """One problem of pydantic's, in the words of somebody who has to mend a YAML file."""
    name = ".".join(str(part) for part in error["loc"] if not str(part).startswith("function-"))
    value, kind = error["input"], error["type"]
    if kind == "extra_forbidden":
        known = "known are " + ", ".join(Params.model_fields)
        near = difflib.get_close_matches(name, Params.model_fields, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else shorten(known, 800, placeholder=" ...; labkit/params.py has all")
        return f"{name}: unknown parameter; {hint}"
    message = error["msg"][0].lower() + error["msg"][1:]
    field = Params.model_fields.get(str(error["loc"][0]))
    meaning = f" ({field.description})" if field else ""
    return f"{name}: {_shown(value)} given, but {message.replace('input should', 'it should')}{meaning}"


def validate(given: Mapping[str, Any], source: str = "parameters") -> Params:
    """Check ``given`` against the schema.

    Raises:
        ParameterError: with every problem: unknown keys (and the nearest known one), wrong types,
            values out of range, contradictions.
    """
    problems: list[str] = []
    try:
        params = Params.model_validate(dict(given))
        values = params.model_dump()
    except ValidationError as error:
        params = None
        problems = [_describe(e) for e in error.errors()]
        bad = {str(e["loc"][0]) for e in error.errors()}
        good = {k: v for k, v in given.items() if k in Params.model_fields and k not in bad}
        defaults = Params().model_dump()
        values = {k: v for k, v in (defaults | Params.model_validate(good).model_dump()).items() if k not in bad}
    problems += _contradictions(values)
    components, dim = values.get("gmm_components"), values.get("gmm_pca_dim")
    if components and dim and {"gmm_components", "gmm_pca_dim"} & given.keys():  # who names none may need no mixture
        problems += mixture_problems(components, dim, values.get("train_size") or 60_000)
    if problems or params is None:
        raise ParameterError(problems, source)
    return params
