"""The steps inside a round that do work: cells out of the atlas, job, checked predictions, score, decision.

In: the run record and the ports. Out: the round, further filled; files under ``rounds/<n>/``.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.errors import ContractError, JobFailedError, NotFoundError
from haystack_kernel.jobs import (
    BASELINE_PREFIX,
    CONTROL,
    SEED_INFIX,
    TREATED,
    build_job_spec,
    build_manifest,
    check_approval,
    describe,
    estimate_cost,
    expected_handle,
    pace,
    wait,
)
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.literature.reading import read_papers
from haystack_kernel.papers import cite_papers, find_papers
from haystack_kernel.ports import ProgressEvent
from haystack_kernel.schema import PERTURBATIONAL, ModelCard
from haystack_kernel.store import read_h5ad, write_csv, write_h5ad
from inference.manifest import (
    OUTPUT_UNS,
    RESULT_SUFFIX,
    Manifest,
    ManifestError,
    TaskResult,
    dump_manifest,
    parse_manifest,
    parse_result,
)

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from haystack_kernel.grounding import Grounded, PredictionFacts
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import (
        Candidate,
        CellSet,
        CostEstimate,
        FileRef,
        JobSpec,
        JobStatus,
        Round,
        RunConfig,
        RunRecord,
        StructuredQuery,
        Termination,
    )
    from haystack_kernel.settings import RoundSettings

N_TOP_GENES = 30
_SHOWN_OF_ROUND = {"number", "choice", "n_prompt", "n_control", "n_query", "composite", "decision"}
_STARTED = ("queued", "scheduled", "running", "succeeded")
_NO_MODEL = "computed from the prompt and query cells without model weights: the licence of their data sets holds"


def search(record: RunRecord, ports: Ports) -> tuple[tuple[Candidate, ...], CellSet | None, dict[str, str]]:
    """Find the prompt candidates and the query cells; also digests of the atlases and of the knowledge."""
    from haystack_kernel.retrieval import choose_query_cells, search_candidates, vector_folder

    config, knowledge = record.config.located(), load_knowledge(ports.settings.knowledge)
    atlas = ports.open_atlas(atlas_names(config))
    candidates = search_candidates(
        query_of(record),
        atlas=atlas,
        knowledge=knowledge,
        settings=ports.settings.retrieval,
        config=config,
        cache=vector_folder(ports.settings.atlas_root, config.atlases[0]),
    )
    query_set = None
    if config.query_h5ad is None:
        query_set = choose_query_cells(
            query_of(record), atlas=atlas, knowledge=knowledge, candidates=candidates, config=config
        )
    digests = {f"atlas:{name}": digest for name, digest in atlas.digests().items()}
    return candidates, query_set, {**digests, **knowledge.digests()}


def assemble(record: RunRecord, ports: Ports) -> Round:
    """Read the cells by role, unless the round has them, write them with the manifest, and derive the job."""
    last = record.rounds[-1] if record.rounds[-1].files else _place_cells(record, ports)
    store, folder = ports.store, f"rounds/{last.number}"
    strategy, note = query_of(record).control_strategy, ""
    if not last.n_control and strategy == "synthetic_control":
        strategy = "query_as_control"
        note = f"synthetic_control needs matched control cells: {last.candidates[0].control_reason}"
    manifest = build_manifest(
        store.uri(record.run_id, folder),
        config=record.config.located(),
        strategy=strategy,
        has_control=bool(last.n_control),
        n_seeds=ports.settings.grounding.n_seeds,
    )
    path = f"{folder}/manifest.json"
    files = (*last.files, store.write(record.run_id, path, dump_manifest(manifest).encode()))
    spec = build_job_spec(
        manifest,
        run_id=record.run_id,
        round_number=last.number,
        manifest_uri=path,
        timeout_s=ports.settings.jobs.timeout_s,
    )
    update = {"control_strategy": strategy, "control_note": note, "spec": spec, "files": files}
    return last.model_copy(update=update)


def _place_cells(record: RunRecord, ports: Ports) -> Round:
    """Read the cells of the choice and write them by role."""
    from haystack_kernel.retrieval import assemble_cells

    last, config = record.rounds[-1], record.config.located()
    cells = assemble_cells(
        last.candidates,
        query_set=record.query_set,
        atlas=ports.open_atlas(atlas_names(config)),
        config=config,
        round_number=last.number,
    )
    files = [
        write_h5ad(ports.store, record.run_id, f"rounds/{last.number}/{role}.h5ad", adata)
        for role, adata in _roles(cells).items()
        if adata is not None
    ]
    update = {
        "query_cells": _describe_query(cells.query, notes=cells.notes),
        "n_prompt": cells.prompt.n_obs,
        "n_control": 0 if cells.control is None else cells.control.n_obs,
        "n_query": cells.query.n_obs,
        "files": tuple(files),
    }
    return last.model_copy(update=update)


def submit(record: RunRecord, ports: Ports) -> Round:
    """Start the round's job, or find the one started before.

    Raises
    ------
    ApprovalNeededError
        The job costs money and nobody approved it, or the run's cap does not hold it; nothing was started.
    """
    last = record.rounds[-1]
    if last.spec is None:
        raise _out_of_order(record)
    executor = ports.executors[record.config.executor]
    spec, cost = last.spec.placed_in(ports.store.uri(record.run_id)), ports.settings.cost
    kept = {"manifest_uri": last.spec.manifest_uri}  # in the record as in the spec: a path of the run folder
    if record.config.executor == "local":
        return last.model_copy(update={"job": executor.submit(spec).model_copy(update=kept)})
    estimate = estimate_round(record, ports, spec=spec)
    job = expected_handle(spec, executor=record.config.executor, now=ports.clock.now())
    if executor.status(job).state not in _STARTED:  # else it was approved before, and this pays for nothing new
        check_approval(estimate, spent_usd=record.cost_usd, cost=cost, run_id=record.run_id)
        message = f"the job costs {describe(estimate)}"
        ports.progress(ProgressEvent(run_id=record.run_id, phase="submit", message=message, round=last.number))
        budget = None if cost.max_usd is None else cost.max_usd - record.cost_usd
        job = executor.submit(spec.model_copy(update={"budget_usd": budget}))
    return last.model_copy(update={"job": job.model_copy(update=kept), "estimate": estimate})


def estimate_round(record: RunRecord, ports: Ports, *, spec: JobSpec | None = None) -> CostEstimate:
    """What one round's job may cost in the cloud.

    Parameters
    ----------
    spec
        The job; None takes one of the tasks that the run's options ask for, so it can be told before there is a round.
    """
    if spec is None:
        strategy = record.config.control_strategy
        manifest = build_manifest("", config=record.config, strategy=strategy, has_control=True)
        spec = build_job_spec(
            manifest, run_id=record.run_id, round_number=1, manifest_uri="", timeout_s=ports.settings.jobs.timeout_s
        )
    measured = [seconds for item in record.rounds for seconds in item.task_seconds.values()]
    return estimate_cost(spec, ports.settings.batch, measured_s=measured)


def keep_good_job(record: RunRecord, ports: Ports) -> Round:
    """The last round, without its job where that ended badly or left outputs that cannot be used.

    A failed job keeps its id: the executor starts another attempt. A job that counts as done but whose outputs are
    missing or changed gets an id derived from its own, so that every process that resumes agrees on it.
    """
    last = record.rounds[-1]
    if last.job is None or last.spec is None or last.task_seconds:
        return last
    status = ports.executors[last.job.executor].status(last.job)
    state, spec, last = status.state, last.spec, _with_bills(last, status)
    if state in ("failed", "cancelled"):
        return last.model_copy(update={"job": None})
    if state == "succeeded" and record.failure is not None and record.failure.step == "collect":
        tag = hashlib.sha256(spec.job_id.encode()).hexdigest()[:8]
        job_id = f"{spec.job_id.rpartition('-')[0]}-{tag}"
        return last.model_copy(update={"job": None, "spec": spec.model_copy(update={"job_id": job_id})})
    return last


def collect(record: RunRecord, ports: Ports) -> Round:
    """Wait for the job, then check every output against the digest in its result file.

    Raises
    ------
    JobFailedError
        The job failed, or ended without one of its outputs.
    ContractError
        An output differs from its digest, so it was changed or cut short after it was published.
    """
    last = record.rounds[-1]
    manifest = _read_manifest(record, ports, number=last.number)

    def show(status: JobStatus) -> None:
        detail = f": {status.detail}" if status.detail and status.state != "running" else ""
        message = f"job {status.state}{detail}"
        event = ProgressEvent(run_id=record.run_id, phase="collect", message=message, round=last.number)
        if not status.is_terminal:
            ports.progress(event)

    if last.job is None or last.spec is None:
        raise _out_of_order(record)
    executor = ports.executors[last.job.executor]
    patience = pace(last.job.executor, spec=last.spec, settings=ports.settings)
    ended = wait(last.job, executor=executor, clock=ports.clock, on_status=show, **patience)
    last = _with_bills(last, ended)
    results = [_check_output(record, ports, output=task.output) for task in manifest.tasks]
    treated = next(result for result in results if result.id == TREATED)
    seconds = {result.id: result.seconds for result in results}
    return last.model_copy(update={"task_seconds": seconds, "frac_genes_found": treated.frac_genes_found})


def ground(record: RunRecord, ports: Ports) -> Round:
    """Score the prediction; write the tables and predictions.h5ad of the round."""
    from haystack_kernel.grounding import (
        GroundingCells,
        GroundingContext,
        build_predictions,
        find_feedback,
        ground,
    )

    last, store = record.rounds[-1], ports.store
    folder = f"rounds/{last.number}"

    def read(name: str) -> ad.AnnData:
        return read_h5ad(store, record.run_id, f"{folder}/{name}.h5ad")

    outputs = {name: read(f"outputs/{name}") for name in last.task_seconds}
    prompt, query = read(keys.PROMPT), read(keys.QUERY)
    cells = GroundingCells(
        treated=outputs[TREATED],
        control_pred=outputs.get(CONTROL),
        query=query,
        prompt=prompt,
        prompt_control=read(keys.CONTROL) if last.n_control else None,
        baselines={n.removeprefix(BASELINE_PREFIX): a for n, a in outputs.items() if n.startswith(BASELINE_PREFIX)},
        repeats=_repeats(outputs),
    )
    context = GroundingContext(
        seed=record.config.seed,
        n_scored=last.number,
        donor_matched=_donors_matched(record, last.candidates),
        control_strategy=last.control_strategy,
        control_note=last.control_note,
        engine=record.config.engine,
        evidence=tuple(dict.fromkeys(item.evidence_distance for item in last.candidates)),
        frac_genes_found=last.frac_genes_found,
    )
    reference, written = _reference(record, ports)
    papers = find_papers(record, ports)
    reading = read_papers(papers, genes=list(cells.treated.var_names)) if papers is not None else None
    grounded = ground(
        cells,
        query=query_of(record),
        knowledge=load_knowledge(ports.settings.knowledge),
        settings=ports.settings.grounding,
        context=context,
        reference=reference,
        literature=reading,
    )
    scored = last.model_copy(update={**_summary(grounded), "model": _model_card(cells.treated)})
    feedback = find_feedback(
        scored,
        query=query_of(record),
        knowledge=load_knowledge(ports.settings.knowledge),
        settings=ports.settings.grounding,
        threshold=record.config.threshold,
    )
    scored = scored.model_copy(update={"feedback": feedback})
    roles = {keys.PROMPT: prompt, keys.CONTROL: cells.prompt_control, keys.QUERY: query}
    present = {role: adata for role, adata in roles.items() if adata is not None}
    predictions = build_predictions(
        cells, grounded=grounded, query=query_of(record), facts=prediction_facts(record, scored=scored)
    )
    files = [
        write_csv(store, record.run_id, f"{folder}/de.csv", grounded.de),
        write_csv(store, record.run_id, f"{folder}/pathways.csv", grounded.pathways),
        write_csv(store, record.run_id, f"{folder}/prompts.csv", _prompt_table(present)),
        write_h5ad(store, record.run_id, f"{folder}/predictions.h5ad", predictions),
        cite_papers(record, ports, found=papers, reading=reading, de=grounded.de),
    ]
    return scored.model_copy(update={"files": (*last.files, *written, *files)})


def decide(record: RunRecord, *, settings: RoundSettings) -> tuple[int, Termination | None, str]:
    """Best round so far, why the rounds end (None: they go on), and the sentence that says so.

    The best round has the highest unrounded composite; a round without a score loses to any with one; of equals the
    earliest wins. Plateau: the last ``plateau_rounds`` rounds brought no gain of ``plateau_gain`` over the best before.
    """
    values = [_score(item) for item in record.rounds]
    best = max(range(len(values)), key=lambda index: (values[index], -index))
    top, n = values[best], len(values)
    shown = "not scored" if math.isinf(top) else f"{top:.1f}"
    if top >= record.config.threshold:
        return best + 1, "threshold", f"stop: {shown} reaches the threshold {record.config.threshold:g}"
    if n >= record.config.max_rounds:
        return best + 1, "max_rounds", f"stop: {n} of {record.config.max_rounds} rounds are used (best {shown})"
    window = settings.plateau_rounds
    recent, before = max(values[-window:]), max(values[:-window], default=-math.inf)
    if n > window and (math.isinf(recent) or recent < before + settings.plateau_gain):
        gain = f"no gain of {settings.plateau_gain:g} in {window} rounds"
        return best + 1, "plateau", f"stop: {gain} (best {shown})"
    return best + 1, None, f"go on: best so far {shown}, threshold {record.config.threshold:g}"


def embed(record: RunRecord, ports: Ports, *, number: int) -> FileRef:
    """Place the cells of one round on a map for the figures; compiled code makes this slow, so only once a run."""
    from haystack_kernel.grounding import compute_embedding

    folder, store = f"rounds/{number}", ports.store
    files = {role: f"{folder}/{role}.h5ad" for role in (keys.PROMPT, keys.CONTROL, keys.QUERY)}
    files[keys.PREDICTED] = f"{folder}/outputs/{TREATED}.h5ad"
    present = {role: path for role, path in files.items() if store.exists(record.run_id, path)}
    cells = {role: read_h5ad(store, record.run_id, path) for role, path in present.items()}
    table = compute_embedding(cells, seed=record.config.seed)
    return write_csv(store, record.run_id, f"{folder}/embedding.csv", table)


def prediction_facts(record: RunRecord, *, scored: Round) -> PredictionFacts:
    """What the file says of its own making: whose weights, and on what terms."""
    from haystack_kernel.grounding import PredictionFacts

    return PredictionFacts(
        run_id=record.run_id,
        iteration=scored.number,
        prompt_strategy=", ".join(sorted({item.strategy for item in scored.candidates})),
        config=record.config.model_dump(mode="json"),
        rounds=[item.model_dump(mode="json", include=_SHOWN_OF_ROUND) for item in (*record.rounds[:-1], scored)],
        provenance={"versions": record.versions, "digests": record.digests},
        licence=scored.model.licence if scored.model else _NO_MODEL,
        citation=scored.model.citation if scored.model else "the data sets of the cells named in prompts.csv",
    )


def query_of(record: RunRecord) -> StructuredQuery:
    """The parsed question; ContractError before it was understood."""
    if record.query is None:
        raise _out_of_order(record)
    return record.query


def _with_bills(last: Round, status: JobStatus) -> Round:
    """The round with what its job's attempts cost, each once however often they are seen."""
    bills = {bill.job_id: bill for bill in (*last.bills, *status.bills)}
    return last.model_copy(update={"bills": tuple(bills.values())})


