"""Recognise questions that would be answered as another one: negated, about altered cells, comparing, and the like.

In: the question and the terms found in it. Out: objections, each with the words that raise it and what can be asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel.knowledge.genes import load_genes
from haystack_kernel.knowledge.terms import NORMAL
from haystack_kernel.planners.context import find_comparisons, names_healthy
from haystack_kernel.planners.opposites import is_measured, opposed_span
from haystack_kernel.schema import Objection

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from haystack_kernel.knowledge import Mention

    Span = tuple[int, int]

_NO_RESPONSE = re.compile(
    r"\b(?:never|no\s+longer|not|cannot|\w+n't|fail(?:s|ed)?\s+to|unable\s+to|unless|neither|hardly|barely)\s+"
    r"(?:\w+\s+){0,3}?(?:respon\w+|react\w*|see[ns]?\b|sens\w+|recei\w+|expos\w+|treat\w+|stimulat\w+|giv\w+|add\w*|"
    r"encounter\w*|contact\w*|detect\w*|perceiv\w*|bind\w*|bound|get|got|experienc\w*|underg\w+|primed|activat\w+)",
    re.IGNORECASE,
)
_WHICH_TREATMENT = re.compile(
    r"\b(?:which|what)\s+"
    r"(?:(?!would|will|does|do|did|is|are|can|could|should|might|if|the|an?|this|that|happens?)\w+\s+){0,2}?"
    r"(?:cytokines?|chemokines?|(?:growth\s+)?factors?|ligands?|drugs?|compounds?|inhibitors?|antibod(?:y|ies)|"
    r"molecules?|treatments?|perturbations?|stimul(?:us|i)|agents?|knock-?outs?)\s+"
    r"(?!responses?|effects?|signatures?|programmes?|programs?|targets?|pathways?|genes?|doses?)"
    r"(?:(?:\w+ly|best|most)\s+)?(?!(?:of|in|on|was|were)\b)\w+",
    re.IGNORECASE,
)
_ALTERED = re.compile(
    r"(?<![\w-])(?:-/-|\+/-|-/\+)|[-\u2212]/[-\u2212+]|\+/[-\u2212]|"
    r"\b(?:deficien(?:t|cy)|null|knock-?(?:outs?|downs?|ins?)|kos?|mutants?|mutat\w+|variants?|polymorphisms?|alleles?|"
    r"haplo-?insufficien\w+|(?:loss|gain)[- ]of[- ]function|hypomorph\w*|(?:hetero|homo|hemi)zyg\w+|transgenic|"
    r"(?:over|under)-?express\w+|knocked[- ](?:out|down|in)|edited|editing|crispr\w?|delet\w+|disrupt\w+|truncat\w+|"
    r"transduced|transfected|lack(?:s|ed|ing)?|devoid\s+of|without|los(?:e|es|t|ing)|carrying|harbou?ring|depleted\s+(?:of|for)|"
    r"[ACDEFGHIKLMNPQRSTVWY]\d{2,4}[ACDEFGHIKLMNPQRSTVWY])\b",
    re.IGNORECASE,
)
_GENE = re.compile(r"\b(?:[A-Z][A-Z0-9]{1,9}(?:-[A-Z0-9]{1,4})?|[A-Z][a-z]{2,6}\d{1,3}[a-z]?)(?![\w])")
_NEAR_A_GENE = 25  # characters between a gene and the word that says how it is altered
_NOT_THESE_BEFORE = re.compile(
    r"\b(?:other\s+than|except(?:ing)?(?:\s+for)?|exclud(?:ing|es?)|all\s+but|everything\s+but|anything\s+but|"
    r"apart\s+from|aside\s+from|besides|but\s+not|not|non|minus|rather\s+than|instead\s+of|neither|nor|"
    r"depleted\s+of|devoid\s+of|free\s+of)[\s-]*(?:the\s+|any\s+)?$",
    re.IGNORECASE,
)
_WITHOUT = re.compile(
    r"\b(?:(?:absence|lack|loss|removal|depletion)\s+of|without|no|lacking)\s+(?:the\s+|any\s+)?$", re.I
)
_NOT_THESE_AFTER = re.compile(r"^[\s-]*(?:depleted|depletion|excluded|removed|free\b|less\b)", re.IGNORECASE)
_RESISTANT = re.compile(
    r"\b(?:resistan\w+|refractor\w+|toleri[sz]\w+|toleran(?:t|ce)|desensiti[sz]\w+|insensitiv\w+|unresponsive\w*|"
    r"(?:non|hypo)-?respon\w+|persisters?|anergic|anergy|addicted|addiction)\b",
    re.IGNORECASE,
)
_SECRETED = re.compile(
    r"\b(?:condition(?:ed|ing)\s+medi\w+|conditioned|supernatants?|co-?cultur\w+|feeders?|feeder\s+layer|exosomes?|"
    r"(?:extracellular|micro)\s*vesicles?|transwells?|secretomes?)\b",
    re.IGNORECASE,
)
_GIVEN = re.compile(
    r"\b(?:(?:respon\w+|react\w*)\s+to|(?:exposed|co-?cultured|cultured|treated|incubated|mixed|stimulated|contact)\s+"
    r"(?:to|with|on|by))\b",
    re.IGNORECASE,
)
_IN_A_CLAUSE = re.compile(
    r"\b(?:in|of|from|among|within|for|as|like|unlike|inside|using|by|are|is)\s+(?:\w+\s+){0,2}$", re.IGNORECASE
)
_ASIDE = re.compile(
    r"\b(?:rather\s+than|instead\s+of|in\s+place\s+of|unlike|as\s+with|but\s+not)\s+(?:with\s+)?$", re.I
)
_SET_FOLLOWS = re.compile(r"^\s+(?:data\s?sets?|study|atlas|cohort|collection|donors?|patients?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What the parser took a question to be about; the spans are empty where cells or treatment were not found."""

    question: str
    mentions: Sequence[Mention]
    cells: Span
    treatment: Span
    datasets: Sequence[Span]
    donors: Sequence[Span]

    def text(self, span: Span) -> str:
        """Return the words of a stretch."""
        return self.question[slice(*span)]

    @property
    def cells_said(self) -> str:
        """The cells asked about in full: the T cells of "T and B cells"."""
        at = (item.resolution.text for item in self.mentions if (item.start, item.end) == self.cells)
        return next(at, self.text(self.cells))

    def ask(self, cells: str, treatment: str) -> str:
        """Return the same question about other cells, or with another treatment."""
        donor = f" in donor {self.text(self.donors[0])}" if self.donors else ""
        if treatment:
            return f"How would {cells} respond to {treatment}{donor}?"
        return f"What would {cells} look like{donor}?" if donor else ""


