"""A result in the forms that other tools read: pseudobulk counts for DESeq2, gene sets as GMT, tables as CSV.

In: a Run, or the AnnData of its predictions; for counts any AnnData. Out: tables, text, and files in a folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel import get, keys
from haystack_kernel.errors import InvalidInputError, MissingKeyError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

__all__ = ["Pseudobulk", "csv", "gmt", "pseudobulk", "write"]
FORMS = ("pseudobulk", "gmt", "csv")
TABLES = ("de", "pathways", "candidates", "prompts", "rounds")  # of haystack.get, which csv writes
COUNTS, DESIGN, SETS = "pseudobulk_counts.csv", "pseudobulk_design.csv", "called_genes.gmt"
_N_CELLS, _SAMPLE = "n_cells", "sample"


@dataclass(frozen=True, eq=False)
class Pseudobulk:
    """Summed counts with their design, as DESeq2 takes them.

    Attributes
    ----------
    counts
        Whole numbers, genes x samples.
    design
        One row per sample, in the order of the columns of ``counts``: what was summed over, and ``n_cells``.
    notes
        What a reader must know before testing.

    Examples
    --------
    >>> summed = haystack.export.pseudobulk(run)  # doctest: +SKIP
    >>> summed.counts.shape, summed.design["role"].unique()  # doctest: +SKIP
    """

    counts: pd.DataFrame
    design: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        head = f"Pseudobulk({len(self.counts):,} genes x {self.counts.shape[1]} samples)"
        return "\n".join([head, self.design.to_string(), *(f"note: {note}" for note in self.notes)])


def pseudobulk(
    given: Any,  # noqa: ANN401 - a Run or an AnnData
    *,
    by: Sequence[str] | None = None,
    folder: str | Path | None = None,
) -> Pseudobulk:
    """Sum counts over the cells of each donor and role.

    Parameters
    ----------
    given
        A Run (prompt, control, query and predicted cells), the AnnData of its predictions (query, predicted and
        predicted control cells), or any AnnData of raw counts with columns ``by``.
    by
        Columns of obs whose combinations are the samples; None: role and donor, where there are any.
    folder
        Also write ``pseudobulk_counts.csv`` and ``pseudobulk_design.csv`` there, for DESeqDataSetFromMatrix.

    Returns
    -------
    Pseudobulk
        Sums of counts, rounded to whole numbers where a prediction holds fractions, over the genes that all roles have.

    Raises
    ------
    InvalidInputError
        A column does not exist, or the values are no counts.

    Examples
    --------
    >>> haystack.export.pseudobulk(run, folder="for_deseq2")  # doctest: +SKIP
    >>> haystack.export.pseudobulk(adata, by=["donor", "condition"]).counts  # doctest: +SKIP
    """
    import numpy as np
    import pandas as pd
    from scipy import sparse

    parts, notes = _parts(given)
    columns = [keys.ROLE, keys.DONOR] if by is None and keys.ROLE in parts[0].obs else list(by or [])
    if not columns:
        msg = "name the columns of obs that make the samples: pseudobulk(adata, by=['donor', 'condition'])"
        raise InvalidInputError(msg, columns=list(parts[0].obs.columns))
    genes = _shared_genes(parts)
    if n_lost := max(one.n_vars for one in parts) - len(genes):
        notes.append(f"{n_lost} genes that not all roles have were left out")
    sums, rows = [], []
    for one in parts:
        labels = _labels(one, columns)
        matrix = sparse.csr_matrix(one[:, genes].X)
        for names, of in sorted(labels.groupby(columns, sort=True).indices.items(), key=lambda item: str(item[0])):
            texts = names if isinstance(names, tuple) else (names,)
            sums.append(np.rint(np.asarray(matrix[of].sum(axis=0), dtype=np.float64)).ravel().astype(np.int64))
            rows.append({**dict(zip(columns, texts, strict=True)), _N_CELLS: len(of)})
    design = pd.DataFrame(rows)
    design.index = pd.Index(_sample_names(design[columns]), name=_SAMPLE)
    counts = pd.DataFrame(np.column_stack(sums), index=pd.Index(genes, name=keys.GENE), columns=design.index)
    found = Pseudobulk(counts, design, tuple(notes))
    if folder is not None:
        _write(folder, {COUNTS: found.counts.to_csv(), DESIGN: found.design.to_csv()})
    return found


def _shared_genes(parts: list[ad.AnnData]) -> pd.Index:
    genes = parts[0].var_names
    for one in parts[1:]:
        genes = genes[genes.isin(one.var_names)]
    return genes


def _labels(adata: ad.AnnData, columns: list[str]) -> pd.DataFrame:
    """What each cell is summed by, as text, in the order of the cells."""
    if absent := [name for name in columns if name not in adata.obs]:
        msg = f"obs has no column {', '.join(map(repr, absent))}; it has {', '.join(map(str, adata.obs.columns))}"
        raise MissingKeyError(msg, absent=absent)
    return adata.obs[columns].astype(str).reset_index(drop=True)


def gmt(given: Any, *, folder: str | Path | None = None) -> str:  # noqa: ANN401 - a Run or an AnnData
    """Write the called genes as two gene sets, those that rise and those that fall.

    Parameters
    ----------
    given
        A Run, or an AnnData with differential expression.
    folder
        Also write ``called_genes.gmt`` there.

    Returns
    -------
    Lines of GMT: name, description, genes by falling effect, separated by tabs. A side without called genes has no
    line.

    Examples
    --------
    >>> print(haystack.export.gmt(run))  # doctest: +SKIP
    """
    table = get.de(given)
    called = table[table[keys.IS_DE].astype(bool)]
    name, about = _title(given)
    lines = []
    for side, ascending in (("UP", False), ("DOWN", True)):
        effect = called[keys.LOG2FC] if side == "UP" else -called[keys.LOG2FC]
        genes = called[effect > 0].sort_values(keys.LOG2FC, ascending=ascending, kind="stable")[keys.GENE]
        if len(genes):
            lines.append("\t".join([f"{name}_{side}", about, *map(str, genes)]))
    text = "".join(f"{line}\n" for line in lines)
    if folder is not None:
        _write(folder, {SETS: text})
    return text


def csv(given: Any, *, folder: str | Path) -> list[str]:  # noqa: ANN401 - a Run or an AnnData
    """Write the tables of a result as CSV files.

    Parameters
    ----------
    given
        A Run, or the AnnData of its predictions.
    folder
        Where the files go; it is made if needed.

    Returns
    -------
    Paths of the files: effects, pathways, candidates, cells used and rounds.

    Examples
    --------
    >>> haystack.export.csv(run, folder="tables")  # doctest: +SKIP
    """
    tables = {name: getattr(get, name)(given) for name in TABLES}
    return _write(folder, {f"{name}.csv": table.to_csv(index=False) for name, table in tables.items()})


def write(given: Any, *, folder: str | Path, what: Sequence[str] = FORMS) -> list[str]:  # noqa: ANN401 - as above
    """Write a result in several forms.

    Parameters
    ----------
    given
        A Run, or the AnnData of its predictions.
    folder
        Where the files go; it is made if needed.
    what
        Of ``pseudobulk``, ``gmt`` and ``csv``.

    Returns
    -------
    Paths of the files.

    Raises
    ------
    InvalidInputError
        There is no such form.

    Examples
    --------
    >>> haystack.export.write(run, folder="exported", what=["gmt"])  # doctest: +SKIP
    """
    if unknown := [name for name in what if name not in FORMS]:
        msg = f"there is no form {', '.join(map(repr, unknown))}; possible: {', '.join(FORMS)}"
        raise InvalidInputError(msg, given=unknown, possible=list(FORMS))
    written: list[str] = []
    if "pseudobulk" in what:
        pseudobulk(given, folder=folder)
        written += [str(Path(folder).expanduser() / name) for name in (COUNTS, DESIGN)]
    if "gmt" in what:
        gmt(given, folder=folder)
        written.append(str(Path(folder).expanduser() / SETS))
    return written + (csv(given, folder=folder) if "csv" in what else [])


def _parts(given: Any) -> tuple[list[ad.AnnData], list[str]]:  # noqa: ANN401 - a Run or an AnnData
    """Counts by role, each with the columns ``role`` and donor."""
    notes = ["predicted cells are no replicates: test measured cells alone, and use these sums to look at"]
    if callable(getattr(given, "cells", None)) and hasattr(given, "record"):
        parts = [given.cells(role) for role in (keys.PROMPT, keys.CONTROL, keys.QUERY, keys.PREDICTED)]
        return [one for one in parts if one is not None], notes
    if not (hasattr(given, "obs") and hasattr(given, "layers")):
        msg = f"give a Run or an AnnData, not {type(given).__name__}"
        raise InvalidInputError(msg, given=type(given).__name__)
    if keys.UNS in given.uns and keys.LAYER_QUERY in given.layers:
        return _predicted_parts(given), notes
    return [_checked(given)], []


def _predicted_parts(adata: ad.AnnData) -> list[ad.AnnData]:
    held = {keys.QUERY: keys.LAYER_QUERY, keys.PREDICTED: None, "predicted_control": keys.LAYER_CONTROL_PRED}
    return [_role(adata, role, layer) for role, layer in held.items() if layer is None or layer in adata.layers]


def _role(adata: ad.AnnData, role: str, layer: str | None) -> ad.AnnData:
    import anndata
    import pandas as pd

    counts = adata.X if layer is None else adata.layers[layer]
    return anndata.AnnData(X=counts, obs=adata.obs.assign(**{keys.ROLE: role}), var=pd.DataFrame(index=adata.var_names))


def _checked(adata: ad.AnnData) -> ad.AnnData:
    """The raw counts of any AnnData, wherever they are."""
    import anndata
    import pandas as pd

    from haystack_kernel.retrieval import check_cells

    checked = check_cells(adata).require()
    return anndata.AnnData(X=checked.counts, obs=adata.obs.copy(), var=pd.DataFrame(index=list(checked.genes)))


def _sample_names(labels: pd.DataFrame) -> list[str]:
    """Names that R takes as they are, each once."""
    names: list[str] = []
    for row in labels.itertuples(index=False):
        name = re.sub(r"[^A-Za-z0-9_.]+", "_", "_".join(map(str, row))) or _SAMPLE
        name = name if name[0].isalpha() else f"s_{name}"
        names.append(name if name not in names else f"{name}_{sum(one.startswith(name) for one in names) + 1}")
    return names


def _title(given: Any) -> tuple[str, str]:  # noqa: ANN401 - a Run or an AnnData
    """Name of the gene sets, and where they come from."""
    try:
        record = get.record_of(given)
    except (InvalidInputError, MissingKeyError):
        return "CALLED", "genes called differentially expressed"
    query = record.query
    treatment = query.perturbation.name if query and query.perturbation else "RESPONSE"
    cells = (query.cell_type_name or query.cell_type_text or "cells") if query else "cells"
    name = re.sub(r"[^A-Z0-9]+", "_", f"{treatment} {cells}".upper()).strip("_")
    about = f"predicted by HAYSTACK ({record.config.engine}), run {record.run_id}: {record.question}"
    return name, re.sub(r"\s+", " ", about)


def _write(folder: str | Path, files: dict[str, str]) -> list[str]:
    place, written = Path(folder).expanduser(), []
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (place / name).write_text(text, encoding="utf-8")
            written.append(str(place / name))
    except OSError as error:
        msg = f"{place} cannot be written ({error.strerror}); give a folder that can be"
        raise StorageError(msg, path=str(place)) from error
    return written
