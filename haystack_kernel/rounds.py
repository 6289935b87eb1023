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
from haystack_kernel.jobs import BASELINE_PREFIX, CONTROL, TREATED, build_job_spec, build_manifest, wait
from haystack_kernel.knowledge import load_knowledge
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
        FileRef,
        JobStatus,
        Round,
        RunConfig,
        RunRecord,
        StructuredQuery,
        Termination,
    )
    from haystack_kernel.settings import RoundSettings

N_TOP_GENES = 30
_NO_MODEL = "computed from the prompt and query cells without model weights: the licence of their data sets holds"


def search(record: RunRecord, ports: Ports) -> tuple[tuple[Candidate, ...], CellSet | None, dict[str, str]]:
    """Find the prompt candidates and the query cells; also digests of the atlases and of the knowledge."""
    from haystack_kernel.retrieval import choose_query_cells, search_candidates, vector_folder

    config, knowledge = record.config, load_knowledge(ports.settings.knowledge)
    atlas = ports.open_atlas(_atlas_names(config))
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
    """Read the cells by role, write them with the manifest, and derive the job."""
    from haystack_kernel.retrieval import assemble_cells

    last, config, store = record.rounds[-1], record.config, ports.store
    folder = f"rounds/{last.number}"
    atlas = ports.open_atlas(_atlas_names(config))
    cells = assemble_cells(
        last.candidates, query_set=record.query_set, atlas=atlas, config=config, round_number=last.number
    )
    files = [
        write_h5ad(store, record.run_id, f"{folder}/{role}.h5ad", adata)
        for role, adata in _roles(cells).items()
        if adata is not None
    ]
    strategy = query_of(record).control_strategy
    note = ""
    if cells.control is None and strategy == "synthetic_control":
        strategy = "query_as_control"
        note = f"synthetic_control needs matched control cells: {last.candidates[0].control_reason}"
    manifest = build_manifest(
        store.uri(record.run_id, folder), config=config, strategy=strategy, has_control=cells.control is not None
    )
    files.append(store.write(record.run_id, f"{folder}/manifest.json", dump_manifest(manifest).encode()))
    spec = build_job_spec(
        manifest,
        run_id=record.run_id,
        round_number=last.number,
        manifest_uri=store.uri(record.run_id, f"{folder}/manifest.json"),
        timeout_s=ports.settings.jobs.timeout_s,
    )
    update = {
        "control_strategy": strategy,
        "control_note": note,
        "query_cells": _describe_query(cells.query, notes=cells.notes),
        "n_prompt": cells.prompt.n_obs,
        "n_control": 0 if cells.control is None else cells.control.n_obs,
        "n_query": cells.query.n_obs,
        "spec": spec,
        "files": tuple(files),
    }
    return last.model_copy(update=update)


def submit(record: RunRecord, ports: Ports) -> Round:
    """Start the round's job, or find the one started before."""
    last = record.rounds[-1]
    if last.spec is None:
        raise _out_of_order(record)
    return last.model_copy(update={"job": ports.executors[record.config.executor].submit(last.spec)})


