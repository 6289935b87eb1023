"""Figures are drawn without a window and closed; the settings of matplotlib stay as they are."""

import matplotlib as mpl
import pytest


@pytest.fixture(autouse=True)
def unchanged():
    from matplotlib import pyplot as plt

    plt.switch_backend("agg")
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before
