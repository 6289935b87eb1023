"""Parse a question into a structured query, by rules over the terms found in it.

In: the question and the knowledge tables. Out: a ``StructuredQuery``; unknown terms are listed, never guessed.

Task type, first rule that holds:

1. two datasets are named, or one beside a verb of transfer or generation: ``cross_dataset_generation``;
2. a treatment is named, known or not: ``perturbation_novel_samples`` where a target donor is named or a new one asked
   for, else ``perturbation_novel_cell_types``;
3. the cells are said to be missing, or are to be imputed: ``cell_type_imputation``;
4. a disease is named and no donor, and the question asks what differs or changes: ``donor_expression_prediction`` of
   its patients, compared with healthy donors;
5. a donor is named and an expression or a profile is asked for, or the word is "predict":
   ``donor_expression_prediction``;
6. else ("what would these cells look like, express") ``cell_type_imputation``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from haystack_kernel.knowledge import resolve
from haystack_kernel.knowledge.terms import NORMAL
from haystack_kernel.planners import context
from haystack_kernel.planners.check import clean_text
from haystack_kernel.planners.classes import Reading, find_diseases, find_objections
from haystack_kernel.planners.fields import term_fields
from haystack_kernel.planners.frames import find_slots
from haystack_kernel.planners.offline.terms import Term, choose_cells, choose_treatment, is_meant
from haystack_kernel.planners.unused import unused_phrases
from haystack_kernel.schema import StructuredQuery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.knowledge import Knowledge, Mention
    from haystack_kernel.planners.context import Named
    from haystack_kernel.planners.frames import Slot
    from haystack_kernel.schema import Resolution, TaskType

    Span = tuple[int, int]

_MISSING = re.compile(
    r"\b(?:imput\w+|missing|absent|lack(?:s|ing)?|lost|ha(?:s|ve|d)\s+no|unmeasured|unobserved|unsampled|"
    r"fill(?:ed|ing)?\s+(?:them\s+)?in|"
    r"(?:not|never|n't)\s+(?:\w+\s+)?(?:measured|captured|sampled|present|observed|profiled|sequenced|collected))\b",
    re.IGNORECASE,
)
_PROFILE = re.compile(r"\b(?:expression|transcriptom\w*|profiles?|transcript\s+levels|predict\w*|forecast)\b", re.I)


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
    The query. ``resolutions`` lists every known term with its alternatives (``ambiguous`` where one is about as
    close), ``unresolved`` the unknown terms with the closest known ones. A molecule that is blocked, knocked out or
    only measured ("anti-TNF", "IL-6 secretion") is not read as a treatment with it. Whether the query can be served
    is decided by :func:`~haystack_kernel.planners.check.check_answerable`.

    Examples
    --------
    >>> from haystack_kernel.knowledge import load_knowledge
    >>> parse_question("How would B cells respond to IFN-beta?", knowledge=load_knowledge()).cell_type_name
    'B cell'
    """
    text = clean_text(question)
    mentions = context.find_terms(text, knowledge=knowledge)
    slots = find_slots(text)
    cell = choose_cells(mentions, slots, knowledge=knowledge)
    drug = _treatment(text, mentions, slots, knowledge=knowledge)
    donors = context.find_donors(text, mentions=mentions, held=knowledge.donors)
    datasets = context.find_datasets(text, mentions=mentions)
    by_role = {donor.role: donor for donor in reversed(donors)}  # of several in one role the first
    names = {role: donor.text for role, donor in by_role.items()}
    compares = bool(find_diseases(mentions)) and "target" not in names and _compares(text)
    task = _choose_task(text, drug=drug, donor=names.get("target"), n_datasets=len(datasets), compares=compares)
    compares = compares and task == "donor_expression_prediction"
    known, unknown = _resolutions(mentions, cell=cell, drug=drug, text=text)
    place, place_spans = _place(mentions, cell=cell, knowledge=knowledge)
    sets, set_spans = _dataset_fields(datasets, task=task)
    used = [cell.span, drug.span, *drug.describing, *place_spans, *set_spans, *context.context_spans(text)]
    used += [(donor.start, donor.end) for donor in by_role.values()]
    used += _mentioned((cell, drug), mentions)
    used += _asking_spans(text, task=task, compares=compares)
    reading = Reading(
        question=text,
        mentions=mentions,
        cells=cell.span,
        treatment=drug.span,
        datasets=[(item.start, item.end) for item in datasets],
        donors=[(item.start, item.end) for item in donors],
    )
    terms = [(item.start, item.end) for item in mentions]
    names_people = bool(donors) or "disease_id" in place
    return StructuredQuery(
        question=text,
        task_type=task,
        **term_fields(cell.resolution, drug.resolution, knowledge=knowledge),
        **place,
        **sets,
        donor_id=names.get("target"),
        reference_donor=names.get("reference"),
        condition=context.find_condition(text, without_health=compares),
        control_strategy="query_as_control" if context.asks_for_query_control(text) else "synthetic_control",
        resolutions=known,
        unresolved=unknown,
        unused=unused_phrases(text, used=used, terms=terms, cells=cell.span, names_people=names_people),
        objections=find_objections(reading),
    )


