"""The explorer of a small finished run."""

import pytest

from haystack_kernel.explorer import ExplorerState
from haystack_kernel.explorer.load import load_data


@pytest.fixture(scope="session")
def data(finished):
    """What the explorer knows of the finished run; it is never changed."""
    ports, record = finished
    return load_data(record, ports)


@pytest.fixture
def state(data):
    """An explorer's state of this test's own."""
    return ExplorerState(data)
