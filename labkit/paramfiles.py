"""Parameters as they are written down, in a YAML file, a notebook or as KEY=VALUE; :mod:`labkit.params` checks them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

from labkit.params import ParameterError, Params

_MARK = "# Parameters"  # how a notebook's parameters cell begins, and the one that papermill injects


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, unchecked but for its form.

    Raises:
        ParameterError: no such file, not YAML, not a mapping, a key that stands twice.
    """
    source = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ParameterError([f"cannot be read: {error.strerror or error}"], source) from None
    except UnicodeDecodeError as error:
        raise ParameterError([f"is not UTF-8 text: {error.reason} at byte {error.start}"], source) from None
    try:
        content = _parse(text)
    except yaml.YAMLError as error:
        raise ParameterError([f"is not valid YAML: {error}"], source) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ParameterError([f"must map names to values, but holds a {type(content).__name__}"], source)
    strange = [key for key in content if not isinstance(key, str)]
    if strange:
        raise ParameterError([f"names must be text, but {key!r} is not" for key in strange], source)
    return content


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error, not a silent override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.YAMLError(f"{key_node.value} stands twice (line {key_node.start_mark.line + 1})")
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    """What the YAML says, read safely; whatever is wrong with it is a ``YAMLError`` with a one-line message."""
    # PyYAML lets through what its constructors trip over: `!!int ''` is an IndexError, `1:1:...:1.5` an OverflowError.
    stumbles = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, *stumbles) as error:
        raise yaml.YAMLError(" ".join(str(error).split())) from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """``KEY=VALUE`` of the command line, the value read as YAML.

    Raises:
        ParameterError: no ``=``, nothing after it, or a value that is no YAML.
    """
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise ParameterError([f"{text!r} is not KEY=VALUE, e.g. epochs=5"], "--set")
    if not value.strip():  # YAML's null, which stands for "all" or "no limit": too much for a slip
        raise ParameterError([f"{text!r} gives no value; if none is meant, write {name.strip()}=null"], "--set")
    try:
        return name.strip(), _parse(value)
    except yaml.YAMLError as error:
        raise ParameterError([f"{name}: {value!r} is not valid YAML: {error}"], "--set") from None


def declared(namespace: dict[str, Any]) -> dict[str, Any]:
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
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                names += [target.id for target in targets if isinstance(target, ast.Name)]
    return {name: namespace[name] for name in dict.fromkeys(names) if name in namespace}
