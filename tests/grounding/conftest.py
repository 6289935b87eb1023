"""A designed world of 1,500 genes: ALPHA, whose response is known, its twin, a competing perturbation, bystanders."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from haystack_kernel import keys
from haystack_kernel.grounding import GroundingCells, GroundingContext, score_prediction
from haystack_kernel.knowledge.tables import Knowledge, Pathway, PerturbationEntry
from haystack_kernel.schema import GroundingSettings, Perturbation, StructuredQuery

N_GENES = 1500
GENES = [f"G{i}" for i in range(N_GENES)]
# every 37th gene, so that the sets spread over all expression levels (levels rise with the index)
ALPHA_UP, ALPHA_DOWN = GENES[5::37][:30], GENES[11::37][:10]
BETA_UP = GENES[20::37][:30]


def entry(name, response, *, pathways=None, kind="cytokine"):
    return PerturbationEntry(name, kind, (), (f"{name}R",), pathways or {}, response, {}, name)


def make_knowledge():
    alpha = dict.fromkeys(ALPHA_UP[:24], 1) | dict.fromkeys(ALPHA_DOWN, -1)
    twin = dict.fromkeys(ALPHA_UP[:20], 1)
    beta = dict.fromkeys(BETA_UP, 1)
    bystanders = {f"BY{k}": dict.fromkeys(GENES[25 + k :: 37][:20], 1) for k in range(6)}
    pathways = {
        "alpha pathway": Pathway("alpha pathway", dict.fromkeys(ALPHA_UP, 1)),
        "alpha shutdown": Pathway("alpha shutdown", dict.fromkeys(ALPHA_DOWN, 1)),
        "beta pathway": Pathway("beta pathway", beta),
        "quiet pathway": Pathway("quiet pathway", dict.fromkeys(GENES[33::37][:25], 1)),
        "tiny pathway": Pathway("tiny pathway", dict.fromkeys(GENES[:3], 1)),
    }
    perturbations = {
        "ALPHA": entry("ALPHA", alpha, pathways={"alpha pathway": 1, "alpha shutdown": -1}),
        "ALPHA-TWIN": entry("ALPHA-TWIN", twin, pathways={"alpha pathway": 1}),
        "BETA": entry("BETA", beta, pathways={"beta pathway": 1}),
        **{name: entry(name, response) for name, response in bystanders.items()},
    }
    return Knowledge({}, perturbations, pathways, {}, {}, "test", "test")


@dataclass
class World:
    """Counts of a negative binomial; ``shift`` multiplies the rates of some genes."""

    rng: np.random.Generator
    levels: np.ndarray

    def cells(self, n, *, shift=None, donors=("d1", "d2", "d3", "d4"), donor_effects=None, cell_type="T cell"):
        rates = np.tile(self.levels, (n, 1))
        labels = np.array(donors)[np.arange(n) % len(donors)]
        for donor, factors in (donor_effects or {}).items():
            rates[labels == donor] *= factors
        for gene, factor in (shift or {}).items():
            rates[:, GENES.index(gene)] *= factor
        counts = self.rng.poisson(rates * self.rng.gamma(4, 0.25, size=rates.shape)).astype(np.float32)
        names = [f"{self.rng.integers(10**12):x}-{i}" for i in range(n)]
        obs = pd.DataFrame({keys.DONOR: labels, keys.CELL_TYPE: cell_type}, index=names)
        return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=GENES))


ALPHA_SHIFT = dict.fromkeys(ALPHA_UP, 3.0) | dict.fromkeys(ALPHA_DOWN, 0.3)


def make_world(seed=7):
    return World(np.random.default_rng(seed), np.geomspace(0.08, 3.0, N_GENES))


@pytest.fixture
def world():
    return make_world()


@pytest.fixture(scope="session")
def knowledge():
    return make_knowledge()


@pytest.fixture(scope="session")
def alpha_shift():
    return ALPHA_SHIFT


@pytest.fixture(scope="session")
def settings():
    return GroundingSettings(n_draws=1999)


@pytest.fixture(scope="session")
def context():
    return GroundingContext(seed=0, control_strategy="synthetic_control")


@pytest.fixture(scope="session")
def ask(knowledge):
    def build(name, **changes):
        known = knowledge.perturbations[name]
        values = {
            "question": f"How would T cells respond to {name}?",
            "task_type": "perturbation_novel_cell_types",
            "cell_type_name": "T cell",
            "perturbation": Perturbation(text=name, name=name, type=known.type, targets=known.targets),
            "expected_targets": known.response,
            "expected_pathways": known.pathways,
        }
        return StructuredQuery(**(values | changes))

    return build


@pytest.fixture
def arms(world):
    return make_arms(world)


@pytest.fixture(scope="session")
def world_of_seed():
    return make_world


@pytest.fixture(scope="session")
def arms_of_seed():
    """``arms`` from a world whose draws do not depend on what other tests drew."""
    return lambda seed: make_arms(make_world(seed))


def make_arms(world):
    """GroundingCells for a shift of prompt and prediction; predictions keep the query's cells."""

    def build(shift, *, n=80, prompt_shift=None, with_control=True, baselines=()):
        query, treated = world.cells(n), world.cells(n, shift=shift)
        control = world.cells(n) if with_control else None
        made = {name: world.cells(n, shift=effect) for name, effect in baselines}
        for adata in (treated, control, *made.values()):
            if adata is not None:
                adata.obs = query.obs.copy()
        prompt = world.cells(n, shift=shift if prompt_shift is None else prompt_shift)
        return GroundingCells(treated, control, query, prompt, world.cells(n), made)

    return build


@pytest.fixture(scope="session")
def alpha_cells():
    """Cells in which prompt and prediction respond to ALPHA, as does the baseline "shift". Do not change them."""
    return make_arms(make_world())(ALPHA_SHIFT, baselines=[("shift", ALPHA_SHIFT)])


@pytest.fixture(scope="session")
def score(knowledge, settings, context):
    """Score cells for a query; any argument can be replaced."""

    def run(cells, query, **changes):
        values = {"knowledge": knowledge, "settings": settings, "context": context} | changes
        return score_prediction(cells, query=query, **values)

    return run


@pytest.fixture(scope="session")
def alpha(alpha_cells, ask, score):
    """The score of ``alpha_cells`` when ALPHA is asked for."""
    return score(alpha_cells, ask("ALPHA"))


@pytest.fixture(scope="session")
def swap_labels():
    """The same cells with treated and control exchanged, in the prompt and in the prediction."""

    def swap(cells):
        return dataclasses.replace(
            cells,
            treated=cells.control_pred,
            control_pred=cells.treated,
            prompt=cells.prompt_control,
            prompt_control=cells.prompt,
        )

    return swap
