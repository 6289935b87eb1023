"""Small JSON values for assistants, made of records and tables: numbers, known names, and delimited sentences.

In: what public verbs return, and what shows labels and sentences. Out: dictionaries.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.mcp.shown import is_plain, opaque, without_nothing
from haystack_kernel.report.words import TASKS, simulated_atlases, span, termination_text
from haystack_kernel.schema import EVIDENCE_WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from haystack_kernel.manage.comparison import Comparison
    from haystack_kernel.manage.previews import Preview, QuickAnswer
    from haystack_kernel.manage.watching import Look, Usual
    from haystack_kernel.mcp.shown import Labels, Sentences
    from haystack_kernel.run import Run
    from haystack_kernel.schema import Citations, CostEstimate, RunRecord, RunSummary, StructuredQuery

_DIGITS = 3
_ENDS = 2
_ARROW = re.compile(r" activates | inhibits ")
_PAPER = re.compile(r"pmid:\d{1,9}|doi:10\.\d{4,9}/[A-Za-z0-9.;()/_-]{1,40}|[a-z]{3,20}:[A-Za-z0-9]{1,20}")
_N_TWINS, _N_EXPECTED = 5, 15
_N_SENTENCES, _N_PATHWAYS, _N_CITED = 2, 8, 12  # the report has the others
_MOST_OF_PARAGRAPH = 900
_GENE_COLUMNS = (  # as far as the table of a run has them
    keys.LOG2FC,
    keys.EFFECT,
    keys.EFFECT_LOW,
    keys.EFFECT_HIGH,
    keys.LFSR,
    keys.PROB_DE,
    keys.PADJ,
    keys.IS_DE,
)
SCORE_WORDS = (
    "Each component scores 1 at chance and 7 at p of about 1 in 200. The composite is their weighted mean: how far the "
    "prediction agrees with known biology, not a probability that it is right."
)


def rounded(value: Any) -> Any:  # noqa: ANN401 - a number of a table
    """A number for JSON: three significant digits, None for NaN."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 1e15 else float(f"{number:.{_DIGITS}g}")


def gene_name(gene: str) -> str:
    """A gene symbol as it is; a name that is none may be any text of a file, and becomes a key."""
    return gene if is_plain(gene) else opaque(gene, kind="gene")


def edge_name(text: str) -> str:
    """A gene, or an edge of the network between two."""
    ends = _ARROW.split(text)
    return text if len(ends) <= _ENDS and all(map(is_plain, ends)) else opaque(text, kind="gene")


def paper_id(text: str) -> str:
    """The id of a paper; a service may send any text as one."""
    return text if _PAPER.fullmatch(text) else f"paper-{opaque(text, kind='gene')}"


# --- questions ------------------------------------------------------------------------------------------------------


def taken_as(record: RunRecord, labels: Labels) -> dict[str, Any]:
    """The terms that a question was read as."""
    query = record.query
    if query is None:
        return {}
    perturbation = query.perturbation.name if query.perturbation else None
    return without_nothing(
        {
            "task": TASKS[query.task_type],
            "cell_type": labels.name(query.cell_type_name or query.cell_type_text, kind="cell_type"),
            "cell_type_id": query.cell_type_id if query.cell_type_id and is_plain(query.cell_type_id) else None,
            "treatment": labels.name(perturbation, kind="perturbation"),
            "treatment_type": query.perturbation.type if query.perturbation else None,
            "tissue": labels.name(query.tissue_name, kind="tissue"),
            "disease": labels.name(query.disease_name, kind="disease"),
            "donor": labels.name(query.donor_id, kind="donor"),
            "from_dataset": labels.name(query.reference_dataset, kind="dataset"),
            "in_dataset": labels.name(query.target_dataset, kind="dataset"),
        }
    )


