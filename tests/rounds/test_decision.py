"""What the steps inside a round leave in the record."""

import math

import pytest

from haystack_kernel import flow, rounds
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.knowledge.additions import add_knowledge
from haystack_kernel.schema import RunRecord
from haystack_kernel.store import read_csv, read_h5ad


def test_search_when_knowledge_was_added_then_its_versions_and_digests_are_in_the_record(ports, begin, tmp_path):
    record = begin()
    record = record.model_copy(update={"query": ports.planner_named("auto").understand(record.question).value})
    packaged = load_knowledge()
    digests = rounds.search(record, ports).digests
    assert digests[f"knowledge:{packaged.version}"] == packaged.digest
    (tmp_path / "sets.gmt").write_text("set one\tsource\tTNF\tIL6\n")
    header = add_knowledge(tmp_path / "sets.gmt", folder=ports.settings.knowledge)
    after = rounds.search(record, ports).digests
    assert after["knowledge:genesets:sets version unstated"] == header.digest
    known = load_knowledge(ports.settings.knowledge)
    assert after[f"knowledge:{known.version}"] == known.digest != packaged.digest
    assert {name for name in after if name.startswith("atlas:")} == {"atlas:tiny"}


@pytest.mark.slow
def test_ground_when_a_round_is_scored_then_confidence_and_feedback_are_in_the_record(ports, begin):
    record = flow.work(begin(), ports, until="interpret")
    last = record.rounds[0]
    assert not [name for name in last.task_seconds if "resample" in name]  # a baseline's error needs no predictions
    aspects = {item.name: item for item in last.confidence.aspects}
    assert aspects["gene intervals"].words
    assert aspects["donors"].words == "3 of 3 donors of the prompt move the same way as the prediction."
    assert last.confidence.verdict == "is_baseline"
    de = read_csv(ports.store, record.run_id, "rounds/1/de.csv")
    assert (de["is_de"] == (de["lfsr"] < 0.05)).all()
    assert (de["effect_low"] < de["effect"])[de["lfsr"].notna()].all()
    text = record.model_dump_json()
    assert RunRecord.model_validate_json(text).model_dump_json() == text


@pytest.mark.slow
def test_ground_when_a_state_of_cells_is_asked_for_then_reference_cells_are_fetched_once(ports, begin):
    record = begin("Impute B cells for donor d1", max_rounds=2, threshold=10)
    record = flow.work(record, ports, until="interpret")
    reference = read_h5ad(ports.store, record.run_id, "reference.h5ad")
    asked = reference.obs[reference.obs["kinship"] == "asked"]
    assert set(asked["donor_id"].astype(str)) == {"tiny:d2", "tiny:d3"}
    written = [ref.path for item in record.rounds for ref in item.files if ref.path == "reference.h5ad"]
    assert written == ["reference.h5ad"]
    scores = {item.name: item.score for item in record.rounds[0].components}
    assert scores["cell_type_coherence"] > 5
    assert not math.isnan(scores["donor_effect"])
