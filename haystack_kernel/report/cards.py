"""Cards of single things: a run, an estimate, a job, a score, a candidate, cells, an atlas.

In: one value of the schema, or an open atlas. Out: HTML fragments with every text escaped, which notebooks show for the
value (see :mod:`haystack_kernel.report.displays`) and terminals as text.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from haystack_kernel.jobs.cost import in_usd
from haystack_kernel.report.html import Html, bar, bar_picture, definitions, escape, items, paragraph, table
from haystack_kernel.report.words import accuracy_text, cell_types, counted, score_text, span, termination_text
from haystack_kernel.schema import EVIDENCE_WORDS
from haystack_kernel.store import layout, shown_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.atlas import AtlasCollection
    from haystack_kernel.atlas.record import AtlasRecord
    from haystack_kernel.retrieval.query_check import QueryCheck
    from haystack_kernel.schema import (
        Bill,
        Candidate,
        CellSet,
        Component,
        Composite,
        CostEstimate,
        JobHandle,
        JobStatus,
        RunRecord,
    )

_MARKS = {True: "\N{CHECK MARK} yes", False: "\N{BALLOT X} no", None: "note"}
_N_SHOWN = 12  # cell types and perturbations of an atlas
_LINES_SHOWN = 12  # of a log


def card(facts: Mapping[str, object], *, title: object = "", before: str = "", after: str = "") -> Html:
    """Return names and values in a frame, under a title."""
    head = f'<div class="title"><b>{title if isinstance(title, Html) else escape(title)}</b></div>' if title else ""
    told = definitions(facts) if facts else ""
    return Html(f'<div class="card">{head}{before}{told}{after}</div>')


def run_card(record: RunRecord, *, status: str = "", folder: str = "") -> Html:
    """Return the run at a glance, for notebooks: question, how it was read, status, score and answer.

    Parameters
    ----------
    record
        The run, in any state.
    status
        As it is shown, where more is known than the record says: ``interrupted``.
    folder
        Address of the run folder; empty leaves it out.

    Returns
    -------
    A card.

    Examples
    --------
    >>> run_card(run.record)  # doctest: +SKIP
    """
    status = status or record.status
    spent = record.cost_usd
    facts: dict[str, object] = {
        "status": Html(f'<span class="state {escape(status)}">{escape(status)}</span>'),
        "failure": f"at step '{record.failure.step}': {record.failure.message}" if record.failure else "",
        "taken as": record.taken_as,
        "note": record.measured_words,
        "tested": "; ".join(record.tested_words),
        **_result(record),
        "cost": f"{in_usd(spent)} by list prices" if spent else "",
        "to go on": "" if status in ("done", "running") else f'haystack.resume("{record.run_id}").work()',
        "run": record.run_id,
        "folder": folder,
        "report": f"{folder}/{layout.REPORT}" if folder and status == "done" else "",
    }
    return card(facts, title=record.question, after=items(record.notes, kind="warning"))


def _result(record: RunRecord) -> dict[str, object]:
    """What a run has come to: score, answer and rounds, each empty before there is one."""
    best, why = record.best, termination_text(record)
    scored = "" if best is None or best.composite is None else score_text(best)
    has_bar = bool(scored) and record.score >= 1
    return {
        "score": Html(f"{bar_picture(record.score)} {escape(scored)}") if has_bar else scored,
        "accuracy": accuracy_text(record) if best else "",
        "answer": record.interpretation.headline if record.interpretation else "",
        "rounds": f"{len(record.rounds)}{f'; stopped: {why}' if why else ''}" if record.rounds else "",
    }


def estimate_card(estimate: CostEstimate) -> Html:
    """Return what one attempt of a job may cost, and how long its machines are paid for: low, likely, high."""
    machine = f"{counted(estimate.n_machines, 'machine')} {estimate.machine or 'like this one'}"
    rows = [
        (name, in_usd(usd), span(seconds))
        for name, usd, seconds in (
            ("low", estimate.low_usd, estimate.low_s),
            ("likely", estimate.likely_usd, estimate.likely_s),
            ("high", estimate.high_usd, estimate.high_s),
        )
    ]
    shown = table(
        ("estimate", "cost", "time per machine"),
        rows,
        caption="Cost of one attempt",
        amounts=("cost", "time per machine"),
    )
    title = f"Estimate: {in_usd(estimate.low_usd)} to {in_usd(estimate.high_usd)}, likely {in_usd(estimate.likely_usd)}"
    facts = {"machines": machine, "provisioning": estimate.provisioning.replace("_", " "), "based on": estimate.basis}
    return card(facts, title=title, before=shown)


def job_card(job: JobHandle) -> Html:
    """Return where a submitted job is, and when it was submitted."""
    owner = (
        f"{job.owner.kind} {job.owner.id}{f', round {job.owner.round}' if job.owner.round else ''}" if job.owner else ""
    )
    facts = {
        "works for": owner,
        "runs on": "this machine" if job.executor == "local" else "Google Batch",
        "at": job.location,
        "submitted": f"{job.submitted_at:%Y-%m-%d %H:%M:%S} UTC",
        "manifest": job.manifest_uri,
    }
    return card(facts, title=f"{job.kind.capitalize()} job {job.job_id}")


def job_status_card(status: JobStatus) -> Html:
    """Return the state of a job: tasks done, attempts and what they cost, and the end of its log."""
    done = f"{status.n_done} of {counted(status.n_tasks, 'task')} done" if status.n_tasks else ""
    badge = Html(f'<span class="state {escape(status.state)}">{escape(status.state)}</span>')
    facts: dict[str, object] = {
        "state": badge,
        "progress": done,
        "detail": status.detail,
        "attempt": status.attempt if status.attempt > 1 else "",
        "exit code": status.exit_code if status.exit_code else None,
        "waits for": status.needs_approval,
        "page": status.console,
    }
    paid = [*status.bills, *([status.accrued] if status.accrued else [])]
    after = _bills_table(paid) if paid else ""
    if status.log_tail.strip():
        lines = status.log_tail.rstrip().splitlines()
        text = "\n".join(lines[-_LINES_SHOWN:])
        after += f"<details><summary>log, last {counted(min(len(lines), _LINES_SHOWN), 'line')}</summary>"
        after += f'<pre class="log">{escape(text)}</pre></details>'
    return card(facts, title="Job", after=after)


def bill_card(bill: Bill) -> Html:
    """Return what one attempt cost."""
    return Html(_bills_table([bill]))


def _bills_table(bills: list[Bill]) -> str:
    rows = [
        (
            f"{one.attempt}",
            one.state,
            f"{one.n_machines} x {one.machine}, {one.provisioning.replace('_', ' ')}",
            span(one.seconds),
            in_usd(one.usd),
        )
        for one in bills
    ]
    caption = "Attempts that are paid for, by list prices"
    return table(("attempt", "state", "machines", "time", "cost"), rows, caption=caption, amounts=("time", "cost"))


def score_card(score: Composite) -> Html:
    """Return a composite score with what limits it."""
    if math.isnan(score.value):
        return card({"reason": score.reason or "no component could be computed"}, title="Not scored")
    facts = {
        "components": f"{score.weight_computed:.0%} of their weight could be computed",
        "upper bound": f"{score.cap:.1f}" if score.cap < 10 else "",
        "limited by": score.reason,
    }
    return card(
        facts,
        title=Html(f"{bar_picture(score.value)} Score {escape(score.shown)}"),
        after=paragraph("1 is chance; it is no probability.", kind="small"),
    )


def component_card(component: Component) -> Html:
    """Return one component of a score with the p values of both nulls."""
    facts: dict[str, object] = {
        "score": bar(component.score),
        "weight": f"{component.weight:.0%}",
        "statistic": _known(component.statistic, "+.3f"),
        "p (self-contained)": _known(component.p_signal, ".2g"),
        "p (donors)": _known(component.p_donors, ".2g"),
        "p (competitive)": _known(component.p_specificity, ".2g"),
        "genes": component.n_genes or "",
        "note": component.reason,
    }
    return card(facts, title=f"Component: {component.name.replace('_', ' ')}")


def candidate_card(one: Candidate) -> Html:
    """Return a prompt candidate: its cells, their matched control, how near its evidence is, and why."""
    prompt, control = one.prompt, one.control
    facts: dict[str, object] = {
        "cells": f"{counted(prompt.n_cells, 'cell')} of {prompt.atlas} / {prompt.dataset}",
        "reason": one.reason,
        "evidence": EVIDENCE_WORDS[one.evidence_distance],
        "control": one.control_reason if control else f"none: {one.control_reason}",
        "found by": one.strategy.replace("_", " "),
        "rank score": f"{one.score:.2f} (relevance {one.relevance:.2f}, diversity {one.diversity:.2f}, "
        f"quality {one.quality:.2f})",
        "pinned": "by you: every round uses it" if one.pinned else "",
        "key": one.key,
    }
    return card(facts, title=f"{cell_types(one)}, {prompt.perturbation or 'unperturbed'}")


def cell_set_card(cells: CellSet) -> Html:
    """Return the criteria of a cell set and how many cells satisfy them."""
    names = cells.label or ", ".join(cells.cell_type_names or cells.cell_type_ids) or "any cell type"
    treatment = cells.perturbation or ("control condition" if cells.is_control else "any condition")
    facts = {
        "cells": f"{cells.n_cells:,}",
        "atlas": cells.atlas,
        "dataset": cells.dataset,
        "cell type ids": ", ".join(cells.cell_type_ids),
        "donors": _listed(cells.donor_ids),
        "tissues": ", ".join(cells.tissue_ids),
        "diseases": ", ".join(cells.disease_ids),
        "kinds of control": ", ".join(cells.control_kinds),
    }
    return card(facts, title=f"{names}, {treatment}")


def atlas_card(record: AtlasRecord) -> Html:
    """Return what an atlas holds: datasets, and its largest cell types and perturbations."""
    rows = [
        (one.label or name, one.n_cells, one.n_genes, one.source.counts_in) for name, one in record.datasets.items()
    ]
    shown = table(("dataset", "cells", "genes", "counts in"), rows, caption=counted(len(rows), "dataset"))
    held = {
        name: _largest(record.summary.get(key))
        for name, key in (("cell types", "cell_types"), ("perturbations", "perturbations"))
    }
    facts = {**held, "digest": record.digest[:16]}
    return card(facts, title=f"Atlas {record.name}: {counted(record.n_cells, 'cell')}", before=shown)


def collection_card(atlases: AtlasCollection) -> Html:
    """Return one card per open atlas."""
    return Html("".join(atlas_card(record) for record in atlases.records.values()))


def check_card(check: QueryCheck) -> Html:
    """Return the answers about one file of query cells, each with its detail."""
    rows = [(_MARKS[one.ok], one.question, one.detail) for one in check.preflight.answers]
    verdict = "can be used" if check.ok else "cannot be used"
    name = shown_name(check.uri)
    shown = table(("answer", "question", "detail"), rows, caption=f"Answers about {name}")
    return card({}, title=f"{check.role.capitalize()} cells {name}: {verdict}", after=shown)


def _known(value: float, form: str) -> str:
    return "not computed" if math.isnan(value) else format(value, form)


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _N_SHOWN} more" if len(names) > _N_SHOWN else ""
    return ", ".join(names[:_N_SHOWN]) + more


def _largest(groups: Any) -> str:  # noqa: ANN401 - the summary holds what the atlas was built with
    """Names with their numbers of cells, the largest first."""
    known = [one for one in groups or () if isinstance(one, dict) and "name" in one]
    known.sort(key=lambda one: -one.get("n_cells", 0))
    return _listed(tuple(f"{one['name']} ({one.get('n_cells', 0):,})" for one in known))
