"""The questions of a screen: from lists, a table, a data set, a target or a pathway to a plan that drops nothing.

In: names as people write them. Out: a ``ScreenPlan``; what is refused, and what was not understood, is in it.
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.campaign.sources import Sources, nearest_evidence
from haystack_kernel.config.inputs import input_digests
from haystack_kernel.errors import HaystackError, InvalidInputError
from haystack_kernel.knowledge import perturbation_of, resolve
from haystack_kernel.retrieval import cells_of
from haystack_kernel.retrieval.names import nearest, same_donor
from haystack_kernel.rounds.engine import pick_engine_for
from haystack_kernel.schema import ScreenPlan, ScreenQuestion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunConfig, StructuredQuery, TermKind

COLUMNS = ("perturbation", "cell_type", "donor")  # of a table of questions
KINDS = ("cytokine", "drug", "genetic")
MAX_QUESTIONS = 20_000
_NOUNS: dict[TermKind, str] = {"perturbation": "treatment", "cell_type": "cell type"}


@dataclass(frozen=True)
class Asked:
    """What a screen is asked, as it was given; treatments and cell types are combined, rows of a table are not.

    Attributes
    ----------
    perturbations, cell_types, donors
        Names as people write them.
    table
        A TSV or CSV file, or a table, with columns ``perturbation``, ``cell_type`` and, if wanted, ``donor``.
    data_set
        A data set of the atlases, or an atlas: all its treatments are asked for, in all its cell types unless others
        are named.
    kind
        ``cytokine``, ``drug`` or ``genetic``: the only treatments of the data set that are asked for.
    target
        A gene: every treatment of the tables and the atlases that is known to act on it.
    pathway
        A pathway of the tables: every treatment that is known to change it.
    """

    perturbations: tuple[str, ...] = ()
    cell_types: tuple[str, ...] = ()
    donors: tuple[str, ...] = ()
    table: str | Path | pd.DataFrame | None = None
    data_set: str | None = None
    kind: str | None = None
    target: str | None = None
    pathway: str | None = None


@dataclass(frozen=True)
class _Row:
    """One question as it was asked for; ``fault`` says what is missing."""

    perturbation: str
    cell_type: str
    donor: str = ""
    fault: str = ""


@dataclass
class _Questions:
    """Questions so far, each once, with what was not understood."""

    found: dict[tuple[str, str, str], ScreenQuestion] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    n_repeated: int = 0


def make_screen_plan(
    asked: Asked, config: RunConfig, *, ports: Ports, baselines: bool = False, resamples: int = 0
) -> ScreenPlan:
    """Find what a screen asks, and what the atlases show of each question; nothing is written.

    Parameters
    ----------
    asked
        What was asked for.
    config
        The options of every question.
    ports
        Where atlases and tables are.
    baselines, resamples
        What else is predicted of each question.

    Returns
    -------
    The plan; every question that was asked for is in it.

    Raises
    ------
    InvalidInputError
        Nothing is asked for, an option names nothing that there is, or a table cannot be read.
    """
    if config.prompt_h5ad is not None:
        msg = (
            f"prompt cells of your own ({config.prompt_h5ad}) show one treatment, and a screen asks for many; build an "
            "atlas of them with `haystack atlas build`, and name it as the atlas of the screen"
        )
        raise InvalidInputError(msg)
    sources = Sources.open(config, ports)
    rows, notes = _rows_of(asked, sources=sources)
    if not rows:
        msg = (
            "a screen needs treatments and cell types: name them, give a table with columns "
            f"{', '.join(COLUMNS)}, or ask for all treatments of a data set, of a target or of a pathway"
        )
        raise InvalidInputError(msg)
    if len(rows) > MAX_QUESTIONS:
        msg = f"{len(rows):,} questions are asked for, and a screen may have {MAX_QUESTIONS:,}; name fewer cell types"
        raise InvalidInputError(msg, n_questions=len(rows))
    inputs = input_digests(config, ports, run_id="")
    questions = _Questions(notes=notes)
    known: dict[tuple[TermKind, str], tuple[str, str, str]] = {}
    for row in rows:
        _add(questions, _question_of(row, sources=sources, known=known, inputs=inputs))
    if questions.n_repeated:
        times = "once" if questions.n_repeated == 1 else f"{questions.n_repeated} times"
        questions.notes.append(f"a question that another one repeats is asked only once ({times})")
    digests = {f"atlas:{name}": digest for name, digest in sources.atlas.digests().items()}
    grounding = ports.settings.grounding.model_dump_json()
    return ScreenPlan(
        questions=tuple(questions.found.values()),
        not_understood=tuple(questions.notes),
        config=config,
        digests={**digests, **sources.knowledge.digests(), **inputs},
        baselines=baselines,
        resamples=resamples,
        grounding=hashlib.sha256(grounding.encode()).hexdigest()[:12],
    )


def _add(questions: _Questions, one: ScreenQuestion) -> None:
    key = (one.perturbation, one.cell_type_id or one.cell_type, one.donor)
    questions.n_repeated += key in questions.found
    questions.found.setdefault(key, one)


# --- what is asked for ------------------------------------------------------------------------------------------------


def _rows_of(asked: Asked, *, sources: Sources) -> tuple[list[_Row], list[str]]:
    """Every question as it was asked for, and what was given and not used."""
    rows, notes = ([], []) if asked.table is None else read_questions(asked.table)
    names, cell_types = treatments_and_types(asked, sources=sources)
    if bool(names) != bool(cell_types):
        given, noun, other = (names, "treatments", "cell types") if names else (cell_types, "cell types", "treatments")
        msg = f"{noun} are named ({', '.join(given[:3])}{', …' if len(given) > 3 else ''}) and no {other}; name some"
        raise InvalidInputError(msg)
    rows += [
        _Row(name, cell_type, donor) for name in names for cell_type in cell_types for donor in asked.donors or ("",)
    ]
    return rows, notes


def treatments_and_types(asked: Asked, *, sources: Sources) -> tuple[list[str], list[str]]:
    """Treatments and cell types that are to be combined."""
    names, cell_types = list(asked.perturbations), list(asked.cell_types)
    if asked.kind is not None and asked.data_set is None:
        msg = f"kind {asked.kind!r} chooses among the treatments of a data set, and none is named"
        raise InvalidInputError(msg)
    if asked.data_set is not None:
        found, types = _of_data_set(asked.data_set, asked.kind, sources=sources)
        names += found
        cell_types = cell_types or types
    if asked.target is not None:
        names += _with_target(asked.target, sources=sources)
    if asked.pathway is not None:
        names += _of_pathway(asked.pathway, sources=sources)
    return names, cell_types


def read_questions(table: str | Path | pd.DataFrame) -> tuple[list[_Row], list[str]]:
    """Read a table of questions, tab or comma separated, with a header.

    Parameters
    ----------
    table
        A file, or a table in memory; columns ``perturbation``, ``cell_type`` and, if wanted, ``donor``.

    Returns
    -------
    One row per question, and what was not used.

    Raises
    ------
    InvalidInputError
        There is no such file, or it lacks a column.
    """
    name = "the table" if isinstance(table, pd.DataFrame) else Path(table).name
    held = table if isinstance(table, pd.DataFrame) else _read_file(Path(table).expanduser())
    columns = _columns(held, name=name)
    notes = [f"column {column!r} of {name} was not used" for one, column in columns.items() if one not in COLUMNS]
    values = held[[columns[one] for one in COLUMNS if one in columns]].astype(object)
    values = values.where(values.notna(), "").astype(str)
    lines = enumerate(values.itertuples(index=False, name=None), 1)
    return [_row(list(map(str.strip, line)), where=f"row {place} of {name}") for place, line in lines], notes


def _columns(table: pd.DataFrame, *, name: str) -> dict[str, str]:
    """Columns of a table by what they are called, written any way."""
    columns = {str(column).strip().casefold().replace(" ", "_"): str(column) for column in table.columns}
    if absent := [one for one in COLUMNS[:2] if one not in columns]:
        there = ", ".join(map(str, table.columns)) or "none"
        msg = f"{name} has no column {' and no column '.join(map(repr, absent))}; its columns: {there}"
        raise InvalidInputError(msg, absent=absent)
    return columns


def _row(line: Sequence[str], *, where: str) -> _Row:
    """One row of a table, with its fault where it says nothing of a treatment or a cell type."""
    empty = [name for name, value in zip(COLUMNS[:2], line, strict=False) if not value]
    donor = line[2] if len(line) > 2 else ""
    return _Row(line[0], line[1], donor, f"{where} has no {' and no '.join(empty)}" if empty else "")


def _read_file(path: Path) -> pd.DataFrame:
    """Read a table whose fields are separated by what its header has most of."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read as a table of questions: {error}; give a TSV or CSV file in UTF-8"
        raise InvalidInputError(msg) from error
    separator = max("\t,;", key=text.partition("\n")[0].count)
    header, *lines = list(csv.reader(io.StringIO(text), delimiter=separator)) or [[]]
    for place, line in enumerate(lines, 2):
        if len(line) > len(header):
            msg = f"line {place} of {path.name} has more fields than its header; quote what holds a delimiter"
            raise InvalidInputError(msg)
    filled = [[*line, *[""] * (len(header) - len(line))] for line in lines if any(map(str.strip, line))]
    return pd.DataFrame(filled, columns=header, dtype=str)


