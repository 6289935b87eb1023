"""Look up the opposite of a molecule: an antibody, an inhibitor or a silenced gene is a treatment itself.

In: the words, the molecule in them, the tables. Out: the treatment that they name, or those that come closest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from haystack_kernel.knowledge import perturbation_of, resolve
from haystack_kernel.knowledge.actions import action_on_targets
from haystack_kernel.knowledge.genes import load_genes
from haystack_kernel.planners.opposites import form_of_opposite
from haystack_kernel.schema import Match, Resolution

if TYPE_CHECKING:
    from haystack_kernel.knowledge import Knowledge

_N_NEAREST = 5
_RECEPTOR = re.compile(r"receptors?\b|(?<=\d)R\b", re.IGNORECASE)
_WORDINGS = {"antibody": ("anti-{}", "anti-{} antibody"), "inhibitor": ("{} inhibitor", "{} blockade")}


def look_up_opposite(words: str, *, molecule: str, knowledge: Knowledge) -> Resolution:
    """Resolve words that name the opposite of a molecule.

    Parameters
    ----------
    words
        "siRNA against STAT1", "TNF blockade", "an IFN-beta trap".
    molecule
        The molecule as the words write it.
    knowledge
        The tables.

    Returns
    -------
    A change of the gene, an antibody or an inhibitor that is known by these words; for an inhibitor or blockade of any
    kind what is known to block the molecule, ambiguous where that is several things. Else no match: the alternatives
    then block the molecule or its receptors, or are spelled alike.

    Examples
    --------
    >>> look_up_opposite("TNF blockade", molecule="TNF", knowledge=knowledge).match.name  # doctest: +SKIP
    'Anti-TNF antibody'
    """
    itself = resolve(molecule, kind="perturbation", knowledge=knowledge).match
    gene = _gene_of(molecule, itself, knowledge=knowledge)
    form = form_of_opposite(words)
    named = _by_name(words, molecule=molecule, gene=gene, knowledge=knowledge)
    if named is not None and named.match != itself:
        return named
    blocking, of_receptors = _known_blockers(gene, itself, knowledge=knowledge)
    meant = of_receptors if _RECEPTOR.search(words) else blocking
    if form == "inhibitor" and meant:
        others, note = tuple(meant[1:_N_NEAREST]), "taken as what is known to block it"
        return Resolution(
            text=words, kind="perturbation", match=meant[0], alternatives=others, ambiguous=bool(others), note=note
        )
    near = [*blocking, *of_receptors] or _similar(words, itself, gene=gene, knowledge=knowledge)
    note = f"it is the opposite of {itself.name}, which was not taken" if itself else ""
    alternatives = tuple(dict.fromkeys(near))[:_N_NEAREST]
    return Resolution(text=words, kind="perturbation", alternatives=alternatives, note=note)


def _by_name(words: str, *, molecule: str, gene: str | None, knowledge: Knowledge) -> Resolution | None:
    """Return the treatment that the tables hold under these words, or under plainer words for the same."""
    form = form_of_opposite(words)
    wordings = [words, *(wording.format(molecule) for wording in _WORDINGS.get(form, ()))]
    if form == "gene" and gene:
        wordings.append(words.replace(molecule, gene))
    for wording in wordings:
        found = resolve(wording, kind="perturbation", knowledge=knowledge)
        if found.match and found.match.how != "fuzzy":
            return found.model_copy(update={"text": words})
    return None


def _known_blockers(gene: str | None, itself: Match | None, *, knowledge: Knowledge) -> tuple[list[Match], list[Match]]:
    """Return what is known to block a molecule, and what blocks the receptors of a cytokine."""
    entry = perturbation_of(itself.id, knowledge=knowledge) if itself else None
    receptors = entry.targets if entry and entry.type == "cytokine" else ()
    of_receptors = [one for name in receptors for one in _blockers(name, knowledge=knowledge)]
    return _blockers(gene, knowledge=knowledge) if gene else [], list(dict.fromkeys(of_receptors))


def _similar(words: str, itself: Match | None, *, gene: str | None, knowledge: Knowledge) -> list[Match]:
    """Return the loss of the gene of a protein that is no treatment itself, or else names of similar spelling."""
    if gene and itself is None:
        lost = resolve(f"{gene} knock-out", kind="perturbation", knowledge=knowledge).match
        return [lost] if lost else []
    found = resolve(words, kind="perturbation", knowledge=knowledge)
    return [one for one in (found.match, *found.alternatives) if one and (itself is None or one.id != itself.id)]


def _gene_of(molecule: str, itself: Match | None, *, knowledge: Knowledge) -> str | None:
    """Return the gene of a molecule: its symbol as written, or the one symbol among the names of a known cytokine."""
    genes = load_genes()
    found = genes.find(re.sub(r"\s*(?:gene|mRNA)$", "", molecule))
    if found.how == "symbol":
        return found.symbol
    entry = perturbation_of(itself.id, knowledge=knowledge) if itself else None
    if entry is None or entry.type != "cytokine":
        return found.symbol
    symbols = [name for name in (entry.name, *entry.synonyms) if genes.find(name).how == "symbol"]
    return symbols[0] if symbols else None


def _blockers(gene: str, *, knowledge: Knowledge) -> list[Match]:
    """Return the drugs and antibodies that inhibit a gene's product and no other, those without a trade name first."""
    found = [
        entry.name
        for entry in knowledge.perturbations.values()
        if entry.type == "drug" and entry.targets == (gene,) and action_on_targets(entry, knowledge=knowledge) < 0
    ]
    found.sort(key=lambda name: not name.startswith("Anti-"))
    return [Match(id=name, name=name, score=0.7, how="fuzzy") for name in found]
