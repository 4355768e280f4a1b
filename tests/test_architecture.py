"""The house as the README draws it: imports run downward only."""

import ast
import importlib
import pkgutil
from graphlib import TopologicalSorter
from pathlib import Path
from typing import get_type_hints

import labkit
from labkit import store

FLOORS = [
    ["params", "paramfiles", "device", "intervals", "store", "results", "networks", "workers", "progress", "published"],
    ["identity", "attacks", "bounds", "data", "scattering", "features"],
    ["mixture", "membership", "training", "canaries", "generative"],
    ["measure", "plots", "robustness", "frontier"],
    ["display"],
    ["record"],
    ["lab"],
    ["report"],
    ["cli"],
]
HOUSE = Path(labkit.__file__).parent


def room(module):
    return module.split(".")[1] if module.startswith("labkit.") else None


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                f"{node.module}.{alias.name}" if node.module == "labkit" else node.module for alias in node.names
            )


def test_imports_run_downward_only():
    height = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    upward = []
    for path in sorted(HOUSE.rglob("*.py")):
        here = path.relative_to(HOUSE).parts[0].removesuffix(".py")
        if here in ("__init__", "__main__"):
            continue
        for module in imports(path):
            there = room(module)
            if there in height and there != here and height[there] > height[here]:
                upward.append(f"{path.relative_to(HOUSE)} imports {module}")
        assert here in height, f"{here} has no floor: draw it into the picture"
    assert upward == []


def test_no_imports_run_in_a_circle():
    modules = [module.name for module in pkgutil.walk_packages(labkit.__path__, "labkit.")]
    rests_on = {module: set(store._imports(module)) - {module} for module in modules}
    assert len(list(TopologicalSorter(rests_on).static_order())) == len(modules) > 80


def test_the_readme_draws_every_room():
    drawn = (HOUSE.parent / "README.md").read_text()
    for names in FLOORS:
        for name in names:
            assert f"  {name}.py" in drawn or f"  {name}/" in drawn, name


def test_no_room_is_crowded():
    long = {str(p.relative_to(HOUSE)): n for p in HOUSE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 300}
    assert long == {}


def test_every_room_is_entered_on_first_use():
    for name in (name for names in FLOORS for name in names):
        assert labkit.__getattr__(name) is importlib.import_module(f"labkit.{name}")
    assert not hasattr(labkit, "attic")
    hints = get_type_hints(labkit.open, localns={"Lab": labkit.lab.Lab})
    assert hints["return"] is type(labkit.open(dataset="digits"))
