import pytest

from haystack_kernel.errors import InvalidInputError
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


def test_choose_with_pins_and_bans_then_every_round_has_the_pin_and_none_the_ban():
    choices = keys_of(play(RunConfig(pin=("p",), ban=("b", "t"))))
    assert all(chosen[0] == "p" for chosen in choices)
    assert not {"b", "t"} & {key for chosen in choices for key in chosen}
    assert choices[0] == ("p", "a")
    assert choices[-1] == ("p",)
    assert len({frozenset(chosen) for chosen in choices}) == len(choices)


def test_choose_when_the_user_tried_the_pool_in_another_order_then_skips_it():
    tried = Round(number=1, choice=Choice(candidate_keys=("c", "d", "m", "b", "t"), reason=""), candidates=())
    assert choose_candidates(QUERY, TABLE, [tried], config=RunConfig()).candidate_keys == ("t", "b", "m")


@pytest.mark.parametrize("table", [(), TABLE[:1]])
def test_choose_without_free_candidates_then_none(table):
    assert choose_candidates(QUERY, table, [], config=RunConfig(ban=("t",))) is None


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
    ("config", "says"),
    [({"pin": ("x",)}, "not found: x"), ({"pin": ("t",), "ban": ("t",)}, "pinned and banned at once: t")],
)
def test_choose_with_impossible_pins_then_raises(config, says):
    with pytest.raises(InvalidInputError, match=says):
        choose_candidates(QUERY, TABLE, [], config=RunConfig(**config))


@pytest.mark.parametrize(
    ("words", "joined"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_join_words_then_reads_as_a_list(words, joined):
    assert join_words(words) == joined
