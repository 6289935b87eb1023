"""Small notebooks that a kernel runs in a second."""

import nbformat
import pytest


@pytest.fixture
def write_notebook(tmp_path):
    """Write a notebook of code cells; the first is tagged ``parameters``."""

    def write(*sources, name="in.ipynb"):
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        cells[0].metadata["tags"] = ["parameters"]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nb = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
        nbformat.write(nb, tmp_path / name)
        return str(tmp_path / name)

    return write
