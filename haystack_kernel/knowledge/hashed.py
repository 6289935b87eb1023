"""Names of many terms, found by the hashes of their keys: nothing is normalised when they are loaded.

In: the names of each row, or bytes made from them. Out: the few rows that a key may belong to.

A row is found under every key of its names; two keys may share a hash, so whoever asks compares the names of the rows.
"""

from __future__ import annotations

import functools
import re
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from haystack_kernel.errors import ContractError
from haystack_kernel.knowledge import normalise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from haystack_kernel.schema import TermKind

_MAGIC = b"HSKEYS01"
_SAMPLES = (  # names whose keys tell whether stored hashes were made by the present rules
    "CD14-positive, CD16-negative monocytes", "IFN-β1a", "TGF-beta 2", "type II pneumocyte", "foetal haemoglobin (HbF)",
    "natural killer cells of the lung", "renal proximal tubular cell", "Crohn's disease", "JAK2_g1", "IL-17A/F",
)  # fmt: skip


class NameLayer(Protocol):
    """Rows of names that an index searches beside its own.

    ``is_packaged`` rows give way to all others; where names ``must_be_plain``, abbreviations are not looked for in
    questions.
    """

    is_packaged: bool
    must_be_plain: bool

    @property
    def keys(self) -> HashedKeys:
        """The hashes of all names."""
        ...

    @property
    def names(self) -> NameText:
        """Every name in lower case, to be compared by spelling and searched for words."""
        ...

    def row_of(self, place: int) -> int:
        """Return the row that a name of ``names`` belongs to."""
        ...

    def term_of(self, row: int) -> str:
        """Return the key of the term in its table."""
        ...

    def names_of(self, row: int) -> Sequence[str]:
        """Return the names of a row, the canonical one first."""
        ...

    def rank_of(self, row: int) -> int:
        """Return 0 for terms of common use, 1 for others, 2 for those of other species."""
        ...


def keys_of(norms: Sequence[str], *, kind: TermKind, is_name: bool) -> tuple[str, str, str, str, str]:
    """Return the five keys of a name, from strict to lenient; "" where it is not found under one.

    Bare and phrase keys of one letter count only where they are a name: B and T, not M. Treatments have no phrases.
    """
    fold, generic = kind == "perturbation", "tissue" if kind == "tissue" else "cell"
    bare = normalise.bare_key(norms, fold_greek=fold, generic=generic)
    phrase = "" if fold else normalise.phrase_key(norms)
    return (
        " ".join(norms),
        normalise.compact_key(norms, fold_greek=fold),
        bare if len(bare) > 1 or is_name else "",
        normalise.bag_key(norms, fold_greek=fold),
        phrase if len(phrase) > 1 or is_name else "",
    )


@dataclass(frozen=True)
class HashedKeys:
    """Hashes of keys in rising order, and the row that each belongs to."""

    hashes: array[int]
    rows: array[int]

    def rows_of(self, key: str) -> list[int]:
        """Return the rows that may have a name of this key."""
        wanted = zlib.crc32(key.encode())
        first = stop = bisect_left(self.hashes, wanted)
        while stop < len(self.hashes) and self.hashes[stop] == wanted:
            stop += 1
        return list(self.rows[first:stop])

    def to_bytes(self, mark: bytes = b"") -> bytes:
        """Return them as bytes that :func:`keys_from_bytes` reads; ``mark`` names the rules that keys were made by."""
        head = _MAGIC + (mark or fingerprint()) + len(self.hashes).to_bytes(4, "little")
        return head + _little(self.hashes).tobytes() + _little(self.rows).tobytes()


def hash_keys(rows: Iterable[Sequence[str]], *, kind: TermKind) -> HashedKeys:
    """Compute the hashes for the names of each row, the canonical name first."""
    return hash_texts(_keys_of_row(names, kind=kind) for names in rows)


def _keys_of_row(names: Sequence[str], *, kind: TermKind) -> Iterator[str]:
    for place, name in enumerate(names):
        norms = [word.norm for word in normalise.split_words(name)]
        yield from (key for key in keys_of(norms, kind=kind, is_name=not place) if key)


