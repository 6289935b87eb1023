"""The cells of one question by role, as the first round of a run would choose them.

In: a question of the plan, the sources. Out: files of the question's folder, ``prepared.json`` last.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.campaign.plan import understand
from haystack_kernel.campaign.sources import nearest_evidence
from haystack_kernel.errors import HaystackError
from haystack_kernel.jobs import CONTROL, TREATED, build_manifest, reads_others
from haystack_kernel.retrieval import assemble_cells, fetch_treatments, read_own_cells
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.campaign.sources import Sources
    from haystack_kernel.retrieval import CellsByRole
    from haystack_kernel.schema import ScreenPlan, ScreenQuestion, StructuredQuery
    from inference.manifest import Task

Prepared = dict[str, Any]


def prepare_question(number: int, plan: ScreenPlan, *, sources: Sources, folder: CampaignFolder) -> None:
    """Write the cells of a question by role; what is there already is kept.

    ``prepared.json`` holds the query, all candidates and the chosen ones with the reason, the query cell set, numbers
    of cells and donors; or ``error``, which says why the question cannot be predicted.
    """
    place = layout.question_folder(number)
    if folder.read(f"{place}/{layout.PREPARED}") is not None:
        return
    try:
        facts = _prepare(plan.questions[number - 1], sources=sources, folder=folder, place=place)
    except HaystackError as error:
        facts = {"error": str(error)}
    folder.write(f"{place}/{layout.PREPARED}", json.dumps(facts).encode())


def _prepare(one: ScreenQuestion, *, sources: Sources, folder: CampaignFolder, place: str) -> Prepared:
    engine = str(one.engine)
    config = sources.config.model_copy(update={"engine": engine})
    query = understand(one, sources=sources)
    found = sources.search(query)
    chosen, reason = sources.choose(query, found, engine=engine)
    own, query_set = None, None
    if config.query_h5ad is None:
        query_set = sources.choose_query_cells(query, found)
    else:
        own = read_own_cells(config, query=query, knowledge=sources.knowledge, candidates=chosen)
    cells = assemble_cells(
        chosen, query_set=query_set, atlas=sources.atlas, config=config, round_number=1, own_cells=own
    )
    for role, adata in cells.by_role.items():
        folder.write_cells(layout.cells_file(place, role), adata)
    has_others = reads_others(engine) and _write_others(cells, query, sources=sources, folder=folder, place=place)
    n_control = 0 if cells.control_cells is None else cells.control_cells.n_obs
    strategy, note = query.control_strategy, ""
    if not n_control and strategy == "synthetic_control":
        strategy = "query_as_control"
        note = f"synthetic_control needs matched control cells: {chosen[0].control_reason}"
    return {
        "query": query.model_dump(mode="json"),
        "candidates": [one.model_dump(mode="json") for one in found],
        "chosen": [one.key for one in chosen],
        "reason": reason,
        "query_set": None if query_set is None else query_set.model_dump(mode="json"),
        "evidence": nearest_evidence(chosen),
        "donor_matched": all(one.donor_matched for one in chosen),
        "control_strategy": strategy,
        "control_note": note,
        "notes": list(cells.notes),
        "engine": engine,
        "n_prompt": cells.prompt_cells.n_obs,
        "n_control": n_control,
        "n_query": cells.query_cells.n_obs,
        "n_donors": int(cells.prompt_cells.obs[keys.DONOR].nunique()),
        "has_others": has_others,
    }


def _write_others(
    cells: CellsByRole, query: StructuredQuery, *, sources: Sources, folder: CampaignFolder, place: str
) -> bool:
    """Write cells of other treatments for the engines that read them; whether there are any."""
    asked = [query.perturbation.name] if query.perturbation is not None else []
    others = fetch_treatments(
        cells, asked=asked, atlas=sources.atlas, knowledge=sources.knowledge, config=sources.config
    )
    if others is not None:
        folder.write_cells(layout.cells_file(place, layout.TREATMENTS), others)
    return others is not None


def read_prepared(number: int, *, folder: CampaignFolder) -> Prepared | None:
    """What was written of a question; None where it was not prepared yet."""
    data = folder.read(f"{layout.question_folder(number)}/{layout.PREPARED}")
    found: Prepared | None = None if data is None else json.loads(data)
    return found


def question_tasks(number: int, plan: ScreenPlan, facts: Prepared, *, folder: CampaignFolder) -> list[Task]:
    """Predictions of one question, as a round of a run lists them; none where it cannot be predicted."""
    if "error" in facts:
        return []
    manifest = build_manifest(
        folder.uri(layout.question_folder(number)),
        config=plan.config.model_copy(update={"engine": facts["engine"]}),
        strategy=facts["control_strategy"],
        has_control=bool(facts["n_control"]),
        has_others=facts["has_others"],
        n_resamples=plan.resamples,
    )
    kept = [task for task in manifest.tasks if plan.baselines or is_own(task.id)]
    return [replace(task, id=f"{number:04d}-{task.id}") for task in kept]


def is_own(name: str) -> bool:
    """Whether a prediction is of the engine that was asked for, rather than of one to compare it with."""
    return name.startswith((TREATED, CONTROL))