def reading(record: RunRecord, *, labels: Labels, say: Sentences) -> dict[str, Any]:
    """How a question is understood, with what was not used and what else its words may mean."""
    query = record.query
    if query is None:
        return {}
    also = [
        {"words": say.say(item.text), "others": [labels.name(one.name, kind=item.kind) for one in item.alternatives]}
        for item in query.resolutions
        if item.alternatives
    ]
    return {
        **taken_as(record, labels),
        **without_nothing(
            {
                "not_used": [say.say(text) for text in query.unused],
                "measured_already": say.say(record.measured_words) if record.measured_words else "",
                "noted_only": say.say(query.condition) if query.condition else "",
                "may_also_mean": also,
                "expected_genes_up": _moved(query, 1),
                "expected_genes_down": _moved(query, -1),
                "options": _options(record),
            }
        ),
    }


def _moved(query: StructuredQuery, sign: int) -> list[str]:
    """Genes that are known to move so under the treatment, the first of them."""
    genes = [gene for gene, expected in query.expected_targets.items() if expected == sign]
    return [gene_name(gene) for gene in genes[:_N_EXPECTED]]


def _options(record: RunRecord) -> dict[str, Any]:
    config = record.config
    return {
        "atlases": list(config.atlas_names),
        "engine": config.engine,
        "executor": config.executor,
        "max_rounds": config.max_rounds,
        "threshold": config.threshold,
        "seed": config.seed,
        "literature": config.literature,
    }


def candidates(
    record: RunRecord, *, labels: Labels, say: Sentences, most: int, ids: Mapping[str, str]
) -> dict[str, Any]:
    """The measured cells that could show the effect, best first."""
    rows = []
    for item in record.candidates[:most]:
        prompt = item.prompt
        names = labels.parts(prompt.label) or prompt.cell_type_names
        rows.append(
            without_nothing(
                {
                    "id": ids[item.key],
                    "strategy": item.strategy,
                    "atlas": prompt.atlas,
                    "dataset": labels.name(prompt.dataset, kind="dataset"),
                    "cell_types": [labels.name(name, kind="cell_type") for name in names],
                    "treatment": labels.name(prompt.perturbation, kind="perturbation"),
                    "n_cells": prompt.n_cells,
                    "n_donors": len(prompt.donor_ids),
                    "n_control_cells": item.control.n_cells if item.control else 0,
                    "rank_score": rounded(item.score),
                    "why": say.say(item.reason),
                    "control": say.say(item.control_reason),
                }
            )
        )
    return {"n_candidates": len(record.candidates), "candidates": rows}


def quick(found: QuickAnswer, *, most: int) -> dict[str, Any]:
    """Effects of the simple engines; no statistic and no call stands behind them."""
    rows = [
        {"gene": gene_name(str(row["gene"])), **{name: rounded(row[name]) for name in found.effects.columns[1:]}}
        for row in found.effects.head(most).to_dict(orient="records")
    ]
    return {
        "unit": "log2 fold change of predicted over query cells by three simple engines; no gene is called",
        "largest_effects": rows,
        "n_prompt_cells": found.n_prompt,
        "n_control_cells": found.n_control,
        "n_query_cells": found.n_query,
    }


def estimate(seen: Preview, usual: Usual, *, left_usd: float) -> dict[str, Any]:
    """What a run may cost, what may be spent here, and how long it takes by earlier runs."""
    config = seen.record.config
    found: dict[str, Any] = {
        "executor": config.executor,
        "engine": config.engine,
        **({"engine_chosen": seen.record.engine_pick.words} if seen.record.engine_pick else {}),
        "max_rounds": config.max_rounds,
        "is_free": seen.high_usd == 0,
        "starts_anything": False,
    }
    if seen.high_usd:
        found |= {
            "usd_of_one_round": _cost(seen.of_round),
            "usd_of_the_run_at_most": rounded(seen.high_usd),
            "usd_that_this_server_may_still_spend": rounded(left_usd),
        }
    found["usual_time"] = "not known: no earlier run with this engine is in this storage"
    if usual.n_runs:
        found["usual_time"] = {
            "by_earlier_runs": usual.n_runs,
            "one_round": span(usual.total_s(n_rounds=1)),
            "all_rounds": span(usual.total_s(n_rounds=config.max_rounds)),
        }
    return found


