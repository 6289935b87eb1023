"""Draft a mapping from the columns of obs: which column probably holds which field, why, and what else is possible.

In: an h5ad and the knowledge tables. Out: a ``Draft``, whose YAML text ``haystack atlas build --schema`` reads.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.atlas.columns import NEVER, ColumnLook, controls_among, look_at_obs
from haystack_kernel.atlas.mapping import SCHEMAS
from haystack_kernel.atlas.resolvers import resolvers_of
from haystack_kernel.atlas.sources.h5ad import open_h5ad, read_text
from haystack_kernel.atlas.treatments import certain, is_start
from haystack_kernel.knowledge.controls import control_words, is_unassigned
from inference.h5 import column_names, index_name, n_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.atlas.resolvers import Resolvers
    from haystack_kernel.knowledge import Knowledge

# field -> typical names of its column, the surest first; compared with whole words of the column's name
NAMES = {
    "cell_type": (
        *("cell_type", "celltype", "cell_ontology_class", "cell_label", "cell_annotation", "annotation"),
        *("cell_identity", "cell_class", "cluster_label", "ident", "cluster"),
    ),
    "perturbation": (
        *("perturbation", "perturbation_name", "cytokine", "drug", "sm_name", "compound", "drug_name", "treatment"),
        *("stimulation", "stim", "stimulus", "agent", "target_gene", "gene_target", "condition", "guide", "guide_id"),
    ),
    "tissue": ("tissue", "organ", "tissue_name", "organ_tissue", "anatomical_site", "site", "location"),
    "disease": ("disease", "disease_name", "diagnosis", "disease_status", "disease_state", "condition", "status"),
    "donor": (
        *("donor_id", "donor", "donor_name", "patient_id", "patient", "individual", "subject_id", "subject"),
        *("participant", "ind", "replicate", "bio_rep", "sample_id", "sample", "orig.ident", "batch"),
    ),
    "sex": ("sex", "gender", "donor_sex"),
    "age": ("age", "donor_age", "development_stage", "age_group", "donor_age_category"),
    "dataset": ("dataset", "dataset_id", "study", "study_id", "experiment"),
}
IDS = {"cell_type_id": r"CL:\d{7}", "tissue_id": r"UBERON:\d{7}", "disease_id": r"(MONDO:\d{7}|PATO:0000461)"}
_RESOLVED = ("cell_type", "perturbation", "tissue", "disease")
_SEX = {"m", "f", "male", "female", "man", "woman", "unknown", "na", "nan"}
_ORDER = (  # of the first lines
    *("cell_type", "cell_type_id", "perturbation", "perturbation_type", "control", "dose", "time", "vehicle", "donor"),
)
_VEHICLE = re.compile(r"vehicle|solvent|diluent|matched_?control", re.IGNORECASE)
_MIN_SCORE = 0.5
_GENETIC = re.compile(r"guide|crispr|sgrna|grna|knock|target_gene|gene_target", re.IGNORECASE)
_GENE = re.compile(r"[A-Z][A-Z0-9-]{1,11}")


@dataclass(frozen=True)
class Guess:
    """One line of the mapping: ``value`` is an obs column, a constant or the control labels; ``why`` its comment."""

    field: str
    value: str | dict[str, str] | list[str]
    why: str


@dataclass(frozen=True)
class Draft:
    """A drafted mapping; ``missing`` are needed fields for which no column was found."""

    guesses: tuple[Guess, ...]
    missing: tuple[str, ...]
    text: str


def draft_mapping(source: str, *, knowledge: Knowledge) -> Draft:
    """Draft how to read one h5ad file from the columns of its obs.

    Parameters
    ----------
    source
        Path or URI of the h5ad.
    knowledge
        Tables that labels are compared with.

    Returns
    -------
    The guesses with their reasons, and the YAML text. Fields without a column are left out, or named as missing.

    Raises
    ------
    NotFoundError
        The file does not exist.
    InvalidInputError
        The file is not an h5ad.
    """
    resolvers = resolvers_of(knowledge)
    source = source if "://" in source else str(Path(source).expanduser().absolute())
    with open_h5ad(source) as h5:
        looks = look_at_obs(h5["obs"], column_names(h5["obs"]), resolvers=resolvers)
        n_cells, n_genes = n_rows(h5["obs"]), n_rows(h5["var"])
        genes = frozenset(map(str, read_text(h5["var"], index_name(h5["var"])).categories))
    guesses = _guess_all(looks, resolvers=resolvers, genes=genes)
    chosen = {one.field for one in guesses}
    missing = () if chosen & {"cell_type", "cell_type_id"} else ("cell_type",)
    head = [
        f"How HAYSTACK reads {_one_line(source)} ({n_cells:,} cells, {n_genes:,} genes).",
        "Drafted from the columns of obs: check every line. Each field names an obs column, or {value: constant}.",
        "Then: haystack atlas build FILE --name NAME --schema THIS_FILE",
        *_fitting_schemas(looks),
    ]
    return Draft(tuple(guesses), missing, _yaml(head, guesses, missing, looks))


def _guess_all(looks: list[ColumnLook], *, resolvers: Resolvers, genes: frozenset[str]) -> list[Guess]:
    guesses, looks = _guess_ids(looks)
    cell_types = _best("cell_type", looks)
    perturbations = [look for look in _best("perturbation", looks) if look not in cell_types[:1] and _varies(look)]
    if cell_types:
        guesses.append(Guess("cell_type", cell_types[0].name, _why(cell_types[0], cell_types[1:], kind="cell_type")))
    # one column is not read as two fields
    left = [look for look in looks if look not in (*cell_types[:1], *perturbations[:1])]
    for field in ("tissue", "disease", "donor", "sex", "age", "dataset"):
        if ranked := _best(field, left):
            kind = field if field in _RESOLVED else None
            guesses.append(Guess(field, ranked[0].name, _why(ranked[0], ranked[1:], kind=kind)))
    if perturbations:
        guesses += _perturbation(perturbations, resolvers=resolvers, genes=genes)
        guesses += _beside_treatments(looks, perturbations[0])
    return _in_order(guesses)


def _in_order(guesses: list[Guess]) -> list[Guess]:
    """Each field once; a column of types says more than one type for all cells, and comes later."""
    places = {field: place for place, field in enumerate(_ORDER)}
    each = {one.field: one for one in guesses}
    return sorted(each.values(), key=lambda one: places.get(one.field, len(places)))


def _guess_ids(looks: list[ColumnLook]) -> tuple[list[Guess], list[ColumnLook]]:
    """Columns of ontology ids, and the columns that are left."""
    guesses = []
    for field, pattern in IDS.items():
        ranked = [look for look in looks if look.all_match(pattern)]
        if ranked:
            guesses.append(Guess(field, ranked[0].name, _why(ranked[0], ranked[1:], kind=None)))
            looks = [look for look in looks if look not in ranked]
    return guesses, looks


def _best(field: str, looks: list[ColumnLook]) -> list[ColumnLook]:
    """Columns that may hold the field, the most likely first."""
    scored = [(_score(field, look), look) for look in looks]
    ranked = sorted((pair for pair in scored if pair[0] >= _MIN_SCORE), key=lambda pair: -pair[0])
    return [look for _, look in ranked]


def _score(field: str, look: ColumnLook) -> float:
    """How likely a column is the field: up to 1 for its name, up to 1 for known labels, 0 if it cannot be."""
    if not look.labels or NEVER.search(look.name.casefold()):
        return 0.0
    named = _score_name(field, look.name.casefold())
    if field in _RESOLVED:
        return _score_labels(field, look, named=named)
    if field == "sex":
        fits = {label.casefold() for label in look.labels} <= _SEX
    elif field == "dataset":
        fits = len(look.labels) > 1
    else:
        fits = named >= 0.5
    return named if fits else 0.0


def _score_name(field: str, name: str) -> float:
    """From 1 for the surest name of the field to 0.5 for the least sure; 0.45 if a sure name is part of it."""
    names = NAMES[field]
    if name in names:
        return 1 - 0.5 * names.index(name) / len(names)
    words = re.split(r"[^a-z0-9]+", name)
    return 0.45 if any(one in name or one in words for one in names[:5]) else 0.0


def _score_labels(field: str, look: ColumnLook, *, named: float) -> float:
    """Score of a field whose labels can be looked up; ``named`` is the score of the column's name."""
    if look.is_numeric or look.all_match(r"\d+"):
        return 0.0
    known = look.known[field]
    if field == "perturbation":
        return _score_perturbation(look, named=named, known=known)
    sure = 0.5 if field == "cell_type" else 0.9  # "condition" is a disease only where its labels are diseases
    return named + known if known >= 0.3 or named >= sure else 0.0


