"""Which measured responses may be shown beside a prediction: none that the prompt used, none that is hidden."""

import pytest

from haystack_kernel.retrieval import fetch_measured
from haystack_kernel.retrieval.cells.measured import MAX_RESPONSES
from haystack_kernel.schema import Candidate, CellSet, RunConfig


class Shelf:
    """Implements what is asked of an atlas: rows and cells are their criteria."""

    def select(self, cell_set):
        import pandas as pd

        return pd.DataFrame({"cell_id": [cell_set.key], "donor_id": ["d"]})

    def fetch(self, cells):
        return cells["cell_id"].iloc[0]


def candidate(treatment, cell_type, *, dataset="one", matched=True, control=True, is_control=False):
    where = {"atlas": "a", "dataset": dataset, "cell_type_ids": (cell_type,), "label": cell_type}
    return Candidate(
        key=f"{dataset}/{treatment}/{cell_type}",
        strategy="direct",
        prompt=CellSet(**where, is_control=is_control, perturbation=None if is_control else treatment),
        control=CellSet(**where, is_control=True) if control else None,
        control_reason="matched",
        donor_matched=matched,
        relevance=0.5,
        evidence_distance="other_cell_type",
        reason="because",
    )


@pytest.fixture
def fetch():
    def run(candidates, used):
        return [one.label for one in fetch_measured(candidates, used=used, atlas=Shelf(), config=RunConfig())]

    return run


def test_cells_of_the_prompt_never_come_back(fetch):
    used = [candidate("IFN-beta", "B cell")]
    others = [
        candidate("IFN-beta", "T cell"),
        candidate("IFN-alpha1", "B cell"),
        candidate("IFN-beta", "B cell", dataset="two"),
    ]
    assert fetch([*used, *others], used) == [
        "IFN-beta in T cell (one)",
        "IFN-alpha1 in B cell (one)",
        "IFN-beta in B cell (two)",
    ]
    twin = candidate("IFN-beta", "B cell").model_copy(update={"key": "one/IFN-beta/B cell/donor d2"})
    assert fetch([*used, twin], used) == []


def test_unmatched_uncontrolled_and_unperturbed_candidates_are_left_out(fetch):
    bad = [candidate("X", "1", matched=False), candidate("Y", "2", control=False), candidate("", "3", is_control=True)]
    assert fetch([*bad, candidate("Z", "4")], []) == ["Z in 4 (one)"]


def test_the_best_ranked_few_are_enough(fetch):
    assert len(fetch([candidate("X", str(i)) for i in range(9)], [])) == MAX_RESPONSES