def _cost(one: CostEstimate | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "low": rounded(one.low_usd),
        "likely": rounded(one.likely_usd),
        "high": rounded(one.high_usd),
        "machine": one.machine,
    }


# --- runs -----------------------------------------------------------------------------------------------------------


def line(summary: RunSummary, *, labels: Labels) -> dict[str, Any]:
    """A run in one line."""
    return without_nothing(
        {
            "run_id": summary.run_id,
            "status": summary.status,
            "score": rounded(summary.score),
            "cell_type": labels.name(summary.cell_type, kind="cell_type"),
            "treatment": labels.name(summary.treatment, kind="perturbation"),
            "engine": summary.engine,
            "rounds": summary.rounds,
            "cost_usd": rounded(summary.cost_usd),
            "began": f"{summary.created_at:%Y-%m-%d %H:%M} UTC",
            "forked_from": summary.forked_from,
        }
    )


def status(look: Look, *, labels: Labels, say: Sentences, where: str = "") -> dict[str, Any]:
    """Where a run stands: phases, time, money, and what the person may type."""
    record, state = look.record, look.state
    now = next((phase for phase in look.phases if phase.state == "now"), None)
    failure = state["failure"]
    return without_nothing(
        {
            "run_id": record.run_id,
            "status": look.status,
            "taken_as": taken_as(record, labels),
            "doing": now.title if now else "",
            "fraction_of_that": rounded(now.fraction) if now and now.fraction is not None else None,
            "phases_done": [phase.title for phase in look.phases if phase.state == "done"],
            "elapsed": span(look.elapsed_s),
            "left": span(look.left_s),
            "rounds": len(record.rounds),
            "score": rounded(record.score),
            "cost_usd": rounded(look.spent_usd),
            "failed_at": failure["step"] if failure else "",
            "failure": say.say(failure["message"]) if failure else "",
            "detail": say.say(state["detail"]) if state["detail"] else "",
            "commands_for_the_person": [f"{command}{where}" for command in state["next_commands"]],
            "is_over": look.is_over,
        }
    )


def answer(
    run: Run,
    *,
    state: Mapping[str, Any],
    citations: Citations | None,
    labels: Labels,
    say: Sentences,
    n_genes: int,
    genes: Sequence[str],
) -> dict[str, Any]:
    """The answer of a run; before a round was scored only where it stands.

    Raises
    ------
    InvalidInputError
        No round was scored yet.
    """
    record = run.record
    best = record.best
    if best is None:
        msg = (
            f"run {record.run_id} has no scored round yet: it is {state['status']}; ask for its status until it is over"
        )
        raise InvalidInputError(msg, run_id=record.run_id)
    said = record.interpretation
    table = run.de
    found = {
        "run_id": record.run_id,
        "status": state["status"],
        "taken_as": taken_as(record, labels),
        "is_simulated": bool(simulated_atlases(record)),
        "engine": record.config.engine,
        **({"engine_chosen": record.engine_pick.words} if record.engine_pick else {}),
        "rounds": len(record.rounds),
        "best_round": best.number,
        "stopped": termination_text(record),
        **_composite(record, say),
        **_expected(record, labels=labels, say=say),
        **_evidence(record),
        "measured_already": say.say(record.measured_words) if record.measured_words else "",
        "against_a_hidden_measurement": [say.say(one.words) for one in record.truth],
        "headline": say.say(said.headline) if said else "",
        "interpretation": [say.say(text, most=_MOST_OF_PARAGRAPH) for text in said.paragraphs[:_N_SENTENCES]]
        if said
        else [],
        "interpretation_written_by": said.planner if said else "",
        "limits": [say.say(text) for text in said.limitations] if said else [],
        "n_genes_called": best.n_de,
        **_genes(table, n_genes=n_genes, wanted=genes, expected=record.query.expected_targets if record.query else {}),
        "pathways": _pathways(run.pathways, labels=labels),
        "papers": _papers(citations),
        "cost_usd": rounded(state["cost_usd"]),
        "report": state["report"],
    }
    return without_nothing(found)


