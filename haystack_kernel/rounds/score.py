"""Predictions become a score: cells read back by role, grounded, written as tables and predictions.h5ad.

In: the run record and the ports. Out: the round with its score; files under ``rounds/<n>/``.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.atlas import calibrations
from haystack_kernel.jobs import (
    BASELINE_PREFIX,
    CONTROL,
    RESAMPLE_INFIX,
    TREATED,
)
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.literature.reading import read_papers
from haystack_kernel.rounds.literature import cite_papers, find_papers
from haystack_kernel.rounds.record import query_of
from haystack_kernel.schema import PERTURBATIONAL, ModelCard
from haystack_kernel.store import layout, read_h5ad, write_csv, write_h5ad
from inference.manifest import (
    OUTPUT_UNS,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

    from haystack_kernel.grounding import Grounded, PredictionFacts
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import (
        FileRef,
        Round,
        RunRecord,
    )


N_TOP_GENES = 30
_SHOWN_OF_ROUND = {"number", "choice", "n_prompt", "n_control", "n_query", "composite", "decision"}
_NO_MODEL = "computed from the prompt and query cells without model weights: the licence of their data sets holds"


def ground(record: RunRecord, ports: Ports) -> Round:
    """Score the prediction; write the tables and predictions.h5ad of the round."""
    from haystack_kernel.grounding import (
        GroundingCells,
        GroundingContext,
        build_predictions,
        score_prediction,
    )
    from haystack_kernel.grounding.embedding import gather, one_thread, place

    last, store = record.rounds[-1], ports.store
    folder = layout.round_folder(last.number)

    def read(path: str, *, labels: Sequence[str] | None = None) -> ad.AnnData:
        return read_h5ad(store, record.run_id, path, labels=labels)

    all_labels: dict[str, Sequence[str] | None] = {TREATED: None}  # every output repeats those of the query cells
    outputs = {
        name: read(layout.output_file(folder, name), labels=all_labels.get(name, ())) for name in last.task_seconds
    }
    prompt, query = (read(layout.cells_file(folder, role)) for role in (keys.PROMPT, keys.QUERY))
    cells = GroundingCells(
        treated=outputs[TREATED],
        control_pred=outputs.get(CONTROL),
        query=query,
        prompt=prompt,
        prompt_control=read(layout.cells_file(folder, keys.CONTROL)) if last.n_control else None,
        baselines={n.removeprefix(BASELINE_PREFIX): a for n, a in outputs.items() if n.startswith(BASELINE_PREFIX)},
        repeats=repeats_of(outputs),
        measured=_measured(record, ports),
    )
    context = GroundingContext(
        seed=record.config.seed,
        n_scored=last.number,
        donor_matched=_is_donor_matched(record),
        control_strategy=last.control_strategy,
        control_note=last.control_note,
        engine=record.config.engine,
        evidence=tuple(dict.fromkeys(item.evidence_distance for item in last.candidates)),
        frac_genes_found=last.frac_genes_found,
        **_tested_before(record, ports, treated=cells.treated),
    )
    reference, written = _reference(record, ports)
    papers = find_papers(record, ports)
    reading = read_papers(papers, genes=list(cells.treated.var_names)) if papers is not None else None
    roles = {keys.PROMPT: prompt, keys.CONTROL: cells.prompt_control, keys.QUERY: query}
    present = {role: adata for role, adata in roles.items() if adata is not None}
    with one_thread(), ThreadPoolExecutor(1) as beside:  # the map, which most of the scoring leaves a core for
        embedding = None
        if last.number == 1:  # a later round is placed when it is published; most are not
            on_map = gather({**present, keys.PREDICTED: cells.treated}, seed=record.config.seed)
            embedding = beside.submit(place, on_map, seed=record.config.seed)
        grounded = score_prediction(
            cells,
            query=query_of(record),
            knowledge=load_knowledge(ports.settings.knowledge),
            settings=ports.settings.grounding,
            context=context,
            reference=reference,
            literature=reading,
        )
    scored = last.model_copy(update=_summary(grounded, treated=cells.treated))
    used = _prompt_table(present)
    facts = replace(prediction_facts(record, scored=scored), prompts=used)
    predictions = build_predictions(cells, grounded=grounded, query=query_of(record), facts=facts)
    files = [
        write_csv(store, record.run_id, f"{folder}/{layout.DE}", grounded.de),
        write_csv(store, record.run_id, f"{folder}/{layout.PATHWAYS}", grounded.pathways),
        write_csv(store, record.run_id, f"{folder}/{layout.PROMPTS}", used),
        write_h5ad(store, record.run_id, f"{folder}/{layout.PREDICTIONS}", predictions),
        cite_papers(record, ports, found=papers, reading=reading, de=grounded.de),
    ]
    if embedding is not None:
        write_csv(store, record.run_id, f"{folder}/{layout.EMBEDDING}", embedding.result())
    return scored.model_copy(update={"files": (*last.files, *written, *files)})


def embed(record: RunRecord, ports: Ports, *, number: int) -> None:
    """Place the cells of a round on a map for the figures, where its scoring did not."""
    from haystack_kernel.grounding import compute_embedding

    folder, store = layout.round_folder(number), ports.store
    if store.exists(record.run_id, f"{folder}/{layout.EMBEDDING}"):
        return
    files = {role: layout.cells_file(folder, role) for role in (keys.PROMPT, keys.CONTROL, keys.QUERY)}
    files[keys.PREDICTED] = layout.output_file(folder, TREATED)
    present = {role: path for role, path in files.items() if store.exists(record.run_id, path)}
    cells = {role: read_h5ad(store, record.run_id, path, labels=(keys.CELL_TYPE,)) for role, path in present.items()}
    table = compute_embedding(cells, seed=record.config.seed)
    write_csv(store, record.run_id, f"{folder}/{layout.EMBEDDING}", table)


def prediction_facts(record: RunRecord, *, scored: Round) -> PredictionFacts:
    """What the file says of its own making: whose weights, and on what terms."""
    from haystack_kernel.grounding import PredictionFacts

    so_far = record.model_copy(update={"rounds": (*record.rounds[:-1], scored)})
    return PredictionFacts(
        run_id=record.run_id,
        iteration=scored.number,
        prompt_strategy=", ".join(sorted({item.strategy for item in scored.candidates})),
        config=record.config.model_dump(mode="json"),
        rounds=[item.model_dump(mode="json", include=_SHOWN_OF_ROUND) for item in so_far.rounds],
        provenance={"versions": record.versions, "digests": record.digests},
        record=so_far.model_dump(mode="json"),
        licence=scored.model.licence if scored.model else _NO_MODEL,
        citation=scored.model.citation if scored.model else "the data sets of the cells named in " + layout.PROMPTS,
    )


def _is_donor_matched(record: RunRecord) -> bool:
    """Whether every prompt has control cells of its own donors, which a question about a donor need not have."""
    is_perturbation = query_of(record).task_type in PERTURBATIONAL
    return not is_perturbation or all(item.donor_matched for item in record.rounds[-1].candidates)


def _tested_before(record: RunRecord, ports: Ports, *, treated: ad.AnnData) -> dict[str, Any]:
    """What is known of the engine on the prompt's atlas: its back-test, its weights, and the data sets in question."""
    prompts = [item.prompt for item in record.rounds[-1].candidates]
    model = model_of(treated)
    atlas, settings = prompts[0].atlas, ports.settings
    found = calibrations.find(
        atlas,
        record.config.engine,
        model=model.sha256 if model else "",
        root=settings.atlas_root,
        cache=settings.cache,
    )
    names = {f"{item.atlas}/{item.dataset}" for item in prompts}
    return {
        "calibration": found,
        "citation": model.citation if model else "",
        "data_sets": tuple(sorted(names)),
    }


