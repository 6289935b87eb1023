"""Measured responses that the prompt did not use, to compare the prediction with.

In: the ranked candidates, those of the round, an atlas. Out: treated and control cells of a few others. Hidden pairs
are never candidates, so they cannot appear here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel.retrieval.cells.sample import make_rng, sample_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from haystack_kernel.ports import Atlas
    from haystack_kernel.schema import Candidate, CellSet, RunConfig

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
    taken = {_what(one.prompt) for one in used}
    found: list[MeasuredResponse] = []
    for one in candidates:
        if len(found) == MAX_RESPONSES:
            break
        if one.prompt.is_control or one.control is None or not one.donor_matched or _what(one.prompt) in taken:
            continue
        arms = []
        for arm, cells in (("treated", one.prompt), ("control", one.control)):
            rng = make_rng(config.seed, role=f"measured/{one.key}/{arm}")
            arms.append(atlas.fetch(sample_cells(atlas.select(cells), n=N_CELLS, rng=rng)))
        label = f"{one.prompt.perturbation} in {one.prompt.label or 'cells'} ({one.prompt.dataset})"
        found.append(MeasuredResponse(label, *arms))
    return tuple(found)


def _what(cells: CellSet) -> tuple[object, ...]:
    return cells.atlas, cells.dataset, cells.perturbation, cells.cell_type_ids or cells.cell_type_names