def _evidence(record: RunRecord) -> dict[str, Any]:
    """What the best round rests on."""
    best = record.best
    if best is None:
        return {}
    distances = {item.evidence_distance for item in best.candidates}
    return {
        "evidence": [words for distance, words in EVIDENCE_WORDS.items() if distance in distances],
        "n_prompt_cells": best.n_prompt,
        "n_control_cells": best.n_control,
        "n_query_cells": best.n_query,
    }


def _expected(record: RunRecord, *, labels: Labels, say: Sentences) -> dict[str, Any]:
    """How accurate the prediction should be, what it hangs on, and what it cannot be told from."""
    trust = record.best.confidence if record.best else None
    if trust is None:
        return {}
    one = trust.expected
    found: dict[str, Any] = {}
    if one is not None:
        found["expected_accuracy"] = without_nothing(
            {
                "pearson_with_the_truth": rounded(one.value),
                "interval_80": [rounded(one.low), rounded(one.high)] if one.value == one.value else [],
                "as_a_measurement_would_show": rounded(one.measured),
                "rests_on": say.say(one.words) if one.words else "",
                "narrower_with": say.say(one.narrower) if one.narrower else "",
                "unknown_because": say.say(one.reason) if one.reason else "",
            }
        )
    if trust.without:
        lowest = trust.without[0]
        found["lowest_score_without_a_part"] = {"part": lowest.kind, "score": rounded(lowest.composite)}
    found["cannot_be_told_from"] = [labels.name(name, kind="perturbation") for name in trust.twins[:_N_TWINS]]
    return without_nothing(found)


def _composite(record: RunRecord, say: Sentences) -> dict[str, Any]:
    best = record.best
    if best is None or best.composite is None:
        return {"score": None, "score_reason": "not scored"}
    one = best.composite
    return {
        "score": rounded(one.value),
        "score_is": "1 (chance) to 10",
        "score_could_be_at_most": rounded(one.cap),
        "score_reason": say.say(one.reason) if one.reason else "",
        "confidence": say.say(best.confidence.verdict_words) if best.confidence else "",
    }


def _genes(table: pd.DataFrame, *, n_genes: int, wanted: Sequence[str], expected: Mapping[str, int]) -> dict[str, Any]:
    """The genes with the largest called effects in each direction, and those that were asked for."""
    columns = [name for name in _GENE_COLUMNS if name in table]
    called = table[table[keys.IS_DE].astype(bool)].sort_values(keys.LOG2FC, ascending=False, kind="stable")
    up, down = called[called[keys.LOG2FC] > 0], called[called[keys.LOG2FC] < 0].iloc[::-1]

    def rows(part: pd.DataFrame) -> list[dict[str, Any]]:
        return [
            without_nothing(
                {
                    "gene": gene_name(str(row[keys.GENE])),
                    **{name: bool(row[name]) if name == keys.IS_DE else rounded(row[name]) for name in columns},
                    "expected": expected.get(str(row[keys.GENE])),
                }
            )
            for row in part.to_dict(orient="records")
        ]

    tested = table[table[keys.IS_TESTED].astype(bool)] if keys.IS_TESTED in table else table
    largest = tested.sort_values(keys.LOG2FC, key=abs, ascending=False, kind="stable")
    names = {gene.upper() for gene in wanted}
    asked = table[table[keys.GENE].astype(str).str.upper().isin(names)]
    there = {str(name).upper() for name in asked[keys.GENE]}
    return {
        "effect_unit": "log2 fold change of predicted over control",
        "up": rows(up.head(n_genes)),
        "down": rows(down.head(n_genes)),
        "largest_but_not_called": [] if len(called) else rows(largest.head(n_genes)),
        "asked": rows(asked),
        "not_in_the_prediction": [gene_name(gene) for gene in wanted if gene.upper() not in there],
    }


