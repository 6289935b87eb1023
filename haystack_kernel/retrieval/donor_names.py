"""Matches donors as people write them with donors as the atlases store them.

In: a text such as "1256" or "donor 1256". Out: the prefixed ids that it means, such as "kang:1256".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.errors import NoCandidateError
from haystack_kernel.retrieval.view import has_donor

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 20
_TITLE = re.compile(r"^(donor|patient|individual|subject|sample)[\s_:#-]*", re.IGNORECASE)


def match_donors(text: str, rows: pd.DataFrame) -> tuple[str, ...]:
    """Donor ids of ``rows`` that ``text`` names, with or without the dataset prefix; case is ignored."""
    wanted = text.strip().casefold()
    forms = {wanted, _TITLE.sub("", wanted).strip()} - {""}
    stored = rows.loc[has_donor(rows), keys.DONOR].unique()
    found = []
    for one in stored:
        whole = one.casefold()
        bare = whole.rpartition(":")[2]
        if forms & {whole, bare, _TITLE.sub("", bare)}:  # "kang:donor 1256", "donor 1256", "1256"
            found.append(one)
    return tuple(sorted(found))


def need_donors(text: str, rows: pd.DataFrame) -> tuple[str, ...]:
    """Match donors as :func:`match_donors` does, and refuse a text that names none.

    Raises
    ------
    NoCandidateError
        There is no such donor; the message lists those that exist.
    """
    found = match_donors(text, rows)
    if found:
        return found
    stored = sorted(rows.loc[has_donor(rows), keys.DONOR].unique())
    more = f" and {len(stored) - _SHOWN} more" if len(stored) > _SHOWN else ""
    held = f"the donors there are {', '.join(stored[:_SHOWN])}{more}" if stored else "no donors are recorded there"
    msg = f"no donor {text!r} in the atlases; {held}. Ask about one of them, or add an atlas that holds this donor."
    raise NoCandidateError(msg, donor=text, donors=stored)
