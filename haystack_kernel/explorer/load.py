"""Read what the explorer shows from a run folder.

In: a record and the ports. Out: :class:`ExplorerData`; what other runs and atlases hold is read when it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.explorer.arms import CONTROL_PRED, LABELS, ROLE, Arms, arm_of
from haystack_kernel.explorer.sides import Side, effect_between
from haystack_kernel.jobs import BASELINE_PREFIX
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.report.bundle import load_bundle
from haystack_kernel.report.words import sample_words, shared_cells
from haystack_kernel.store import layout, read_h5ad

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata as ad

    from haystack_kernel.explorer.arms import Arm
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas, Ports, Store
    from haystack_kernel.schema import Candidate, Citations, HiddenCells, Round, RunRecord, StructuredQuery

PROMPT_SIDE = "prompt"
RUN_SIDE = "run"
TRUTH_SIDE = "truth"
_ORDER = (RUN_SIDE, TRUTH_SIDE, "baseline", PROMPT_SIDE, "measured")  # by the first word of their keys


@dataclass(frozen=True, eq=False)
class ExplorerData:
    """Everything that is shown of a run.

    Attributes
    ----------
    record
        The run.
    de, pathways, citations
        Tables of its best round, and its papers; None where the round has none.
    arms
        Its cells.
    knowledge
        Pathways and networks.
    sides
        What the prediction can be set beside: key -> label and a function that reads it.
    notes
        What is missing, one sentence each.
    is_whole
        Whether the cells of every role are there, with places on the map.
    sample
        Of which roles the map and the violins show a part, drawn at random; "" where they show every cell.
    """

    record: RunRecord
    de: pd.DataFrame
    pathways: pd.DataFrame
    arms: Arms
    knowledge: Knowledge
    citations: Citations | None = None
    sides: dict[str, tuple[str, Callable[[], Side]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_whole: bool = True
    sample: str = ""


def load_data(
    record: RunRecord,
    ports: Ports,
    *,
    other: RunRecord | None = None,
    truth: ad.AnnData | str | Path | None = None,
) -> ExplorerData:
    """Read the best round of a run.

    Parameters
    ----------
    record
        The run; it must have a scored round.
    ports
        Its storage, its atlases (read only when a measured response is asked for) and its settings.
    other
        A second run of the same storage to set it beside.
    truth
        A measured response that the caller holds: treated and untreated cells, told apart by their labels; an AnnData
        or the path of an h5ad file.

    Returns
    -------
    The data; a run that was not published yet has no map, and one whose round files were deleted no prompt cells.

    Raises
    ------
    InvalidInputError
        The run, or the other one, has no scored round yet; or the cells of ``truth`` are refused.
    NotFoundError
        A table of the run is missing.
    """
    knowledge = load_knowledge(ports.settings.knowledge)
    data = load_folder(record, ports.store, knowledge=knowledge)
    sides = {**_sides(record, ports, other=other), **data.sides}
    if truth is not None:
        given = _given(truth, record, knowledge=knowledge)
        sides = {TRUTH_SIDE: (given.label, lambda: given), **sides}
    return replace(data, sides=dict(sorted(sides.items(), key=lambda one: _ORDER.index(one[0].partition(" ")[0]))))


def load_folder(record: RunRecord, store: Store, *, knowledge: Knowledge) -> ExplorerData:
    """Read what the run folder alone tells of the best round; it can be set beside its baselines and its prompt.

    Raises
    ------
    InvalidInputError
        The run has no scored round yet.
    NotFoundError
        A table of the run is missing.
    """
    _require_round(record)
    bundle = load_bundle(record, store)
    if bundle.tables is None or record.best is None:  # cannot be: the round exists
        raise NotFoundError(record.run_id)
    de = bundle.tables.de.drop_duplicates(keys.GENE).reset_index(drop=True)
    parts, notes, is_whole = _arms(record, record.best, store, embedding=bundle.tables.embedding)
    notes += [f"{text}." for text in shared_cells(bundle.tables.prompts, record.config)]
    genes = pd.Index(de[keys.GENE].astype(str), dtype=object)
    shown = {str(arm.table[ROLE].iloc[0]): len(arm.table) for arm in parts if len(arm.table)}
    return ExplorerData(
        record=record,
        de=de,
        pathways=bundle.tables.pathways,
        arms=Arms(tuple(arm for arm in parts if len(arm.table)), genes=genes),
        knowledge=knowledge,
        citations=bundle.citations,
        sides=_own_sides(record, record.best, store),
        notes=tuple(notes),
        is_whole=is_whole,
        sample=sample_words(shown, record.best),
    )


def _arms(
    record: RunRecord, best: Round, store: Store, *, embedding: pd.DataFrame | None
) -> tuple[list[Arm], list[str], bool]:
    """Cells by role, those of the map first; what is missing of them; and whether nothing is."""
    folder, is_whole = layout.round_folder(best.number), embedding is not None
    predictions = read_h5ad(store, record.run_id, f"{folder}/{layout.PREDICTIONS}", labels=LABELS)
    places: dict[str, pd.DataFrame | None] = dict.fromkeys((*layout.ROLES, keys.PREDICTED))
    if embedding is not None:
        places = {role: embedding[embedding["role"] == role] for role in places}
    parts, notes = [], []
    for role in (keys.CONTROL, keys.PROMPT):
        path = layout.cells_file(folder, role)
        cells = read_h5ad(store, record.run_id, path, labels=LABELS) if store.exists(record.run_id, path) else None
        if cells is None and (role == keys.PROMPT or best.n_control):
            notes.append(f"The counts of the {role} cells are no longer in the run folder.")
            is_whole = False
        parts.append(arm_of(cells, role=role, places=places[role]))
    parts.append(arm_of(predictions, role=keys.QUERY, places=places[keys.QUERY], layer=keys.LAYER_QUERY))
    parts.append(arm_of(predictions, role=keys.PREDICTED, places=places[keys.PREDICTED]))
    if embedding is None:
        notes.append("The map is drawn when the run is published; until then cells are shown without places.")
    if keys.LAYER_CONTROL_PRED in predictions.layers:
        parts.append(arm_of(predictions, role=CONTROL_PRED, places=None, layer=keys.LAYER_CONTROL_PRED))
    return parts, notes, is_whole


def _sides(record: RunRecord, ports: Ports, *, other: RunRecord | None) -> dict[str, tuple[str, Callable[[], Side]]]:
    """What the run can be set beside outside its folder: another run, measured responses. Nothing is read yet."""
    from haystack_kernel.retrieval.cells.measured import hidden_label, measured_candidates, response_label

    found: dict[str, tuple[str, Callable[[], Side]]] = {}
    if record.best is None:
        return found
    if other is not None:
        _require_round(other)
        found[RUN_SIDE] = (f"run {other.run_id}", partial(_other_run, other, ports))
    for one in record.hidden:
        if one.n_cells:
            label = hidden_label(one)
            found[f"truth {label}"] = (f"measured truth: {label}", partial(_truth, one, record, ports))
    if record.query is not None and record.query.perturbation is not None:
        for candidate in measured_candidates(record.candidates, used=record.best.candidates):
            label = response_label(candidate)
            found[f"measured {label}"] = (f"measured: {label}", partial(_measured, candidate, record, ports))
    return found


def _own_sides(record: RunRecord, best: Round, store: Store) -> dict[str, tuple[str, Callable[[], Side]]]:
    """What the run folder holds beside the prediction: the simple engines', and the response of the prompt cells."""
    folder = layout.round_folder(best.number)
    found: dict[str, tuple[str, Callable[[], Side]]] = {}
    for item in best.agreement:
        if store.exists(record.run_id, layout.output_file(folder, f"{BASELINE_PREFIX}{item.engine}")):
            key = f"baseline {item.engine}"
            found[key] = (f"baseline '{item.engine}'", partial(_baseline, item.engine, record, store))
    if best.n_control and store.exists(record.run_id, layout.cells_file(folder, keys.PROMPT)):
        found[PROMPT_SIDE] = ("response of the prompt cells", partial(_prompt, record, store))
    return found


