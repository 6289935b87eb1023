"""Names of the atlases can be asked about; the tables stay as they are, and what they know already is not repeated."""

from __future__ import annotations

import pytest

from haystack_kernel.knowledge import Knowledge, find_mentions, load_knowledge, resolve, with_vocabulary
from haystack_kernel.planners.offline import OfflinePlanner
from haystack_kernel.schema import Vocabulary

HELD = Vocabulary(
    perturbations=(
        ("XQ-4471", "drug"),
        ("Compound 12b", ""),
        ("IFN-beta", "cytokine"),  # known
        ("JAK2", "genetic"),  # read by the grammar
        ("7", ""),  # no name
    ),
    cell_types=("zorblax II", "B cell", "5"),
    donors=("pbmc:alpha", "alpha"),
)


@pytest.fixture(scope="module")
def known() -> Knowledge:
    return with_vocabulary(load_knowledge(), HELD)


def test_vocabulary_when_laid_over_then_adds_what_no_table_knows_and_nothing_else(known: Knowledge) -> None:
    packaged = load_knowledge()
    added = known.perturbations.keys() - packaged.perturbations.keys()
    assert {name: known.perturbations[name].type for name in added} == {
        "XQ-4471": "drug",
        "Compound 12b": "unspecified",
    }
    assert all(not known.perturbations[name].targets for name in added)
    assert [id for id in known.cell_types if id.startswith("label:")] == ["label:zorblax II"]
    assert "XQ-4471" not in packaged.perturbations
    assert known.digest == packaged.digest  # the names are the atlas's, which has a digest of its own
    assert with_vocabulary(packaged, HELD) is known


def test_vocabulary_when_the_atlases_hold_nothing_new_then_is_the_same_knowledge() -> None:
    assert with_vocabulary(load_knowledge(), Vocabulary(perturbations=(("TNF-alpha", ""),))) is load_knowledge()


@pytest.mark.parametrize("text", ["XQ-4471", "xq4471", "XQ 4471"])
def test_treatment_of_an_atlas_when_written_loosely_then_is_found(known: Knowledge, text: str) -> None:
    found = resolve(text, kind="perturbation", knowledge=known)
    assert found.match is not None
    assert (found.match.id, found.match.how) == ("XQ-4471", "name")
    mentions = find_mentions(f"How would B cells respond to {text}?", knowledge=known)
    assert [one.text for one in mentions if one.kind == "perturbation"] == [text]


def test_question_when_it_names_what_only_an_atlas_knows_then_is_understood() -> None:
    query = (
        OfflinePlanner(load_knowledge()).understand("How would zorblax II respond to XQ-4471?", vocabulary=HELD).value
    )
    assert (query.cell_type_id, query.cell_type_name) == (None, "zorblax II")
    assert query.perturbation is not None
    assert (query.perturbation.name, query.perturbation.type, query.perturbation.targets) == ("XQ-4471", "drug", ())
    assert (query.expected_targets, query.expected_pathways, query.unused) == ({}, {}, ())
    open_type = OfflinePlanner(load_knowledge()).understand("How do B cells respond to Compound 12b?", vocabulary=HELD)
    assert open_type.value.perturbation is not None
    assert (open_type.value.perturbation.name, open_type.value.perturbation.type) == ("Compound 12b", None)


def test_question_when_it_names_a_donor_by_a_word_then_only_a_held_donor_counts() -> None:
    question = "How would B cells of donor alpha respond to IFN-beta?"
    planner = OfflinePlanner(load_knowledge())
    assert planner.understand(question, vocabulary=HELD).value.donor_id == "alpha"
    assert planner.understand(question).value.donor_id is None
