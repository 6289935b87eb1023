"""Literature support on the designed world: papers state the direction of a response's genes."""

import dataclasses
import math

import numpy as np
import pytest

from haystack_kernel import keys
from haystack_kernel.grounding.components.literature import by_popularity
from haystack_kernel.grounding.de.background import Background
from haystack_kernel.literature.reading import Reading

UP, DOWN = [f"G{i}" for i in range(5, 1500, 37)][:30], [f"G{i}" for i in range(11, 1500, 37)][:10]


def reading(signed, *, also=(), n_papers=60, n_telling=20):
    popularity = dict.fromkeys(also, 3) | dict.fromkeys(signed, 3)
    votes = {gene: (sign > 0, sign < 0) for gene, sign in signed.items()}
    return Reading({}, signed, votes, popularity, n_papers=n_papers, n_telling=n_telling)


@pytest.fixture(scope="module")
def literature(score, ask):
    def run(cells, read):
        result = score(cells, ask("ALPHA"), literature=read)
        return next(item for item in result.components if item.name == keys.LITERATURE), result

    return run


def test_genes_that_move_as_papers_say_score_high_and_against_them_1(literature, alpha_cells):
    signed = dict.fromkeys(UP[:8], 1) | dict.fromkeys(DOWN[:4], -1)
    right, result = literature(alpha_cells, reading(signed))
    assert right.score > 7
    assert (right.n_genes, right.detail["n_agree"], right.detail["n_oppose"]) == (12, 12, 0)
    assert right.statistic > 0
    delta = result.de.set_index(keys.GENE)[keys.DELTA]
    assert all(delta[gene] * sign > 0 for gene, sign in signed.items())
    assert result.agreement[0].composite > 4  # the baseline is compared with the same papers
    wrong, _ = literature(alpha_cells, reading({gene: -sign for gene, sign in signed.items()}))
    assert wrong.score == 1
    assert wrong.detail["n_oppose"] == 12


def test_the_signal_of_the_prompt_limits_the_score(literature, alpha_cells, world):
    silent = dataclasses.replace(alpha_cells, prompt=world.cells(80))
    found, _ = literature(silent, reading(dict.fromkeys(UP[:8], 1)))
    assert found.p_signal > 0.01
    assert found.score < 7


def test_papers_that_name_what_moves_anyway_are_not_specific(literature, arms, alpha_cells, alpha_shift):
    """All genes that papers name as often rise as well: the direction stated for five of them is no evidence."""
    stated = dict.fromkeys(UP[:5], 1)
    similar = {f"G{i}": 3.0 for i in range(200, 330)} | alpha_shift
    found, _ = literature(arms(similar), reading(stated, also=[*UP, *(f"G{i}" for i in range(200, 330))]))
    alone, _ = literature(alpha_cells, reading(stated))
    assert found.p_specificity > 0.05 > alone.p_specificity


def test_too_little_literature_is_nan_with_the_reason(literature, alpha, alpha_cells):
    not_asked = next(item for item in alpha.components if item.name == keys.LITERATURE)
    assert math.isnan(not_asked.score)
    assert "not asked" in not_asked.reason
    cases = {
        "it answered 500": Reading(reason="no literature source answered (pubmed: it answered 500)"),
        "direction of 4 tested genes": reading(dict.fromkeys(UP[:4], 1)),
        "2 of 60 papers": reading(dict.fromkeys(UP[:9], 1), n_telling=2),
    }
    for why, read in cases.items():
        found, result = literature(dataclasses.replace(alpha_cells, baselines={}), read)
        assert math.isnan(found.score)
        assert why in found.reason
        assert not math.isnan(result.composite.value)


def test_random_sets_are_drawn_from_genes_named_as_often_then_expressed_as_highly():
    genes = np.array(["A", "B", "C", "D"], dtype=object)
    background = Background(genes=genes, z=np.zeros(4), level=np.array([0.3, 0.1, 0.2, 0.9]))
    ranked = by_popularity(background, Reading(popularity={"B": 5, "C": 1}))
    assert ranked.level.tolist() == [0, 3, 2, 1]  # A and D unnamed, by level; C once; B five times