def _baseline(engine: str, record: RunRecord, store: Store) -> Side:
    folder = layout.round_folder(record.best_round or 0)
    path = layout.output_file(folder, f"{BASELINE_PREFIX}{engine}")
    predicted = read_h5ad(store, record.run_id, path, labels=LABELS)
    query = read_h5ad(store, record.run_id, layout.cells_file(folder, keys.QUERY), labels=())
    return Side(
        name=f"baseline {engine}",
        label=f"baseline '{engine}'",
        note="The baseline's prediction for the same query cells, compared with these cells as measured.",
        effect=effect_between(predicted, query),
        arms=(arm_of(predicted, role=f"baseline '{engine}'", places=None),),
    )


def _prompt(record: RunRecord, store: Store) -> Side:
    folder = layout.round_folder(record.best_round or 0)
    prompt, control = (
        read_h5ad(store, record.run_id, layout.cells_file(folder, role), labels=())
        for role in (keys.PROMPT, keys.CONTROL)
    )
    return Side(
        name=PROMPT_SIDE,
        label="response of the prompt cells",
        note="Measured: prompt cells minus their control cells. The prediction should resemble it, not repeat it.",
        effect=effect_between(prompt, control),
    )


def _atlas(record: RunRecord, ports: Ports) -> Atlas:
    from haystack_kernel.retrieval import open_cells

    return open_cells(record.config, ports, query=_query(record), run_id=record.run_id)


