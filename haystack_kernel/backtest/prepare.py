"""The cells of one pair by role, as a run would choose them if the pair had never been measured.

In: a pair, its atlas, the ports. Out: files of the pair's folder, ``prepared.json`` last.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.backtest.split import canonical_of, split_pair
from haystack_kernel.batches.remembering import Remembering
from haystack_kernel.config.vocabulary import read_vocabulary
from haystack_kernel.errors import HaystackError, InvalidInputError, NoCandidateError
from haystack_kernel.grounding.confidence.backtested import FEATURES, prompt_features
from haystack_kernel.jobs import reads_others
from haystack_kernel.knowledge import load_knowledge, with_vocabulary
from haystack_kernel.planners.offline.choice import choose_candidates
from haystack_kernel.retrieval import assemble_cells, cells_of, fetch_treatments, search_candidates
from haystack_kernel.retrieval.cells.sample import make_rng, sample_cells, split_cells
from haystack_kernel.schema import EVIDENCE_WORDS, CellSet, RunConfig
from haystack_kernel.store import layout
from inference.manifest import ENGINES

if TYPE_CHECKING:
    from haystack_kernel.backtest.split import Split
    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas, Ports
    from haystack_kernel.retrieval import CellsByRole
    from haystack_kernel.schema import BacktestPlan, Candidate, MeasuredPair, StructuredQuery, Vocabulary

POOLING_ENGINE = "weighted"  # all engines predict from the prompt that this one would be given
N_OTHERS = 600  # cells of the type under other treatments, for the mean response of the type
_LABELS = (keys.CELL_TYPE, keys.DONOR, keys.PERTURBATION, keys.IS_CONTROL)  # of obs, which engines of this package read


@dataclass(frozen=True, eq=False)
class Sources:
    """What the pairs of one back-test are prepared from, opened once per process."""

    ports: Ports
    atlas: Atlas
    knowledge: Knowledge
    named: Knowledge  # with the names that only the atlas has
    vocabulary: Vocabulary

    @classmethod
    def open(cls, plan: BacktestPlan, ports: Ports) -> Sources:
        """Open the atlas and the tables."""
        knowledge = load_knowledge(ports.settings.knowledge)
        vocabulary = read_vocabulary(RunConfig(atlases=(plan.atlas,)), ports)
        named = with_vocabulary(knowledge, vocabulary)
        return cls(ports, Remembering(ports.open_atlas([plan.atlas])), knowledge, named, vocabulary)


def prepare_pair(number: int, plan: BacktestPlan, *, sources: Sources, folder: CampaignFolder) -> dict[str, Any]:
    """Hide a pair, choose its prompt, and write its cells by role; what is there already is kept.

    Returns
    -------
    The content of ``prepared.json``: evidence, strategies, reason of the choice, numbers of cells, features; or
    ``error``, which says why the pair cannot be predicted.
    """
    place = layout.pair_folder(number)
    done = folder.read(f"{place}/{layout.PREPARED}")
    if done is not None:
        found: dict[str, Any] = json.loads(done)
        return found
    pair = plan.pairs[number - 1]
    try:
        facts = _prepare(pair, plan, sources=sources, folder=folder, place=place)
    except HaystackError as error:
        facts = {"error": str(error)}
    folder.write(f"{place}/{layout.PREPARED}", json.dumps(facts).encode())
    return facts


def _prepare(
    pair: MeasuredPair, plan: BacktestPlan, *, sources: Sources, folder: CampaignFolder, place: str
) -> dict[str, Any]:
    split = split_pair(pair, atlas=sources.atlas, knowledge=sources.named, n_truth=plan.n_truth, seed=plan.seed)
    query = ask(pair, sources=sources)
    config = RunConfig(
        atlases=(plan.atlas,),
        engine=POOLING_ENGINE,
        n_prompt=plan.n_prompt,
        n_query=plan.n_query,
        seed=plan.seed,
    )
    chosen, reason = _choose_prompt(query, split, sources=sources, config=config)
    cells = assemble_cells(chosen, query_set=split.query_set, atlas=split.atlas, config=config, round_number=1)
    labels = _labels_of(plan)
    for role, adata in cells.by_role.items():
        folder.write_cells(layout.cells_file(place, role), adata, labels=labels)
    for name, rows in ((layout.TRUTH, split.treated), (layout.TRUTH_CONTROL, split.control)):
        folder.write_cells(layout.cells_file(place, name), sources.atlas.fetch(rows), labels=())
    n_treatments = 0
    if any(reads_others(engine) for engine in plan.engines):
        n_treatments = _write_treatments(split, cells, plan, sources=sources, config=config, folder=folder, place=place)
    n_others = _write_others(split, plan, folder=folder, place=place)
    has_null = plan.decoy and _write_null(split, cells, plan, folder=folder, place=place)
    similarity = prompt_features(cells.prompt_cells, cells.control_cells, cells.query_cells)
    return {
        "evidence": _nearest(chosen),
        "strategies": sorted({one.strategy for one in chosen}),
        "prompt": sorted({one.prompt.perturbation or "" for one in chosen}),
        "reason": reason,
        "n_prompt": cells.prompt_cells.n_obs,
        "n_control": 0 if cells.control_cells is None else cells.control_cells.n_obs,
        "n_query": cells.query_cells.n_obs,
        "n_truth": len(split.treated),
        "n_truth_control": len(split.control),
        "n_others": n_others,
        "n_treatments": n_treatments,
        "has_null": has_null,
        "features": dict(zip(FEATURES, similarity, strict=True)),
    }


def _labels_of(plan: BacktestPlan) -> tuple[str, ...] | None:
    """Columns of obs that the engines read; None: all, since an engine of another package may read any."""
    return _LABELS if all(engine in ENGINES for engine in plan.engines) else None


def _choose_prompt(
    query: StructuredQuery, split: Split, *, sources: Sources, config: RunConfig
) -> tuple[list[Candidate], str]:
    """Candidates that the first round of a run would choose, and why."""
    settings = sources.ports.settings.retrieval
    candidates = search_candidates(
        query, atlas=split.atlas, knowledge=sources.knowledge, settings=settings, config=config
    )
    choice = choose_candidates(query, candidates, [], config=config)
    if choice is None:
        msg = f"{split.pair.words}: nothing is left to predict it from"
        raise NoCandidateError(msg)
    return [one for one in candidates if one.key in choice.candidate_keys], choice.reason


def _write_treatments(
    split: Split,
    cells: CellsByRole,
    plan: BacktestPlan,
    *,
    sources: Sources,
    config: RunConfig,
    folder: CampaignFolder,
    place: str,
) -> int:
    """Write cells of other treatments that lie before the wall, for engines that read them; returns how many."""
    found = fetch_treatments(
        cells, asked=[split.pair.perturbation], atlas=split.atlas, knowledge=sources.named, config=config
    )
    if found is None:
        return 0
    folder.write_cells(layout.cells_file(place, layout.TREATMENTS), found, labels=_labels_of(plan))
    return int(found.n_obs)


def _write_null(split: Split, cells: CellsByRole, plan: BacktestPlan, *, folder: CampaignFolder, place: str) -> bool:
    """Write the control cells in two halves, where the atlas shows no other treatment that could be a decoy."""
    table = split.atlas.conditions()
    others = ~table[keys.IS_CONTROL] & (table[keys.PERTURBATION] != split.pair.perturbation)
    if others.any() or cells.control_cells is None:
        return False
    labels = _labels_of(plan)
    halves = split_cells(cells.control_cells.obs, rng=make_rng(plan.seed, role="backtest/null"))
    for name, rows in zip((layout.NULL, layout.NULL_CONTROL), halves, strict=True):
        folder.write_cells(layout.cells_file(place, name), cells.control_cells[rows.index].copy(), labels=labels)
    return True


def ask(pair: MeasuredPair, *, sources: Sources) -> StructuredQuery:
    """The query of a pair, read from words as a person would write them.

    Raises
    ------
    InvalidInputError
        The words are refused, or taken for another cell type or treatment.
    """
    name = canonical_of(pair, knowledge=sources.knowledge)
    question = f"How would {cells_of(pair.cell_type)} respond to {name}?"
    query = sources.ports.planner_named("offline").understand(question, vocabulary=sources.vocabulary).value
    taken = "" if query.perturbation is None else canonical_of_name(query.perturbation.name, sources=sources)
    is_type = query.cell_type_id == pair.cell_type_id or not pair.cell_type_id
    if not is_type or taken.casefold() != name.casefold():
        msg = f"{question!r} is taken as {query.reading}, which is not the pair {pair.words}"
        raise InvalidInputError(msg, question=question)
    return query


def canonical_of_name(name: str, *, sources: Sources) -> str:
    """Known name of a treatment; itself where no table has it."""
    from haystack_kernel.retrieval.view import canonical_name

    return canonical_name(name, knowledge=sources.knowledge)


def _nearest(chosen: list[Candidate]) -> str:
    """Evidence distance of the nearest candidate, by which back-tests are told apart."""
    order = list(EVIDENCE_WORDS)
    return min((one.evidence_distance for one in chosen), key=order.index)


def _write_others(split: Split, plan: BacktestPlan, *, folder: CampaignFolder, place: str) -> int:
    """Write cells of the pair's type and dataset under other treatments, equally many of each: its mean response."""
    pair = split.pair
    wanted = CellSet(
        atlas=pair.atlas,
        dataset=pair.dataset,
        is_control=False,
        cell_type_ids=(pair.cell_type_id,) if pair.cell_type_id else (),
        cell_type_names=() if pair.cell_type_id else (pair.cell_type,),
    )
    cells = split.atlas.select(wanted)
    cells = cells[cells[keys.PERTURBATION] != pair.perturbation]
    if cells.empty:
        return 0
    groups = dict(iter(cells.groupby(keys.PERTURBATION, sort=True)))
    n = max(1, N_OTHERS // len(groups))
    rng = make_rng(plan.seed, role="backtest/others")
    cells = pd.concat([sample_cells(rows, n=n, rng=rng) for rows in groups.values()])
    cells = cells.sort_values(keys.CELL_ID, ignore_index=True)
    folder.write_cells(layout.cells_file(place, layout.OTHERS), split.atlas.fetch(cells), labels=_labels_of(plan))
    return len(cells)