def keep_good_job(record: RunRecord, ports: Ports) -> Round:
    """The last round, without its job where that ended badly or left outputs that cannot be used.

    A failed job keeps its id: the executor starts another attempt. A job that counts as done but whose outputs are
    missing or changed gets an id derived from its own, so that every process that resumes agrees on it.
    """
    last = record.rounds[-1]
    if last.job is None or last.spec is None or last.task_seconds:
        return last
    state = ports.executors[last.job.executor].status(last.job).state
    if state in ("failed", "cancelled"):
        return last.model_copy(update={"job": None})
    if state == "succeeded" and record.failure is not None and record.failure.step == "collect":
        tag = hashlib.sha256(last.spec.job_id.encode()).hexdigest()[:8]
        job_id = f"{last.spec.job_id.rpartition('-')[0]}-{tag}"
        return last.model_copy(update={"job": None, "spec": last.spec.model_copy(update={"job_id": job_id})})
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
        event = ProgressEvent(run_id=record.run_id, phase="collect", message=f"job {status.state}", round=last.number)
        if not status.is_terminal:
            ports.progress(event)

    executor = ports.executors[record.config.executor]
    if last.job is None or last.spec is None:
        raise _out_of_order(record)
    poll_s, timeout_s = ports.settings.jobs.poll_s, last.spec.timeout_s
    wait(last.job, executor=executor, clock=ports.clock, timeout_s=timeout_s, poll_s=poll_s, on_status=show)
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
    )
    context = GroundingContext(
        seed=record.config.seed,
        n_scored=last.number,
        donor_matched=_donors_matched(record, last.candidates),
        control_strategy=last.control_strategy,
        engine=record.config.engine,
    )
    grounded = ground(
        cells,
        query=query_of(record),
        knowledge=load_knowledge(ports.settings.knowledge),
        settings=ports.settings.grounding,
        context=context,
    )
    scored = last.model_copy(update={**_summary(grounded), "model": _model_card(cells.treated)})
    roles = {keys.PROMPT: prompt, keys.CONTROL: cells.prompt_control, keys.QUERY: query}
    present = {role: adata for role, adata in roles.items() if adata is not None}
    predictions = build_predictions(
        cells, grounded=grounded, query=query_of(record), facts=_facts(record, scored=scored)
    )
    files = [
        write_csv(store, record.run_id, f"{folder}/de.csv", grounded.de),
        write_csv(store, record.run_id, f"{folder}/pathways.csv", grounded.pathways),
        write_csv(store, record.run_id, f"{folder}/prompts.csv", _prompt_table(present)),
        write_h5ad(store, record.run_id, f"{folder}/predictions.h5ad", predictions),
    ]
    return scored.model_copy(update={"files": (*last.files, *files)})


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


def query_of(record: RunRecord) -> StructuredQuery:
    """The parsed question; ContractError before it was understood."""
    if record.query is None:
        raise _out_of_order(record)
    return record.query


def _out_of_order(record: RunRecord) -> ContractError:
    msg = f"a step of run {record.run_id} was called before those it builds on; call flow.work, which keeps the order"
    return ContractError(msg, run_id=record.run_id)


def _donors_matched(record: RunRecord, candidates: tuple[Candidate, ...]) -> bool:
    """Whether differences between donors are excluded; where the donor is what is asked for, they are the answer."""
    if query_of(record).task_type not in PERTURBATIONAL:
        return True
    return all(candidate.donor_matched for candidate in candidates)


def _atlas_names(config: RunConfig) -> tuple[str, ...]:
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
        "n_de": len(called),
        "top_genes": tuple(called.loc[called[keys.DELTA] > 0, keys.GENE].head(N_TOP_GENES)),
    }


def _facts(record: RunRecord, *, scored: Round) -> PredictionFacts:
    """What the file says of its own making: whose weights, and on what terms."""
    from haystack_kernel.grounding import PredictionFacts

    shown = {"number", "choice", "n_prompt", "n_control", "n_query", "composite", "decision"}
    return PredictionFacts(
        run_id=record.run_id,
        iteration=scored.number,
        prompt_strategy=", ".join(sorted({item.strategy for item in scored.candidates})),
        config=record.config.model_dump(mode="json"),
        rounds=[item.model_dump(mode="json", include=shown) for item in (*record.rounds[:-1], scored)],
        provenance={"versions": record.versions, "digests": record.digests},
        licence=scored.model.licence if scored.model else _NO_MODEL,
        citation=scored.model.citation if scored.model else "the data sets of the cells named in prompts.csv",
    )


def _model_card(treated: ad.AnnData) -> ModelCard | None:
    """Terms of the weights as the inference program states them in its output; None for an engine without weights."""
    model = json.loads(treated.uns[OUTPUT_UNS]).get("model") if OUTPUT_UNS in treated.uns else None
    return ModelCard(**{name: str(model[name]) for name in ModelCard.model_fields}) if model else None


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
