"""What cells a label says they are, where it says so clearly.

In: a label such as "CD14+ Mono" or "T/NK doublet". Out: ids of cell types, or None where the cells may be others.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from haystack_kernel.knowledge import find_mentions, resolve

if TYPE_CHECKING:
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import Resolution

_UNSORTED = re.compile(  # whatever type such a label names, other cells are among those it is given to
    r"\b(?:doublets?|multiplets?|mixed|mixture|mix|contaminat\w+|ambient|ambiguous|un(?:known|certain|resolved|sorted|"
    r"assigned|defined|classified|identified|labell?ed|specified)|others?|co-?cultured?)\b",
    re.IGNORECASE,
)
_CONTRARY = re.compile(  # such a label says what its cells are not, or only what they come from or look like
    r"\b(?:non|not|no|but|without|w/o|except|excluding|minus|neg|negative|depleted|lacking|lack|like|derived|"
    r"precursors?|progenitors?|pre|pro)\b|[A-Za-z0-9](?:neg\b|[-\u2010-\u2013\u2212](?![A-Za-z0-9]))",
    re.IGNORECASE,
)
_PARTS = re.compile(r"\s*[/&;|]\s*|\s\+\s|(?<=[a-z])\+(?=[A-Z])|\b(?:and|or|with|plus|vs)\b", re.IGNORECASE)


def types_named(label: str, *, knowledge: Knowledge) -> frozenset[str] | None:
    """Cell types that a label says its cells are, in every part of it; None where they may be others."""
    if _UNSORTED.search(label.replace("_", " ")):
        return None
    whole = sure_meanings(resolve(label, kind="cell_type", knowledge=knowledge))
    if whole:
        return whole
    if _CONTRARY.search(label.replace("_", " ")):
        return None
    found: set[str] = set()
    for part in _PARTS.split(label):
        mentions = [one for one in find_mentions(part, knowledge=knowledge) if one.kind == "cell_type"]
        meant = [sure_meanings(one.resolution) for one in mentions]
        # the root, "cell", may be any type
        if not any(knowledge.cell_types[one].parents for ids in meant for one in ids) or not all(meant):
            return None
        found.update(*meant)
    return frozenset(found)


def sure_meanings(found: Resolution) -> frozenset[str]:
    """Ids of which a text surely means one; none where it was only guessed."""
    if found.match is None or found.match.how == "fuzzy" or (found.ambiguous and not found.alternatives):
        return frozenset()
    return frozenset({found.match.id, *(one.id for one in found.alternatives if found.ambiguous)})
