"""Put a result into words with Claude: numbers come from the record, quotations from papers of this run, both by key.

In: the record, the tables of its best round, what papers state. Out: a ``ModelText``, or what was wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.knowledge.genes import load_genes
from haystack_kernel.planners.claude.client import Answering, as_data
from haystack_kernel.planners.claude.names import Names, numbers_in
from haystack_kernel.planners.claude.statements import statements_of
from haystack_kernel.planners.guard import foul
from haystack_kernel.schema import EVIDENCE_WORDS, ModelText

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from haystack_kernel.planners.claude.client import Service
    from haystack_kernel.planners.claude.statements import Statement
    from haystack_kernel.ports import PlannerView
    from haystack_kernel.schema import Round, RunRecord

_N_GENES, _N_UNCALLED, _N_PATHWAYS = 10, 3, 6
_PARAGRAPHS, _EXPERIMENTS = (1, 5), 4
_LONGEST = {"paragraphs": 1400, "next_experiments": 400}
_MARK = re.compile(r"\[\[\s*([a-z]\d+)\s*\]\]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\[])")
_CLAUSE = re.compile(r"[,;:]\s|\b(?:but|while|whereas|although|and|yet|unlike)\b")
_UP = re.compile(r"\b(?:ris\w+|rose|higher|increas\w+|induc\w+|up-?regulat\w+|activat\w+|elevat\w+|gain\w*|up)\b", re.I)
_DOWN = re.compile(
    r"\b(?:fall\w*|fell|lower\w*|decreas\w+|reduc\w+|repress\w+|down-?regulat\w+|suppress\w+|los[te]\w*|down|drop\w*)\b",
    re.I,
)
_DECIMAL = re.compile(r"\d*[.,]\d+|\d{4,}")  # also where letters stand around it
_SYMBOL = re.compile(r"(?<![\w-])[A-Z][A-Z0-9]{2,}(?:-[A-Z0-9]+)?(?![\w-])")
_JUDGED = re.compile(
    r"\b(?:proven|proves?|proof|certainly|undoubtedly|guarantee\w*|is accurate|confirm(?:s|ed) that)\b", re.I
)
_VERDICTS = {
    "is_baseline": "the engine is itself a simple baseline",
    "adds_nothing": "the prediction cannot be told from the best simple baseline",
    "not_told_apart": "whether the engine adds to the simple baselines cannot be told",
    "adds": "the engine adds to the simple baselines",
    "falls_behind": "the engine falls behind a simple baseline",
    "not_compared": "the engine was not compared with simple baselines",
}


class Written(Answering):
    """The result in words."""

    paragraphs: list[str]
    next_experiments: list[str]


@dataclass(frozen=True)
class Fact:
    """A value of the record; ``about`` has to be named where it is used, and ``sign`` is its direction."""

    what: str
    value: str
    about: str = ""
    sign: int = 0


def interpret(
    record: RunRecord, *, de: pd.DataFrame, pathways: pd.DataFrame, view: PlannerView, service: Service
) -> ModelText | None:
    """Put the best round into words.

    Parameters
    ----------
    record
        The run.
    de, pathways
        Tables of its best round.
    view
        The run folder and the papers of the run.
    service
        The language model.

    Returns
    -------
    Paragraphs and next experiments with the numbers put in; None without a best round.

    Raises
    ------
    ServiceError
        What was written could not be used after one repair.

    Examples
    --------
    >>> interpret(record, de=de, pathways=pathways, view=view, service=service).paragraphs  # doctest: +SKIP
    """
    best = record.best
    if best is None or record.query is None:
        return None
    desk = _Desk(record, best, de=de, pathways=pathways, statements=statements_of(record, view), prompt=service.prompt)
    said = f"<data>\n{as_data(desk.situation())}\n</data>\nPut the result into words."
    written = service.ask(Written, said, check=lambda answer: list(desk.faults(answer)))
    return desk.text(written, model=service.settings.model)


class _Desk:
    """Facts, statements of papers and names of one result, and what is wrong with words about it."""

    def __init__(
        self,
        record: RunRecord,
        best: Round,
        *,
        de: pd.DataFrame,
        pathways: pd.DataFrame,
        statements: dict[str, Statement],
        prompt: str,
    ) -> None:
        self.record, self.best, self.statements, self.prompt = record, best, statements, prompt
        self.names = Names()
        query = record.query
        asked = query.perturbation if query else None
        self._about = {
            "cell_type": self.names.cell_type(query.cell_type_id, query.cell_type_text or "cells") if query else "",
            "treatment": self.names.treatment(asked.name) if asked else None,
            "targets": [gene for gene in (asked.targets if asked else ()) if self.names.gene(gene)],
            "prompt_cells": [self.names.cells(item.prompt) for item in best.candidates],
            "prompt_treatments": sorted({self.names.treatment(item.prompt.perturbation) for item in best.candidates}),
        }
        listed = [*self._of_score(), *self._of_genes(de), *self._of_pathways(pathways), *self._of_round()]
        self.facts = {f"f{number}": fact for number, fact in enumerate(listed, 1)}
        self._known = self._known_names()

    # --- facts ---

    def situation(self) -> dict[str, Any]:
        """What the model is told."""
        best = self.best
        return {
            "query": self._about,
            "evidence": [EVIDENCE_WORDS[item.evidence_distance] for item in best.candidates],
            "verdict": _VERDICTS[best.confidence.verdict] if best.confidence else "not judged",
            "reaches_the_threshold": self.record.score >= self.record.config.threshold,
            "facts": {
                key: {"what": one.what, "value": one.value, **({"about": one.about} if one.about else {})}
                for key, one in self.facts.items()
            },
            "statements_of_papers": {key: one.data for key, one in self.statements.items()},
        }

    def _of_score(self) -> Iterator[Fact]:
        best, config = self.best, self.record.config
        if best.composite and best.composite.value == best.composite.value:
            yield Fact("composite score, 1 to 10", best.composite.shown, about="score")
            yield Fact("score that was asked for", f"{config.threshold:g}", about="threshold")
        for part in best.components:
            if part.score == part.score:
                name = part.name.replace("_", " ")
                sign = 0 if part.statistic != part.statistic else int(part.statistic > 0) - int(part.statistic < 0)
                against = ", opposite to expectation" if sign < 0 else ""
                yield Fact(f"score of the component {name}{against}", f"{part.score:.1f}", about=name)

    def _of_genes(self, de: pd.DataFrame) -> Iterator[Fact]:
        called = de[de[keys.IS_DE].astype(bool)]
        n_tested = int(de[keys.IS_TESTED].astype(bool).sum()) if keys.IS_TESTED in de.columns else len(de)
        yield Fact("genes tested", f"{n_tested:,}", about="genes")
        for word, sign in (("higher", 1), ("lower", -1)):
            rows = called[sign * called[keys.LOG2FC] > 0]
            yield Fact(f"genes called {word} than in the control", f"{len(rows):,}", about="genes")
            what = "log2 fold change, predicted over control"
            if rows.empty:  # what changes most is worth telling, if it is told as what it is
                rows, what = de[sign * de[keys.LOG2FC] > 0], f"{what}; not called, because too uncertain"
            rows = rows.iloc[(-rows[keys.DELTA].abs()).argsort(kind="stable")]
            shown = [
                row for row in zip(rows[keys.GENE], rows[keys.LOG2FC], strict=True) if self.names.gene(str(row[0]))
            ]
            n_shown = _N_GENES if what.endswith("control") else _N_UNCALLED
            for gene, value in shown[:n_shown]:
                yield Fact(what, f"{value:+.1f}", about=str(gene), sign=sign)

    def _of_pathways(self, pathways: pd.DataFrame) -> Iterator[Fact]:
        if pathways.empty:
            return
        scored = pathways[pathways["score"].notna() & pathways["statistic"].notna()]
        scored = scored.sort_values(["score", "pathway"], ascending=[False, True], kind="stable").head(_N_PATHWAYS)
        for row in scored.to_dict("records"):
            sign = 1 if row["statistic"] > 0 else -1
            expected = ", expected by the question" if row["is_expected"] else ""
            what = f"score of a pathway that is {'activated' if sign > 0 else 'suppressed'}{expected}"
            yield Fact(what, f"{row['score']:.1f}", about=self.names.pathway(str(row["pathway"])), sign=sign)

    def _of_round(self) -> Iterator[Fact]:
        best = self.best
        yield Fact("round that is shown", f"{best.number}", about="round")
        yield Fact("rounds that were run", f"{len(self.record.rounds)}", about="round")
        for name, count in (("prompt", best.n_prompt), ("control", best.n_control), ("query", best.n_query)):
            yield Fact(f"{name} cells", f"{count:,}", about=f"{name} cells")
        for other in best.agreement:
            if other.pearson == other.pearson:
                what = "correlation of this simple baseline with the prediction"
                yield Fact(what, f"{other.pearson:.2f}", about=other.engine)

    def _known_names(self) -> list[str]:
        """Names that may be written, the longest first."""
        known = {fact.about for fact in self.facts.values()} | {one.said.gene for one in self.statements.values()}
        known.add("log2")
        for value in self._about.values():
            known |= set(value if isinstance(value, list) else [value or ""])
        query = self.record.query
        if query is not None and query.perturbation is not None:
            entry = query.perturbation
            known |= {name for name in (entry.name, *entry.synonyms) if self._about["treatment"] == entry.name}
        return sorted({name for name in known if name}, key=len, reverse=True)

    # --- what may be wrong with words ---

    def faults(self, written: Written) -> Iterator[str]:
        """Yield everything that the record or the papers do not confirm."""
        least, most = _PARAGRAPHS
        if not least <= len(written.paragraphs) <= most:
            yield f"paragraphs: write {least} to {most}"
        if len(written.next_experiments) > _EXPERIMENTS:
            yield f"next_experiments: write at most {_EXPERIMENTS}"
        yield from self._mark_faults(written)
        for field in ("paragraphs", "next_experiments"):
            for number, text in enumerate(getattr(written, field)):
                name = f"{field}[{number}]"
                if not text.strip() or len(text) > _LONGEST[field]:
                    yield f"{name}: write one to {_LONGEST[field]} characters"
                yield from foul(name, _MARK.sub("", text), prompt=self.prompt)
                for sentence in _SENTENCE.split(text):
                    yield from self._sentence_faults(name, sentence)

    def _mark_faults(self, written: Written) -> Iterator[str]:
        marks = [mark for text in (*written.paragraphs, *written.next_experiments) for mark in _MARK.findall(text)]
        for mark in dict.fromkeys(marks):
            if mark not in self.facts and mark not in self.statements:
                yield f"[[{mark}]] is neither a fact nor a statement that you were shown"

    def _sentence_faults(self, name: str, sentence: str) -> Iterator[str]:
        for mark in _MARK.findall(sentence):
            about = self._about_of(mark)
            if about and about.casefold() not in sentence.casefold():
                yield f"{name}: the sentence that uses [[{mark}]] does not name {about!r}, which it is about"
        plain = _MARK.sub(" ", sentence)
        for known in self._known:
            plain = re.sub(rf"(?<!\w){re.escape(known)}(?!\w)", " ", plain, flags=re.IGNORECASE)
        if unknown := sorted(numbers_in(plain) | set(_DECIMAL.findall(plain))):
            yield f"{name}: write the key of a fact in place of the number {', '.join(unknown)}"
        genes = load_genes().by_symbol
        if strange := [word for word in dict.fromkeys(_SYMBOL.findall(plain)) if word in genes]:
            yield f"{name}: {', '.join(strange)} stands neither in the query nor in a fact"
        if (judged := _JUDGED.search(plain)) is not None:
            yield f"{name}: {judged.group()!r} claims more than a score can say"
        yield from self._turned(name, sentence)

    def _about_of(self, mark: str) -> str:
        if mark in self.statements:
            return self.statements[mark].said.gene
        return self.facts[mark].about if mark in self.facts else ""

    def _turned(self, name: str, sentence: str) -> Iterator[str]:
        """Yield genes and pathways that a clause says to move against their fact, or against the paper it cites."""
        for clause in _CLAUSE.split(sentence):
            if sign := _direction(clause):
                word = "rise" if sign > 0 else "fall"
                yield from (
                    f"{name}: {about} is said to {word}, and {why}" for about, why in self._against(clause, sign)
                )

    def _against(self, clause: str, sign: int) -> Iterator[tuple[str, str]]:
        cited = [self.statements[mark].said for mark in _MARK.findall(clause) if mark in self.statements]
        for said in cited:
            if said.direction != sign:
                yield said.gene, "the paper that is cited for it does not say so"
        turned = {fact.about for fact in self.facts.values() if fact.sign == -sign} - {said.gene for said in cited}
        for about in sorted(turned):
            if _names(about, clause):
                yield about, "its fact says otherwise"

    # --- the text ---

    def text(self, written: Written, *, model: str) -> ModelText:
        """The words with values in place of facts, numbers of quotes in place of statements, and names for keys."""
        order: list[str] = []

        def put(mark: re.Match[str]) -> str:
            key = mark[1]
            if key in self.facts:
                return self.facts[key].value
            if key not in order:
                order.append(key)
            return f"[{order.index(key) + 1}]"

        def filled(texts: list[str]) -> tuple[str, ...]:
            return tuple(" ".join(_MARK.sub(put, self.names.restored(text)).split()) for text in texts)

        paragraphs, experiments = filled(written.paragraphs), filled(written.next_experiments)
        return ModelText(
            model=model,
            paragraphs=paragraphs,
            next_experiments=experiments,
            quotes=tuple(self.statements[key].cited for key in order),
        )


def _direction(clause: str) -> int:
    """+1 where a clause says that something rises, -1 falls, 0 neither or both."""
    return (_UP.search(clause) is not None) - (_DOWN.search(clause) is not None)


def _names(about: str, clause: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(about)}(?![\w-])", clause) is not None
