"""Which signatures explain a response better than the asked perturbation, and the genes that they claim."""

import numpy as np
import pandas as pd
import pytest

from haystack_kernel.grounding import GroundingContext
from haystack_kernel.grounding.de.background import Background
from haystack_kernel.grounding.records import Basis
from haystack_kernel.grounding.signatures.competing import competing_with_asked
from haystack_kernel.schema import GroundingSettings


@pytest.fixture
def moved(knowledge):
    """A response of ALPHA, 1 where its pathways rise and -1 where they fall."""
    genes = pd.Index([f"G{i}" for i in range(1500)], dtype=object)
    alpha = knowledge.perturbations["ALPHA"].response
    z = np.array([float(alpha.get(gene, 0)) for gene in genes])
    background = Background(genes, z, np.zeros(len(genes)))
    background.strengths.update(
        {name: background.statistic(entry.response) for name, entry in knowledge.perturbations.items()}
    )
    return background


def test_competing_when_another_response_is_there_then_its_genes_go(moved, ask, knowledge):
    basis = Basis(ask("BETA"), knowledge, GroundingSettings(), GroundingContext(seed=0))
    names, genes = competing_with_asked(moved, {}, basis=basis)
    assert set(names) == {"ALPHA", "ALPHA-TWIN"}
    pathways = knowledge.pathways
    assert genes == set(pathways["alpha pathway"].genes) | set(pathways["alpha shutdown"].genes)


def test_competing_when_the_asked_response_is_there_then_none(moved, ask, knowledge):
    basis = Basis(ask("ALPHA"), knowledge, GroundingSettings(), GroundingContext(seed=0))
    assert competing_with_asked(moved, {}, basis=basis) == ([], set())


def test_competing_when_no_response_is_known_then_the_set_given_instead_speaks(moved, ask, knowledge):
    query = ask("BETA", expected_targets={})
    basis = Basis(query, knowledge, GroundingSettings(), GroundingContext(seed=0))
    alpha = knowledge.perturbations["ALPHA"].response
    assert competing_with_asked(moved, alpha, basis=basis)[0] == []
    assert set(competing_with_asked(moved, {gene: -sign for gene, sign in alpha.items()}, basis=basis)[0]) == {
        "ALPHA",
        "ALPHA-TWIN",
    }
