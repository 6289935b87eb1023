"""Measured responses that the prompt did not use, to compare the prediction with.

In: the ranked candidates, those of the round, an atlas. Out: treated and control cells of a few others. Hidden pairs
are never candidates: only :func:`fetch_hidden` reads their cells, for displays after the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.retrieval.cells.sample import make_rng, sample_cells
from haystack_kernel.retrieval.target import healthy_rows, is_asked_type, patients_measured
from haystack_kernel.retrieval.view import build_view, cell_set
from haystack_kernel.schema import CellSet, HiddenCells, RetrievalSettings

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import anndata as ad

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas
    from haystack_kernel.schema import Candidate, RunConfig, StructuredQuery

MAX_RESPONSES, N_CELLS = 5, 150


@dataclass(frozen=True, eq=False)
class MeasuredResponse:
    """Raw counts of one candidate outside the prompt; ``label`` names its perturbation, cell type and dataset."""

    label: str
    treated: ad.AnnData
    control: ad.AnnData


def fetch_measured(
    candidates: Sequence[Candidate], *, used: Sequence[Candidate], atlas: Atlas, config: RunConfig
) -> tuple[MeasuredResponse, ...]:
    """Fetch up to five measured responses, best-ranked first, with at most 150 treated and 150 control cells each.

    Candidates of the prompt are left out. So are those that share dataset, treatment and cell type with one of them,
    because their cells may be prompt cells; those without a donor-matched control; and unperturbed ones.

    Parameters
    ----------
    candidates
        All candidates of the question, in the order of their rank.
    used
        Candidates of the round.
    atlas, config
        Where the cells are, and the seed of the sample.

    Returns
    -------
    Treated and control cells of each response, with its label; empty if there is none.

    Examples
    --------
    >>> [one.label for one in fetch_measured(candidates, used=candidates[:3], atlas=atlas, config=config)]
    ... # doctest: +SKIP
    ['IFN-alpha1 in NK cell (kang)']
    """
    return tuple(fetch_response(one, atlas=atlas, config=config) for one in measured_candidates(candidates, used=used))


def measured_candidates(candidates: Sequence[Candidate], *, used: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return the candidates whose measured responses :func:`fetch_measured` fetches; no cell is read.

    Parameters
    ----------
    candidates, used
        As there.
    """
    taken = {_what(one.prompt) for one in used}
    found = [
        one
        for one in candidates
        if not one.prompt.is_control
        and one.control is not None
        and one.donor_matched
        and _what(one.prompt) not in taken
    ]
    return tuple(found[:MAX_RESPONSES])


def response_label(one: Candidate) -> str:
    """Name of a candidate's measured response: perturbation, cell type and dataset."""
    return f"{one.prompt.perturbation} in {one.prompt.label or 'cells'} ({one.prompt.dataset})"


def fetch_response(one: Candidate, *, atlas: Atlas, config: RunConfig) -> MeasuredResponse:
    """Fetch the measured response of one candidate that has a control, as :func:`fetch_measured` does.

    Parameters
    ----------
    one
        The candidate.
    atlas, config
        Where the cells are, and the seed of the sample.

    Returns
    -------
    At most 150 treated and 150 control cells, raw counts.

    Raises
    ------
    InvalidInputError
        The candidate has no control.

    Examples
    --------
    >>> fetch_response(record.measured[0], atlas=atlas, config=record.config).treated.n_obs  # doctest: +SKIP
    85
    """
    if one.control is None:
        msg = f"candidate {one.key} has no control ({one.control_reason}), so it shows no response"
        raise InvalidInputError(msg, key=one.key)
    arms = []
    for arm, cells in (("treated", one.prompt), ("control", one.control)):
        rng = make_rng(config.seed, role=f"measured/{one.key}/{arm}")
        arms.append(atlas.fetch(sample_cells(atlas.select(cells), n=N_CELLS, rng=rng)))
    return MeasuredResponse(response_label(one), *arms)