def _score_perturbation(look: ColumnLook, *, named: float, known: float) -> float:
    """Treatments include a control, or are known by name in a column with a typical name."""
    if look.known["cell_type"] > 0.5 or look.known["disease of the others"] >= 0.5 or (not named and known < 0.5):
        return 0.0
    control = 0.5 if controls_among(look.labels) else 0.0
    return named + known + control if control or known >= 0.3 or named >= 0.7 else 0.0


def _varies(look: ColumnLook) -> bool:
    """Whether some cells are treated; a column that holds controls only is of no use."""
    return len(set(look.labels) - set(controls_among(look.labels))) > 0


def _perturbation(ranked: list[ColumnLook], *, resolvers: Resolvers, genes: frozenset[str]) -> list[Guess]:
    look = ranked[0]
    controls = controls_among(look.labels)
    left_out = [label for label in look.labels if label not in controls and is_unassigned(label)]
    treated = [label for label in look.labels if label not in controls and label not in left_out]
    found = [Guess("perturbation", look.name, _why(look, ranked[1:], kind="perturbation"))]
    found += _type_of(look, treated, resolvers=resolvers, genes=genes)
    without = f"; cells left out, as no treatment is known: {_listed(left_out)}" if left_out else ""
    if controls:
        kinds = ", ".join(f"{label} ({control_words(label).kind or 'untreated'})" for label in controls[:12])
        why = f"labels of untreated cells and the kinds of control they are: {kinds}; treated: {_listed(treated)}"
        return [*found, Guess("control", list(controls), why + without)]
    why = (
        f"no label looks like a control, so all cells count as treated; add the control label here: {_listed(treated)}"
    )
    return [*found, Guess("control", [], why + without)]


