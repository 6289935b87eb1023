from haystack_kernel.planners.offline.choice import choose_candidates, join_words
from haystack_kernel.schema import (
    Candidate,
    CellSet,
    Choice,
    Composite,
    Feedback,
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


def test_choose_with_a_pooling_engine_narrows_from_all_to_half_to_one_then_walks_on(subtests):
    for engine in ["weighted", "mean"]:
        with subtests.test(engine=engine):
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


def test_choose_with_a_single_prompt_engine_takes_one_after_the_other(subtests):
    for engine in ["shift", "none"]:
        with subtests.test(engine=engine):
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
    assert second.reason.startswith("Round 1 scored 5.2 of 10. Keeps the 3 highest ranked of the 5")
    alone = choose_candidates(QUERY, TABLE, [], config=RunConfig(engine="shift"))
    assert "It is CD4 T cell." in alone.reason


def test_join_words_then_reads_as_a_list():
    assert [join_words("abc"[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert join_words(["a", "b, c", "d"]) == "a; b, c; and d"


# --- what the rounds taught -----------------------------------------------------------------------------------------


def taught(number, members, action, *, about=""):
    """A round that tried ``members`` and asks for something else."""
    feedback = Feedback(kind="wrong_lineage", sentence="it was the wrong way", action=action, about=about)
    choice = Choice(candidate_keys=tuple(one.key for one in members), reason="")
    return Round(
        number=number,
        choice=choice,
        candidates=tuple(members),
        composite=Composite(value=2.0, weight_computed=1),
        feedback=(feedback,),
    )


def changed(item, **changes):
    prompt = item.prompt.model_copy(update={name: changes.pop(name) for name in ("dataset",) if name in changes})
    return item.model_copy(update={"prompt": prompt, **changes})


def test_choose_when_a_lineage_misled_then_the_nearer_cells_without_it_come_next_and_the_reason_says_why():
    near, far = changed(TABLE[1], relevance=0.9), changed(TABLE[0], relevance=0.9)
    history = [taught(1, [far, near], "other_cells", about="CD4 T cell")]
    choice = choose_candidates(QUERY, [far, near], history, config=RunConfig())
    assert choice.candidate_keys == ("b",)
    assert "Round 1 scored 2.0 of 10. Round 1: it was the wrong way; so cells more similar" in choice.reason
    silent = history[0].model_copy(update={"feedback": ()})
    assert choose_candidates(QUERY, [far, near], [silent], config=RunConfig()).candidate_keys == ("t",)


def test_choose_when_a_dataset_covers_too_few_genes_then_another_one_comes_next():
    history = [taught(1, [TABLE[0]], "other_dataset")]
    choice = choose_candidates(QUERY, TABLE, history, config=RunConfig(engine="shift"))
    assert choice.candidate_keys == ("p",)
    assert "so another dataset is tried next" in choice.reason


def test_choose_when_donors_were_not_matched_then_a_matched_prompt_comes_next():
    matched = changed(TABLE[5], donor_matched=True, control=TABLE[5].prompt)
    history = [taught(1, [TABLE[0]], "matched_control")]
    choice = choose_candidates(QUERY, [*TABLE[:5], matched], history, config=RunConfig(engine="shift"))
    assert choice.candidate_keys == ("d",)
    assert "so a prompt with control cells of its own donors is tried next" in choice.reason


def test_choose_when_the_response_was_not_the_asked_one_then_evidence_not_used_yet_comes_next():
    weak = changed(TABLE[6], evidence_distance="shared_target", relevance=0.9)
    history = [taught(1, TABLE[:2], "nearer_evidence")]
    choice = choose_candidates(QUERY, [*TABLE[:2], TABLE[5], weak], history, config=RunConfig(engine="shift"))
    assert choice.candidate_keys == ("d",)


def test_choose_when_a_single_prompt_was_unstable_then_more_are_pooled():
    pool = [TABLE[0], TABLE[1], TABLE[3]]
    history = [taught(1, pool, "nearer_evidence"), taught(2, [TABLE[0]], "wider_pool")]
    history[0] = history[0].model_copy(update={"feedback": ()})
    choice = choose_candidates(QUERY, pool, history, config=RunConfig())
    assert choice.candidate_keys == ("t", "b")
    assert "so more cells are pooled next" in choice.reason


def test_choose_when_feedback_is_followed_to_the_end_then_every_set_still_comes_once():
    history, seen = [], []
    while (choice := choose_candidates(QUERY, TABLE, history, config=RunConfig())) and len(seen) < 20:
        seen.append(frozenset(choice.candidate_keys))
        members = [one for one in TABLE if one.key in choice.candidate_keys]
        history.append(taught(len(seen), members, "other_cells"))
    assert len(seen) == len(set(seen)) == 9
