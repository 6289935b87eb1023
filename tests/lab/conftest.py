"""One JupyterLab for all tests of this folder, and its notebooks in headless Chromium."""

import pytest

from tests.servers.lab import OpenNotebook, running_lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A JupyterLab with settings, kernels and files of its own: ``lab.root``, ``lab.write("a.ipynb", "1 + 1")``."""
    pytest.importorskip("jupyterlab", reason="the extra 'lab' is not installed")
    folder = tmp_path_factory.mktemp("lab")
    with running_lab(folder) as started:
        yield started


@pytest.fixture
def open_notebook(lab, browser):
    """Open a notebook of the lab's root: ``open_notebook("a.ipynb", theme="dark", width=390)``; closed at the end."""
    opened = []

    def go(name, **look):
        opened.append(OpenNotebook.open(browser, lab, name, **look))
        return opened[-1]

    yield go
    for one in opened:
        one.close()