def _query(record: RunRecord) -> StructuredQuery:
    if record.query is None:
        msg = f"the question of run {record.run_id} was not understood yet, so its cells are unknown; work on it first"
        raise InvalidInputError(msg, run_id=record.run_id)
    return record.query


def _measured(candidate: Candidate, record: RunRecord, ports: Ports) -> Side:
    from haystack_kernel.retrieval.cells.measured import fetch_response

    atlas = _atlas(record, ports)
    found = fetch_response(candidate, atlas=atlas, config=record.config)
    return _measured_side(
        f"measured {found.label}",
        label=f"measured: {found.label}",
        note="Measured in the atlas and not part of the prompt.",
        arms=(found.treated, found.control),
    )


def _truth(hidden: HiddenCells, record: RunRecord, ports: Ports) -> Side:
    from haystack_kernel.retrieval.cells.measured import fetch_hidden, hidden_label

    atlas = _atlas(record, ports)
    found = fetch_hidden(hidden, atlas=atlas, config=record.config)
    if found is None:
        msg = f"the atlas holds no control cells of {hidden_label(hidden)}, so its response is unknown"
        raise NotFoundError(msg, dataset=hidden.dataset)
    return _measured_side(
        f"truth {found.label}",
        label=f"measured truth: {found.label}",
        note=f"Measured, and hidden from the search ({hidden.pair}).",
        arms=(found.treated, found.control),
    )


def _given(cells: ad.AnnData | str | Path, record: RunRecord, *, knowledge: Knowledge) -> Side:
    """The measured response that the caller holds, read at once: so what is wrong with it is said at once."""
    from haystack_kernel.retrieval import read_truth

    found = read_truth(cells, query=_query(record), knowledge=knowledge)
    note = " ".join(["Measured, as you gave it.", *(f"{one[:1].upper()}{one[1:]}." for one in found.notes)])
    return _measured_side(
        TRUTH_SIDE, label="measured truth: your cells", note=note, arms=(found.treated, found.control)
    )


def _measured_side(name: str, *, label: str, note: str, arms: tuple[ad.AnnData, ad.AnnData]) -> Side:
    treated, control = arms
    return Side(
        name=name,
        label=label,
        note=f"{note} {treated.n_obs} treated and {control.n_obs} control cells.",
        effect=effect_between(treated, control),
        arms=(
            arm_of(treated, role="measured, treated", places=None),
            arm_of(control, role="measured, control", places=None),
        ),
    )


def _other_run(other: RunRecord, ports: Ports) -> Side:
    bundle = load_bundle(other, ports.store)
    if bundle.tables is None:  # cannot be: the round exists
        raise NotFoundError(other.run_id)
    de = bundle.tables.de.drop_duplicates(keys.GENE).set_index(keys.GENE)
    folder = layout.round_folder(other.best_round or 0)
    predictions = read_h5ad(ports.store, other.run_id, f"{folder}/{layout.PREDICTIONS}", labels=LABELS)
    return Side(
        name=RUN_SIDE,
        label=f"run {other.run_id}",
        note=f"The other run: {other.question} (engine '{other.config.engine}', seed {other.config.seed}).",
        effect=de[keys.DELTA],
        arms=(arm_of(predictions, role="predicted, other run", places=None),),
    )


def _require_round(record: RunRecord) -> None:
    if record.best_round is None:
        msg = (
            f"run {record.run_id} has no scored round yet ({record.status}), so there is nothing to explore; "
            f"continue it with `haystack resume {record.run_id}`"
        )
        raise InvalidInputError(msg, run_id=record.run_id)
