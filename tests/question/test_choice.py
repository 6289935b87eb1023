import pytest

from haystack_kernel.question.choice import choose_candidates, join_words
from haystack_kernel.schema import (
    Candidate,
    CellSet,
    Choice,
    Composite,
    Perturbation,
    Round,
    RunConfig,
    StructuredQuery,
)

QUERY = StructuredQuery(
    question="How would NK cells respond to IFN-beta?",
    task_type="perturbation_novel_cell_types",
    cell_type_name="natural killer cell",
    perturbation=Perturbation(text="IFN-beta", name="IFN-beta"),
)


def candidate(key, cell_type, *, dataset="kang", perturbation="IFN-beta"):
    prompt = CellSet(
        atlas="demo", dataset=dataset, is_control=False, perturbation=perturbation, cell_type_names=(cell_type,)
    )
    return Candidate(
        key=key,
        strategy="direct",
        prompt=prompt,
        control=None,
        control_reason="none here",
        relevance=0.5,
        evidence_distance="other_cell_type",
        reason=f"It is {cell_type}.",
    )


TABLE = (
    candidate("t", "CD4 T cell"),
    candidate("b", "B cell"),
    candidate("a", "monocyte", perturbation="IFN-alpha1"),
    candidate("m", "monocyte"),
    candidate("p", "T cell", dataset="parse"),
    candidate("d", "dendritic cell"),
    candidate("c", "CD14 monocyte"),
)


def play(config, *, table=TABLE, limit=20):
    history, choices = [], []
    for number in range(1, limit):
        choice = choose_candidates(QUERY, table, history, config=config)
        if choice is None:
            break
        choices.append(choice)
        history.append(Round(number=number, choice=choice, candidates=()))
    return choices


def keys_of(choices):
    return [choice.candidate_keys for choice in choices]


@pytest.mark.parametrize("engine", ["weighted", "mean"])
def test_choose_with_a_pooling_engine_narrows_from_all_to_half_to_one_then_walks_on(engine):
    assert keys_of(play(RunConfig(engine=engine))) == [
        ("t", "b", "m", "d", "c"),  # same dataset and treatment as the top one
        ("t", "b", "m"),  # ceil(5 / 2)
        ("t",),
        ("b",),
        ("a",),
        ("m",),
        ("p",),
        ("d",),
        ("c",),
    ]


@pytest.mark.parametrize("engine", ["shift", "none"])
def test_choose_with_a_single_prompt_engine_takes_one_after_the_other(engine):
    assert keys_of(play(RunConfig(engine=engine))) == [("t",), ("b",), ("a",), ("m",), ("p",), ("d",), ("c",)]


def test_choose_with_a_pool_of_two_never_repeats_the_half():
    assert keys_of(play(RunConfig(), table=TABLE[:2])) == [("t", "b"), ("t",), ("b",)]


def test_choose_with_a_pin_then_every_round_has_it():
    table = [one.model_copy(update={"pinned": one.key == "p"}) for one in TABLE if one.key not in "bt"]
    choices = keys_of(play(RunConfig(), table=table))
    assert all(chosen[0] == "p" for chosen in choices)
    assert choices[0] == ("p", "a")
    assert choices[-1] == ("p",)
    assert len({frozenset(chosen) for chosen in choices}) == len(choices)


def test_choose_pools_the_treatment_asked_for_and_takes_a_twin_by_its_rank_but_a_weak_relative_last():
    def related(key, relevance, distance):
        prompt = TABLE[0].prompt.model_copy(update={"perturbation": key})
        fields = {"key": key, "prompt": prompt, "relevance": relevance, "evidence_distance": distance}
        return TABLE[0].model_copy(update=fields)

    text, weak, twin = (
        related("text", 0.9, "text_only"),
        related("weak", 0.5, "shared_target"),
        related("twin", 0.8, "shared_target"),
    )
    table = [text, weak, twin, *TABLE[:2]]
    assert keys_of(play(RunConfig(), table=table)) == [("t", "b"), ("twin",), ("t",), ("b",), ("weak",), ("text",)]
    assert keys_of(play(RunConfig(engine="shift"), table=table))[0] == ("twin",)


def test_choose_when_the_user_tried_the_pool_in_another_order_then_skips_it():
    tried = Round(number=1, choice=Choice(candidate_keys=("c", "d", "m", "b", "t"), reason=""), candidates=())
    assert choose_candidates(QUERY, TABLE, [tried], config=RunConfig()).candidate_keys == ("t", "b", "m")


def test_choose_without_candidates_then_none():
    assert choose_candidates(QUERY, (), [], config=RunConfig()) is None


def test_choose_reason_then_names_cells_dataset_and_the_last_score():
    first = choose_candidates(QUERY, TABLE, [], config=RunConfig())
    assert "CD4 T cell, B cell, monocyte, dendritic cell and CD14 monocyte of dataset kang" in first.reason
    assert "natural killer cell" in first.reason
    done = Round(number=1, choice=first, candidates=(), composite=Composite(value=5.24, weight_computed=1))
    second = choose_candidates(QUERY, TABLE, [done], config=RunConfig())
    assert second.reason.startswith("Round 1 reached 5.2 of 10. Keeps the 3 highest ranked of the 5")
    alone = choose_candidates(QUERY, TABLE, [], config=RunConfig(engine="shift"))
    assert "It is CD4 T cell." in alone.reason


@pytest.mark.parametrize(
    ("words", "joined"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_join_words_then_reads_as_a_list(words, joined):
    assert join_words(words) == joined