def _beside_treatments(looks: list[ColumnLook], chosen: ColumnLook) -> list[Guess]:
    """Columns of doses and times with a zero, of the solvent, and others that may hold treatments as well."""
    guesses = []
    for field, why, fits in _BESIDE:
        look = next((look for look in looks if look is not chosen and fits(look)), None)
        if look is not None:
            guesses.append(Guess(field, look.name, f"{why}: {look.shown()}"))
    return guesses


def _has_zero(look: ColumnLook, amount: str) -> bool:
    return look.amount == amount and any(map(is_start, look.labels))


def _names_solvents(look: ColumnLook) -> bool:
    return _VEHICLE.search(look.name) is not None and all(control_words(label).kind for label in look.labels)


def _holds_types(look: ColumnLook) -> bool:
    return look.holds_types and bool(look.words & {"type", "types", "kind", "class", "category"})


_BESIDE: tuple[tuple[str, str, Callable[[ColumnLook], bool]], ...] = (  # fields beside the one of treatments
    ("perturbation_type", "types of the perturbations", _holds_types),
    ("dose", "cells at dose 0 count as controls", partial(_has_zero, amount="dose")),
    ("time", "cells at time 0 count as controls", partial(_has_zero, amount="time")),
    ("vehicle", "kind of control of each treatment", _names_solvents),
)


def _type_of(look: ColumnLook, treated: list[str], *, resolvers: Resolvers, genes: frozenset[str]) -> list[Guess]:
    """The line on the type of the perturbations; none if they are of several types or none is known."""
    if _GENETIC.search(look.name):
        return [_type_line("genetic", f"the column is called {look.name}")]
    tried = treated[:100]
    types = []
    for label in tried:
        match = certain(resolvers.perturbation(label))
        if match is not None and resolvers.perturbation_type(match.id):
            types.append(resolvers.perturbation_type(match.id))
    if len(set(types)) == 1:
        return [_type_line(types[0], f"{len(types)} of {len(tried)} labels are known as {types[0]}")]
    n_in_file = len(genes.intersection(treated))
    n_like_genes = sum(_GENE.fullmatch(label) is not None for label in treated)
    if not types and n_in_file and n_like_genes > 0.9 * len(treated):
        why = f"the labels are gene symbols, and {n_in_file} of {len(treated)} are genes of this file"
        return [_type_line("genetic", why)]
    return []


def _type_line(kind: str, why: str) -> Guess:
    return Guess("perturbation_type", {"value": kind}, why)


def _why(look: ColumnLook, others: list[ColumnLook], *, kind: str | None) -> str:
    also = [f"{other.name} ({_label_counts(other, kind)})" for other in others[:4]]
    return f"{_label_counts(look, kind)}: {look.shown()}" + (f"; also possible: {', '.join(also)}" if also else "")


def _label_counts(look: ColumnLook, kind: str | None) -> str:
    number = f"{len(look.labels)} label{'s' if len(look.labels) != 1 else ''}"
    return f"{number}, {look.known[kind]:.0%} known" if kind and kind in look.known else number


def _listed(labels: list[str]) -> str:
    return ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")


def _fitting_schemas(looks: list[ColumnLook]) -> list[str]:
    """Packaged schemas all of whose needed columns exist."""
    has = {look.name for look in looks}
    fitting = []
    for name, schema in SCHEMAS.items():
        fields = [getattr(schema, field) for field in ("cell_type", "perturbation", "tissue", "donor")]
        needed = [field for field in fields if field.required]
        if len(needed) > 1 and all(set(field.columns) & has for field in needed):
            fitting.append(name)
    return [f"obs also has the columns of --schema {name}." for name in fitting]


def _yaml(head: list[str], guesses: list[Guess], missing: tuple[str, ...], looks: list[ColumnLook]) -> str:
    lines = [f"# {line}" for line in head]
    for one in guesses:
        lines.append(f"# {_one_line(one.why)}")
        lines.append(f"{one.field}: {json.dumps(one.value, ensure_ascii=False)}")
    if missing:
        held = ", ".join(f"{look.name} ({look.shown(n=3)})" for look in looks if not look.is_numeric)
        lines.append(f"# cell_type: no column looks like cell types; give its name here. obs has {_one_line(held)}")
    if not any(one.field == "perturbation" for one in guesses):
        unsure = ", ".join(f"{look.name} ({look.shown(n=3)})" for look in looks if look.looks_like_treatments())
        if unsure:
            lines.append(f"# perturbation: name the column of treatments; it may be one of {_one_line(unsure)}")
        else:
            lines.append("# perturbation: no column looks like treatments, so every cell is an unperturbed control")
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())
