"""labkit: what a defence costs, in utility, robustness and privacy.

Notebooks use the face of the package::

    import labkit
    lab = labkit.open(globals())      # checks the parameters of the cell above

Everything else lives in submodules (``labkit.attacks``, ``labkit.membership``, ...), which are
imported on first use, so that ``labkit --help`` does not wait for torch.
"""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.lab import Lab

__version__ = "0.1.0"


def open(namespace: dict[str, Any] | None = None, **parameters: Any) -> "Lab":
    """Open the lab: see :func:`labkit.lab.open_lab`."""
    from labkit.lab import open_lab

    return open_lab(namespace, **parameters)


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and find_spec(f"labkit.{name}"):
        return importlib.import_module(f"labkit.{name}")
    raise AttributeError(f"module 'labkit' has no attribute {name!r}")
