"""Cells out of the atlas: candidates found, cells by role written with the manifest, the job derived.

In: the run record and the ports. Out: candidates; the round with its cells and job spec, files under ``rounds/<n>/``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.jobs import (
    build_job_spec,
    build_manifest,
    reads_others,
)
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.rounds.record import query_of
from haystack_kernel.store import layout, locate, write_h5ad
from inference.manifest import (
    dump_manifest,
)

if TYPE_CHECKING:
    import anndata as ad

    from haystack_kernel.ports import Ports
    from haystack_kernel.retrieval.cells.assemble import CellsByRole
    from haystack_kernel.retrieval.cells.own_cells import OwnCells
    from haystack_kernel.schema import Round, RunRecord, Settings

EDIT = "edit"  # the step by which a person corrects the query


def search(record: RunRecord, ports: Ports) -> RunRecord:
    """Find the prompt candidates and the query cells; what was hidden, and digests of what was searched, are noted."""
    from haystack_kernel.retrieval import (
        choose_query_cells,
        find_hidden,
        hide_patients,
        open_cells,
        search_candidates,
        vector_folder,
    )

    config = locate(record.config, ports, run_id=record.run_id)
    knowledge = load_knowledge(ports.settings.knowledge)
    atlas = open_cells(config, ports, query=query_of(record), run_id=record.run_id)
    candidates = search_candidates(
        query_of(record),
        atlas=atlas,
        knowledge=knowledge,
        settings=ports.settings.retrieval,
        config=config,
        cache=vector_folder(ports.settings.atlas_root, names[0]) if (names := config.atlas_names) else None,
    )
    query_set = None
    if config.query_h5ad is None:
        query_set = choose_query_cells(
            query_of(record), atlas=atlas, knowledge=knowledge, candidates=candidates, config=config
        )
    hidden = find_hidden(atlas, knowledge=knowledge, config=config)
    hidden += hide_patients(query_of(record), atlas=atlas, knowledge=knowledge, config=config)
    digests = {f"atlas:{name}": digest for name, digest in atlas.digests().items()}
    update = {
        "candidates": candidates,
        "query_set": query_set,
        "hidden": hidden,
        "digests": {**record.digests, **digests, **knowledge.digests()},
    }
    found = record.model_copy(update=update)
    if config.engine_default is None:
        return found
    from haystack_kernel.rounds.engine import pick_engine

    pick = pick_engine(found, ports)
    return found.model_copy(
        update={"engine_pick": pick, "config": record.config.model_copy(update={"engine": pick.engine})}
    )


def assemble(record: RunRecord, ports: Ports) -> Round:
    """Read the cells by role, unless the round has them, write them with the manifest, and derive the job."""
    last = record.rounds[-1] if record.rounds[-1].files else _place_cells(record, ports)
    store, folder = ports.store, layout.round_folder(last.number)
    strategy, note = query_of(record).control_strategy, ""
    if not last.n_control and strategy == "synthetic_control":
        strategy = "query_as_control"
        note = f"synthetic_control needs matched control cells: {last.candidates[0].control_reason}"
    manifest = build_manifest(
        store.uri(record.run_id, folder),
        config=locate(record.config, ports, run_id=record.run_id),
        strategy=strategy,
        has_control=bool(last.n_control),
        has_others=any(
            file.path == layout.cells_file(layout.round_folder(last.number), layout.TREATMENTS) for file in last.files
        ),
        engine_limit_s=engine_limit(ports.settings),
        n_resamples=ports.settings.grounding.n_resamples,
    )
    path = f"{folder}/{layout.MANIFEST}"
    files = (*last.files, store.write(record.run_id, path, dump_manifest(manifest).encode()))
    spec = build_job_spec(
        manifest,
        run_id=record.run_id,
        round_number=last.number,
        manifest_uri=path,
        timeout_s=ports.settings.jobs.timeout_s,
    )
    if n_edits := sum(time.step == EDIT for time in record.steps):  # a job before the edit predicted other cells
        tag = hashlib.sha256(f"{spec.job_id} {n_edits}".encode()).hexdigest()[:8]
        spec = spec.model_copy(update={"job_id": f"{spec.job_id.rpartition('-')[0]}-{tag}"})
    update = {"control_strategy": strategy, "control_note": note, "spec": spec, "files": files}
    return last.model_copy(update=update)


def engine_limit(settings: Settings) -> float:
    """Seconds that an engine of another package may take for one prediction: half the time of the job."""
    return settings.jobs.timeout_s / 2


def read_cells(record: RunRecord, ports: Ports) -> tuple[CellsByRole, OwnCells | None]:
    """Read the cells of the newest round's choice by role, and the user's own query cells where the run has some."""
    from haystack_kernel.retrieval import assemble_cells, open_cells, read_own_cells

    last, config = record.rounds[-1], locate(record.config, ports, run_id=record.run_id)
    own = None
    if record.query_set is None:
        knowledge = load_knowledge(ports.settings.knowledge)
        own = read_own_cells(config, query=query_of(record), knowledge=knowledge, candidates=last.candidates)
    cells = assemble_cells(
        last.candidates,
        query_set=record.query_set,
        atlas=open_cells(config, ports, query=query_of(record), run_id=record.run_id),
        config=config,
        round_number=last.number,
        own_cells=own,
    )
    return cells, own


def _place_cells(record: RunRecord, ports: Ports) -> Round:
    """Read the cells of the choice and write them by role."""
    from haystack_kernel.retrieval import cells_of, query_differences

    last, query = record.rounds[-1], query_of(record)
    cells, own = read_cells(record, ports)
    different = tuple[str, ...]()
    if record.query_set is not None:
        knowledge = load_knowledge(ports.settings.knowledge)
        different = query_differences(record.query_set, query=query, knowledge=knowledge)
    files = [
        write_h5ad(ports.store, record.run_id, layout.cells_file(layout.round_folder(last.number), role), adata)
        for role, adata in cells.by_role.items()
    ]
    if reads_others(record.config.engine) and (others := _treatments(record, ports, cells=cells)) is not None:
        path = layout.cells_file(layout.round_folder(last.number), layout.TREATMENTS)
        files.append(write_h5ad(ports.store, record.run_id, path, others))
    query_cells = cells.query_cells
    names = [cells_of(name) for name in sorted(set(query_cells.obs[keys.CELL_TYPE].astype(str)))]
    n_donors = query_cells.obs[keys.DONOR].nunique()
    datasets = sorted(set(query_cells.obs[keys.DATASET].astype(str)))
    donors = f"{n_donors} {'donor' if n_donors == 1 else 'donors'}"
    described = f"{query_cells.n_obs} {', '.join(names)} of {donors} from {', '.join(datasets)}"
    update = {
        "query_cells": ". ".join([described, *cells.notes]),
        "query_source": own.choice.source if own else "",
        "query_open": own.choice.open if own else different,
        "n_prompt": cells.prompt_cells.n_obs,
        "n_control": 0 if cells.control_cells is None else cells.control_cells.n_obs,
        "n_query": query_cells.n_obs,
        "files": tuple(files),
    }
    return last.model_copy(update=update)


def _treatments(record: RunRecord, ports: Ports, *, cells: CellsByRole) -> ad.AnnData | None:
    """Cells of other treatments for the engines that read them; None where the atlas holds too few."""
    from haystack_kernel.retrieval import fetch_treatments, open_cells

    query, config = query_of(record), locate(record.config, ports, run_id=record.run_id)
    if query.perturbation is None:
        return None
    return fetch_treatments(
        cells,
        asked=[query.perturbation.name],
        atlas=open_cells(config, ports, query=query, run_id=record.run_id),
        knowledge=load_knowledge(ports.settings.knowledge),
        config=config,
    )
