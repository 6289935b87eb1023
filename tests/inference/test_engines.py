from __future__ import annotations

import subprocess
import sys

import pytest

from inference.engines import ENGINES, default_engine, find_engine
from inference.errors import EngineError
from inference.manifest import ENGINES as MANIFEST_ENGINES


def test_manifest_and_program_know_the_same_engines():
    assert set(ENGINES) == set(MANIFEST_ENGINES)


@pytest.mark.parametrize(("name", "match"), [("stack", "model runtime"), ("best", "unknown")])
def test_engine_that_is_not_here_is_refused_naming_the_others(name, match):
    with pytest.raises(EngineError, match=f"{match}.*possible: none, mean, shift, weighted"):
        find_engine(name)


def test_default_engine_is_weighted_while_no_model_is_given():
    assert (default_engine(None), default_engine("gs://b/m.pt")) == ("weighted", "stack")


def test_baselines_import_neither_the_kernel_nor_anndata():
    heavy = {"haystack_kernel", "anndata", "pandas", "fsspec"}
    code = f"import sys, inference.baselines; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
