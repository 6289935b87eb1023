"""Names that a language model is shown: those of the packaged tables, and opaque keys for everything else.

In: labels of atlases and names of added tables, whoever wrote them. Out: canonical names, keys such as x1, and the way
back from a key to the name that a reader sees.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from haystack_kernel.knowledge import load_knowledge, perturbation_of
from haystack_kernel.knowledge.genes import load_genes

if TYPE_CHECKING:
    from haystack_kernel.schema import Candidate, CellSet

_NUMBER = re.compile(
    r"(?<![\w.])(?<![A-Za-z\u0370-\u03ff]-)[-+\u2212]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?![A-Za-z])"
)
_COUNTS = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_WORDS = {
    **{word: float(number) for number, word in enumerate(_COUNTS.split(), 2)},
    **{"twenty": 20.0, "thirty": 30.0, "forty": 40.0, "fifty": 50.0, "dozen": 12.0, "hundred": 100.0},
    **{"thousand": 1e3, "million": 1e6, "twice": 2.0, "double": 2.0, "doubled": 2.0, "doubles": 2.0, "triple": 3.0},
    **{"half": 0.5, "halved": 0.5, "quarter": 0.25, "twofold": 2.0, "threefold": 3.0, "tenfold": 10.0, "percent": 0.01},
}


class Names:
    """The names of one step; equal labels get equal keys, in the order in which they are first shown."""

    def __init__(self) -> None:
        self._tables = load_knowledge()  # as packaged: what a user adds may say anything
        self._keys: dict[tuple[str, str], str] = {}
        self.meaning: dict[str, str] = {}

    def cell_type(self, id: str | None, label: str) -> str:
        """The name of the ontology, or a key."""
        known = self._tables.cell_types.get(id) if id else None
        return known.name if known else self._key("x", "cell type", label)

    def cells(self, cell_set: CellSet) -> str:
        """The cell types of a set."""
        labels = [name.strip() for name in cell_set.label.split(", ")] if cell_set.label else []
        found = [self.cell_type(one, one) for one in cell_set.cell_type_ids]
        found = found or [self.cell_type(None, label) for label in (cell_set.cell_type_names or labels)]
        return ", ".join(dict.fromkeys(found)) or "any cells"

    def treatment(self, name: str | None) -> str:
        """The canonical name of a treatment, or a key."""
        if not name:
            return "none"
        known = perturbation_of(name, knowledge=self._tables)
        return known.name if known is not None and known.name == name else self._key("x", "treatment", name)

    def pathway(self, name: str) -> str:
        """The name of a pathway, or a key."""
        return name if name in self._tables.pathways else self._key("x", "pathway", name)

    def gene(self, symbol: str) -> str | None:
        """The symbol, where it is one; None for anything else that a file calls a gene."""
        return symbol if symbol in load_genes().by_symbol else None

    def dataset(self, place: str) -> str:
        """A key of a data set, named ``atlas/dataset``: its name may say anything."""
        return self._key("d", "data set", place)

    def candidate(self, item: Candidate) -> str:
        """A key of the candidate."""
        key = self._key("c", "candidate", item.key)
        prompt = item.prompt
        self.meaning[key] = f"{prompt.label or self.cells(prompt)} of {prompt.dataset}"
        return key

    def restored(self, text: str) -> str:
        """The same text with names in place of keys, for a person."""
        return re.sub(r"\b[xcd]\d+\b", lambda found: self.meaning.get(found[0], found[0]), text)

    def _key(self, letter: str, kind: str, label: str) -> str:
        place = (kind, label)
        if place not in self._keys:
            n_before = sum(key[0] == letter for key in self._keys.values())
            self._keys[place] = key = f"{letter}{n_before + 1}"
            self.meaning[key] = label
        return self._keys[place]


def numbers_in(text: str) -> set[str]:
    """Numbers of a text, as digits or as words, each in one form; digits inside names such as IL-6 are none."""
    found = [one.replace(",", "").replace("\u2212", "-") for one in _NUMBER.findall(text)]
    values = [abs(float(one)) for one in found]
    values += [_WORDS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _WORDS]
    return {f"{value:.6g}" for value in values}