def model_of(treated: ad.AnnData) -> ModelCard | None:
    """What the output states of the weights, or of the engine of another package; None for others."""
    stated = json.loads(treated.uns[OUTPUT_UNS]).get("model") if OUTPUT_UNS in treated.uns else None
    return ModelCard(**{name: str(stated.get(name, "")) for name in ModelCard.model_fields}) if stated else None


def _summary(grounded: Grounded, *, treated: ad.AnnData) -> dict[str, object]:
    """What the record keeps of a scored prediction, with the terms of the weights that made it."""
    de = grounded.de
    called = de[de[keys.IS_DE]].sort_values(keys.DELTA, ascending=False)
    return {
        "components": grounded.components,
        "composite": grounded.composite,
        "agreement": grounded.agreement,
        "confidence": grounded.confidence,
        "model": model_of(treated),
        "n_de": len(called),
        "top_genes": tuple(called.loc[called[keys.DELTA] > 0, keys.GENE].head(N_TOP_GENES)),
    }


def repeats_of(outputs: dict[str, ad.AnnData]) -> tuple[tuple[ad.AnnData, ad.AnnData | None], ...]:
    """Treated and control predictions from every resampled prompt, in order."""
    start = f"{TREATED}{RESAMPLE_INFIX}"
    tags = sorted((name.removeprefix(start) for name in outputs if name.startswith(start)), key=int)
    return tuple((outputs[f"{start}{tag}"], outputs.get(f"{CONTROL}{RESAMPLE_INFIX}{tag}")) for tag in tags)


def _reference(record: RunRecord, ports: Ports) -> tuple[ad.AnnData | None, list[FileRef]]:
    """Reference cells of a question about a state of cells, fetched in the first round and kept for the others."""
    from haystack_kernel.retrieval import fetch_reference, open_cells

    query, path, store = query_of(record), layout.REFERENCE, ports.store
    if query.task_type in PERTURBATIONAL or query.perturbation is not None:
        return None, []
    if store.exists(record.run_id, path):
        return read_h5ad(store, record.run_id, path), []
    reference = fetch_reference(
        query,
        atlas=open_cells(record.config, ports, query=query, run_id=record.run_id),
        knowledge=load_knowledge(ports.settings.knowledge),
        query_set=record.query_set,
        config=record.config,
    )
    if reference is None:
        return None, []
    return reference, [write_h5ad(store, record.run_id, path, reference)]


def _measured(record: RunRecord, ports: Ports) -> dict[str, tuple[ad.AnnData, ad.AnnData]]:
    """Measured responses outside the round's prompt, of a question about a perturbation."""
    from haystack_kernel.retrieval import fetch_measured, open_cells

    if query_of(record).perturbation is None:
        return {}
    atlas = open_cells(record.config, ports, query=query_of(record), run_id=record.run_id)
    used = record.rounds[-1].candidates
    found = fetch_measured(record.candidates, used=used, atlas=atlas, config=record.config)
    return {one.label: (one.treated, one.control) for one in found}


def _prompt_table(present: dict[str, ad.AnnData]) -> pd.DataFrame:
    import pandas as pd

    wanted = [
        keys.ATLAS,
        keys.DATASET,
        keys.CELL_INDEX,
        keys.CELL_TYPE,
        keys.CELL_TYPE_ID,
        keys.PERTURBATION,
        keys.DONOR,
    ]
    tables = [
        adata.obs[wanted].rename_axis(keys.CELL_ID).reset_index().assign(role=role) for role, adata in present.items()
    ]
    return pd.concat(tables, ignore_index=True)
