"""labkit: what a defence costs, in utility, robustness and privacy.

Notebooks use the face of the package::

    import labkit
    lab = labkit.open(globals())      # checks the parameters of the cell above

Everything else lives in submodules (``labkit.attacks``, ``labkit.membership``, ...), which are
imported on first use, so that ``labkit --help`` does not wait for torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_SUBMODULES = frozenset(
    {
        "attacks",
        "data",
        "device",
        "generative",
        "intervals",
        "lab",
        "membership",
        "mixture",
        "networks",
        "params",
        "plots",
        "report",
        "results",
        "store",
        "training",
    }
)


def open(namespace: dict[str, Any] | None = None, **parameters: Any) -> "Any":
    """Open the lab: see :func:`labkit.lab.open_lab`."""
    from labkit.lab import open_lab

    return open_lab(namespace, **parameters)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"labkit.{name}")
    raise AttributeError(f"module 'labkit' has no attribute {name!r}")
