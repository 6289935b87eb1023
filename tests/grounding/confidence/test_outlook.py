"""Twins, and scores without a donor or a data set."""

import dataclasses

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from haystack_kernel import keys
from haystack_kernel.schema import Confidence


def test_outlook_when_a_twin_expects_the_same_genes_then_it_is_named_and_others_are_not(alpha, ask, score, alpha_cells):
    assert alpha.confidence.twins == ("ALPHA-TWIN",)
    assert score(alpha_cells, ask("BETA")).confidence.twins == ()  # not there, so nothing can stand for it
    assert score(alpha_cells, ask("ALPHA-TWIN")).confidence.twins == ("ALPHA",)


def test_outlook_when_the_twins_own_genes_do_not_move_then_it_is_told_apart(alpha_cells, ask, score, knowledge):
    twin, quiet = knowledge.perturbations["ALPHA-TWIN"], [f"G{i}" for i in range(9, 900, 74)]
    own = dataclasses.replace(twin, response={**dict(list(twin.response.items())[:14]), **dict.fromkeys(quiet, 1)})
    tables = dataclasses.replace(knowledge, perturbations={**knowledge.perturbations, "ALPHA-TWIN": own})
    assert score(alpha_cells, ask("ALPHA"), knowledge=tables).confidence.twins == ()


def test_outlook_when_one_donor_carries_the_response_then_the_score_falls_without_it(alpha_cells, world, ask, score):
    shift = dict.fromkeys(list(ask("ALPHA").expected_targets), 1.0)
    prompt = world.cells(80, shift=shift)
    is_carrier = (prompt.obs[keys.DONOR] == "d2").to_numpy()
    counts = prompt.X.toarray()
    counts[is_carrier] = alpha_cells.prompt.X.toarray()[(alpha_cells.prompt.obs[keys.DONOR] == "d2").to_numpy()]
    prompt.X = csr_matrix(counts)
    prompt.obs[keys.DATASET] = np.where(is_carrier, "one", "other")
    control = alpha_cells.prompt_control.copy()
    control.obs[keys.DATASET] = np.where(control.obs[keys.DONOR] == "d2", "one", "other")
    found = score(dataclasses.replace(alpha_cells, prompt=prompt, prompt_control=control), ask("ALPHA")).confidence
    lowest = found.without[0]
    assert (lowest.kind, lowest.name) in {("donor", "d2"), ("data set", "one")}
    assert {one.kind for one in found.without} == {"donor", "data set"}
    values = [one.composite for one in found.without]
    assert values == sorted(values)


def test_outlook_when_all_donors_respond_then_the_score_without_one_is_as_good(alpha):
    assert [one.kind for one in alpha.confidence.without] == ["donor"] * 4
    # without literature and network 7.3 is the most, whether three donors or four were measured
    assert max(one.composite for one in alpha.confidence.without) == pytest.approx(alpha.composite.cap) == 7.3


def test_outlook_survives_the_record_of_a_run(alpha):
    text = alpha.confidence.model_dump_json()
    assert Confidence.model_validate_json(text).model_dump_json() == text
