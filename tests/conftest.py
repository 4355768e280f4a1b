"""What every test stands on: the data beside the checkout, if it is there, and a store of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from reporting import Made, make, write_troubled

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if "LABKIT_DATA" not in os.environ and (BESIDE / "FashionMNIST").is_dir():
            patch.setenv("LABKIT_DATA", str(BESIDE))
        if "LABKIT_CACHE" not in os.environ:
            patch.setenv("LABKIT_CACHE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report in which a cell fails, a kernel is killed and a cell takes too long; see ``reports.write_troubled``."""
    root = tmp_path_factory.mktemp("troubled")
    write_troubled(root / "notebooks")
    return make(root / "notebooks", root / "report", cell_timeout=15)


@pytest.fixture
def opened():
    """The totals of the bars that were opened, and a bar to give: one opens where work is done, not found again."""
    totals = []

    @contextmanager
    def bar(total):
        totals.append(total)
        yield lambda images: None

    return totals, bar