def hash_texts(rows: Iterable[Iterable[str]]) -> HashedKeys:
    """Compute the hashes for the keys of each row."""
    ordered = sorted({(zlib.crc32(key.encode()), row) for row, keys in enumerate(rows) for key in keys})
    return HashedKeys(array("I", [pair[0] for pair in ordered]), array("I", [pair[1] for pair in ordered]))


def keys_from_bytes(raw: bytes, *, where: str, mark: bytes = b"") -> HashedKeys | None:
    """Read what :meth:`HashedKeys.to_bytes` wrote; None where it was made by other rules of normalising.

    Raises
    ------
    ContractError
        The bytes are damaged.
    """
    n_keys = int.from_bytes(raw[12:16], "little")
    if raw[:8] != _MAGIC or len(raw) != 16 + 8 * n_keys:
        message = f"the keys of names in {where} are damaged. Reinstall haystack-kernel, or add the source again."
        raise ContractError(message, path=where)
    if raw[8:12] != (mark or fingerprint()):
        return None
    hashes, rows = array("I"), array("I")
    hashes.frombytes(raw[16 : 16 + 4 * n_keys])
    rows.frombytes(raw[16 + 4 * n_keys :])
    return HashedKeys(_little(hashes), _little(rows))


@functools.cache
def fingerprint() -> bytes:
    """Return four bytes that change with the rules by which names are normalised."""
    kinds: tuple[TermKind, ...] = ("cell_type", "perturbation", "tissue")
    keys = [
        "|".join(keys_of([word.norm for word in normalise.split_words(name)], kind=kind, is_name=True))
        for kind in kinds
        for name in _SAMPLES
    ]
    return zlib.crc32("\n".join(keys).encode()).to_bytes(4, "little")


class NamedRows:
    """A layer of names held in memory: the rows of an addition, with the hashes made when it was added."""

    is_packaged = must_be_plain = False

    def __init__(self, names: Sequence[Sequence[str]], *, terms: Sequence[str], keys: HashedKeys) -> None:
        self._names, self._terms, self.keys = names, terms, keys

    @functools.cached_property
    def names(self) -> NameText:
        """Every name in lower case."""
        return NameText([name.lower() for names in self._names for name in names])

    @functools.cached_property
    def _rows(self) -> list[int]:
        return [row for row, names in enumerate(self._names) for _ in names]

    def row_of(self, place: int) -> int:
        """Return the row of a name of ``names``."""
        return self._rows[place]

    def term_of(self, row: int) -> str:
        """Return the key of the term in its table."""
        return self._terms[row]

    def names_of(self, row: int) -> Sequence[str]:
        """Return the names of a row."""
        return self._names[row]

    def rank_of(self, row: int) -> int:
        """Return 0: what a user adds is of use."""
        return 0


class NameText:
    """All names of a layer in lower case as one text, in which words are found without looking at each name."""

    def __init__(self, lowered: Sequence[str]) -> None:
        self.lowered = lowered
        self.text = "\n".join(lowered)
        self.starts = array("I", accumulate((len(name) + 1 for name in lowered), initial=0))

    @functools.cached_property
    def by_letter(self) -> dict[str, tuple[list[str], list[int]]]:
        """First letter -> names and their places: names of similar spelling nearly always share it."""
        found: dict[str, tuple[list[str], list[int]]] = {}
        for place, name in enumerate(self.lowered):
            names, places = found.setdefault(name[:1], ([], []))
            names.append(name)
            places.append(place)
        return found

    def words(self) -> set[str]:
        """Return the words of six letters and more."""
        return set(re.findall(r"(?<![^\W_])[a-z]{6,}(?![^\W_])", self.text))

    def holding(self, words: Iterable[str], *, most: int) -> list[int]:
        """Return the places of names that hold all these words as a part, at most so many."""
        longest, *others = sorted(words, key=len, reverse=True)
        found: list[int] = []
        at = self.text.find(longest)
        while at >= 0 and len(found) < most:
            place = bisect_right(self.starts, at) - 1
            if all(word in self.lowered[place] for word in others):
                found.append(place)
            at = self.text.find(longest, self.starts[place + 1])
        return found


def _little(values: array[int]) -> array[int]:
    """Return the values in the byte order of the file, or from it."""
    if sys.byteorder == "big":
        values = array("I", values)
        values.byteswap()
    return values