def fetch_hidden(
    hidden: HiddenCells, *, atlas: Atlas, config: RunConfig, without: Collection[str] = ()
) -> MeasuredResponse | None:
    """Fetch the measured response, or difference, that a run hid from its search: the truth about the question.

    Parameters
    ----------
    hidden
        One line of ``record.hidden``.
    atlas, config
        Where the cells are, and the seed of the sample.
    without
        Ids of cells to leave out: query cells as controls would put the same noise into prediction and truth.

    Returns
    -------
    At most 150 treated cells, and as many control cells of the same label and dataset; None where the atlas has no
    such control cells that may be used, or the line has no cells.
    """
    if not hidden.n_cells or not hidden.cell_type:
        return None
    treated = hidden.cells or CellSet(
        atlas=hidden.atlas,
        dataset=hidden.dataset,
        is_control=False,
        perturbation=hidden.perturbation,
        cell_type_names=(hidden.cell_type,),
    )
    control = hidden.against or treated.model_copy(update={"is_control": True, "perturbation": None})
    arms = []
    for arm, wanted in (("treated", treated), ("control", control)):
        cells = atlas.select(wanted)
        cells = cells[~cells[keys.CELL_ID].isin(list(without))]
        if cells.empty:
            return None
        rng = make_rng(config.seed, role=f"hidden/{treated.key}/{arm}")
        arms.append(atlas.fetch(sample_cells(cells, n=N_CELLS, rng=rng)))
    return MeasuredResponse(hidden_label(hidden), *arms)


def hide_patients(
    query: StructuredQuery, *, atlas: Atlas, knowledge: Knowledge, config: RunConfig
) -> tuple[HiddenCells, ...]:
    """Find the measured answer to a question about patients: no strategy proposes these cells.

    Parameters
    ----------
    query
        The parsed question.
    atlas, knowledge, config
        Where the cells are, the ontologies, and the options of the run.

    Returns
    -------
    One line with the patients' cells of the type asked for and those of healthy donors of the same data set; empty
    where they were not measured, or the question is another one.

    Examples
    --------
    >>> hide_patients(query, atlas=atlas, knowledge=knowledge, config=config)[0].pair  # doctest: +SKIP
    'monocyte : systemic lupus erythematosus'
    """
    if not query.compared_disease:
        return ()
    view = build_view(atlas, knowledge=knowledge, settings=RetrievalSettings(), config=config)
    patients = patients_measured(query, view)
    if patients.empty:
        return ()
    dataset = (str(patients[keys.ATLAS].iloc[0]), str(patients[keys.DATASET].iloc[0]))
    healthy = healthy_rows(query, view, dataset=dataset)
    healthy = healthy[is_asked_type(healthy, query=query, view=view)]
    by_tissue = bool(query.tissue_id)
    arms = []
    for rows in (patients, healthy):
        mapped = rows[rows[keys.CELL_TYPE_ID] != ""]  # a cell set selects by id or by label, not by both
        arms.append(cell_set(mapped if len(mapped) else rows, by_tissue=by_tissue, by_disease=True))
    disease = query.disease_name or query.compared_disease
    return (
        HiddenCells(
            atlas=dataset[0],
            dataset=dataset[1],
            perturbation=disease,
            cell_type=arms[0].label,
            n_cells=arms[0].n_cells,
            pair=f"{query.cell_type_name or query.cell_type_text} : {disease}",
            cells=arms[0],
            against=arms[1],
        ),
    )


def hidden_label(hidden: HiddenCells) -> str:
    """Name of the response that a hidden pair kept out of the search.

    Parameters
    ----------
    hidden
        One line of ``record.hidden``.

    Returns
    -------
    Its perturbation, cell type and dataset.

    Examples
    --------
    >>> hidden_label(record.hidden[0])  # doctest: +SKIP
    'IFN-beta in B cell (kang)'
    """
    return f"{hidden.perturbation} in {hidden.cell_type} ({hidden.dataset})"


def _what(cells: CellSet) -> tuple[object, ...]:
    return cells.atlas, cells.dataset, cells.perturbation, cells.cell_type_ids or cells.cell_type_names
