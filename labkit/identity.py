"""What a model or a function is, told by what it holds: so that finished work is found again, and nothing else's is."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit.store import checksum

_EVERY = frozenset(vars(nn.Module()))  # what every module has: parameters, buffers and parts, which have names
_KNOWN = ("torch", "labkit", "numpy")  # whose code is in the key otherwise, or is another version's


def fingerprint(model: nn.Module) -> str:
    """Checksum of a model: its layers as they print, all that it and its parts hold, and the source of classes and
    functions that are neither torch's nor labkit's (not of what these call).

    Raises:
        ValueError: what another could be taken for: a class whose source is not to be found, an attribute whose
            contents cannot be told, hooks.
    """
    tensors: list[Tensor] = []
    head = [repr(model)]
    for name, part in model.named_modules():
        kept = vars(part)
        if hooks := [key for key, value in kept.items() if key.endswith("hooks") and value]:
            raise ValueError(f"{type(part)} has {hooks[0].strip('_')}, which may change its answers; remove them")
        own = {key: _told(value, tensors, key) for key, value in sorted(kept.items()) if key not in _EVERY}
        head.append(f"{name} {type(part).__qualname__} {own} {_written(type(part))}")
    named = sorted([*model.named_parameters(), *model.named_buffers()], key=lambda pair: pair[0])
    head += [name for name, _ in named]
    return checksum(*(value for _, value in named), *tensors, head="\n".join(head))


def described(function: Callable) -> dict[str, Any]:
    """The name and settings of an attack or a measure.

    Raises:
        ValueError: a function without a name of its own, or settings without theirs: another could be taken for it.
    """
    settings: dict[str, Any] = {}
    while isinstance(function, partial):
        if function.args:
            raise ValueError(f"{function}: name its settings, {function.args} is part of the store's key")
        function, settings = function.func, {**function.keywords, **settings}
    if "<" in function.__qualname__ or function.__module__ == "__main__":
        raise ValueError(f"{function}: put it into a module, under a name; its source is part of the store's key")
    return {"function": f"{function.__module__}.{function.__qualname__}", **settings}


def home(function: Callable) -> str:
    """The module that a function, or a partial of one, comes from."""
    return home(function.func) if isinstance(function, partial) else function.__module__


def classes(model: nn.Module) -> list[str]:
    """The modules of labkit in which the model's classes are defined."""
    return sorted({there for part in model.modules() if (there := type(part).__module__).startswith("labkit.")})


def _told(value: Any, tensors: list[Tensor], name: str) -> Any:
    """What a value holds, as what prints; the tensors in it go to a list."""

    def inside(part: Any) -> Any:
        return _told(part, tensors, name)

    if isinstance(value, Tensor | np.ndarray):
        tensors.append(torch.as_tensor(value))
        return "tensor"
    if value is None or isinstance(value, int | float | complex | str | bytes | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, nn.Module):  # one in a list, say, which is no part by name
        return fingerprint(value)
    if isinstance(value, Mapping):
        return [(inside(key), inside(part)) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [inside(part) for part in value]
    if isinstance(value, partial):
        return ["partial", inside(value.func), inside(value.args), inside(value.keywords)]
    if isinstance(value, type) or inspect.isbuiltin(value):
        return [value.__module__, value.__qualname__, _written(value)]
    if inspect.isfunction(value):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        return [value.__module__, value.__qualname__, _written(value), inside(value.__defaults__), inside(held)]
    if is_dataclass(value):
        return [inside(type(value)), inside(vars(value))]
    raise ValueError(
        f"{name}: what a {type(value).__qualname__} holds cannot be told, and is part of the store's key; let the "
        "model keep numbers, texts, tensors, functions, or lists of them"
    )


def _written(what: Callable) -> str:
    """The source of a user's class or function; nothing of torch's and labkit's, which are in the key otherwise."""
    if (
        (what.__module__ or "").partition(".")[0] in _KNOWN
        or what in vars(builtins).values()
        or inspect.isbuiltin(what)
    ):
        return ""
    try:
        return inspect.getsource(what)
    except (OSError, TypeError):
        raise ValueError(f"{what}: its source is not to be found; put it into a file, it is part of the key") from None
