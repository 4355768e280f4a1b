"""Before the first notebook: everything that can be known to go wrong is looked at, and told at once."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

import labkit
from labkit import data, device
from labkit.paramfiles import parse_assignment, read
from labkit.params import ParameterError, Params, mixture_problems, validate
from labkit.report.summary import surroundings
from labkit.store import Store

CHECKOUT = Path(labkit.__file__).resolve().parent.parent


class Refusal(Exception):
    """Nothing was run; ``problems`` says all that is wrong, one a line."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"nothing was run, {count}:\n" + "\n".join(f"  - {p}" for p in self.problems))


@dataclass(frozen=True)
class Plan:
    """A report that can be made.

    Attributes:
        params: validated.
        facts: provenance as known beforehand, see :func:`labkit.report.summary.surroundings`.
        notebooks: what to run, in order.
        folder: where the report goes.
    """

    params: Params
    facts: dict[str, Any]
    notebooks: tuple[Path, ...]
    folder: Path


def plan(
    profile: str, assignments: Sequence[str] = (), folder: Path | None = None, notebooks: Path | None = None
) -> Plan:
    """Check everything that a report needs, without running any of it.

    Args:
        profile: a profile's name (``params/NAME.yaml`` of the checkout), or the path of a parameter file.
        assignments: ``KEY=VALUE``, over the file's values.
        folder: where the report goes; ``reports/<profile>`` by default.
        notebooks: where the numbered notebooks lie; the checkout's by default.

    Raises:
        Refusal: with every problem of the parameters, the folder, the notebooks and the store; and of the device and
            the data, which the parameters name, once those are sound.
    """
    problems: list[str] = []
    params, name = None, Path(profile).stem
    try:
        params = _params(profile, assignments)
    except ParameterError as error:
        problems += error.problems
    folder = (folder or Path("reports", name)).absolute()
    source = notebooks or CHECKOUT / "notebooks"
    found, notebook_problems = _notebooks(source)
    problems += _folder_problems(folder, source, [f"{path.stem}.html" for path in found])
    problems += notebook_problems
    problems += _store_problems()
    facts: dict[str, Any] = {}
    if params is not None:
        facts, surrounding_problems = _surroundings(params, name)
        problems += surrounding_problems
    if problems or params is None:
        raise Refusal(problems)
    return Plan(params, facts, found, folder)


def _params(profile: str, assignments: Sequence[str]) -> Params:
    """The parameters of a file and of the command line.

    Raises:
        ParameterError: with the problems of both.
    """
    problems: list[str] = []
    given: dict[str, Any] = {}
    try:
        path = _parameter_file(profile)
        given = read(path)
    except ParameterError as error:
        problems += [f"{profile}: {p}" for p in error.problems]
    for text in assignments:
        try:
            key, value = parse_assignment(text)
        except ParameterError as error:
            problems += [f"--set {p}" for p in error.problems]
        else:
            given[key] = value
    try:
        params = validate(given, profile)
    except ParameterError as error:
        raise ParameterError([*problems, *error.problems], profile) from None
    if problems:
        raise ParameterError(problems, profile)
    return params


def _parameter_file(profile: str) -> Path:
    if os.sep in profile or profile.endswith((".yaml", ".yml")):
        return Path(profile).expanduser()
    path = CHECKOUT / "params" / f"{profile}.yaml"
    if path.exists():
        return path
    known = sorted(p.stem for p in path.parent.glob("*.yaml"))
    near = difflib.get_close_matches(profile, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"profiles are {', '.join(known) or 'none'}."
    raise ParameterError([f"is no profile; {hint} A file is given by its path, ending in .yaml"], profile)


def _folder_problems(folder: Path, source: Path, pages: Sequence[str]) -> list[str]:
    if (folder / "notebooks").resolve() == source.resolve():
        return [f"--out {folder}: its notebooks folder is the one with the sources, which would be overwritten"]
    try:
        there = next(p for p in (folder, *folder.parents) if p.exists() or p.is_symlink())
    except OSError as error:  # its name is too long, say
        return [f"--out {folder}: {error.strerror}; give another with --out DIR"]
    inner = [p for leaf in ("figures", "notebooks") if (p := folder / leaf).exists() or p.is_symlink()]
    problems = []
    for needed in (there, *inner):
        if not needed.is_dir():
            problems.append(f"--out {folder}: {needed} is no folder; give another with --out DIR")
        elif not os.access(needed, os.W_OK | os.X_OK):
            problems.append(f"--out {folder}: {needed} cannot be written; give another with --out DIR")
    for leaf in ("index.html", "summary.json", "results.csv", *pages):
        if (folder / leaf).is_dir():
            problems.append(f"--out {folder}: {folder / leaf} is a folder, where a file goes; give another")
    return problems


def _notebooks(source: Path) -> tuple[tuple[Path, ...], list[str]]:
    found = tuple(sorted(source.glob("[0-9][0-9]_*.ipynb")))
    if not found:
        return (), [
            f"no numbered notebooks in {source}; labkit runs from its checkout: clone it and `pip install -e .` there"
        ]
    problems = []
    for path in found:
        try:
            nbformat.validate(nbformat.read(path, as_version=4))
        except Exception as error:  # nbformat has no one error for what is no notebook
            problems.append(f"{path}: is no valid notebook ({' '.join(str(error).split())[:200]}); restore it")
    return found, problems


def _store_problems() -> list[str]:
    try:
        Store().probe()
    except OSError as error:
        return [str(error)]
    return []


def _surroundings(params: Params, profile: str) -> tuple[dict[str, Any], list[str]]:
    """Facts on data and hardware, or why they cannot be had, or not used."""
    problems = []
    try:
        device.resolve(params.device)
    except RuntimeError as error:
        problems.append(str(error))
    try:
        dataset = data.load(
            params.dataset,
            train_size=params.train_size,
            test_size=params.test_size,
            seed=params.seed,
            device="cpu",
        )
    except data.DataError as error:
        problems.append(str(error))
    else:  # fewer images than the parameters ask for, perhaps
        problems += mixture_problems(params.gmm_components, params.gmm_pca_dim, len(dataset.train))
    return ({}, problems) if problems else (surroundings(params, profile, dataset), [])
