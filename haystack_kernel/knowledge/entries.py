"""Perturbations by name: those of the tables, and changes of any human gene, whose entries are made when asked for.

In: a name, or a label of a genetic perturbation. Out: an entry with targets and signed pathways, or a resolution.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from haystack_kernel.knowledge.actions import action_on_targets
from haystack_kernel.knowledge.genetic import ASSUMED, JOIN, MODE_SIGNS, read_genetic
from haystack_kernel.knowledge.terms import PerturbationEntry
from haystack_kernel.schema import Match, Resolution

if TYPE_CHECKING:
    from collections.abc import Iterable

    from haystack_kernel.knowledge.genetic import GeneChange, GeneticLabel, Mode
    from haystack_kernel.knowledge.terms import Knowledge

MAX_PARTS = 5  # of a combination
_GIVEN_TOGETHER = re.compile(r"\s*(?:[+&;]|\s(?:and|plus|with)\s|(?<!\d)/(?!\d))\s*")
MAX_TARGETS = 3  # an entry with more targets says little about one of them


def perturbation_of(name: str, *, knowledge: Knowledge) -> PerturbationEntry | None:
    """Return what is known of a perturbation.

    Parameters
    ----------
    name
        Canonical name: of the tables, or of a genetic perturbation such as ``ZAP70 CRISPRi`` or
        ``JAK1 knock-out + JAK2 knock-out``.
    knowledge
        The tables.

    Returns
    -------
    None where the name is neither. The entry of a changed gene has the gene as target. Its pathways are those of the
    knock-out of the gene in the tables, or else what its receptors' ligands and its inhibitors are known to move; they
    are turned round where the gene is activated or over-expressed. Its response is left to the signed network, except
    for a loss of a gene whose knock-out is in the tables.

    Examples
    --------
    >>> from haystack_kernel.knowledge import load_knowledge
    >>> perturbation_of("ZAP70 CRISPRi", knowledge=load_knowledge()).targets
    ('ZAP70',)
    """
    entry = knowledge.perturbations.get(name)
    return entry if entry is not None else _made(name, knowledge)


def resolve_genetic(text: str, *, declared: bool = False, mode: Mode | None = None) -> Resolution | None:
    """Resolve a label or phrase of a genetic perturbation; None where it is none, or names a control.

    Parameters
    ----------
    text, declared, mode
        As in :func:`~haystack_kernel.knowledge.genetic.read_genetic`.

    Returns
    -------
    A certain match whose id is the canonical name; the note says which symbols were read as others, and where a
    knock-out was assumed.

    Examples
    --------
    >>> resolve_genetic("JAK2_g1", declared=True).match.id
    'JAK2 knock-out'
    """
    label = read_genetic(text, declared=declared, mode=mode)
    return resolution_of(text, label) if label is not None and label.changes else None


def resolution_of(text: str, label: GeneticLabel) -> Resolution:
    """Return the resolution of a text that was read as changes of genes.

    Parameters
    ----------
    text
        What was read.
    label
        What it says.

    Returns
    -------
    As :func:`resolve_genetic`.

    Examples
    --------
    >>> resolution_of("sgCBLB", read_genetic("sgCBLB")).note
    'what was done to CBLB is not stated: taken as a knock-out'
    """
    is_name = text.strip() == label.name
    match = Match(id=label.name, name=label.name, score=1.0 if is_name else 0.98, how="name" if is_name else "synonym")
    assumed = [change.gene for change in label.changes if not change.is_stated]
    notes = list(label.notes)
    if assumed:
        notes.append(f"what was done to {' and '.join(assumed)} is not stated: taken as a {ASSUMED}")
    return Resolution(text=text, kind="perturbation", match=match, note="; ".join(notes))


def combination_of(names: Iterable[str], *, knowledge: Knowledge) -> str:
    """Return the name of treatments given together: that of the tables, whatever their order, or else the sorted names.

    Parameters
    ----------
    names
        Canonical names, each once.
    knowledge
        The tables.

    Returns
    -------
    As :func:`perturbation_of` takes it.

    Examples
    --------
    >>> from haystack_kernel.knowledge import load_knowledge
    >>> combination_of(["IL-13", "IL-4"], knowledge=load_knowledge())
    'IL-4 + IL-13'
    """
    parts = frozenset(names)
    return combinations_of(knowledge).get(parts) or JOIN.join(sorted(parts))


@functools.lru_cache(maxsize=8)
def combinations_of(knowledge: Knowledge) -> dict[frozenset[str], str]:
    """Return the combinations of the tables by their parts."""
    return {frozenset(name.split(JOIN)): name for name in knowledge.perturbations if JOIN in name}


def split_combination(text: str) -> list[str]:
    """Return the parts of a label that names treatments given together, as in ``CD40L+IL-4``; empty for one treatment.

    Examples
    --------
    >>> split_combination("CD40L+IL-4")
    ['CD40L', 'IL-4']
    """
    parts = [part.strip() for part in _GIVEN_TOGETHER.split(text)]
    return parts if 2 <= len(parts) <= MAX_PARTS and all(parts) else []


# --- entries made from the name -------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8192)
def _made(name: str, knowledge: Knowledge) -> PerturbationEntry | None:
    label = read_genetic(name)
    if label is None or label.name != name:  # a canonical name only
        return _together(name, knowledge)
    known = [knowledge.perturbations.get(change.name) or _entry_of(change, knowledge) for change in label.changes]
    if len(known) == 1:
        return known[0]
    return PerturbationEntry(
        name=name,
        type="genetic",
        synonyms=(),
        targets=tuple(dict.fromkeys(gene for entry in known for gene in entry.targets)),
        pathways=_agreed([(entry.pathways, 1) for entry in known]),
        response=_agreed([(entry.response, 1) for entry in known]),
        external_ids={},
        family=JOIN.join(dict.fromkeys(change.mode for change in label.changes)),
    )


def _together(name: str, knowledge: Knowledge) -> PerturbationEntry | None:
    """The entry of known treatments given together; without targets where some are activated and some inhibited."""
    parts = name.split(JOIN)
    known = [entry for part in parts if (entry := knowledge.perturbations.get(part)) is not None]
    if len(parts) < 2 or len(known) < len(parts) or combination_of(parts, knowledge=knowledge) != name:
        return None
    types = {entry.type for entry in known}
    return PerturbationEntry(
        name=name,
        type=types.pop() if len(types) == 1 else "drug",
        synonyms=(),
        targets=_shared_targets(known, knowledge),
        pathways=_agreed([(entry.pathways, 1) for entry in known]),
        response=_agreed([(entry.response, 1) for entry in known]),
        external_ids={},
        family=_family_together(known, knowledge),
        source="of its parts",
    )


def _actions(entries: list[PerturbationEntry], knowledge: Knowledge) -> set[int]:
    return {action_on_targets(entry, knowledge=knowledge) for entry in entries if entry.targets}


def _shared_targets(entries: list[PerturbationEntry], knowledge: Knowledge) -> tuple[str, ...]:
    """Targets of all entries; none where some are activated and some inhibited."""
    if len(_actions(entries, knowledge)) != 1:
        return ()
    return tuple(dict.fromkeys(gene for entry in entries for gene in entry.targets))


def _family_together(entries: list[PerturbationEntry], knowledge: Knowledge) -> str:
    """A name from which the effect on the targets can be told, where there is one."""
    actions = _actions(entries, knowledge)
    if actions == {1}:
        return "agonists given together"
    return "inhibitors given together" if actions == {-1} else "given together"


def _entry_of(change: GeneChange, knowledge: Knowledge) -> PerturbationEntry:
    """The entry of one changed gene."""
    sign = MODE_SIGNS[change.mode]
    lost = knowledge.perturbations.get(f"{change.gene} {ASSUMED}")
    pathways = _pathways_of_loss(change.gene, knowledge) if lost is None else lost.pathways
    return PerturbationEntry(
        name=change.name,
        type="genetic",
        synonyms=(),
        targets=(change.gene,),
        pathways={name: -sign * moved for name, moved in pathways.items()},
        response=dict(lost.response) if lost is not None and sign < 0 else {},
        external_ids={},
        family=f"gene {change.mode}",
    )


def _pathways_of_loss(gene: str, knowledge: Knowledge) -> dict[str, int]:
    """Signed pathways of the loss of a gene: as its inhibitors move them, and against its ligands and activators."""
    acting = [
        entry
        for entry in knowledge.perturbations.values()
        if entry.type != "genetic" and gene in entry.targets and len(entry.targets) <= MAX_TARGETS
    ]
    return _agreed([(entry.pathways, -action_on_targets(entry, knowledge=knowledge)) for entry in acting])


def _agreed(votes: list[tuple[dict[str, int], int]]) -> dict[str, int]:
    """Names with the sign that all votes about them give; those with both signs are left out."""
    signs: dict[str, set[int]] = {}
    for signed, factor in votes:
        for name, sign in signed.items():
            if factor:
                signs.setdefault(name, set()).add(sign * factor)
    return {name: found.pop() for name, found in signs.items() if len(found) == 1}