def _treatment(text: str, mentions: Sequence[Mention], slots: Sequence[Slot], *, knowledge: Knowledge) -> Term:
    """Return the treatment; none where its place holds a disease, as in "How does lupus change monocytes?"."""
    drug = choose_treatment(text, mentions, slots, knowledge=knowledge)
    return Term(others=drug.others) if _is_disease(drug, mentions, text=text) else drug


def _is_disease(drug: Term, mentions: Sequence[Mention], *, text: str) -> bool:
    """Whether the place of the treatment holds a disease and nothing behind it, as "lupus serum" does."""
    if drug.resolution is None or drug.match is not None:
        return False
    inside = [item for item in find_diseases(mentions) if drug.span[0] <= item.start < drug.span[1]]
    return bool(inside) and not text[inside[-1].end : drug.span[1]].strip(" '\"s")


def _mentioned(terms: Sequence[Term], mentions: Sequence[Mention]) -> list[Span]:
    """Return every stretch that names one of the chosen terms: a question may name its cells twice."""
    chosen = [term.match.id for term in terms if term.match]
    return [(item.start, item.end) for item in mentions if item.resolution.match and item.resolution.match.id in chosen]


def _resolutions(
    mentions: Sequence[Mention], *, cell: Term, drug: Term, text: str
) -> tuple[tuple[Resolution, ...], tuple[Resolution, ...]]:
    """Return the known terms, each id once and as it was resolved last, and the unknown ones, each text once."""
    named = [mention.resolution for mention in mentions if is_meant(mention, text)]
    unknown: list[Resolution] = []
    for term in (cell, drug):
        if term.resolution is None:
            continue
        (named if term.match else unknown).append(term.resolution)
    unknown += [*cell.others, *drug.others]
    known = {(item.kind, item.match.id): item for item in reversed(named) if item.match}
    return tuple(known.values())[::-1], tuple({(item.kind, item.text.lower()): item for item in unknown}.values())


def _asking_spans(text: str, *, task: TaskType, compares: bool) -> list[Span]:
    """Return the words that say what is asked of the cells: that they are missing, or how they differ."""
    if compares:
        return context.difference_spans(text)
    return [match.span() for match in _MISSING.finditer(text)] if task == "cell_type_imputation" else []


# --- task and fields ----------------------------------------------------------------------------------------------


def _compares(text: str) -> bool:
    return context.asks_for_difference(text) and not _MISSING.search(text)


def _choose_task(text: str, *, drug: Term, donor: str | None, n_datasets: int, compares: bool) -> TaskType:
    is_for_donor = donor is not None or context.asks_for_other_donor(text)
    if n_datasets >= 2 or (n_datasets == 1 and context.asks_for_transfer(text)):
        return "cross_dataset_generation"
    if drug.resolution is not None:
        return "perturbation_novel_samples" if is_for_donor else "perturbation_novel_cell_types"
    if compares:
        return "donor_expression_prediction"
    if is_for_donor and _PROFILE.search(text) and not _MISSING.search(text):
        return "donor_expression_prediction"
    return "cell_type_imputation"


def _dataset_fields(datasets: Sequence[Named], *, task: TaskType) -> tuple[dict[str, Any], list[Span]]:
    """Return the data sets by role, and where they are named; the first one in a role counts."""
    fields: dict[str, Any] = {}
    spans = []
    # A dataset of open role is the reference of a transfer, otherwise the target.
    left = "reference" if task == "cross_dataset_generation" else "target"
    for dataset in datasets:
        role = f"{left if dataset.role == 'open' else dataset.role}_dataset"
        if role not in fields:
            fields[role] = dataset.text
            spans.append((dataset.start, dataset.end))
    return fields, spans


def _place(mentions: Sequence[Mention], *, cell: Term, knowledge: Knowledge) -> tuple[dict[str, Any], list[Span]]:
    """Return tissue and disease as fields of the query, and where they are named."""
    fields: dict[str, Any] = {}
    tissue = _tissue(mentions, cell=cell, knowledge=knowledge)
    if tissue is not None:
        entry = knowledge.tissues[tissue]
        fields |= {"tissue_id": entry.id, "tissue_name": entry.name, "tissue_genes": entry.genes}
    named = [item for item in mentions if item.kind == "disease"]
    first = next(iter([*find_diseases(mentions), *named]), None)  # "normal" is one too, where there is no other
    disease = first.resolution.match if first else None
    if disease is not None:
        fields |= {"disease_id": disease.id, "disease_name": disease.name}
    used = {fields.get("tissue_id"), fields.get("disease_id"), NORMAL}
    spans = [(item.start, item.end) for item in mentions if item.resolution.match and item.resolution.match.id in used]
    return fields, spans


def _tissue(mentions: Sequence[Mention], *, cell: Term, knowledge: Knowledge) -> str | None:
    """Return the id of the tissue named, or of the one in the name of the cells ("lung fibroblasts")."""
    named = [item.resolution.match for item in mentions if item.kind == "tissue" and item.resolution.match]
    if named:
        return named[0].id
    if cell.match is None or cell.resolution is None:
        return None
    living = knowledge.cell_types[cell.match.id].tissues
    for word in cell.resolution.text.split()[:-1]:
        match = resolve(word, kind="tissue", knowledge=knowledge).match
        if match and match.how != "fuzzy" and match.id in living:
            return match.id
    return None
