"""Whether a label of an atlas may name a given treatment: under another name, as a guide, in a combination, or vaguely.

In: a label and a treatment. Out: yes or no; yes where the label leaves it open.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from haystack_kernel.knowledge import find_mentions, perturbation_of, resolve
from haystack_kernel.knowledge.controls import is_unassigned
from haystack_kernel.knowledge.entries import split_combination
from haystack_kernel.knowledge.genetic import read_genetic

if TYPE_CHECKING:
    from haystack_kernel.knowledge import Knowledge

_SEPARATORS = re.compile(r"[+&;|_/]|\b(?:and|with|plus)\b", re.IGNORECASE)  # between the parts of a combination
_VAGUE = re.compile(  # a label of these words alone may be any treatment
    r"(?:\W|_|\d|treated|treatments?|stim|stims|stimulated|stimulation|stimulus|perturbed|perturbations?|drugs?|compounds?|"
    r"cytokines?|cocktails?|pools?|pooled|mix|mixed|mixture|combination|combo|multiple|multi|unknown|unassigned|"
    r"ambiguous|other|agents?|ligands?|ko|knock-?out|knock-?down|kd|crispr[ai]?|guides?|sgrna|grna|case|exposed|"
    r"activated|infected|plus|and|with|ug|ng|ml|um|nm|h|hr|hours?|day|days|d)*",
    re.IGNORECASE,
)
_BEFORE = r"(?:sg|sh|si|gr|g|ko|kd|oe|grna|sgrna|shrna|sirna|crispr[ai]?|anti)"  # what may stand before a gene symbol
_AFTER = r"(?:sg|sh|si|g|gd|grna|sgrna|guide|ko|kd|oe)"
_MIN_LETTERS = 3  # of a name that is looked for inside a label


def names_treatment(label: str, wanted: str, *, knowledge: Knowledge) -> bool:
    """Whether ``label`` may name the treatment ``wanted``.

    Parameters
    ----------
    label
        A perturbation as the atlas stores it; "" names none.
    wanted
        Name of a perturbation of the tables, or any text.

    Returns
    -------
    True for every name of the treatment, for its gene under any guide, in combinations and with doses, for labels that
    the tables read as one of several treatments with this one among them, and for labels that only say that the cells
    were treated. False where the label names another treatment.
    """
    knowledge = knowledge.without_vocabulary()  # a label that only an atlas knows leaves open what it means
    known, genes, pattern = _names_of(wanted, knowledge=knowledge)
    if not label or label.casefold() in known:
        return bool(label)
    changed = _genes_of(label)
    if not genes.isdisjoint(changed):
        return True
    entry = perturbation_of(label, knowledge=knowledge)
    if entry is not None:  # a genetic one may act on the same gene in another way
        parts = split_combination(entry.name)
        is_same_gene = entry.type == "genetic" and pattern.search(label) is not None
        return is_same_gene or any(names_treatment(part, wanted, knowledge=knowledge) for part in parts)
    if pattern.search(label) or _leaves_open(label):
        return True
    return not (genes and changed) and not known.isdisjoint(_meanings(label, knowledge=knowledge))


def _leaves_open(label: str) -> bool:
    return _VAGUE.fullmatch(label) is not None or is_unassigned(label)


def _genes_of(label: str) -> frozenset[str]:
    """Genes that a label changes, if it is read as a genetic perturbation."""
    read = read_genetic(label, declared=True)
    return frozenset(change.gene for change in read.changes) if read is not None else frozenset()


def _meanings(label: str, *, knowledge: Knowledge) -> set[str]:
    """Case-folded ids of the treatments that a label may mean or contain."""
    found = resolve(label, kind="perturbation", knowledge=knowledge)
    if found.match is None:  # what is merely spelt alike is another treatment
        possible = set[str]()
    elif found.match.how != "fuzzy" and not found.ambiguous:
        return {found.match.id.casefold()}
    else:
        possible = {one.id.casefold() for one in (found.match, *found.alternatives)}
    for mention in find_mentions(_SEPARATORS.sub(" , ", label), knowledge=knowledge):
        if mention.kind == "perturbation" and mention.resolution.match is not None:
            possible.add(mention.resolution.match.id.casefold())
    return possible


@functools.lru_cache(maxsize=256)
def _names_of(wanted: str, *, knowledge: Knowledge) -> tuple[frozenset[str], frozenset[str], re.Pattern[str]]:
    """Every name of a treatment, case-folded; the genes that it changes; and a pattern that finds a name in a label."""
    names, genes = {wanted}, frozenset[str]()
    match = resolve(wanted, kind="perturbation", knowledge=knowledge).match
    if match is not None and match.how != "fuzzy":  # a similar spelling may be another perturbation
        names.add(match.id)
    entry = perturbation_of(match.id if len(names) > 1 and match else wanted, knowledge=knowledge)
    if entry is not None:
        names |= {entry.name, *entry.synonyms}
        if entry.type == "genetic":
            genes = _genes_of(entry.name) or frozenset(entry.targets)
            names |= genes
    spelled = []
    for name in names:
        words = re.findall(r"[^\W_]+", name)
        if len("".join(words)) >= _MIN_LETTERS:
            spelled.append(r"[\W_]*".join(map(re.escape, words)))
    either = "|".join(sorted(spelled, key=len, reverse=True)) or r"(?!)"
    # the symbol itself, with a guide's prefix or number, and nothing that would make it another symbol
    pattern = rf"(?<![^\W_]){_BEFORE}?(?:{either})(?:{_AFTER}\d*)?(?![^\W_])"
    return frozenset(name.casefold() for name in names), genes, re.compile(pattern, re.IGNORECASE)