def find_objections(reading: Reading) -> tuple[Objection, ...]:
    """Return why a question cannot be answered as it stands; the plainest reason first.

    Parameters
    ----------
    reading
        The question, the known terms in it, and which of them the parser chose.

    Returns
    -------
    Objections; empty for an ordinary question.

    Examples
    --------
    >>> find_objections(reading)[0].kind  # doctest: +SKIP
    'genotype'
    """
    finders = (
        _inverse,
        _negated,
        _altered,
        _excluded,
        _resistant,
        _given_cells,
        _compared,
        _several,
        _several_diseases,
    )
    return tuple(objection for finder in finders for objection in finder(reading))


# --- one finder for each class ------------------------------------------------------------------------------------


def _inverse(reading: Reading) -> Iterator[Objection]:
    """Find a question for a treatment: "Which cytokine turns monocytes into macrophages?"."""
    found = _WHICH_TREATMENT.search(reading.question)
    if found is not None:
        reason = "asks which treatment does something, and a run predicts the response to one treatment that is named"
        yield Objection(kind="inverse", text=found.group().strip(), reason=reason, questions=_as_read(reading))


def _negated(reading: Reading) -> Iterator[Objection]:
    found = _NO_RESPONSE.search(reading.question)
    if found is not None:
        reason = "is about cells that do not meet the treatment or do not respond to it, and a run predicts a response"
        yield Objection(kind="negated", text=found.group(), reason=reason, questions=_as_read(reading))


def _altered(reading: Reading) -> Iterator[Objection]:
    """Find a genotype, unless it is the treatment itself ("How would monocytes respond to a STAT1 knock-out?")."""
    cells = reading.cells_said
    for found in _ALTERED.finditer(reading.question):
        if _overlaps(found.span(), reading.treatment) or _in_mention(reading, found.span(), kinds=("disease",)):
            continue
        gene = _gene_near(reading, found.span())
        if gene is None:
            continue
        asked = reading.ask(cells, f"knock-out of {load_genes().find(gene).symbol or gene}") if cells else ""
        yield Objection(
            kind="genotype",
            text=f"{gene} {found.group()}",
            reason="is about cells of a genotype, which no atlas states; a changed gene can be the treatment",
            questions=tuple(filter(None, (asked, *_as_read(reading)))),
        )
        return


