"""The effect of a treatment on its targets: a cytokine activates its receptors, an inhibitor blocks its targets.

In: a perturbation and the table of actions. Out: +1, -1, or 0 where it is not known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from haystack_kernel.knowledge.terms import Knowledge, PerturbationEntry

_INHIBITS = re.compile(
    r"inhibitor|antagonist|blocker|knock-out|knock-down|CRISPRi|degrader|inverse agonist", re.IGNORECASE
)
_ACTIVATES = re.compile(r"agonist|activator|stimulator|mimetic|over-expression|CRISPRa", re.IGNORECASE)
_BY_TYPE = {"cytokine": 1, "genetic": -1, "drug": 0, "unspecified": 0}


def action_on_targets(entry: PerturbationEntry, *, knowledge: Knowledge) -> int:
    """Return the sign of the effect on targets: by family in the table, by name of the family, by type."""
    if (known := knowledge.actions.get(entry.family)) is not None:
        return known
    inhibits, activates = _INHIBITS.search(entry.family), _ACTIVATES.search(entry.family)
    if entry.type == "genetic" and inhibits and activates:  # one gene lost and another one gained
        return 0
    if inhibits:
        return -1
    if activates:
        return 1
    return _BY_TYPE[entry.type]
