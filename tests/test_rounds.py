"""What the steps inside a round leave in the record."""

from haystack_kernel import rounds
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.knowledge.additions import add_knowledge


def test_search_when_knowledge_was_added_then_its_versions_and_digests_are_in_the_record(ports, begin, tmp_path):
    record = begin()
    record = record.model_copy(update={"query": ports.planner.understand(record.question)})
    packaged = load_knowledge()
    digests = rounds.search(record, ports)[2]
    assert digests[f"knowledge:{packaged.version}"] == packaged.digest
    (tmp_path / "sets.gmt").write_text("set one\tsource\tTNF\tIL6\n")
    header = add_knowledge(tmp_path / "sets.gmt", folder=ports.settings.knowledge)
    after = rounds.search(record, ports)[2]
    assert after["knowledge:genesets:sets version unstated"] == header.digest
    known = load_knowledge(ports.settings.knowledge)
    assert after[f"knowledge:{known.version}"] == known.digest != packaged.digest
    assert {name for name in after if name.startswith("atlas:")} == {"atlas:tiny"}