def _of_data_set(name: str, kind: str | None, *, sources: Sources) -> tuple[list[str], list[str]]:
    """Treatments and cell types of a data set, or of all data sets of an atlas."""
    table = sources.view.conditions
    rows = table[(table[keys.DATASET] == name) | (table[keys.ATLAS] == name)]
    if rows.empty:
        held = sorted({*table[keys.DATASET], *table[keys.ATLAS]})
        msg = f"no data set {name!r} in the atlases; they hold {nearest(name, held)}"
        raise InvalidInputError(msg, held=held)
    treated = rows[~rows[keys.IS_CONTROL]]
    if kind is not None:
        if kind not in KINDS:
            msg = f"kind is {kind!r}; possible: {', '.join(KINDS)}"
            raise InvalidInputError(msg)
        kinds = sorted(set(treated[keys.PERTURBATION_TYPE]) - {""})
        treated = treated[treated[keys.PERTURBATION_TYPE] == kind]
        if treated.empty:
            msg = f"data set {name!r} has no treatment of kind {kind!r}; it has {', '.join(kinds) or 'none'}"
            raise InvalidInputError(msg)
    return sorted(set(treated[keys.PERTURBATION])), sorted(set(treated[keys.CELL_TYPE]) - {""})


def _with_target(gene: str, *, sources: Sources) -> list[str]:
    """Treatments of the tables and the atlases that act on a gene."""
    wanted = gene.strip().upper()
    found = [name for name, one in sources.knowledge.perturbations.items() if wanted in one.targets]
    for name in sorted(set(sources.view.treated[keys.PERTURBATION])):
        entry = perturbation_of(name, knowledge=sources.named)
        if entry is not None and wanted in entry.targets:
            found.append(entry.name)
    if not found:
        targets = sorted({one for entry in sources.knowledge.perturbations.values() for one in entry.targets})
        msg = f"no treatment is known to act on {gene!r}; the targets that are known: {nearest(wanted, targets)}"
        raise InvalidInputError(msg, target=gene)
    return sorted(set(found))


