"""The explorer of a small finished run."""

import pytest

from haystack_kernel.explorer import ExplorerState
from haystack_kernel.explorer.load import load_data
from tests.explorer.cells import many_cells


@pytest.fixture(scope="session")
def data(finished):
    """What the explorer knows of the finished run; it is never changed."""
    ports, record = finished
    return load_data(record, ports)


@pytest.fixture
def state(data):
    """An explorer's state of this test's own."""
    return ExplorerState(data)


@pytest.fixture
def many(data):
    """The state of an explorer with 30,000 cells, which a map draws pixel by pixel."""
    return ExplorerState(many_cells(data, n=30_000, n_genes=50))