def _out_of_order(record: RunRecord) -> ContractError:
    msg = f"a step of run {record.run_id} was called before those it builds on; call flow.work, which keeps the order"
    return ContractError(msg, run_id=record.run_id)


def _donors_matched(record: RunRecord, candidates: tuple[Candidate, ...]) -> bool:
    """Whether differences between donors are excluded; where the donor is what is asked for, they are the answer."""
    if query_of(record).task_type not in PERTURBATIONAL:
        return True
    return all(candidate.donor_matched for candidate in candidates)


def atlas_names(config: RunConfig) -> tuple[str, ...]:
    """Atlases to open: those searched, and the one the query cells come from."""
    extra = (config.query_atlas,) if config.query_atlas else ()
    return tuple(dict.fromkeys((*config.atlases, *extra)))


def _score(item: Round) -> float:
    value = item.composite.value if item.composite else math.nan
    return -math.inf if math.isnan(value) else value


def _roles(cells: object) -> dict[str, ad.AnnData | None]:
    return {role: getattr(cells, role) for role in (keys.PROMPT, keys.CONTROL, keys.QUERY)}


def _describe_query(query: ad.AnnData, *, notes: tuple[str, ...]) -> str:
    from haystack_kernel.retrieval import cells_of

    names = [cells_of(name) for name in sorted(set(query.obs[keys.CELL_TYPE].astype(str)))]
    n_donors = query.obs[keys.DONOR].nunique()
    datasets = sorted(set(query.obs[keys.DATASET].astype(str)))
    donors = f"{n_donors} {'donor' if n_donors == 1 else 'donors'}"
    text = f"{query.n_obs} {', '.join(names)} of {donors} from {', '.join(datasets)}"
    return ". ".join([text, *notes])


