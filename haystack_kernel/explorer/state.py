"""What is chosen in an explorer, and every table that follows from it; no browser and no notebook is needed.

In: :class:`ExplorerData`, and choices of a gene, cells, a pathway or a side. Out: tables and evidence.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.explorer.arms import ROLE, Arms, X
from haystack_kernel.explorer.evidence import GeneEvidence, gene_evidence
from haystack_kernel.explorer.sides import Agreement, Side, agreement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from haystack_kernel.explorer.load import ExplorerData
    from haystack_kernel.knowledge import Pathway

N_DOTS = 10  # genes of the dot plot
SELECTION = "in_selection"  # column of the gene table: mean of the selected cells minus mean of the others
SIDE = "other"  # column of the gene table: effect on the other side


class ExplorerState:
    """One explorer: a gene, a set of cells, a pathway and a side are chosen, or none.

    Parameters
    ----------
    data
        What the run holds.

    Examples
    --------
    >>> state = ExplorerState(data)  # doctest: +SKIP
    >>> state.choose_gene("SERPINE1")  # doctest: +SKIP
    >>> state.groups()  # doctest: +SKIP
    """

    def __init__(self, data: ExplorerData) -> None:
        self.data = data
        self.gene: str = self._first_gene()
        self.pathway: str = ""
        self.side: Side | None = None
        self.mask: NDArray[np.bool_] | None = None  # None: nothing is selected, all cells count
        self._shift: NDArray[np.float64] | None = None
        self._values: tuple[object, NDArray[np.float32]] | None = None
        self._dot_values: tuple[object, dict[str, NDArray[np.float32]]] = (None, {})  # of one side
        self._grouped: tuple[object, tuple[NDArray[np.intp], pd.DataFrame]] | None = None

    # --- choosing ---

    def choose_gene(self, gene: str) -> None:
        """Choose the gene that colours the map and fills the violins.

        Parameters
        ----------
        gene
            A gene of the DE table; upper and lower case are the same.

        Raises
        ------
        InvalidInputError
            The run has no such gene; the message names the nearest.
        """
        self.gene = self._known(gene, self._genes_by_name, what="gene")

    def choose_pathway(self, pathway: str | None) -> None:
        """Mark the genes of a pathway; None or "" marks none.

        Raises
        ------
        InvalidInputError
            No such pathway; the message names the nearest.
        """
        named = {str(name).casefold(): str(name) for name in (*self.data.pathways["pathway"], *self._pathways)}
        self.pathway = self._known(pathway, named, what="pathway") if pathway else ""

    def choose_side(self, side: str | None) -> None:
        """Set the prediction beside another response, by its key in ``data.sides``; None or "" takes it away.

        Raises
        ------
        InvalidInputError
            No such side; the message lists them.
        HaystackError
            It cannot be read, e.g. because the atlas is gone.
        """
        if not side:
            self.side = None
            return
        if side not in self.data.sides:
            possible = "; ".join(self.data.sides) or "none for this run"
            msg = f"there is no side {side!r} to compare with; possible: {possible}"
            raise InvalidInputError(msg)
        self.side = self.data.sides[side][1]()

    def select(self, cells: ArrayLike | None) -> None:
        """Select cells of the map.

        Parameters
        ----------
        cells
            One truth value per cell of ``data.arms``, or None for no selection. Cells that are not on the map are
            ignored; other predictions of a selected query cell are selected with it.

        Raises
        ------
        InvalidInputError
            The number of values is not the number of cells.
        """
        self._shift = None
        if cells is None:
            self.mask = None
            return
        mask = np.asarray(cells, dtype=bool).ravel()
        if mask.size != len(self.data.arms):
            msg = f"a selection has one value per cell: {len(self.data.arms):,}, not {mask.size:,}"
            raise InvalidInputError(msg)
        mask = mask & self._on_map
        self.mask = mask if mask.any() else None

    def select_group(self, role: str, cell_type: str | None = None) -> None:
        """Select the cells of one role, or of one role and cell type: the lasso without a pointer.

        Raises
        ------
        InvalidInputError
            The map holds no such cells.
        """
        table = self.data.arms.table
        mask = (table[ROLE] == role).to_numpy()
        if cell_type is not None:
            mask &= (table[keys.CELL_TYPE] == cell_type).to_numpy()
        if not (mask & self._on_map).any():
            here = table[self._on_map].groupby([ROLE, keys.CELL_TYPE], sort=False).size().index
            listed = "; ".join(f"{one}: {kind or 'unknown'}" for one, kind in here) or "none"
            msg = f"the map holds no {role!r} cells of type {cell_type!r}; it holds {listed}"
            raise InvalidInputError(msg)
        self.select(mask)

    # --- what follows ---

    @property
    def arms(self) -> Arms:
        """Cells of the run, and those of the chosen side after them."""
        further = self.side.arms if self.side else ()
        return Arms((*self.data.arms.parts, *further), genes=self.data.arms.genes) if further else self.data.arms

    @property
    def values(self) -> NDArray[np.float32]:
        """Expression of the chosen gene in every cell of ``arms``."""
        wanted = (self.gene, self.side)
        if self._values is None or self._values[0] != wanted:  # a side is equal to itself alone
            self._values = (wanted, self.arms.values(self.gene))
        return self._values[1]

    def counted(self) -> NDArray[np.bool_]:
        """Which cells of ``arms`` count: all, or the selected ones with those that follow them.

        Cells that follow nothing on the map, e.g. measured ones, always count.
        """
        arms = self.arms
        if self.mask is None:
            return np.ones(len(arms), dtype=bool)
        follows = arms.follows
        return (follows < 0) | self.mask[np.maximum(follows, 0)]

    def groups(self) -> pd.DataFrame:
        """Describe the chosen gene by role and cell type: the violins as a table.

        Returns
        -------
        One row per role and cell type in the order of the arms: ``role``, ``cell_type_name``, ``n_cells``,
        ``n_counted`` (of the selection, or all), ``mean``, ``median``, ``detected`` (share of cells with a count);
        NaN where no cell counts or the arm does not hold the gene.
        """
        codes, labels = self._groups()
        counted, values = self.counted(), self.values
        found = labels.assign(
            n_cells=np.bincount(codes, minlength=len(labels)),
            n_counted=np.bincount(codes[counted], minlength=len(labels)),
        )
        mean, detected = _means(values[counted], codes=codes[counted], n=len(labels))
        median = np.full(len(labels), np.nan)
        known = counted & ~np.isnan(values)
        for code in np.unique(codes[known]):
            median[code] = np.median(values[known & (codes == code)])
        return found.assign(mean=mean, median=median, detected=detected)

    def dots(self) -> pd.DataFrame:
        """Mean and share of cells with a count of several genes, by role and cell type.

        Returns
        -------
        One row per gene, role and cell type: ``gene``, ``role``, ``cell_type_name``, ``mean``, ``detected``. The genes
        are the chosen one, then those of the chosen pathway or, without one, the called ones with the largest change.
        """
        codes, labels = self._groups()
        arms, counted = self.arms, self.counted()
        found = []
        wanted = self.dot_genes()
        kept = self._dot_values[1] if self._dot_values[0] is self.side else {}
        self._dot_values = (self.side, {gene: kept[gene] if gene in kept else arms.values(gene) for gene in wanted})
        for gene, values in self._dot_values[1].items():
            mean, detected = _means(values[counted], codes=codes[counted], n=len(labels))
            found.append(labels.assign(gene=gene, mean=mean, detected=detected))
        return pd.concat(found, ignore_index=True)

    def dot_genes(self) -> list[str]:
        """Genes of the dot plot, at most ten: the chosen one first, then the largest changes that are marked."""
        de = self.data.de
        marked = self.marked()
        among = de[de[keys.GENE].isin(marked)] if marked else de[de[keys.IS_DE].astype(bool)]
        order = among[keys.DELTA].abs().sort_values(ascending=False, kind="stable").index
        return list(dict.fromkeys([self.gene, *among.loc[order, keys.GENE].astype(str)]))[:N_DOTS]

    def marked(self) -> dict[str, int]:
        """Genes of the chosen pathway that the run holds, with their direction."""
        one = self._pathways.get(self.pathway)
        held = set(self.data.arms.genes)
        return {gene: sign for gene, sign in one.genes.items() if gene in held} if one else {}

    def shift(self) -> NDArray[np.float64] | None:
        """Mean expression of the selected cells minus that of the other cells on the map, per gene of ``arms.genes``.

        Returns
        -------
        NaN for a gene that no selected or no other cell holds; None where nothing is selected.
        """
        if self.mask is None:
            return None
        if self._shift is None:
            arms = self.data.arms
            n = np.zeros((2, len(arms.genes)))
            total = np.zeros((2, len(arms.genes)))
            for role, everything in self._totals.items():
                inside, n_inside = arms.sums(self.mask, role=role)
                whole, n_whole = everything
                held = ~np.isnan(whole)
                n += np.outer([n_inside, n_whole - n_inside], held)
                total += np.nan_to_num([inside, whole - inside])
            mean = np.divide(total, n, out=np.full_like(total, np.nan), where=n > 0)
            self._shift = mean[0] - mean[1]
        return self._shift

    def genes(self) -> pd.DataFrame:
        """All genes with what the choices add.

        Returns
        -------
        The DE table in its order, with ``expected`` (+1, -1, 0), ``pathway`` (direction in the chosen one, 0),
        ``in_selection`` (see :meth:`shift`; NaN without a selection) and ``other`` (effect on the chosen side; NaN).
        """
        de = self.data.de
        expected = self.data.record.query.expected_targets if self.data.record.query else {}
        shift, marked = self.shift(), self.marked()
        nothing = np.full(len(de), np.nan)
        other = self.side.effect.reindex(de[keys.GENE]).to_numpy(float) if self.side else nothing
        return de.assign(
            expected=[int(expected.get(gene, 0)) for gene in de[keys.GENE]],
            pathway=[marked.get(gene, 0) for gene in de[keys.GENE]],
            **{SELECTION: nothing if shift is None else shift, SIDE: other},
        )

    def selected_cells(self) -> pd.DataFrame:
        """Return the selected cells as a table: ``cell_id``, ``role``, type, donor, and the chosen gene's expression.

        Returns
        -------
        One row per selected cell of the map; all of them where nothing is selected.
        """
        arms = self.data.arms
        mask = self._on_map if self.mask is None else self.mask
        columns = [keys.CELL_ID, ROLE, keys.CELL_TYPE, keys.DONOR]
        return arms.table.assign(**{self.gene: self.values[: len(arms)]})[mask][[*columns, self.gene]]

    def evidence(self) -> GeneEvidence:
        """Collect what is known about the chosen gene."""
        data = self.data
        return gene_evidence(
            self.gene,
            record=data.record,
            de=data.de,
            pathways=data.pathways,
            knowledge=data.knowledge,
            citations=data.citations,
        )

    def agreement(self) -> Agreement | None:
        """Compare the prediction with the chosen side; None without one."""
        return agreement(self.data.de, self.side.effect) if self.side else None

    # --- own ---

    def _groups(self) -> tuple[NDArray[np.intp], pd.DataFrame]:
        """Number of its group for every cell of ``arms``, and the role and cell type of every group."""
        if self._grouped is None or self._grouped[0] is not self.side:
            table = self.arms.table
            codes, labels = pd.factorize(pd.MultiIndex.from_frame(table[[ROLE, keys.CELL_TYPE]]))
            self._grouped = (self.side, (codes, pd.DataFrame(list(labels), columns=[ROLE, keys.CELL_TYPE])))
        return self._grouped[1]

    @cached_property
    def _on_map(self) -> NDArray[np.bool_]:
        return self.data.arms.table[X].notna().to_numpy()

    @cached_property
    def _totals(self) -> dict[str, tuple[NDArray[np.float64], int]]:
        """Sums over all cells on the map, by role."""
        roles = dict.fromkeys(self.data.arms.table.loc[self._on_map, ROLE])
        return {role: self.data.arms.sums(self._on_map, role=role) for role in roles}

    @cached_property
    def _genes_by_name(self) -> dict[str, str]:
        return {gene.casefold(): gene for gene in reversed(self.data.arms.genes.tolist())}

    @cached_property
    def _pathways(self) -> dict[str, Pathway]:
        return dict(self.data.knowledge.pathways)

    def _first_gene(self) -> str:
        """The called gene with the largest change, or the tested one."""
        de = self.data.de
        for column in (keys.IS_DE, keys.IS_TESTED):
            among = de[de[column].astype(bool)]
            if len(among):
                return str(among[keys.GENE].iloc[int(among[keys.DELTA].abs().argmax())])
        return str(de[keys.GENE].iloc[0])

    @staticmethod
    def _known(given: str, named: dict[str, str], *, what: str) -> str:
        from rapidfuzz import process

        if (found := named.get(str(given).strip().casefold())) is not None:
            return found
        near: Sequence[tuple[str, float, int]] = process.extract(str(given).casefold(), list(named), limit=5)
        listed = ", ".join(named[name] for name, _, _ in near)
        msg = f"this run has no {what} {given!r}; nearest: {listed}"
        raise InvalidInputError(msg)


def _means(
    values: NDArray[np.float32], *, codes: NDArray[np.intp], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean, and share above zero, of the known values of each of ``n`` groups; NaN where there is none."""
    known = ~np.isnan(values)
    size = np.bincount(codes[known], minlength=n)
    sums = [np.bincount(codes[known], weights=one[known], minlength=n) for one in (values, values > 0)]
    mean, detected = (np.divide(one, size, out=np.full(n, np.nan), where=size > 0) for one in sums)
    return mean, detected
