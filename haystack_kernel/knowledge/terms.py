"""Records of biological knowledge: one for each kind of term, and one for all of them.

In: nothing. Out: frozen records; ids and canonical names are the keys of :class:`Knowledge`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.knowledge.hashed import NameLayer
    from haystack_kernel.schema import TermKind

PerturbationType = Literal["cytokine", "drug", "genetic", "unspecified"]  # the last: only a label of an atlas
SourceKind = Literal["packaged", "cl", "uberon", "mondo", "genesets", "targets", "network", "regulons"]
EdgeKind = Literal["ligand", "signalling", "transcription", "association"]


@dataclass(frozen=True)
class CellType:
    """A term of the Cell Ontology; ``markers`` are gene symbols, the other lists ids of these tables.

    ``parents`` are is_a links; ``part_of`` is known where a full ontology was added; ``source`` is "curated" for rows
    written by hand and "ontology" for the others. ``line`` says what a cell line is ("monocytic line of acute monocytic
    leukemia"): its id is Cellosaurus', its parent the cell type that it models; "" for a cell type.
    """

    id: str
    name: str
    parents: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    tissues: tuple[str, ...] = ()
    part_of: tuple[str, ...] = ()
    develops_from: tuple[str, ...] = ()
    source: str = "curated"
    line: str = ""


@dataclass(frozen=True)
class PerturbationEntry:
    """A treatment; signs are +1 (rises, activated) or -1 (falls, suppressed) after it.

    ``targets`` are receptors or direct target genes, ``pathways`` names of the pathway table, ``response``
    downstream genes, ``family`` the group it is told apart from ("interferon", "HDAC inhibitor"), ``source`` where the
    row comes from.
    """

    name: str
    type: PerturbationType
    synonyms: tuple[str, ...]
    targets: tuple[str, ...]
    pathways: dict[str, int]
    response: dict[str, int]
    external_ids: dict[str, str]
    family: str
    source: str = ""


@dataclass(frozen=True)
class Pathway:
    """A gene set with direction: +1 moves with the activity of the pathway, -1 against it."""

    name: str
    genes: dict[str, int]
    synonyms: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Edge:
    """A link of the gene network: ``sign`` +1 where the regulator activates or raises its target, -1 where it does not.

    ``kind``: ligand to receptor, signalling between proteins, transcription factor to gene, or an association that
    states neither direction nor sign. ``weight`` is the share it takes of what leaves the regulator.
    """

    regulator: str
    target: str
    sign: int
    kind: EdgeKind
    source: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Tissue:
    """A term of Uberon; ``genes`` are symbols typical of the tissue, links are known where Uberon was added."""

    id: str
    name: str
    synonyms: tuple[str, ...] = ()
    genes: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    part_of: tuple[str, ...] = ()
    develops_from: tuple[str, ...] = ()
    source: str = "curated"


NORMAL = "PATO:0000461"  # the id of donors without a disease


@dataclass(frozen=True)
class Disease:
    """A term of Mondo, or :data:`NORMAL`; ``parents`` are known where Mondo was added."""

    id: str
    name: str
    synonyms: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    part_of: tuple[str, ...] = ()
    develops_from: tuple[str, ...] = ()
    source: str = "curated"


@dataclass(frozen=True)
class Obsolete:
    """An id that an ontology has retired, and what it names to use instead; both lists may be empty."""

    id: str
    name: str
    replaced_by: tuple[str, ...] = ()
    consider: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShortForm:
    """An abbreviation with several meanings, the likeliest first; ``is_sure`` where that one may be taken as meant."""

    form: str
    terms: tuple[str, ...]
    is_sure: bool


@dataclass(frozen=True)
class Source:
    """Where rows come from: ``digest`` is the SHA-256 of the file they were read from."""

    name: str
    kind: SourceKind
    version: str
    digest: str
    n_terms: int
    licence: str = ""


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: indexes are cached per table set
class Knowledge:
    """All tables; keys are ids (cell types, tissues, diseases) or canonical names (perturbations, pathways).

    ``sources`` lists the packaged ontologies, then what was added: later additions override earlier ones.
    """

    cell_types: Mapping[str, CellType]
    perturbations: Mapping[str, PerturbationEntry]
    pathways: Mapping[str, Pathway]
    tissues: Mapping[str, Tissue]
    diseases: Mapping[str, Disease]
    version: str
    digest: str
    short_forms: dict[str, ShortForm] = field(default_factory=dict)  # "<kind>:<form>"
    obsolete: Mapping[str, Obsolete] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    network: tuple[Edge, ...] = ()
    actions: dict[str, int] = field(default_factory=dict)  # family -> +1 activates its targets, -1 inhibits them
    layers: Mapping[TermKind, tuple[NameLayer, ...]] = field(default_factory=dict)  # names that are not in memory
    donors: frozenset[str] = frozenset()  # those of the atlases asked about, case-folded
    tables: Knowledge | None = None  # before the vocabulary of atlases was added

    def without_vocabulary(self) -> Knowledge:
        """Return the tables without the names that only the atlases of a run know."""
        return self.tables or self

    def digests(self) -> dict[str, str]:
        """Return version and digest of every source, for the run record; the first covers all of them."""
        added = {f"knowledge:{one.kind}:{one.name} {one.version}": one.digest for one in self.sources}
        return {f"knowledge:{self.version}": self.digest, **added}