def _read_manifest(record: RunRecord, ports: Ports, *, number: int) -> Manifest:
    path = f"rounds/{number}/manifest.json"
    try:
        manifest: Manifest = parse_manifest(ports.store.read(record.run_id, path))
    except ManifestError as error:
        msg = f"{path} of run {record.run_id} cannot be used: {error}. Ask the question again as a new run"
        raise ContractError(msg, path=path) from error
    return manifest


def _check_output(record: RunRecord, ports: Ports, *, output: str) -> TaskResult:
    inside = output.removeprefix(ports.store.uri(record.run_id) + "/")
    again = f"`haystack resume {record.run_id}` makes it again"
    try:
        result: TaskResult = parse_result(ports.store.read(record.run_id, inside + RESULT_SUFFIX))
        digest = hashlib.sha256(ports.store.read(record.run_id, inside)).hexdigest()
    except NotFoundError as error:
        msg = f"the job ended without {inside} or the result file beside it; {again}"
        raise JobFailedError(msg, path=inside, state="succeeded") from error
    except ManifestError as error:
        msg = f"the result file of {inside} is damaged ({error}); {again}"
        raise ContractError(msg, path=inside) from error
    if digest != result.sha256:
        msg = f"{inside} differs from the digest in its result file: it was changed or cut short; {again}"
        raise ContractError(msg, path=inside)
    return result


