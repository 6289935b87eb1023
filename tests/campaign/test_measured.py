"""Measured responses of the tiny atlas as effects with their errors."""

import numpy as np
import pytest

from haystack_kernel.atlas import open_atlases
from haystack_kernel.campaign.measured import measure_effects
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.retrieval import build_view
from haystack_kernel.schema import RetrievalSettings, RunConfig


@pytest.fixture(scope="module")
def atlas(tiny_atlas_root):
    return open_atlases(["tiny"], root=tiny_atlas_root)


@pytest.fixture(scope="module")
def view(atlas):
    return build_view(atlas, knowledge=load_knowledge(), settings=RetrievalSettings(), config=RunConfig())


@pytest.fixture(scope="module")
def measured(atlas, view):
    return measure_effects(atlas, view=view)


def test_every_response_with_control_cells_is_a_row_and_the_others_say_why(measured):
    names = list(zip(measured.obs["perturbation"], measured.obs["cell_type_id"], strict=True))
    assert names == [("IFN-beta", "CL:0000624"), ("IFN-beta", "CL:0001054")]
    assert measured.obs[["n_treated", "n_control", "n_donors"]].to_numpy().tolist() == [[36, 36, 3]] * 2
    (reason,) = measured.uns["left_out"]
    assert reason.startswith("TNF-alpha in natural killer cells (tiny): no control")


def test_effects_are_those_of_the_simulation_and_their_intervals_hold(measured):
    response = load_knowledge().perturbations["IFN-beta"].response
    up = [gene for gene, sign in response.items() if sign > 0 and gene in measured.var_names]
    strong = measured[:, up]
    assert np.median(np.asarray(strong.X)) > 0.5  # six times as many counts
    others = [gene for gene in measured.var_names if gene not in response]
    rest = measured[:, others]
    inside = np.abs(np.asarray(rest.X)) < 1.2816 * np.asarray(rest.layers["effect_sd"])
    assert inside.mean() > 0.8  # of effects that are 0


def test_a_type_without_a_measured_response_is_refused_with_the_reason(atlas, view):
    with pytest.raises(InvalidInputError, match=r"no measured response of this kind.*TNF-alpha in natural killer"):
        measure_effects(atlas, view=view, cell_types=["CL:0000623"])
