"""Files to add to what is known, written or given."""

import pytest

from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.knowledge.additions import add_knowledge


@pytest.fixture
def added(tmp_path):
    """``added(path, …)`` adds files in this order and loads what is known then."""

    def load(*paths, **options):
        folder = tmp_path / "added"
        for path in paths:
            add_knowledge(path, folder=folder, **options)
        return load_knowledge(folder)

    return load


@pytest.fixture
def write(tmp_path):
    """``write("x.gmt", text)`` makes a file."""

    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make