def _summary(grounded: Grounded) -> dict[str, object]:
    de = grounded.de
    called = de[de[keys.IS_DE]].sort_values(keys.DELTA, ascending=False)
    return {
        "components": grounded.components,
        "composite": grounded.composite,
        "agreement": grounded.agreement,
        "confidence": grounded.confidence,
        "n_de": len(called),
        "top_genes": tuple(called.loc[called[keys.DELTA] > 0, keys.GENE].head(N_TOP_GENES)),
    }


def _model_card(treated: ad.AnnData) -> ModelCard | None:
    """Terms of the weights as the inference program states them in its output; None for an engine without weights."""
    model = json.loads(treated.uns[OUTPUT_UNS]).get("model") if OUTPUT_UNS in treated.uns else None
    return ModelCard(**{name: str(model[name]) for name in ModelCard.model_fields}) if model else None


def _repeats(outputs: dict[str, ad.AnnData]) -> tuple[tuple[ad.AnnData, ad.AnnData | None], ...]:
    """Treated and control predictions of every further seed, in order."""
    start = f"{TREATED}{SEED_INFIX}"
    tags = sorted((name.removeprefix(start) for name in outputs if name.startswith(start)), key=int)
    return tuple((outputs[f"{start}{tag}"], outputs.get(f"{CONTROL}{SEED_INFIX}{tag}")) for tag in tags)


def _reference(record: RunRecord, ports: Ports) -> tuple[ad.AnnData | None, list[FileRef]]:
    """Reference cells of a question about a state of cells, fetched in the first round and kept for the others."""
    from haystack_kernel.retrieval import fetch_reference

    query, path, store = query_of(record), "reference.h5ad", ports.store
    if query.task_type in PERTURBATIONAL or query.perturbation is not None:
        return None, []
    if store.exists(record.run_id, path):
        return read_h5ad(store, record.run_id, path), []
    reference = fetch_reference(
        query,
        atlas=ports.open_atlas(atlas_names(record.config)),
        knowledge=load_knowledge(ports.settings.knowledge),
        query_set=record.query_set,
        config=record.config,
    )
    if reference is None:
        return None, []
    return reference, [write_h5ad(store, record.run_id, path, reference)]


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
