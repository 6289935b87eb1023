"""From a question to a structured query, by rules over the terms found in it.

In: the question and the knowledge tables. Out: a ``StructuredQuery``; unknown terms are listed, never guessed at.

Task type, first rule that holds:

1. two datasets are named, or one beside a verb of transfer or generation: ``cross_dataset_generation``;
2. a treatment is named, known or not: ``perturbation_novel_samples`` where a target donor is named or a new one asked
   for, else ``perturbation_novel_cell_types``;
3. the cells are said to be missing, or are to be imputed: ``cell_type_imputation``;
4. a donor is named and an expression or a profile is asked for, or the word is "predict":
   ``donor_expression_prediction``;
5. else ("what would these cells look like, express") ``cell_type_imputation``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from haystack_kernel.knowledge import Mention, find_mentions, resolve
from haystack_kernel.question import context
from haystack_kernel.question.check import clean_text
from haystack_kernel.question.frames import CELL_LIKE, Slot, find_slots
from haystack_kernel.schema import Match, Perturbation, Resolution, StructuredQuery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import TaskType, TermKind

_N_NEAREST = 5
_MISSING = re.compile(
    r"\b(?:imput\w+|missing|absent|lack(?:s|ing)?|unmeasured|unobserved|unsampled|fill(?:ed|ing)?\s+in|"
    r"(?:not|never|n't)\s+(?:\w+\s+)?(?:measured|captured|sampled|present|observed|profiled|sequenced|collected))\b",
    re.IGNORECASE,
)
_PROFILE = re.compile(r"\b(?:expression|transcriptom\w*|profiles?|transcript\s+levels|predict\w*|forecast)\b", re.I)
# words that turn a named molecule into its opposite, or into something measured rather than given
_BLOCKED_BEFORE = re.compile(
    r"(?:\banti[- ]?|\b(?:block(?:ing|ade\s+of|s)?|inhibit(?:ing|ion\s+of|s)?|neutrali[sz](?:ing|ation\s+of)|"
    r"(?:loss|absence|lack|depletion|deletion|knock-?out|knock-?down|silencing|withdrawal)\s+of|without|no|not))"
    r"\s*(?:the\s+)?$",
    re.IGNORECASE,
)
_BLOCKED_AFTER = re.compile(
    r"^[\s-]*(?:receptor\s+)?(?:blockade|block(?:ing|er)s?|inhibitors?|inhibition|antagonists?|antagonism|"
    r"knock-?outs?|knock-?downs?|deficien\w+|deletion|depletion|neutrali[sz]\w+|withdrawal|antibod\w+)\b",
    re.IGNORECASE,
)
_MEASURED_AFTER = re.compile(
    r"^(?:[\s-]*(?:producing|secreting|expressing|positive|negative|expression|production|secretion|levels?|release|"
    r"receptors?|mRNA|transcripts?)\b|\+)",
    re.IGNORECASE,
)
_GENETIC = re.compile(r"\b(?:knock-?outs?|knock-?downs?|crispr\w?|delet\w+|overexpress\w+|silenc\w+|mutant|ko)\b", re.I)


@dataclass(frozen=True)
class _Term:
    """What one role of the question holds: a mention, a match found by spelling, or text nobody knows."""

    resolution: Resolution | None = None
    span: tuple[int, int] = (0, 0)
    others: tuple[Resolution, ...] = field(default=())  # further unknown terms standing in the same place

    @property
    def match(self) -> Match | None:
        return self.resolution.match if self.resolution else None


def parse_question(question: str, *, knowledge: Knowledge) -> StructuredQuery:
    """Read task type, terms and context out of a question.

    Parameters
    ----------
    question
        The user's text; instructions inside it have no effect.
    knowledge
        The tables that terms are looked up in.

    Returns
    -------
    The query. ``resolutions`` lists every known term with its close seconds (``ambiguous`` where a second is about as
    close), ``unresolved`` the unknown ones with the nearest known. A molecule that is blocked, knocked out or only
    measured ("anti-TNF", "IL-6 secretion") is not taken for a treatment with it. Whether the query can be served
    is decided by :func:`~haystack_kernel.question.check.check_answerable`.
    """
    text = clean_text(question)
    mentions = list(find_mentions(text, knowledge=knowledge))
    slots = find_slots(text)
    cell = _choose_term("cell_type", mentions=mentions, slots=slots, knowledge=knowledge)
    treatments = [mention for mention in mentions if mention.kind == "perturbation" and not _is_opposed(mention, text)]
    treatments = [mention for mention in treatments if not _is_measured(mention, text)]
    rest = [mention for mention in mentions if mention.kind != "perturbation"]
    drug = _choose_term("perturbation", mentions=[*rest, *treatments], slots=slots, knowledge=knowledge)
    drug = _name_opposed(drug, text=text, mentions=mentions, knowledge=knowledge)
    donors = context.find_donors(text, mentions=mentions)
    datasets = context.find_datasets(text, mentions=mentions)
    target = next((donor.text for donor in donors if donor.role == "target"), None)
    task = _choose_task(text, drug=drug, donor=target, n_datasets=len(datasets))
    known = [mention.resolution for mention in [*rest, *treatments] if mention.resolution.match]
    known += [term.resolution for term in (cell, drug) if term.resolution and term.match]
    unknown = [term.resolution for term in (cell, drug) if term.resolution and not term.match]
    unknown += [*cell.others, *drug.others]
    tissue = _tissue(mentions, cell=cell, knowledge=knowledge)
    return StructuredQuery(
        question=text,
        task_type=task,
        **_cell_fields(cell, knowledge=knowledge),
        **_treatment_fields(drug, knowledge=knowledge),
        **_place_fields(tissue, mentions=mentions, knowledge=knowledge),
        **_dataset_fields(datasets, task=task),
        donor_id=target,
        reference_donor=next((donor.text for donor in donors if donor.role == "reference"), None),
        condition=context.find_condition(text),
        control_strategy="query_as_control" if context.asks_for_query_control(text) else "synthetic_control",
        resolutions=tuple({(item.kind, item.match.id): item for item in reversed(known) if item.match}.values())[::-1],
        unresolved=tuple({(item.kind, item.text.lower()): item for item in unknown}.values()),
    )


# --- which text fills which role ----------------------------------------------------------------------------------


def _choose_term(kind: TermKind, *, mentions: Sequence[Mention], slots: Sequence[Slot], knowledge: Knowledge) -> _Term:
    """Take the mention in the surest place; a place filled by unknown words beats a mention elsewhere."""
    known = [mention for mention in mentions if mention.kind == kind and mention.resolution.match]
    chosen: _Term | None = None
    others: list[Resolution] = []
    for slot in (slot for slot in slots if slot.kind == kind):
        inside = next((item for item in known if item.start < slot.end and item.end > slot.start), None)
        if inside is not None:
            chosen = chosen or _Term(inside.resolution, (inside.start, inside.end))
            continue
        looks_right = kind == "perturbation" or CELL_LIKE.search(slot.text) is not None
        if not looks_right and (known or chosen):
            continue
        term = _look_up(slot, mentions=mentions, knowledge=knowledge)
        if chosen is None:
            chosen = term
        elif term.resolution and not term.match and not _overlaps(term, chosen):
            others.append(term.resolution)
    if chosen is None:
        chosen = _Term(known[0].resolution, (known[0].start, known[0].end)) if known else _Term()
    if kind == "perturbation" and chosen.match is None and chosen.resolution and known:
        others.insert(0, chosen.resolution)  # "to frobnicatol and IFN-beta": one known treatment is enough to go on
        chosen = _known_beside(chosen, slots=slots, known=known) or chosen
        others = others if chosen.match else others[1:]
    return _Term(chosen.resolution, chosen.span, tuple(others))


def _known_beside(unknown: _Term, *, slots: Sequence[Slot], known: Sequence[Mention]) -> _Term | None:
    """Return a known treatment named in the same list of treatments as the unknown one."""
    for slot in slots:
        for mention in known:
            is_near = min(abs(mention.start - unknown.span[1]), abs(unknown.span[0] - mention.end)) <= 20
            if slot.kind == "perturbation" and slot.start <= mention.start < slot.end and is_near:
                return _Term(mention.resolution, (mention.start, mention.end))
    return None


def _look_up(slot: Slot, *, mentions: Sequence[Mention], knowledge: Knowledge) -> _Term:
    """Look for a known spelling close to the words of a slot, else keep them as unknown with the nearest known."""
    span = (slot.start, slot.end)
    found = resolve(slot.text, kind=slot.kind, knowledge=knowledge)
    is_guess = found.match is not None and found.match.how == "fuzzy"
    other = next((item for item in mentions if item.start < slot.end and item.end > slot.start), None)
    if found.match and not (is_guess and (other or _GENETIC.search(slot.text))):
        return _Term(found, span)
    nearest = [*([found.match] if found.match else []), *found.alternatives]
    if slot.kind == "cell_type" and other is not None and other.kind == "tissue" and other.resolution.match:
        nearest = _cells_of(other.resolution.match.id, knowledge=knowledge) or nearest
    return _Term(
        Resolution(text=slot.text, kind=slot.kind, alternatives=tuple(dict.fromkeys(nearest))[:_N_NEAREST]), span
    )


def _cells_of(tissue_id: str, *, knowledge: Knowledge) -> list[Match]:
    living = [entry for entry in knowledge.cell_types.values() if tissue_id in entry.tissues]
    return [Match(id=entry.id, name=entry.name, score=0, how="fuzzy") for entry in living[:_N_NEAREST]]


def _overlaps(left: _Term, right: _Term) -> bool:
    return left.span[0] < right.span[1] and right.span[0] < left.span[1]


def _is_opposed(mention: Mention, text: str) -> bool:
    return bool(_BLOCKED_BEFORE.search(text[: mention.start]) or _BLOCKED_AFTER.search(text[mention.end :]))


def _is_measured(mention: Mention, text: str) -> bool:
    return _MEASURED_AFTER.search(text[mention.end :]) is not None


def _name_opposed(drug: _Term, *, text: str, mentions: Sequence[Mention], knowledge: Knowledge) -> _Term:
    """Keep the blocking of a molecule visible as an unknown treatment, never as the molecule itself."""
    opposed = next((item for item in mentions if item.kind == "perturbation" and _is_opposed(item, text)), None)
    if opposed is None or (drug.match and not drug.span[0] <= opposed.start < drug.span[1]):
        return drug
    before, after = _BLOCKED_BEFORE.search(text[: opposed.start]), _BLOCKED_AFTER.search(text[opposed.end :])
    start = before.start() if before else opposed.start
    end = opposed.end + (after.end() if after else 0)
    words = text[start:end].strip()
    found = resolve(words, kind="perturbation", knowledge=knowledge)
    if found.match and found.match.how != "fuzzy":
        return _Term(found, (start, end))
    seen = (*([found.match] if found.match else []), *found.alternatives)
    near = tuple(match for match in seen if match.id != (opposed.resolution.match or match).id or match.score == 0)
    return _Term(Resolution(text=words, kind="perturbation", alternatives=near[:_N_NEAREST]), (start, end))


# --- task and fields ----------------------------------------------------------------------------------------------


def _choose_task(text: str, *, drug: _Term, donor: str | None, n_datasets: int) -> TaskType:
    if n_datasets >= 2 or (n_datasets == 1 and context.asks_for_transfer(text)):
        return "cross_dataset_generation"
    if drug.resolution is not None:
        is_for_donor = donor is not None or context.asks_for_other_donor(text)
        return "perturbation_novel_samples" if is_for_donor else "perturbation_novel_cell_types"
    if _MISSING.search(text):
        return "cell_type_imputation"
    has_donor = donor is not None or context.asks_for_other_donor(text)
    return "donor_expression_prediction" if has_donor and _PROFILE.search(text) else "cell_type_imputation"


def _cell_fields(cell: _Term, *, knowledge: Knowledge) -> dict[str, Any]:
    if cell.match is None:
        return {"cell_type_text": cell.resolution.text if cell.resolution else None}
    entry = knowledge.cell_types[cell.match.id]
    return {
        "cell_type_text": cell.resolution.text if cell.resolution else None,
        "cell_type_id": entry.id,
        "cell_type_name": entry.name,
        "cell_type_synonyms": entry.synonyms,
        "marker_genes": entry.markers,
    }


def _treatment_fields(drug: _Term, *, knowledge: Knowledge) -> dict[str, Any]:
    if drug.match is None or drug.resolution is None:
        return {}
    entry = knowledge.perturbations[drug.match.id]
    treatment = Perturbation(
        text=drug.resolution.text,
        name=entry.name,
        type=entry.type,
        synonyms=entry.synonyms,
        external_ids=dict(entry.external_ids),
        targets=entry.targets,
    )
    return {
        "perturbation": treatment,
        "expected_targets": dict(entry.response),
        "expected_pathways": dict(entry.pathways),
    }


def _tissue(mentions: Sequence[Mention], *, cell: _Term, knowledge: Knowledge) -> str | None:
    """Id of the tissue named, or of the one inside the name of the cells ("lung fibroblasts")."""
    named = next((item.resolution.match for item in mentions if item.kind == "tissue" and item.resolution.match), None)
    if named is not None:
        return named.id
    if cell.match is None or cell.resolution is None:
        return None
    for word in cell.resolution.text.split()[:-1]:
        match = resolve(word, kind="tissue", knowledge=knowledge).match
        if match and match.how != "fuzzy" and match.id in knowledge.cell_types[cell.match.id].tissues:
            return match.id
    return None


def _place_fields(tissue: str | None, *, mentions: Sequence[Mention], knowledge: Knowledge) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if tissue is not None:
        entry = knowledge.tissues[tissue]
        fields |= {"tissue_id": entry.id, "tissue_name": entry.name, "tissue_genes": entry.genes}
    disease = next((item.resolution.match for item in mentions if item.kind == "disease"), None)
    if disease is not None:
        fields |= {"disease_id": disease.id, "disease_name": disease.name}
    return fields


def _dataset_fields(datasets: Sequence[context.Named], *, task: TaskType) -> dict[str, Any]:
    """Datasets by role; a lone dataset of open role is learned from in a transfer, else predicted for."""
    left = "reference" if task == "cross_dataset_generation" else "target"
    fields: dict[str, Any] = {}
    for dataset in datasets:
        role = left if dataset.role == "open" else dataset.role
        fields.setdefault(f"{role}_dataset", dataset.text)
    return fields
