"""The predictions of a back-test as tasks: every engine on every pair, with the pairs' own mean and a decoy.

In: a plan and its prepared pairs. Out: tasks, each with its output in the pair's folder.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.backtest.judge import CONTROL_SUFFIX, DECOY, TYPE_MEAN
from haystack_kernel.jobs import reads_others
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.retrieval.cells.sample import make_rng
from haystack_kernel.retrieval.same_treatment import names_treatment
from haystack_kernel.store import layout
from inference.manifest import MODEL_ENGINE, Task

if TYPE_CHECKING:
    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.schema import BacktestPlan

DECOY_ENGINE = "weighted"
TYPE_MEAN_ENGINE = "shift"


def read_prepared(plan: BacktestPlan, *, folder: CampaignFolder) -> dict[int, dict[str, Any]]:
    """Number of each prepared pair -> the content of its ``prepared.json``."""
    found = {}
    for number in range(1, len(plan.pairs) + 1):
        data = folder.read(f"{layout.pair_folder(number)}/{layout.PREPARED}")
        if data is not None:
            found[number] = json.loads(data)
    return found


def pair_tasks(number: int, plan: BacktestPlan, *, folder: CampaignFolder) -> list[str]:
    """Names of the predictions of one pair; none where it cannot be predicted."""
    data = folder.read(f"{layout.pair_folder(number)}/{layout.PREPARED}")
    return list(_names(json.loads(data), plan)) if data is not None else []


def build_tasks(plan: BacktestPlan, prepared: dict[int, dict[str, Any]], *, folder: CampaignFolder) -> list[Task]:
    """List the tasks of all pairs that can be predicted, those of one pair together."""
    decoys = choose_decoys(plan, prepared) if plan.decoy else {}
    tasks = []
    for number, facts in prepared.items():
        place = folder.uri(layout.pair_folder(number))
        other = folder.uri(layout.pair_folder(decoys[number])) if number in decoys else None
        for name in _names(facts, plan):
            inputs = _inputs_of(name, facts, place=place, other=other)
            if inputs is None:
                continue
            engine, prompt, control = inputs
            treatments = layout.cells_file(place, layout.TREATMENTS)
            tasks.append(
                Task(
                    id=f"{number:04d}-{name}",
                    engine=engine,
                    prompt=prompt,
                    control=control,
                    query=layout.cells_file(place, keys.QUERY),
                    output=layout.output_file(place, name),
                    seed=plan.seed,
                    others=treatments if facts.get("n_treatments") and reads_others(engine) else None,
                )
            )
    return tasks


def _inputs_of(
    name: str, facts: dict[str, Any], *, place: str, other: str | None
) -> tuple[str, str, str | None] | None:
    """Engine, prompt and control cells of a prediction; None for a decoy where there is no ``other`` prompt."""

    def files(folder: str, first: str, second: str) -> tuple[str, str]:
        return layout.cells_file(folder, first), layout.cells_file(folder, second)

    prompt, control = files(place, keys.PROMPT, keys.CONTROL)
    if name == TYPE_MEAN:
        return (TYPE_MEAN_ENGINE, *files(place, layout.OTHERS, keys.QUERY))
    if name == DECOY:
        if facts["has_null"]:
            return (DECOY_ENGINE, *files(place, layout.NULL, layout.NULL_CONTROL))
        return None if other is None else (DECOY_ENGINE, *files(other, keys.PROMPT, keys.CONTROL))
    if name.endswith(CONTROL_SUFFIX):
        return name.removesuffix(CONTROL_SUFFIX), control, control
    return name, prompt, control if facts["n_control"] else None


def choose_decoys(plan: BacktestPlan, prepared: dict[int, dict[str, Any]]) -> dict[int, int]:
    """Pair -> another pair whose prompt has nothing to do with the treatment of the first; one without it is absent."""
    tables = load_knowledge()
    usable = {number: facts for number, facts in prepared.items() if "error" not in facts and facts["n_control"]}
    rng = make_rng(plan.seed, role="backtest/decoys")
    found = {}
    for number, facts in usable.items():
        own = {plan.pairs[number - 1].perturbation, *facts["prompt"]}
        numbers = list(usable)
        for other in (numbers[place] for place in rng.permutation(len(numbers))):
            shown = {plan.pairs[other - 1].perturbation, *usable[other]["prompt"]}
            if not any(names_treatment(one, name, knowledge=tables) for one in shown for name in own):
                found[number] = other
                break
    return found


def _names(facts: dict[str, Any], plan: BacktestPlan) -> tuple[str, ...]:
    if "error" in facts:
        return ()
    names: list[str] = []
    for engine in plan.engines:
        names.append(engine)
        if engine == MODEL_ENGINE and facts["n_control"]:
            names.append(engine + CONTROL_SUFFIX)
    if facts["n_others"]:
        names.append(TYPE_MEAN)
    if plan.decoy and facts["n_control"]:
        names.append(DECOY)
    return tuple(names)
