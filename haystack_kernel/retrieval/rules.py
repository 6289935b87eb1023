"""Pins and bans: what the user wants in every round, and in none.

In: texts of the run's ``pin`` and ``ban``, each a candidate key or criteria. Out: :class:`Rules` for proposals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import resolve
from haystack_kernel.retrieval.names import match_donors, nearest
from haystack_kernel.retrieval.view import CANONICAL, TYPE_KEY, canonical_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from haystack_kernel.retrieval.strategies.proposal import Proposal
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import TermKind

FIELDS = ("strategy", "atlas", "dataset", "perturbation", "cell_type", "donor", "tissue", "disease")
_STRATEGY = FIELDS[0]
_COLUMNS = {  # columns that a value may match
    "atlas": (keys.ATLAS,),
    "dataset": (keys.DATASET,),
    "perturbation": (keys.PERTURBATION, CANONICAL),
    "cell_type": (keys.CELL_TYPE, keys.CELL_TYPE_ID),
    "donor": (keys.DONOR,),
    "tissue": (keys.TISSUE, keys.TISSUE_ID),
    "disease": (keys.DISEASE, keys.DISEASE_ID),
}
_RESOLVED: dict[str, tuple[TermKind, str]] = {
    "cell_type": ("cell_type", keys.CELL_TYPE_ID),
    "tissue": ("tissue", keys.TISSUE_ID),
    "disease": ("disease", keys.DISEASE_ID),
}
_ONE = re.compile(rf"\s*({'|'.join(FIELDS)})\s*=\s*", re.IGNORECASE)
_NEXT = re.compile(rf",\s*(?=(?:{'|'.join(FIELDS)})\s*=)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Rule:
    """One pin or ban; ``rows`` are the conditions that its criteria select, None where the text is a key."""

    text: str
    strategy: str | None
    rows: frozenset[int] | None

    def mask(self, proposal: Proposal) -> pd.Series:
        """Select the rows of the proposal that the rule applies to."""
        index = proposal.rows.index
        if self.rows is None:
            return pd.Series(data=self.text in (proposal.key, proposal.base_key), index=index)
        if self.strategy not in (None, proposal.evidence.strategy):
            return pd.Series(data=False, index=index)
        return pd.Series(index.isin(list(self.rows)), index=index)


@dataclass(frozen=True, eq=False)
class Rules:
    """All pins and bans of a run."""

    pins: tuple[Rule, ...]
    bans: tuple[Rule, ...]

    def allow(self, proposal: Proposal, *, min_cells: int) -> Proposal | None:
        """Return the proposal without banned conditions, None where too few cells are left."""
        for ban in self.bans:
            banned = ban.mask(proposal)
            if banned.any():
                proposal = proposal.keep(proposal.rows[~banned])
                if proposal.rows.empty or proposal.n_cells < min_cells:
                    return None
        return proposal

    def pin_of(self, proposal: Proposal) -> Rule | None:
        """Return the first pin that applies to this proposal."""
        return next((pin for pin in self.pins if pin.mask(proposal).any()), None)


def read_rules(view: AtlasView) -> Rules:
    """Read the pins and bans of the run's config.

    Raises
    ------
    InvalidInputError
        A text is pinned and banned at once; a criterion or a banned key names nothing that the atlases hold.
    """
    config = view.config
    both = sorted(set(config.pin) & set(config.ban))
    if both:
        msg = f"pinned and banned at once: {', '.join(both)}. Remove each from one of the two lists"
        raise InvalidInputError(msg, keys=both)
    bans = tuple(_read(text, what="ban", view=view) for text in config.ban)
    _check_known([one.text for one in bans if one.rows is None], what="ban", view=view)
    return Rules(pins=tuple(_read(text, what="pin", view=view) for text in dict.fromkeys(config.pin)), bans=bans)


def check_rules(view: AtlasView) -> None:
    """Refuse pins and bans that name nothing in the atlases, before any candidate is searched.

    Parameters
    ----------
    view
        Conditions of the atlases, from :func:`build_view`.

    Raises
    ------
    InvalidInputError
        As :func:`read_rules`; also a pinned key that no candidate of any question could have.
    """
    rules = read_rules(view)
    _check_known([one.text for one in rules.pins if one.rows is None], what="pin", view=view)


def check_pins(rules: Rules, *, used: Iterable[str], known: Iterable[str]) -> None:
    """Refuse pins that match no candidate.

    Parameters
    ----------
    used
        Texts of the pins that matched a candidate.
    known
        Keys of all candidates of the question.
    """
    unused = [pin.text for pin in rules.pins if pin.text not in set(used)]
    if unused:
        keys_ = list(known)
        possible = f"possible here: {nearest(unused[0], keys_)}" if keys_ else "this question has no candidates"
        msg = f"cannot pin {', '.join(unused)}: no such candidate (or it is hidden or banned); {possible}. {_form()}"
        raise InvalidInputError(msg, unknown=unused, known=keys_)


def _read(text: str, *, what: str, view: AtlasView) -> Rule:
    if not _ONE.match(text):
        return Rule(text, None, None)
    table, strategy = view.conditions, None
    hit = pd.Series(data=True, index=table.index)
    for part in _NEXT.split(text):
        match = _ONE.match(part)
        field, value = (match[1].lower(), part[match.end() :].strip()) if match else ("", part)
        if field == _STRATEGY:
            strategy = value.lower()
            known = ("direct", "mechanistic", "semantic", "ontology", "donor_context", "tissue_atlas")
            if strategy not in known:
                msg = f"cannot {what} {text!r}: there is no strategy {strategy!r}; there are {', '.join(known)}"
                raise InvalidInputError(msg, given=text)
            continue
        hit &= _rows_of(field, value, table, view=view)
        # A criterion that only hidden conditions meet is not refused: the atlases do hold what it names.
        if not hit.any() and not _rows_of(field, value, view.hidden, view=view).any():
            raise _names_nothing(what, text=text, field=field, value=value, view=view)
    return Rule(text, strategy, frozenset(table.index[hit]))


def _rows_of(field: str, value: str, table: pd.DataFrame, *, view: AtlasView) -> pd.Series:
    if field == "donor":
        return table[keys.DONOR].isin(match_donors(value, table))
    wanted = {value.casefold()}
    if field == "perturbation":
        wanted.add(canonical_name(value, knowledge=view.knowledge).casefold())
    hit = pd.Series(data=False, index=table.index)
    for column in _COLUMNS[field]:
        hit |= table[column].str.casefold().isin(wanted)
    if field in _RESOLVED and value:
        kind, column = _RESOLVED[field]
        match = resolve(value, kind=kind, knowledge=view.knowledge).match
        if match is not None and match.how != "fuzzy":
            hit |= table[column] == match.id
    return hit


def _check_known(given: list[str], *, what: str, view: AtlasView) -> None:
    if not given:
        return
    # Every key that a candidate could have, including those of hidden conditions.
    table = pd.concat([view.conditions, view.hidden])
    state = table[keys.PERTURBATION].where(~table[keys.IS_CONTROL], "control")
    known = set(table[keys.ATLAS] + "/" + table[keys.DATASET] + "/" + state + "/" + table[TYPE_KEY])
    unknown = [text for text in given if text not in known and text.rpartition("/")[0] not in known]
    if unknown:
        msg = (
            f"cannot {what} {', '.join(unknown)}: the atlases hold no such set; nearest of {len(known)}: "
            f"{nearest(unknown[0], sorted(known)) or 'none'}. {_form()}"
        )
        raise InvalidInputError(msg, unknown=unknown)


def _names_nothing(what: str, *, text: str, field: str, value: str, view: AtlasView) -> InvalidInputError:
    held = sorted({one for one in view.conditions[_COLUMNS[field][0]] if one}, key=str.casefold)
    msg = (
        f"cannot {what} {text!r}: the atlases hold no {field.replace('_', ' ')} {value!r}"
        f"{' beside the rest of it' if ',' in text else ''}; they hold {nearest(value, held) or 'none'}"
    )
    return InvalidInputError(msg, given=text, held=held)


def _form() -> str:
    return f"Give a key from the candidate table, or FIELD=VALUE[,FIELD=VALUE] with {', '.join(FIELDS)}"
