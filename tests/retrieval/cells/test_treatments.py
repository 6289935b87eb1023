"""Cells of other treatments: never of the one asked for, of the prompt's data set and of the types in question."""

from __future__ import annotations

import pytest

from haystack_kernel import keys
from haystack_kernel.retrieval import assemble_cells, choose_query_cells, fetch_treatments, search_candidates
from haystack_kernel.schema import HiddenPair, RunConfig

CD4, B, CD14 = "CL:0000624", "CL:0000236", "CL:0001054"
OTHERS = tuple(f"IL-{number}" for number in range(2, 8))


@pytest.fixture
def fetch(knowledge, settings, ask, row, make_atlas):
    """Ask what B cells do under IFN-beta in a designed atlas, and fetch what engines see of other treatments."""

    def run(others=OTHERS, **options):
        rows = []
        for cl_id, n_cells in ((CD14, 30), (CD4, 30), (B, 30)):
            rows.append(row("pbmc", cl_id, "", "d1", 330))
            rows += [row("pbmc", cl_id, name, "d1", 50) for name in others]
            rows += [row("pbmc", cl_id, "IFN-beta", "d1", n_cells)] if cl_id != B else []
        # what may have been the treatment asked for, under other words
        rows += [row("pbmc", B, "interferon beta", "d1", 30), row("pbmc", B, "IFN-beta + IL-2", "d1", 30)]
        rows += [row("pbmc", "CL:0000451", "IL-2", "d1", 30), row("far", B, "IL-9", "x", 30)]
        atlas, config, query = make_atlas(rows), RunConfig(hide=options.pop("hide", ())), ask(B)
        found = search_candidates(query, atlas=atlas, knowledge=knowledge, settings=settings, config=config)
        found = [one for one in found if one.prompt.cell_type_ids in ((CD14,), (CD4,))]
        query_set = choose_query_cells(query, atlas=atlas, knowledge=knowledge, candidates=found, config=config)
        cells = assemble_cells(found, query_set=query_set, atlas=atlas, config=config, round_number=1)
        return fetch_treatments(cells, asked=["IFN-beta"], atlas=atlas, knowledge=knowledge, config=config)

    return run


def test_cells_are_of_other_treatments_in_the_types_of_prompt_and_query_with_their_control_cells(fetch):
    obs = fetch().obs
    treated, control = obs[~obs[keys.IS_CONTROL]], obs[obs[keys.IS_CONTROL]]
    assert set(treated[keys.PERTURBATION]) == set(OTHERS)
    assert set(obs[keys.CELL_TYPE_ID]) == {CD14, CD4, B}
    assert set(obs[keys.DATASET]) == {"pbmc"}
    assert set(treated.groupby([keys.CELL_TYPE_ID, keys.PERTURBATION], observed=True).size()) == {40}
    assert set(control.groupby(keys.CELL_TYPE_ID, observed=True).size()) == {300}
    assert obs.index.is_unique


def test_hidden_pairs_stay_hidden_and_few_treatments_are_none(fetch):
    obs = fetch(hide=(HiddenPair(cell_type_id=B, perturbation="IL-3"),)).obs
    assert {CD14, CD4} == set(obs.loc[obs[keys.PERTURBATION] == "IL-3", keys.CELL_TYPE_ID])
    assert fetch(others=OTHERS[:4]) is None