def _gene_near(reading: Reading, span: Span) -> str | None:
    """Return the gene that stands beside a stretch; words of cells, diseases, donors and data sets are no genes."""
    start = max(0, span[0] - _NEAR_A_GENE)
    for found in _GENE.finditer(reading.question, start, min(len(reading.question), span[1] + _NEAR_A_GENE)):
        if _overlaps(found.span(), span) or _is_named(reading, found.span()):
            continue
        name = found.group()
        if any(map(str.isdigit, name)) or load_genes().find(name).symbol:
            return name
    return None


def _excluded(reading: Reading) -> Iterator[Objection]:
    text = reading.question
    for mention in reading.mentions:
        if mention.kind != "cell_type":
            continue
        before, after = _NOT_THESE_BEFORE.search(text[: mention.start]), _NOT_THESE_AFTER.search(text[mention.end :])
        if not _overlaps((mention.start, mention.end), reading.cells):  # a donor "without B cells" may lack those asked
            before = before or _WITHOUT.search(text[: mention.start])
        if before or after:
            start = before.start() if before else mention.start
            end = mention.end + (after.end() if after else 0)
            reason = "leaves cells out, and a run works on one cell type that is named"
            yield Objection(kind="cells_excluded", text=text[start:end], reason=reason)
            return


def _resistant(reading: Reading) -> Iterator[Objection]:
    for found in _RESISTANT.finditer(reading.question):
        if not _in_mention(reading, found.span(), kinds=("cell_type", "disease", "tissue")):
            reason = "is about cells that resist or tolerate a treatment, which no atlas states"
            yield Objection(kind="resistance", text=found.group(), reason=reason, questions=_as_read(reading))
            return


def _given_cells(reading: Reading) -> Iterator[Objection]:
    """Find cells, or what they secrete, in the place of the treatment."""
    text = reading.question
    secreted, given = _SECRETED.search(text), _GIVEN.search(text)
    behind = []
    if given and reading.cells[1] <= given.end():
        behind = [item for item in _other_cells(reading) if item.start > given.end() and not _in_clause(reading, item)]
    if secreted is None and not behind:
        return
    words = secreted.group() if secreted else ", ".join(item.text for item in behind)
    reason = "has other cells, or what they secrete, in the treatment, and a run predicts the response to one molecule"
    plain, treatment = _as_read(reading), reading.text(reading.treatment)
    others = [reading.ask(item.text, treatment) for item in behind] if plain else []
    yield Objection(kind="cells_as_treatment", text=words, reason=reason, questions=(*plain, *others))


def _compared(reading: Reading) -> Iterator[Objection]:
    diseases = _diseases_said(reading)
    if len(diseases) == 1 and names_healthy(reading.question):  # patients are compared with healthy donors
        return
    for found in find_comparisons(reading.question):
        if found.is_with_untreated:
            continue
        reason = "compares, and a run predicts one response; `haystack compare` puts finished runs side by side"
        questions = _each_side(reading, diseases=diseases)
        if found.conditions:
            questions = [f"{text[:-1]} at {at}?" for text in questions if text for at in found.conditions]
        yield Objection(
            kind="comparison",
            text=reading.text((found.start, found.end)).strip(),
            reason=reason,
            questions=tuple(filter(None, questions)),
        )
        return


def _each_side(reading: Reading, *, diseases: dict[str, str]) -> list[str]:
    """Return the questions about each side of a comparison."""
    cells, treatments = _choices(reading, with_clauses=True)
    questions = [reading.ask(cell, drug) for cell in cells for drug in treatments]
    return questions + [_in_disease(cell, disease) for cell in cells for disease in diseases.values()]


def _several(reading: Reading) -> Iterator[Objection]:
    cells, treatments = _choices(reading)
    if len(cells) < 2 and len(treatments) < 2:
        return
    named = [*(cells if len(cells) > 1 else ()), *(treatments if len(treatments) > 1 else ())]
    what = "cell types" if len(cells) > 1 else "treatments"
    reason = f"names several {what}, and a run works on one cell type and one treatment"
    questions = [reading.ask(cell, drug) for cell in cells or ("",) for drug in treatments or ("",)]
    yield Objection(kind="several", text=", ".join(named), reason=reason, questions=tuple(filter(None, questions)))


