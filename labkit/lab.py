"""The face that notebooks use: parameters in, cached models and datasets out, results shown and carried."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import torch
from matplotlib.figure import Figure

import labkit
from labkit import data, device, display
from labkit.params import Params, ParameterError, validate
from labkit.results import Check, Row, row
from labkit.store import Store

_MARK = "# Parameters"


def _declared(namespace: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a notebook was given: by its own cell, by papermill's, or by hand.

    Names of the schema are taken from the namespace. Names that are *not* in the schema count only if one
    of the cells just before the running one sets them and is a parameters cell (it begins with
    ``# Parameters``, as papermill's injected cell does): there a misspelt name must not pass in silence.
    """
    names = [name for name in Params.model_fields if name in namespace]
    for source in reversed(list(namespace.get("In", []))[:-1]):
        if not source.lstrip().startswith(_MARK):
            break
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.Assign):
                names += [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return {name: namespace[name] for name in dict.fromkeys(names)}


def open_lab(namespace: dict[str, Any] | None = None, **parameters: Any) -> Lab:
    """Check the parameters and open the lab.

    Args:
        namespace: a notebook's ``globals()``: its parameters cells are checked and used.
        parameters: set by name, over those of the namespace.

    Raises:
        ParameterError: with every problem there is.
    """
    given = _declared(namespace) if namespace is not None else {}
    return Lab(validate(given | parameters, "this notebook's parameters" if namespace else "parameters"))


class Lab:
    """One run's parameters, data, device and store.

    Attributes:
        params: the validated parameters.
        device: where models are trained.
        store: where finished work lies.
        rows, checks: what was recorded so far, in order.
    """

    def __init__(self, params: Params, store: Store | None = None):
        self.params = params
        self.device = device.resolve(params.device)
        self.store = store or Store()
        self.rows: list[Row] = []
        self.checks: list[Check] = []
        display.show_provenance(self.provenance, self._summary())

    @cached_property
    def data(self) -> data.Dataset:
        """The dataset that the parameters ask for, on the lab's device."""
        p = self.params
        return data.load(p.dataset, train_size=p.train_size, test_size=p.test_size, seed=p.seed, device=self.device)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the numbers rest on: data, parameters, versions, hardware."""
        return {
            "dataset": self.data.name,
            "dataset_sha256": self.data.sha256,
            "train_images": len(self.data.train.labels),
            "test_images": len(self.data.test.labels),
            "parameters": self.params.model_dump(),
            "labkit": labkit.__version__,
            "torch": torch.__version__,
            "device": self.device.type,
            "device_name": device.hardware_name(self.device),
            "opened": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _summary(self) -> str:
        d = self.data
        return (
            f"*{d.title}: {len(d.train.labels):,} training and {len(d.test.labels):,} test images. "
            f"labkit {labkit.__version__}, torch {torch.__version__}, {device.hardware_name(self.device)}.*"
        )

    def generator(self, *names: object) -> torch.Generator:
        """A generator on the CPU for one purpose, from the run's seed."""
        return device.generator(self.params.seed, *names)

    # Results: shown, carried by the notebook, and kept here for the sentences and figures that follow.

    def record(self, rows: Sequence[Row], caption: str = "") -> None:
        """Show rows as a table and carry them."""
        self.rows += rows
        display.show_rows(rows, caption)

    def check(self, *checks: Check) -> None:
        """Show checks and carry them."""
        self.checks += checks
        display.show_checks(checks)

    def say(self, text: str) -> None:
        """Show a sentence (Markdown) whose numbers come from rows."""
        display.show_text(text)

    def finding(self, text: str) -> None:
        """Show a sentence that the report's first screen repeats."""
        display.show_finding(text)

    def figure(self, figure: Figure, name: str, alt: str, *, main: bool = False) -> None:
        """Show a figure with its alternative text; ``main`` puts it on the report's first page."""
        display.show_figure(figure, name, alt, main=main)


__all__ = ["Check", "Lab", "ParameterError", "open_lab", "row"]
