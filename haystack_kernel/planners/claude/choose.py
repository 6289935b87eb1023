"""Choose the prompt of a round with Claude: it looks by tools, and ends by submitting keys that the rules accept.

In: the record, what may be looked at. Out: a ``Choice`` among the record's candidates, or None when all were tried.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import anthropic
from anthropic.lib.tools import ToolError
from pydantic import Field, ValidationError

from haystack_kernel import keys
from haystack_kernel.errors import HaystackError, explain_refusals
from haystack_kernel.knowledge import neighbours, perturbation_of, resolve
from haystack_kernel.knowledge.genes import load_genes
from haystack_kernel.literature.reading import read_papers
from haystack_kernel.planners.claude.client import Answering, as_data, translated
from haystack_kernel.planners.claude.names import Names, numbers_in
from haystack_kernel.planners.guard import foul
from haystack_kernel.planners.offline.choice import pools
from haystack_kernel.schema import Choice, TermKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.planners.claude.client import Service
    from haystack_kernel.ports import PlannerView
    from haystack_kernel.schema import Candidate, Round, RunRecord

_LONGEST = 900  # characters of a reason
_N_GENES, _N_ROWS, _N_NEAR = 15, 60, 25
_GONE = "not available now"
_NUDGE = "You ended without calling submit. Call submit now, with keys of candidates and your reason."


class _Term(Answering):
    text: str = Field(description="a name, as specific as you know it")
    kind: TermKind


class _CellType(Answering):
    name: str = Field(description="name of a cell type in the Cell Ontology")


class _Treatment(Answering):
    name: str = Field(description="canonical name of a treatment, or a key such as x1")


class _Measured(Answering):
    treatment: str = Field(description="only this treatment; empty: any")
    cell_type: str = Field(description="only this cell type; empty: any")


class _Pair(Answering):
    first: str = Field(description="key of a candidate")
    second: str = Field(description="key of another candidate")


class _Nothing(Answering):
    pass


class _Submit(Answering):
    keys: list[str] = Field(description="keys of the candidates of the next round")
    reason: str = Field(description="two or three sentences for a biologist")


def choose(record: RunRecord, *, view: PlannerView, knowledge: Knowledge, service: Service) -> Choice | None:
    """Choose the candidates of the next round.

    Parameters
    ----------
    record
        With its query, candidates and rounds so far.
    view
        What may be looked at.
    knowledge
        The tables.
    service
        The language model.

    Returns
    -------
    The choice with the model's reason; None when every allowed set was tried.

    Raises
    ------
    ServiceError
        Nothing that the rules accept was submitted; the run can be resumed.

    Examples
    --------
    >>> choose(record, view=view, knowledge=knowledge, service=service).candidate_keys  # doctest: +SKIP
    """
    box = _Box(record, view=view, knowledge=knowledge, prompt=service.prompt)
    if not box.has_untried:
        return None
    said = f"<data>\n{box.shown(box.situation())}\n</data>\nChoose the prompt of round {len(record.rounds) + 1}."
    for extra in ("", f"\n{_NUDGE}"):
        _converse(box, said + extra, service=service)
        if box.choice is not None:
            return box.choice
    why = "it ended twice without submitting a choice"
    raise service.failure(why)


def _converse(box: _Box, said: str, *, service: Service) -> None:
    """Let the SDK's runner call the tools until something was submitted or the model ends."""
    with translated(service.meter):
        runner = service.client.beta.messages.tool_runner(
            thread=False,
            model=service.settings.model,
            max_tokens=service.settings.max_tokens,
            system=service.system,
            tools=box.tools(),
            messages=[{"role": "user", "content": said}],
        )
        for message in runner:
            if message.stop_reason in ("refusal", "max_tokens"):
                runner.close()
                why = f"the model stopped ({message.stop_reason})"
                raise service.failure(why)
            runner.generate_tool_call_response()
            if box.choice is not None or box.broken is not None:
                runner.close()
        if box.broken is not None:  # the SDK would have told the model, not us
            raise box.broken