def _several_diseases(reading: Reading) -> Iterator[Objection]:
    diseases = _diseases_said(reading)
    if len(diseases) > 1:
        reason = "names several diseases, and a run works on one cell type in one disease"
        questions = (
            tuple(_in_disease(reading.cells_said, one) for one in diseases.values()) if reading.cells_said else ()
        )
        yield Objection(kind="several", text=", ".join(diseases.values()), reason=reason, questions=questions)


# --- what is named beside the chosen terms ------------------------------------------------------------------------


def _choices(reading: Reading, *, with_clauses: bool = False) -> tuple[list[str], list[str]]:
    """Return the cells and the treatments that the question names, each as written and those chosen first."""
    others = [item for item in _other_cells(reading) if with_clauses or not _in_clause(reading, item)]
    cells = [reading.cells_said, *(item.resolution.text for item in others)]
    treatments = [reading.text(reading.treatment), *(item.text for item in _other_treatments(reading))]
    return [text for text in dict.fromkeys(cells) if text], [text for text in dict.fromkeys(treatments) if text]


def find_diseases(mentions: Sequence[Mention]) -> list[Mention]:
    """Return the mentions of diseases; "normal" is none."""
    known = [item for item in mentions if item.kind == "disease" and item.resolution.match]
    return [item for item in known if item.resolution.match and item.resolution.match.id != NORMAL]


def _diseases_said(reading: Reading) -> dict[str, str]:
    """Id -> words of each disease that a question without a treatment names outside cells and names of data sets."""
    found: dict[str, str] = {}
    if reading.treatment[0] < reading.treatment[1]:
        return found
    for item in find_diseases(reading.mentions):
        inside = [reading.cells, *reading.datasets]
        if item.resolution.match and not any(_overlaps((item.start, item.end), span) for span in inside):
            found.setdefault(item.resolution.match.id, item.text)
    return found


def _in_disease(cells: str, disease: str) -> str:
    return f"How do {cells} differ in {disease}?"


def _other_cells(reading: Reading) -> list[Mention]:
    return _others(reading, kind="cell_type", chosen=reading.cells)


def _other_treatments(reading: Reading) -> list[Mention]:
    found = _others(reading, kind="perturbation", chosen=reading.treatment)
    text = reading.question
    return [
        item
        for item in found
        if not is_measured(item, text) and not opposed_span(item, text) and not _ASIDE.search(text[: item.start])
    ]


def _others(reading: Reading, *, kind: str, chosen: Span) -> list[Mention]:
    """Return the terms of a kind with another meaning than the chosen one, outside names of data sets."""
    if chosen[0] == chosen[1]:
        return []
    known = [(item, item.resolution.match) for item in reading.mentions if item.kind == kind and item.resolution.match]
    ids = {match.id for item, match in known if _overlaps((item.start, item.end), chosen)}
    # the insulin of "insulin-making cells" is part of the name of the cells
    within = reading.treatment if kind == "cell_type" else reading.cells
    found = []
    for item, match in known:
        if _overlaps((item.start, item.end), within):
            continue
        if match.id not in ids and not _SET_FOLLOWS.match(reading.question[item.end :]):
            ids.add(match.id)
            found.append(item)
    return found


def _in_clause(reading: Reading, mention: Mention) -> bool:
    """Whether cells only say where the others come from: "B cells in PBMC", "from monocytes to B cells"."""
    return _IN_A_CLAUSE.search(reading.question[: mention.start]) is not None


def _as_read(reading: Reading) -> tuple[str, ...]:
    """Return the plain question about the chosen cells and treatment; nothing where one of them is missing."""
    cells, treatment = reading.cells_said, reading.text(reading.treatment)
    return (reading.ask(cells, treatment),) if cells and treatment else ()


def _overlaps(one: Span, other: Span) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def _in_mention(reading: Reading, span: Span, *, kinds: tuple[str, ...]) -> bool:
    return any(item.kind in kinds and _overlaps(span, (item.start, item.end)) for item in reading.mentions)


def _is_named(reading: Reading, span: Span) -> bool:
    """Whether a word that looks like a gene is part of another term, of a donor or of a data set."""
    taken = [*reading.donors, *reading.datasets, reading.treatment]
    return any(_overlaps(span, other) for other in taken) or _in_mention(
        reading, span, kinds=("cell_type", "disease", "tissue")
    )
