"""Parts of labels beside the term itself: modifiers, salts and doses, brackets, words that the term implies.

In: a label. Out: its words without them, or the matches of what is left.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from haystack_kernel.knowledge import normalise
from haystack_kernel.knowledge.index import index_of
from haystack_kernel.knowledge.ontology import ancestors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.knowledge.index import Index
    from haystack_kernel.knowledge.normalise import Word
    from haystack_kernel.knowledge.terms import Knowledge
    from haystack_kernel.schema import Match, TermKind

REDUNDANT_SCORE = 0.95  # "blood monocyte" taken as monocyte
MAX_WORDS = 8  # longer labels are not searched for words to leave out
MODIFIERS = frozenset(
    (
        "human", "primary", "adult", "activated", "resting", "stimulated", "unstimulated", "cycling", "proliferating",
        "quiescent", "unresolved", "patient", "donor", "cultured", "isolated", "purified", "sorted", "total",
        "recombinant", "treated",
    )
)  # fmt: skip
STATES = frozenset(
    (
        "activated", "resting", "stimulated", "unstimulated", "cycling", "proliferating", "dividing", "quiescent",
        "exhausted", "inflammatory", "reactive", "stressed", "aged", "senescent", "malignant", "treated",
    )
)  # fmt: skip
_TISSUE_MODIFIERS = frozenset({"whole", "normal", "tissue", "sample", "biopsy", "healthy"})
SALTS = frozenset(
    (
        "hydrochloride", "hcl", "2hcl", "dihydrochloride", "mesylate", "ditosylate", "tosylate", "citrate", "phosphate",
        "sodium", "disodium", "potassium", "calcium", "acetate", "maleate", "malate", "succinate", "tartrate",
        "sulfate", "hydrate", "monohydrate", "hemihydrate", "dihydrate", "trihydrate", "hydrobromide", "besylate",
        "bromide", "lactate", "salt", "anhydrous", "dimaleate", "isethionate", "camsylate", "fumarate", "hemifumarate",
        "esylate", "oxalate", "mesilate", "trifluoroacetate", "tfa", "diphosphate", "bisulfate", "nitrate", "pamoate",
        "gluconate", "dimesylate", "isetionate", "besilate", "tosilate", "hemisulfate",
    )
)  # fmt: skip
_AMOUNT = (
    r"\d+(?:\.\d+)?\s*(?:[nu\u00b5\u03bcmp]M|(?:[npu\u00b5\u03bcm]g|[kK]?I?U)(?:\s*/?\s*m[lL])?|%|"
    r"(?:h|hrs?|hours?|mins?|minutes?|d|days?)(?![A-Za-z]))"
)
_DOSE = re.compile(rf"^\s*{_AMOUNT}\s+(?=\S)|(?:[\s,@(_-]+{_AMOUNT}\)?)+\s*$")
_SUPPLIER = re.compile(
    r"[\s,;(]+(?:Selleck(?:chem)?|Sigma(?:[- ]Aldrich)?|MedChem ?Express|MCE|Tocris|Cayman|R&D(?: Systems)?|"
    r"Pepro ?Tech|InvivoGen|Abcam|Miltenyi|BioLegend|Merck|Millipore|Enzo|STEMCELL|Thermo(?: ?Fisher)?|Roche|BD)\b.*$",
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"^\s*([^()\[\]]*\S)\s*[(\[]([^()\[\]]+)[)\]]\s*$")


ASIDE = frozenset(  # what brackets may say beside the term without changing it
    (
        "batch", "cluster", "sample", "donor", "patient", "replicate", "rep", "human", "male", "female", "day", "week",
        "left", "right", "total", "all", "other", "sc", "sn", "organoid", "culture", "high", "low", "normal", "control",
    )
)  # fmt: skip
GENERIC = frozenset(
    {"cell", "line", "tissue", "type", "like", "positive", "negative", "associated", "derived", "other"}
)
_SHORT_WORDS: dict[TermKind, dict[str, str]] = {  # a word of a label -> what it is short for
    "cell_type": {
        "mono": "monocyte", "monos": "monocyte", "mac": "macrophage", "macs": "macrophage", "neut": "neutrophil",
        "neuts": "neutrophil", "eos": "eosinophil", "baso": "basophil", "lympho": "lymphocyte", "dcs": "dendritic cell",
        "oligo": "oligodendrocyte", "oligos": "oligodendrocyte", "astro": "astrocyte", "astros": "astrocyte",
        "fb": "fibroblast", "fib": "fibroblast", "fibs": "fibroblast", "fibro": "fibroblast", "ec": "endothelial cell",
        "ecs": "endothelial cell", "endo": "endothelial cell", "epi": "epithelial cell", "smc": "smooth muscle cell",
        "prog": "progenitor", "mem": "memory", "eff": "effector", "cyto": "cytotoxic", "t4": "CD4 T", "t8": "CD8 T",
        "mk": "megakaryocyte", "ery": "erythroid", "hep": "hepatocyte", "cm": "cardiomyocyte", "mes": "mesenchymal",
        "cellule": "cell", "zelle": "cell", "zellen": "cell", "celula": "cell", "celulas": "cell", "cellula": "cell",
        "cmono": "classical monocyte", "cmonos": "classical monocyte", "ncmono": "non-classical monocyte",
        "ncmonos": "non-classical monocyte", "interneurone": "interneuron",
    },
    "tissue": {
        "ln": "lymph node", "lns": "lymph node", "periph": "peripheral", "subq": "subcutaneous", "abd": "abdominal",
        "subcut": "subcutaneous", "bm": "bone marrow", "int": "intestine", "foie": "liver", "leber": "liver",
    },
    "disease": {"ca": "carcinoma", "dz": "disease", "synd": "syndrome", "adenoca": "adenocarcinoma"},
}  # fmt: skip
_SIDE_WORDS: dict[TermKind, frozenset[str]] = {
    "cell_type": frozenset({"mature", "general"}),
    "tissue": frozenset({"fetal", "embryonic", "aged"}),
}
_IN_TUMOURS = {"associated", "infiltrating"}  # with "tumor": cells of the host, where a tumor cell is none
_SOURCE = re.compile(r"^\s*[A-Za-z][\w.-]*\s*:\s+(?=\S)")  # Tahoe: Adagrasib
_EPONYM = re.compile(r"['\u2019]s$")


def expansions(text: str, words: list[Word], *, kind: TermKind) -> list[tuple[list[Word], str]]:
    """Return other readings of a label, with what a reader should know about each.

    Short words are written out; "Tahoe: Adagrasib" loses the name of its source, and "Crohn's" takes "disease" or
    "syndrome".
    """
    found: list[tuple[str, str]] = []
    if source := _SOURCE.match(text):
        found.append((text[source.end() :], f"not used: {source.group().strip()}"))
    found += _written_out(words, kind=kind)
    if kind == "disease" and _EPONYM.search(text.strip()):
        found += [(full, f"read as {full}") for full in (f"{text.strip()} disease", f"{text.strip()} syndrome")]
    readings = [(normalise.split_words(said), note) for said, note in found]
    return [one for one in readings if any(word.norm not in GENERIC for word in one[0])]


def _words_aside(norms: set[str], *, kind: TermKind) -> frozenset[str]:
    aside = _SIDE_WORDS.get(kind, frozenset())
    is_in_tumour = kind == "cell_type" and "tumor" in norms and not norms.isdisjoint(_IN_TUMOURS)
    return aside | {"tumor", *_IN_TUMOURS} if is_in_tumour else aside


def _written_out(words: list[Word], *, kind: TermKind) -> Iterator[tuple[str, str]]:
    """Yield a label with its short words written out, and also without words that say a state, with what to say."""
    short = _SHORT_WORDS.get(kind, {})
    said = [short.get(word.norm, word.raw) for word in words]
    if any(word.norm in short for word in words):
        yield " ".join(said), f"read as {' '.join(said)!r}"
    aside = _words_aside({word.norm for word in words}, kind=kind)
    dropped = [word.raw for word in words if word.norm in aside]
    if 0 < len(dropped) < len(words):
        kept = " ".join(one for one, word in zip(said, words, strict=True) if word.norm not in aside)
        yield kept, f"read as {kept!r}; not used: {' '.join(dropped)}"


def without_modifiers(text: str, *, kind: TermKind) -> list[Word]:
    """Return words outside brackets without modifiers; empty where there was none, or where nothing is left."""
    outside = normalise.split_words(re.sub(r"\([^()]*\)", " ", text))
    if outside != normalise.split_words(text):
        return []  # brackets are read elsewhere
    less = MODIFIERS | _TISSUE_MODIFIERS if kind == "tissue" else MODIFIERS
    kept = [word for word in outside if word.norm not in less]
    if len(kept) == len(outside) or all(word.norm == "cell" for word in kept):
        return []
    return kept


def without_salt(text: str, *, index: Index) -> list[Match]:
    """Match a drug or cytokine without supplier, dose, time, salts after its name, or the rh of a recombinant one."""
    text = _DOSE.sub("", _SUPPLIER.sub("", text))
    words = _unsalted(normalise.split_words(text))
    outside = normalise.split_words(re.sub(r"\([^()]*\)", " ", text))
    if "(" in text and len(_unsalted(outside)) < len(outside):  # Afatinib (BIBW2992) Dimaleate
        words = _unsalted(outside)
    if words and re.match(r"rh[A-Z]", words[0].raw):
        words = [replace(words[0], norm=words[0].norm[2:]), *words[1:]]
    return [one.model_copy(update={"score": min(one.score, 0.98), "how": "synonym"}) for one in index.written(words)]


def _unsalted(words: list[Word]) -> list[Word]:
    while len(words) > 1 and words[-1].norm in SALTS:
        words = words[:-1]
    return words


def split_brackets(text: str) -> tuple[str, str] | None:
    """Return label and explanation of ``label (explanation)``; None for any other form."""
    found = _BRACKETS.match(text)
    return (found[1], found[2]) if found else None


def without_redundant(words: list[Word], *, index: Index, knowledge: Knowledge) -> list[Match]:
    """Return the cell type that remains when words which it implies are left out.

    Implied are its home tissue (blood monocyte), a type above it (neutrophil granulocyte) and its markers with a plus
    sign (CD1C+ cDC2).
    """
    if index.kind != "cell_type" or not 2 <= len(words) <= MAX_WORDS:
        return []
    for n_dropped in (1, 2):
        found = dict.fromkeys(_implying(words, n_dropped, index=index, knowledge=knowledge))
        if found:
            above = {up for term in found for up in ancestors(term, knowledge=knowledge)}
            return [index.close(term, score=REDUNDANT_SCORE) for term in found if term not in above]
    return []


def _implying(words: list[Word], n_dropped: int, *, index: Index, knowledge: Knowledge) -> Iterator[str]:
    """Yield the terms that are left without some of the words and imply each of those."""
    for dropped in combinations(range(len(words)), n_dropped):
        kept = [word for place, word in enumerate(words) if place not in dropped]
        if all(word.norm == "cell" for word in kept):
            continue
        matches = index.written(kept)
        if len(matches) != 1:
            continue
        term = matches[0].id
        if all(_is_implied(words[place], term=term, index=index, knowledge=knowledge) for place in dropped):
            yield term


def _is_implied(word: Word, *, term: str, index: Index, knowledge: Knowledge) -> bool:
    entry = knowledge.cell_types[term]
    if word.norm.endswith("+"):
        return word.norm.rstrip("+").upper() in entry.markers
    above = {one.id for one in index.written([word])}
    if above and above <= ancestors(term, knowledge=knowledge) | {term}:
        return True
    homes = index_of("tissue", knowledge=knowledge).written([word])
    return len(homes) == 1 and homes[0].id in entry.tissues
