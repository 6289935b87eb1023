"""The questions of the evaluation, read by rules: what the planner of rules can do is known and does not fall."""

import pytest

from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.planners.offline import OfflinePlanner
from haystack_kernel.schema.base import TaskType
from tests.evals import scoring


@pytest.fixture(scope="module")
def rows():
    return scoring.rows()


@pytest.fixture(scope="module")
def verdicts(rows):
    knowledge = load_knowledge()
    planner = OfflinePlanner(knowledge)
    return [scoring.judge(row, scoring.ask_rules(planner, row["question"]), knowledge=knowledge) for row in rows]


def test_the_list_has_sixty_questions_of_all_tasks_and_its_right_ids_exist(rows):
    assert len(rows) == len({row["question"] for row in rows}) == 60
    tasks = {row["task_type"] for row in rows if row["group"] != "trap"}
    assert tasks == set(TaskType.__args__)
    knowledge = load_knowledge()
    for row in rows:
        assert row["group"] in ("plain", "worded", "trap")
        assert set(filter(None, row["cell_type_id"].split(";"))) <= set(knowledge.cell_types)
        assert not row["treatment"] or row["treatment"] in knowledge.perturbations
        assert bool(row["trap"]) == (row["group"] == "trap")
        assert row["group"] != "trap" or row["trap"].lower() in row["question"].lower()


def test_rules_read_every_plain_question_and_no_trap_in_silence(verdicts):
    assert [item.question for item in verdicts if item.group == "plain" and not item.right] == []
    assert [item.question for item in verdicts if item.group == "trap" and not item.trap_kept] == []
    assert all(item.valid_ids in (True, None) for item in verdicts)


def test_rules_read_few_of_the_questions_in_other_words(verdicts):
    """The reason for a language model; where this changes, the figures of docs/planner.md change."""
    assert sum(bool(item.right) for item in verdicts if item.group == "worded") == 4


def test_a_wrong_reading_a_silent_trap_and_an_unknown_id_are_found(rows):
    """The judge itself: a planner that always reads the same thing is wrong where it should be."""
    knowledge = load_knowledge()
    query = OfflinePlanner(knowledge).understand("How would B cells respond to IFN-beta?").value
    given = scoring.Given(query=query)
    verdicts = [scoring.judge(row, given, knowledge=knowledge) for row in rows]
    assert not any(verdict.right for verdict in verdicts)
    assert not any(verdict.trap_kept for verdict in verdicts)
    invented = scoring.Given(query=query.model_copy(update={"cell_type_id": "CL:9999999"}))
    assert not scoring.judge(rows[0], invented, knowledge=knowledge).valid_ids
    failed = scoring.judge(rows[-1], scoring.Given(failure="ContractError: no JSON"), knowledge=knowledge)
    assert (failed.failed, failed.trap_kept) == (True, False)