def _of_pathway(name: str, *, sources: Sources) -> list[str]:
    """Treatments of the tables that change a pathway."""
    pathways = sources.knowledge.pathways
    known = next((one for one in pathways if one.casefold() == name.strip().casefold()), None)
    entries = sources.knowledge.perturbations.items()
    found = sorted(one for one, entry in entries if known in entry.pathways) if known is not None else []
    if not found:
        what = f"no treatment is known to change the pathway {name!r}" if known else f"no pathway {name!r} is known"
        msg = f"{what}; known are {nearest(name, list(pathways))}"
        raise InvalidInputError(msg, pathway=name)
    return found


# --- one question -----------------------------------------------------------------------------------------------------


def _question_of(
    row: _Row, *, sources: Sources, known: dict[tuple[TermKind, str], tuple[str, str, str]], inputs: dict[str, str]
) -> ScreenQuestion:
    """One question with what the atlases show of it; a refusal where it cannot be predicted."""
    terms = {}
    asked: tuple[tuple[TermKind, str], ...] = (("perturbation", row.perturbation), ("cell_type", row.cell_type))
    for kind, text in asked:
        if (kind, text) not in known:
            known[kind, text] = _term(text, kind, sources=sources)
        terms[kind] = known[kind, text]
    name, _, unknown = terms["perturbation"]
    cell_type, cl_id, other = terms["cell_type"]
    base = ScreenQuestion(
        perturbation=name,
        cell_type=cell_type,
        cell_type_id=cl_id,
        donor=row.donor,
        question=words_of(name, cell_type, row.donor),
        refusal="; ".join(filter(None, (row.fault, *(() if row.fault else (unknown, other))))),
    )
    if base.refusal:
        return base
    try:
        return _looked_up(base, sources=sources, inputs=inputs)
    except HaystackError as error:
        return base.model_copy(update={"refusal": str(error)})


