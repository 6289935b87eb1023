"""An engine of another package is compared on one's own atlas, and one that fails is a row with its reason."""

from __future__ import annotations

import shutil

import anndata as ad
import pytest

from haystack_kernel import keys
from haystack_kernel.atlas import calibrations
from haystack_kernel.backtest.work import run_backtest
from haystack_kernel.store import layout
from inference.installed import find_installed
from tests.backtest.test_work import ports, settings
from tests.packages import EXAMPLE, install

__all__ = ["install", "ports", "settings"]
pytestmark = pytest.mark.slow


def test_an_engine_of_another_package_is_back_tested_beside_the_simple_ones(install, ports, settings):
    entries = {"nearest_type": "nearest_type:NearestType", "broken": "foreign_code:engine"}
    shutil.copy(EXAMPLE / "nearest_type.py", install(entries, source="raise RuntimeError('no weights')"))
    engines = ["weighted", "additive", "nearest_type", "broken"]
    tested = run_backtest("tiny", n_pairs=2, held=["cell_type"], engines=engines, decoy=False, ports=ports)
    by_engine = tested.table.set_index("engine")
    assert (by_engine.loc["nearest_type", "pearson"] > 0.5).all()
    both = [by_engine.loc[name, "pearson"].tolist() for name in ("additive", "weighted")]
    assert both[0] == both[1]  # two treatments are too few to tell them apart
    assert by_engine.loc["broken", "reason"].str.contains("failed: RuntimeError: no weights").all()
    prompt = ad.read_h5ad(f"{tested.folder}/{layout.cells_file(layout.pair_folder(1), keys.PROMPT)}")
    assert set(keys.CELL_COLUMNS) <= set(prompt.obs)  # an engine of another package may read any
    digest = find_installed("nearest_type").digest
    places = {"root": settings.atlas_root, "cache": settings.cache}
    assert calibrations.find("tiny", "nearest_type", model=digest, **places).n_pairs == 2
    assert calibrations.find("tiny", "nearest_type", model="0" * 64, **places) is None  # another version
