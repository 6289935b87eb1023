import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from haystack_kernel import keys
from haystack_kernel.atlas import grouping
from haystack_kernel.atlas.grouping import CellColumns, group_cells, rows_of, write_cells, write_groups

LABELS = {keys.DATASET: "ba", keys.PERTURBATION: ("", "TNF"), keys.CELL_TYPE: ("B cell", "T cell"), keys.DONOR: "yx"}


@pytest.fixture
def cells():
    """2,000 cells with random labels; the categories stand in another order than the alphabet's."""
    rng, n_cells = np.random.default_rng(3), 2_000
    text = {}
    for name in set(keys.CELL_COLUMNS) - {keys.CELL_INDEX, keys.IS_CONTROL, keys.N_GENES, keys.TOTAL_COUNTS}:
        labels = list(LABELS.get(name, ("",)))
        codes = rng.integers(0, len(labels), n_cells).astype(np.int8)
        text[name] = pd.Categorical.from_codes(codes, categories=pd.Index(labels, dtype=object))
    is_control = np.asarray(text[keys.PERTURBATION] == "")
    n_genes, totals = rng.integers(0, 90, n_cells, dtype=np.int32), rng.integers(0, 900, n_cells).astype(float)
    is_kept = rng.random(n_cells) > 0.05
    return CellColumns(text, is_control, is_kept, np.arange(n_cells, dtype=np.int32), n_genes, totals)


@pytest.fixture
def table(cells):
    """The same cells sorted by pandas."""
    plain = pd.DataFrame({name: labels.astype(str) for name, labels in cells.text.items()})
    plain[keys.IS_CONTROL], plain[keys.N_GENES] = cells.is_control, cells.n_genes.astype(np.int32)
    plain[keys.TOTAL_COUNTS], plain[keys.CELL_INDEX] = cells.total_counts, np.arange(len(plain))
    plain = plain[cells.is_kept]
    by = [*grouping.GROUP_COLUMNS, keys.CELL_INDEX]
    return plain.sort_values(by, ignore_index=True)[list(keys.CELL_COLUMNS)]


def parts(cells, folder, *, block_rows=64, **options):
    grouped = group_cells(cells, **options)
    made = {}
    for name, groups in grouped.datasets().items():
        made[name] = folder / f"{name}-cells.parquet", folder / f"{name}-groups.parquet"
        write_cells(made[name][0], grouped, groups=groups, block_rows=block_rows)
        write_groups(made[name][1], grouped, groups=groups)
    return made


def test_parts_are_the_cells_of_each_dataset_in_the_order_that_pandas_sorts(cells, table, tmp_path):
    made = parts(cells, tmp_path)
    assert list(made) == ["a", "b"]
    read = pd.concat([pq.read_table(path).to_pandas() for path, _ in made.values()], ignore_index=True)
    pd.testing.assert_frame_equal(read, table)


def test_groups_hold_what_a_query_over_the_cells_counts(cells, tmp_path):
    for path, groups in parts(cells, tmp_path).values():
        listed = ", ".join(grouping.GROUP_COLUMNS)
        counted = duckdb.sql(
            f"SELECT {listed}, count(*) AS n_cells, median(total_counts) AS median_total_counts, "
            f"median(n_genes) AS median_n_genes FROM '{path}' GROUP BY {listed} ORDER BY {listed}"
        ).df()
        written = pq.read_table(groups).to_pandas()
        pd.testing.assert_frame_equal(written.drop(columns="first_row"), counted, check_dtype=False)
        np.testing.assert_array_equal(written["first_row"], np.cumsum(written["n_cells"]) - written["n_cells"])


@pytest.mark.parametrize("spans", [[(0, 1)], [(63, 2)], [(10, 300)], [(5, 3), (400, 70), (800, 1)], []])
def test_rows_of_reads_exactly_the_spans(cells, table, tmp_path, spans):
    (path, _), _ = parts(cells, tmp_path).values()
    rows = [row for first, n_rows in spans for row in range(first, first + n_rows)]
    expected = table[table[keys.DATASET] == "a"].iloc[rows].reset_index(drop=True)
    read = rows_of(path, spans)
    assert read[keys.CELL_INDEX].to_pylist() == expected[keys.CELL_INDEX].tolist()
    assert read[keys.DONOR].to_pylist() == expected[keys.DONOR].tolist()


def test_a_block_knows_its_smallest_and_largest_text_only(cells, tmp_path):
    (path, _), _ = parts(cells, tmp_path, block_rows=100).values()
    metadata = pq.read_metadata(path)
    column = list(keys.CELL_COLUMNS).index(keys.PERTURBATION)
    first, last = (metadata.row_group(at).column(column).statistics for at in (0, metadata.num_row_groups - 1))
    assert (first.min, first.max, last.min, last.max) == ("", "", "TNF", "TNF")


def test_many_labels_are_sorted_without_a_table_of_all_combinations(cells, table, tmp_path):
    read = pd.concat([pq.read_table(path).to_pandas() for path, _ in parts(cells, tmp_path, max_dense=3).values()])
    pd.testing.assert_frame_equal(read.reset_index(drop=True), table)


def test_counts_that_were_not_read_are_null(cells, tmp_path):
    cells.total_counts[:] = np.nan
    (path, groups), _ = parts(cells, tmp_path).values()
    assert pq.read_table(path)[keys.TOTAL_COUNTS].null_count == pq.read_metadata(path).num_rows
    assert pq.read_table(groups)["median_total_counts"].null_count == pq.read_metadata(groups).num_rows