def _pathways(table: pd.DataFrame, *, labels: Labels) -> list[dict[str, Any]]:
    shown = table[table["score"].notna()].sort_values("score", ascending=False, kind="stable").head(_N_PATHWAYS)
    return [
        {
            "pathway": labels.name(str(row["pathway"]), kind="pathway"),
            "direction": "up" if row["statistic"] > 0 else "down",
            "score": rounded(row["score"]),
            "is_expected": bool(row["is_expected"]),
        }
        for row in shown.to_dict(orient="records")
    ]


def _papers(read: Citations | None) -> dict[str, Any]:
    """The papers that support or contradict the answer by id; what they say stands in the report."""
    if read is None:
        return {}
    by_stance: dict[str, list[str]] = {}
    for item in read.citations:
        for stance in {quote.stance for quote in item.quotes} - {"mention"}:
            by_stance.setdefault(f"{stance}s", []).append(paper_id(item.paper.id))
    return without_nothing(
        {"n_read": read.n_papers, **{name: found[:_N_CITED] for name, found in sorted(by_stance.items())}}
    )


def score(record: RunRecord, *, labels: Labels, say: Sentences) -> dict[str, Any]:
    """The components of a score with their p values, and what limits the trust in it.

    Raises
    ------
    InvalidInputError
        No round was scored yet.
    """
    best = record.best
    if best is None or best.composite is None:
        msg = f"run {record.run_id} has no scored round yet; ask for its status until it is over"
        raise InvalidInputError(msg, run_id=record.run_id)
    components = []
    for item in best.components:
        leading = item.detail.get("leading_edges") or item.detail.get("leading_genes") or []
        components.append(
            without_nothing(
                {
                    "component": item.name,
                    "score": rounded(item.score),
                    "weight": rounded(item.weight),
                    "p_signal": rounded(item.p_signal),
                    "p_specificity": rounded(item.p_specificity),
                    "n_genes": item.n_genes,
                    "led_by": [edge_name(str(name)) for name in leading[:5]],
                    "note": say.say(item.reason) if item.reason else "",
                }
            )
        )
    aspects = best.confidence.aspects if best.confidence else ()
    return without_nothing(
        {
            "run_id": record.run_id,
            "taken_as": taken_as(record, labels),
            **_composite(record, say),
            **_expected(record, labels=labels, say=say),
            "threshold": record.config.threshold,
            "what_it_means": SCORE_WORDS,
            "components": components,
            "trust": [
                without_nothing(
                    {"aspect": item.name, "value": rounded(item.value), "words": say.say(item.words or item.reason)}
                )
                for item in aspects
            ],
            "simple_engines": [
                without_nothing(
                    {"engine": item.engine, "pearson": rounded(item.pearson), "score": rounded(item.composite)}
                )
                for item in best.agreement
            ],
        }
    )


def comparison(found: Comparison, *, records: Sequence[RunRecord], labels: Labels, say: Sentences) -> dict[str, Any]:
    """How two runs differ."""
    values = found.to_dict()

    def shown(row: Mapping[str, Any]) -> dict[str, Any]:
        sides = {
            side: say.say(row[side], most=120) if isinstance(row[side], str) else rounded(row[side]) for side in "ab"
        }
        return {"what": str(row["what"]), **sides}

    return without_nothing(
        {
            "a": {"run_id": found.run_a, "taken_as": taken_as(records[0], labels)},
            "b": {"run_id": found.run_b, "taken_as": taken_as(records[1], labels)},
            "differences": [shown(row) for row in values["differences"] if not str(row["what"]).startswith("digest")][
                :20
            ],
            "scores": [
                {"what": row["what"], "a": rounded(row["a"]), "b": rounded(row["b"])} for row in values["scores"]
            ],
            "n_shared_genes": values["n_shared"],
            "pearson_of_effects": rounded(values["pearson"]),
            "spearman_of_effects": rounded(values["spearman"]),
            "cannot_be_compared": values["reason"],
            **{name: values[name] for name in ("de_both", "sign_flips", "de_only_a", "de_only_b")},
            "called_in_both": [gene_name(gene) for gene in values["shared_genes"]],
            "opposite_signs": [gene_name(gene) for gene in values["flipped_genes"]],
        }
    )