def _term(text: str, kind: TermKind, *, sources: Sources) -> tuple[str, str, str]:
    """Name and id of what a text means, and why it means nothing that could be asked about."""
    found = resolve(text, kind=kind, knowledge=sources.named)
    noun = _NOUNS[kind]
    others = ", ".join(one.name for one in found.alternatives[:3])
    if found.match is None:
        near = f"; the nearest known: {others}" if others else ""
        return text, "", f"{noun} {text!r} is not known{near}"
    if found.ambiguous:
        why = found.note or f"it may mean {', '.join(filter(None, (found.match.name, others)))}"
        return text, "", f"{noun} {text!r} is not sure: {why}"
    cl_id = found.match.id if kind == "cell_type" and found.match.id in sources.knowledge.cell_types else ""
    return found.match.name, cl_id, ""


def words_of(perturbation: str, cell_type: str, donor: str = "") -> str:
    """A question in words, such as ``How would B cells of donor 1256 respond to IFN-beta?``."""
    bare = donor.rpartition(":")[2].strip()
    whose = ""
    if bare:
        whose = f" of {bare}" if bare.casefold().startswith(("donor", "patient")) else f" of donor {bare}"
    return f"How would {cells_of(cell_type)}{whose} respond to {perturbation}?"


def _looked_up(base: ScreenQuestion, *, sources: Sources, inputs: dict[str, str]) -> ScreenQuestion:
    query = understand(base, sources=sources)
    found = sources.search(query)
    if sources.config.query_h5ad is None:
        sources.choose_query_cells(query, found)
    config = sources.config
    engine = config.engine
    if config.engine_default is not None:
        engine = pick_engine_for(query, found, config=config, inputs=inputs, ports=sources.ports).engine
    chosen, _ = sources.choose(query, found, engine=engine)
    update: dict[str, Any] = {
        "evidence": nearest_evidence(chosen),
        "measured": any(one.evidence_distance == "same_pair" for one in found),
        "engine": engine,
    }
    return base.model_copy(update=update)


def understand(one: ScreenQuestion, *, sources: Sources) -> StructuredQuery:
    """The query of a question, as a run reads it from the same words.

    Raises
    ------
    InvalidInputError
        The words are refused, or taken for another treatment, cell type or donor.
    """
    query = sources.understand(one.question)
    taken = query.perturbation.name if query.perturbation is not None else ""
    is_type = query.cell_type_id == one.cell_type_id if one.cell_type_id else not query.cell_type_id
    is_donor = same_donor(query.donor_id or "", one.donor) if one.donor else query.donor_id is None
    if taken.casefold() != one.perturbation.casefold() or not is_type or not is_donor:
        msg = f"{one.question!r} is taken as {query.reading}, which is not what the screen asks"
        raise InvalidInputError(msg, question=one.question)
    if one.donor:  # as the atlas names it: two data sets may have a donor of the same name
        query = query.model_copy(update={"donor_id": one.donor})
    return query


def evidence_counts(questions: Iterable[ScreenQuestion]) -> dict[str, int]:
    """Number of questions by the distance of their nearest evidence; refused ones have none."""
    found: dict[str, int] = {}
    for one in questions:
        if one.evidence is not None:
            found[one.evidence] = found.get(one.evidence, 0) + 1
    return found


def refusals(questions: Sequence[ScreenQuestion]) -> dict[str, list[ScreenQuestion]]:
    """Reason -> the questions that it refuses."""
    found: dict[str, list[ScreenQuestion]] = {}
    for one in questions:
        if one.refusal:
            found.setdefault(one.refusal, []).append(one)
    return found
