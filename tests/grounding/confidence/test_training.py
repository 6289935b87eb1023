"""Weights that were trained on the data in question are named; others are not accused."""

from haystack_kernel.grounding.confidence.trained_on import TABLE, load_training_sets, trained_on, training_aspect
from inference.models import packaged
from inference.stack.checkpoint import CITATION


def test_every_row_says_what_it_rests_on():
    rows = load_training_sets()
    assert {row.data_set for row in rows} >= {"parse", "demo"}
    assert all(all(row) and row.model == row.model.casefold() for row in rows)
    assert TABLE.read_text(encoding="utf-8").count("\n") == len(rows) + 1


def test_the_published_weights_are_named_on_the_parse_atlas_and_not_elsewhere():
    assert "trained on the Parse cytokine atlas" in trained_on(CITATION, ["lab/Parse_10M_pbmc"])[0]
    assert trained_on(CITATION, ["kang/kang2018", "demo/demo_cytokine_pbmc"]) == ()
    assert training_aspect("stack", CITATION, ["a/parse"]).value == 1
    assert "it knows few" in training_aspect("stack", CITATION, ["kang/kang"]).words


def test_the_packaged_model_is_known_by_what_it_asks_to_be_cited_with():
    citation = packaged("demo")[0].read_bytes()[:2000].decode("utf-8", "replace")
    assert trained_on(citation, ["demo/demo_drug_pbmc"])
    assert "without 15 % of the pairs" in training_aspect("stack", citation, ["demo/demo_drug_pbmc"]).words


def test_an_engine_without_weights_has_seen_nothing():
    aspect = training_aspect("weighted", "", ["demo/demo_drug_pbmc"])
    assert aspect.value == 0
    assert "no weights" in aspect.words
    assert "does not say which weights" in training_aspect("stack", "", ["demo/demo_drug_pbmc"]).reason