class _Box:
    """The tools of one step, and what they have shown."""

    def __init__(self, record: RunRecord, *, view: PlannerView, knowledge: Knowledge, prompt: str) -> None:
        self.record, self.view, self.knowledge, self.prompt = record, view, knowledge, prompt
        self.names = Names()
        self.by_key = {self.names.candidate(item): item for item in record.candidates}
        self.choice: Choice | None = None
        self.broken: HaystackError | None = None
        self._numbers: set[str] = set()
        pinned = {item.key for item in record.candidates if item.pinned}
        self._pinned = pinned
        self._tried = {frozenset(past.choice.candidate_keys) | pinned for past in record.rounds}
        self._pools = pools(record.config.engine)

    # --- what the model is told at once ---

    @property
    def has_untried(self) -> bool:
        """Whether a set is left: each candidate alone at least is one."""
        single = {frozenset({item.key}) | self._pinned for item in self.record.candidates}
        n_sets = len(single) if not self._pools else 2 ** min(len(self.record.candidates), 20) - 1
        return len(self._tried) < n_sets

    def situation(self) -> dict[str, Any]:
        """Query, options, candidates and rounds, with opaque keys and canonical names."""
        query, config = self.record.query, self.record.config
        cells = None if query is None else self.names.cell_type(query.cell_type_id, query.cell_type_text or "cells")
        asked = query.perturbation if query else None
        return {
            "query": {
                "task_type": query.task_type if query else None,
                "cell_type": cells,
                "treatment": self.names.treatment(asked.name) if asked else None,
                "targets": list(asked.targets[:_N_GENES]) if asked else [],
                "for_a_named_donor": bool(query and query.donor_id),
            },
            "engine": {"name": config.engine, "learns_from_several_cell_types": self._pools},
            "rounds": {
                "next": len(self.record.rounds) + 1,
                "at_most": config.max_rounds,
                "stops_at_composite": config.threshold,
            },
            "candidates": [self._row(key, item) for key, item in self.by_key.items()],
            "rounds_so_far": [self._round(past) for past in self.record.rounds],
        }

    def _row(self, key: str, item: Candidate) -> dict[str, Any]:
        return {
            "key": key,
            "cell_type": self.names.cells(item.prompt),
            "treatment": self.names.treatment(item.prompt.perturbation),
            "dataset": self.names.dataset(f"{item.prompt.atlas}/{item.prompt.dataset}"),
            "donors": len(item.prompt.donor_ids) or None,
            "cells": item.prompt.n_cells,
            "control_cells": item.control.n_cells if item.control else 0,
            "control_of_same_donors": item.donor_matched,
            "evidence_distance": item.evidence_distance,
            "strategy": item.strategy,
            "relevance": round(item.relevance, 2),
            "rank_score": round(item.score, 2),
            "pinned": item.pinned,
        }

    def _round(self, past: Round) -> dict[str, Any]:
        used = {item.key for item in past.candidates}
        score = past.composite.value if past.composite else float("nan")
        return {
            "round": past.number,
            "keys": [key for key, item in self.by_key.items() if item.key in used],
            "composite": _rounded(score),
            "components": {part.name: _rounded(part.score) for part in past.components},
            "genes_called": past.n_de,
            "criticised_for": [{"finding": item.kind, "wanted": item.action} for item in past.feedback],
        }

    # --- tools ---

    def tools(self) -> list[Any]:
        """Every tool, as the SDK's runner takes them."""
        return [
            self._tool("resolve_term", "Find the ontology term or treatment that a name means.", _Term, self._resolve),
            self._tool("related_cell_types", "Cell types near one in the ontology.", _CellType, self._near),
            self._tool("treatment_facts", "Targets, pathways and family of a treatment.", _Treatment, self._facts),
            self._tool(
                "measured", "What the atlases hold: cells, donors and controls by condition.", _Measured, self._held
            ),
            self._tool(
                "contrast",
                "Measured effects of two candidates: largest log2 fold changes of both, and how they correlate.",
                _Pair,
                self._contrast,
            ),
            self._tool(
                "literature",
                "How many papers of this run say that a gene rises or falls under the treatment.",
                _Nothing,
                self._papers,
            ),
            self._tool("submit", "Submit the choice of the next round; this ends your step.", _Submit, self._submit),
        ]

    def _tool(self, name: str, description: str, kind: type[Answering], act: Callable[[Any], Any]) -> Any:  # noqa: ANN401
        def call(**given: Any) -> str:  # noqa: ANN401 - validated below, so that the model is told what is wrong
            try:
                return self.shown(act(kind.model_validate(given)))
            except ValidationError as error:
                raise ToolError("; ".join(explain_refusals(error))) from None
            except ToolError:
                raise
            except HaystackError as error:
                self.broken = error
                raise ToolError(_GONE) from None
            except Exception as error:  # noqa: BLE001 - its text may hold paths and labels: the model is not told
                self.broken = _wrapped(name, error)
                raise ToolError(_GONE) from None

        schema: Any = anthropic.transform_schema(kind)
        return anthropic.beta_tool(call, name=name, description=description, input_schema=schema, strict=True)

    def shown(self, data: Any) -> str:  # noqa: ANN401 - anything JSON has
        """Data as text; its numbers may be written in the reason."""
        text = as_data(data)
        self._numbers |= numbers_in(text)
        return text

    def _resolve(self, asked: _Term) -> dict[str, Any]:
        found = resolve(asked.text, kind=asked.kind, knowledge=self.knowledge.without_vocabulary())
        near = [self._canonical(one.id, one.name, asked.kind) for one in found.alternatives]
        match = found.match
        name = self._canonical(match.id, match.name, asked.kind) if match else None
        return {"name": name, "id": match.id if match and name == match.name else None, "near": near}

    def _canonical(self, id: str, name: str, kind: TermKind) -> str:
        if kind == "cell_type":
            return self.names.cell_type(id, name)
        return self.names.treatment(name) if kind == "perturbation" else name

    def _near(self, asked: _CellType) -> dict[str, Any]:
        found = resolve(asked.name, kind="cell_type", knowledge=self.knowledge.without_vocabulary()).match
        if found is None:
            msg = "no known cell type of that name; try resolve_term"
            raise ToolError(msg)
        near = neighbours(found.id, hops=2, knowledge=self.knowledge)
        rows = [(self.names.cell_type(one, one), steps) for one, steps in list(near.items())[:_N_NEAR]]
        return {"of": self.names.cell_type(found.id, found.name), "steps": dict(rows)}

    def _facts(self, asked: _Treatment) -> dict[str, Any]:
        name = self.names.meaning.get(asked.name, asked.name)
        entry = perturbation_of(name, knowledge=self.knowledge)
        if entry is None:
            found = resolve(name, kind="perturbation", knowledge=self.knowledge.without_vocabulary()).match
            entry = perturbation_of(found.name, knowledge=self.knowledge) if found else None
        if entry is None:
            msg = "no known treatment of that name; try resolve_term"
            raise ToolError(msg)
        genes = [gene for gene in entry.targets if self.names.gene(gene)]
        response = {gene: sign for gene, sign in entry.response.items() if self.names.gene(gene)}
        return {
            "name": self.names.treatment(entry.name),
            "type": entry.type,
            "targets": genes[:_N_GENES],
            "pathways": {self.names.pathway(one): sign for one, sign in entry.pathways.items()},
            "known_response": dict(list(response.items())[: 2 * _N_GENES]),
        }

    def _held(self, asked: _Measured) -> dict[str, Any]:
        rows = self.view.conditions()
        table: dict[tuple[str, str, str], list[Any]] = {}
        columns = [keys.CELL_TYPE_ID, keys.CELL_TYPE, keys.PERTURBATION, keys.IS_CONTROL, keys.ATLAS, keys.DATASET]
        for id_, label, name, is_control, atlas, dataset, donor, n_cells in rows[
            [*columns, keys.DONOR, "n_cells"]
        ].itertuples(index=False, name=None):
            treatment = "control" if is_control else self.names.treatment(str(name))
            place = f"{atlas}/{dataset}"
            at = (self.names.cell_type(str(id_), str(label)), treatment, self.names.dataset(place))
            cell = table.setdefault(at, [0, set()])
            cell[0] += int(n_cells)
            cell[1].add(donor)
        found = [
            {"cell_type": at[0], "treatment": at[1], "dataset": at[2], "cells": n_cells, "donors": len(donors)}
            for at, (n_cells, donors) in table.items()
            if asked.treatment in ("", at[1]) and asked.cell_type in ("", at[0])
        ]
        found.sort(key=lambda row: -row["cells"])
        return {"rows": found[:_N_ROWS], "further_rows": max(0, len(found) - _N_ROWS)}

    def _contrast(self, asked: _Pair) -> dict[str, Any]:
        import numpy as np

        effects = {}
        for key in (asked.first, asked.second):
            effect = self.view.effect(self._candidate(key))
            if effect is None:
                msg = f"{key} has no control cells, so its effect cannot be measured"
                raise ToolError(msg)
            effects[key] = effect[[gene for gene in effect.index if self.names.gene(str(gene))]]
        first, second = effects.values()
        shared = first.index.intersection(second.index)
        strong = shared[np.argsort(-(first[shared].abs() + second[shared].abs()).to_numpy(), kind="stable")]
        pearson = float(np.corrcoef(first[shared], second[shared])[0, 1]) if len(shared) > 2 else float("nan")
        return {
            "correlation": _rounded(pearson, 2),
            "shared_genes": len(shared),
            "log2_fold_change": {
                str(gene): {asked.first: round(float(first[gene]), 2), asked.second: round(float(second[gene]), 2)}
                for gene in strong[: 2 * _N_GENES]
            },
        }

    def _papers(self, asked: _Nothing) -> dict[str, Any]:
        del asked
        found = self.view.find_papers()
        if found is None:
            return {"genes": {}, "why": "no literature source is asked in this run"}
        # read by rules: text of papers would let whoever wrote it choose
        reading = read_papers(found, genes=list(load_genes().by_symbol))
        votes = sorted(reading.votes.items(), key=lambda item: (-sum(item[1]), item[0]))[: 2 * _N_GENES]
        genes = {gene: {"papers_say_rises": up, "papers_say_falls": down} for gene, (up, down) in votes}
        return {"papers_read": reading.n_papers, "genes": genes}

    def _submit(self, asked: _Submit) -> dict[str, Any]:
        chosen = [self._candidate(key) for key in dict.fromkeys(asked.keys)]
        problems = [*self._refused(chosen), *foul("reason", asked.reason, prompt=self.prompt)]
        if not asked.reason.strip() or len(asked.reason) > _LONGEST:
            problems.append(f"reason: give two or three sentences, at most {_LONGEST} characters")
        of_choice = {f"{n:g}" for n in (len(chosen), len(self.by_key), len(self.record.rounds) + 1)}
        if unknown := sorted(numbers_in(asked.reason) - self._numbers - of_choice):
            problems.append(f"reason: {', '.join(unknown)} is none of the numbers that you were shown")
        if problems:
            raise ToolError("; ".join(problems))
        wanted = {item.key for item in chosen} | self._pinned
        keys_ = tuple(item.key for item in self.record.candidates if item.key in wanted)
        reason = " ".join(self.names.restored(asked.reason).split())
        self.choice = Choice(candidate_keys=keys_, reason=reason, planner=self.record.config.planner)
        return {"accepted": True}

    def _refused(self, chosen: list[Candidate]) -> list[str]:
        """What the rules have against a set."""
        free = [item for item in chosen if not item.pinned]
        problems = []
        if not chosen:
            problems.append(f"keys: choose at least one of {', '.join(self.by_key)}")
        sources = {(item.prompt.atlas, item.prompt.dataset, item.prompt.perturbation) for item in free}
        if len(sources) > 1:
            problems.append("keys: choose candidates of one treatment and one data set")
        if not self._pools and len(free) > 1:
            problems.append(f"keys: engine {self.record.config.engine} learns from one candidate at a time")
        if chosen and frozenset(item.key for item in chosen) | self._pinned in self._tried:
            problems.append("keys: this set was tried in an earlier round; choose another one")
        return problems

    def _candidate(self, key: str) -> Candidate:
        if key not in self.by_key:
            msg = f"{key!r} is no candidate; possible: {', '.join(self.by_key)}"
            raise ToolError(msg)
        return self.by_key[key]


def _rounded(value: float, digits: int = 1) -> float | None:
    return None if math.isnan(value) else round(value, digits)


def _wrapped(tool: str, error: Exception) -> HaystackError:
    from haystack_kernel.errors import ContractError

    msg = f"the planner's tool {tool} failed: {type(error).__name__}: {str(error)[:200]}"
    wrapped = ContractError(msg, tool=tool)
    wrapped.__cause__ = error
    return wrapped
