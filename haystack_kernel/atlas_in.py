"""An AnnData becomes an atlas: its cells are written beside the index, and its columns are read as the caller says.

In: an AnnData with raw counts and columns of obs. Out: the report of the build; the atlas can then be asked by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import HaystackError, InvalidInputError, MissingKeyError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.progress import notebook_progress
from haystack_kernel.schema import OWN_ATLAS
from haystack_kernel.store import keep_cells, require_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from haystack_kernel.atlas import BuildReport
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import Settings

_GUESSED = ("cell_type", "cell_type_id", "donor", "tissue", "tissue_id", "disease", "disease_id", "sex", "age")


def from_anndata(  # noqa: PLR0913 - one name for each column
    adata: ad.AnnData,
    *,
    name: str,
    perturbation_key: str | None = None,
    control: str | Sequence[str] | None = None,
    donor_key: str | None = None,
    cell_type_key: str | None = None,
    tissue_key: str | None = None,
    perturbation_type: str | None = None,
    add: bool = False,
    settings: Settings | None = None,
    **fields: Any,  # noqa: ANN401 - names, lists, constants of load_mapping
) -> BuildReport:
    """Make an atlas of an AnnData, or a data set of one.

    Parameters
    ----------
    adata
        Cells x genes with raw counts in X, raw or a layer. It is not changed; its cells are written once beside the
        index, because a run reads them later.
    name
        Name of the atlas: a-z, 0-9, ``-`` and ``_``.
    perturbation_key
        Column of obs that names the treatment of each cell. None: no cell was treated, which is refused where a column
        looks like treatments.
    control
        Label, or labels, of that column that are controls, beside those that read as one (``DMSO``, ``untreated``, …).
    donor_key, cell_type_key, tissue_key
        Columns of obs; None takes the column whose name and labels fit.
    perturbation_type
        ``cytokine``, ``drug`` or ``genetic``; None reads it from the labels.
    add
        Add to an atlas that has other data sets; the data set is then called ``dataset`` of ``fields``, or ``name``.
    settings
        None reads them from the layers and the environment; they name the folder of the atlases.
    **fields
        Further fields of a mapping, as :func:`haystack_kernel.atlas.load_mapping` takes them, such as
        ``dose_column="dose"`` or ``tissue="blood"``; and ``dataset``.

    Returns
    -------
    BuildReport
        Numbers of cells, how every label was read, notes.

    Raises
    ------
    InvalidInputError
        ``adata`` is no AnnData, has no raw counts, or its labels cannot be read; nothing is left in the folder.
    MissingKeyError
        A column does not exist; the message lists those that do.

    Examples
    --------
    >>> haystack.atlas.from_anndata(  # doctest: +SKIP
    ...     adata, name="mine", perturbation_key="stim", control="ctrl", donor_key="ind", cell_type_key="cell"
    ... ).n_cells
    24673
    """
    from haystack_kernel.atlas import BuildOptions, build_atlas, load_mapping
    from haystack_kernel.atlas.record import atlas_folder

    _check(adata, name)
    settings = settings or load_settings()
    knowledge = load_knowledge(settings.knowledge)
    folder = atlas_folder(name, settings.atlas_root)
    was_there = folder.is_dir()
    source = folder / keep_cells(adata, folder)
    dataset = fields.pop("dataset", name)
    named: dict[str, Any] = {
        "perturbation_column": perturbation_key,
        "donor_column": donor_key,
        "cell_type_column": cell_type_key,
        "tissue_column": tissue_key,
        "control": control,
        "perturbation_type": perturbation_type,
        **fields,
    }
    try:
        guessed = _guessed(source, named, knowledge=knowledge)
        columns = {f"{field}_column": column for field, column in guessed.items()}
        mapping = load_mapping("cellxgene", **{"donor": "", **columns, **named})
        report = build_atlas(
            str(source),
            name=name,
            root=settings.atlas_root,
            mapping=mapping,
            knowledge=knowledge,
            options=BuildOptions(dataset=dataset, add=add),
            progress=notebook_progress(),
        )
    except HaystackError as error:
        _forget(source, folder, was_there=was_there)
        if isinstance(error, (InvalidInputError, MissingKeyError)) and str(source) in str(error.args[0]):
            raise type(error)(str(error.args[0]).replace(str(source), "your AnnData"), **error.facts) from error
        raise
    taken = ", ".join(f"{field} from {column!r}" for field, column in guessed.items())
    notes = (*report.notes, f"columns taken because their names and labels fit: {taken}") if taken else report.notes
    return report.model_copy(update={"notes": notes})


def _check(adata: object, name: str) -> None:
    if isinstance(adata, (str, Path)):
        msg = f"give an AnnData, not {type(adata).__name__}; files are built with `haystack atlas build FILE.h5ad`"
        raise InvalidInputError(msg, given=type(adata).__name__)
    require_cells(adata)
    if name == OWN_ATLAS:
        msg = f"{name!r} is what a run calls the cells that it is given itself; choose another name"
        raise InvalidInputError(msg, name=name)


def _guessed(source: Path, named: dict[str, Any], *, knowledge: Knowledge) -> dict[str, str]:
    """Columns that fit fields which the caller does not name: field -> column."""
    from haystack_kernel.atlas import draft_mapping

    asked = {key.removesuffix("_column") for key, value in named.items() if value is not None}
    return {
        one.field: one.value
        for one in draft_mapping(str(source), knowledge=knowledge).guesses
        if one.field in _GUESSED and isinstance(one.value, str) and not asked & {one.field, one.field[:-3]}
    }


def _forget(source: Path, folder: Path, *, was_there: bool) -> None:
    """Remove cells that became no atlas."""
    source.unlink(missing_ok=True)
    if not was_there:
        for place in (source.parent, folder):
            place.rmdir()
