"""Build the search: the names of the perturbation, of the cells, and of genes.

In: a StructuredQuery, gene symbols. Out: a PaperQuery; each source writes it in its own language.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from haystack_kernel.schema import PaperQuery

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from haystack_kernel.schema import StructuredQuery

MAX_NAMES = 8
MAX_GENES = 20


def build_query(query: StructuredQuery) -> PaperQuery | None:
    """Build a search for the asked perturbation and cells; None where no perturbation is asked for.

    No predicted gene is among them: a search for what was predicted finds what was predicted.
    """
    if query.perturbation is None:
        return None
    asked = query.perturbation
    named = (query.cell_type_name, *query.cell_type_synonyms, query.cell_type_text)
    cells = [name for name in named if name and len(name) >= 4]  # shorter ones ("FB") have too many other meanings
    return PaperQuery(perturbation=_distinct((asked.name, asked.text, *asked.synonyms)), cell_type=_distinct(cells))


def with_genes(query: PaperQuery, genes: Sequence[str]) -> PaperQuery:
    """Return the search for the same perturbation with any of ``genes``, in any cells."""
    return query.model_copy(update={"genes": tuple(genes[:MAX_GENES]), "cell_type": ()})


def any_of(names: Sequence[str], *, form: str = '"{}"') -> str:
    """Join names as one group of a boolean query, each a quoted phrase; special characters are dropped.

    ``form`` says how a phrase is written, e.g. ``"{}"[Title/Abstract]``.
    """
    plain = [" ".join(re.sub(r"[^\w\s.+/-]", " ", name).split()) for name in names]
    return "(" + " OR ".join(form.format(name) for name in dict.fromkeys(plain) if name) + ")"


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Return the first names that a service tells apart; case and hyphens make no difference to it."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(re.sub(r"[\s-]+", " ", name.casefold()).strip(), name)
    return tuple(name for key, name in found.items() if len(key) > 2)[:MAX_NAMES]
