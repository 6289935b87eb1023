import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import fsspec
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from haystack_kernel import keys
from haystack_kernel.atlas import atlas_info, check_atlas, list_atlases, load_mapping, open_atlases
from haystack_kernel.errors import InvalidInputError, MissingKeyError, NotFoundError, StorageError
from haystack_kernel.schema import CellSet

TREATED = {"perturbation_column": "treatment", "control": ["none"], "perturbation_type": "cytokine"}


@pytest.fixture
def mapping():
    return load_mapping("cellxgene", **TREATED)


def read_cells(root, name="tiny"):
    return pq.read_table(Path(root) / name / "cells.parquet").to_pandas()


def test_build_writes_one_sorted_row_per_cell_with_every_column(write, build, obs, mapping, root):
    report = build(write("a.h5ad", obs), mapping)
    cells = read_cells(root)
    assert tuple(cells.columns) == keys.CELL_COLUMNS
    by = [keys.DATASET, keys.PERTURBATION, keys.CELL_TYPE, keys.DONOR, keys.CELL_INDEX]
    pd.testing.assert_frame_equal(cells, cells.sort_values(by, ignore_index=True))
    assert sorted(cells[keys.CELL_INDEX]) == list(range(8))
    assert (report.n_cells, report.n_control, report.n_genes, report.counts_in) == (8, 4, 6, "X")
    first = cells.set_index(keys.CELL_INDEX).loc[2]
    assert first[keys.CELL_TYPE_ID] == "CL:0000860"
    assert first[keys.PERTURBATION] == "IFN-beta"
    assert first[keys.DONOR] == "tiny:d1"


def test_genes_and_totals_equal_sums_over_the_matrix(write, build, obs, mapping, root, counts_of):
    build(write("a.h5ad", obs), mapping)
    cells, counts = read_cells(root).sort_values(keys.CELL_INDEX), counts_of(8)
    np.testing.assert_array_equal(cells[keys.N_GENES], (counts > 0).sum(axis=1))
    np.testing.assert_array_equal(cells[keys.TOTAL_COUNTS], counts.sum(axis=1))


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_every_storage_form_gives_the_same_index(write, build, obs, mapping, root, form, counts_of):
    report = build(write("a.h5ad", obs, counts=form(counts_of(8))), mapping)
    cells = read_cells(root).sort_values(keys.CELL_INDEX)
    np.testing.assert_array_equal(cells[keys.TOTAL_COUNTS], counts_of(8).sum(axis=1))
    assert bool(report.notes) == (form is sp.csc_matrix)


def test_counts_are_found_in_raw_with_the_genes_of_raw(write, build, obs, mapping, counts_of, gene_names):
    raw = (sp.csr_matrix(counts_of(8, 6)), gene_names)
    report = build(
        write("a.h5ad", obs, counts=np.log1p(counts_of(8, 3)), genes=["CD14", "ISG15", "MX1"], raw=raw), mapping
    )
    assert (report.counts_in, report.n_genes) == ("raw/X", 6)


def test_counts_are_found_in_a_layer(write, build, obs, mapping, counts_of):
    layers = {"counts": sp.csr_matrix(counts_of(8))}
    report = build(write("a.h5ad", obs, counts=sp.csr_matrix(np.log1p(counts_of(8))), layers=layers), mapping)
    assert report.counts_in == "layers/counts"


def test_ensembl_index_takes_symbols_from_var_and_a_second_of_two_keeps_its_id(write, build, obs, mapping, root):
    ids = [f"ENSG{number:011d}" for number in range(6)]
    names = ["CD14", "ISG15", "CD14", "NKG7", "", "C1orf56"]
    report = build(write("a.h5ad", obs, genes=ids, var={"feature_name": names}), mapping)
    assert report.gene_symbols_from == "var['feature_name']"
    assert report.duplicate_genes == ("CD14",)
    [path] = (root / "tiny").glob("genes-*.json")
    stored = json.loads(path.read_text())
    assert stored == {"symbols": ["CD14", "ISG15", ids[2], "NKG7", ids[4], "C1orf56"], "columns": None}


def test_parse_schema_reads_cytokine_and_pbs(write, build, root):
    obs = {"cell_type": ["B cell"] * 2, "cytokine": ["PBS", "IFN-beta"], "donor": ["Donor1"] * 2}
    build(write("a.h5ad", obs), load_mapping("parse_pbmc"))
    cells = read_cells(root)
    assert list(cells[keys.IS_CONTROL]) == [True, False]
    assert list(cells[keys.PERTURBATION_TYPE]) == ["", "cytokine"]
    assert set(cells[keys.TISSUE_ID]) == {"UBERON:0000178"}
    assert set(cells[keys.DISEASE]) == {"normal"}


def test_openproblems_schema_reads_drug_and_dmso(write, build, root):
    obs = {"cell_type": ["B cells"] * 2, "sm_name": ["Dimethyl Sulfoxide", "Dabrafenib"], "donor_id": ["Donor 1"] * 2}
    build(write("a.h5ad", obs), load_mapping("openproblems"))
    cells = read_cells(root)
    assert list(cells[keys.IS_CONTROL]) == [True, False]
    assert list(cells[keys.PERTURBATION_TYPE]) == ["", "drug"]
    assert cells[keys.PERTURBATION].str.casefold().tolist() == ["", "dabrafenib"]


def test_tabula_sapiens_schema_makes_every_cell_a_control(write, build, root):
    obs = {"cell_ontology_class": ["b cell", "hepatocyte"], "tissue": ["Liver", "Liver"], "donor": ["TSP1", "TSP2"]}
    build(write("a.h5ad", obs), load_mapping("tabula_sapiens"))
    cells = read_cells(root)
    assert cells[keys.IS_CONTROL].all()
    assert set(cells[keys.PERTURBATION]) == {""}
    assert set(cells[keys.CELL_TYPE_ID]) == {"CL:0000236", "CL:0000182"}
    assert set(cells[keys.TISSUE_ID]) == {"UBERON:0002107"}


def test_yaml_mapping_with_renamed_labels(write, build, root, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("cell_type: ct\ndonor: {value: one}\nsex: {value: F}\nrename: {cell_type: {Mono1: CL:0000576}}\n")
    report = build(write("a.h5ad", {"ct": ["Mono1", "Zork cell"]}), load_mapping(path))
    cells = read_cells(root).set_index(keys.CELL_INDEX)
    assert list(cells.loc[[0, 1], keys.CELL_TYPE_ID]) == ["CL:0000576", ""]
    assert cells.loc[1, keys.CELL_TYPE] == "Zork cell"
    assert set(cells[keys.DONOR_SEX]) == {"female"}
    assert [(entry.kind, entry.label, entry.n_cells) for entry in report.unmapped] == [("cell_type", "Zork cell", 1)]


def test_second_dataset_is_added_and_the_same_one_replaced(write, build, obs, mapping, root, counts_of):
    build(write("a.h5ad", obs), mapping, dataset="one")
    report = build(
        write("b.h5ad", obs, counts=sp.csr_matrix(counts_of(8, 4, seed=1))), mapping, dataset="two", add=True
    )
    assert report.n_atlas_cells == 16
    again = build(write("c.h5ad", {key: values[:6] for key, values in obs.items()}), mapping, dataset="one", add=True)
    assert (again.n_cells, again.n_atlas_cells) == (6, 14)
    assert read_cells(root)[keys.DATASET].value_counts().to_dict() == {"two": 8, "one": 6}
    assert len(list((root / "tiny").glob("genes-*.json"))) == 2
    assert check_atlas("tiny", root)["ok"]


def test_building_twice_gives_the_same_digest(write, build, obs, mapping):
    source = write("a.h5ad", obs)
    assert build(source, mapping).digest == build(source, mapping).digest


def test_source_inside_the_atlas_folder_moves_with_it(write, build, obs, mapping, root):
    (root / "tiny").mkdir(parents=True)
    source = shutil.move(write("a.h5ad", obs), root / "tiny" / "a.h5ad")
    build(str(source), mapping)
    moved = root.with_name("elsewhere")
    root.rename(moved)
    assert check_atlas("tiny", moved)["ok"]


def test_info_is_json_with_counts(write, build, obs, mapping, root):
    build(write("a.h5ad", obs), mapping)
    info = json.loads(json.dumps(atlas_info("tiny", root)))
    assert info["n_cells"] == 8
    assert info["n_control"] == 4
    assert info["perturbations"] == [{"name": "IFN-beta", "type": "cytokine", "n_cells": 4}]
    assert {entry["id"]: entry["n_cells"] for entry in info["cell_types"]} == {"CL:0000860": 4, "CL:0000623": 4}
    assert info["donors"] == [{"donor_id": "tiny:d1", "n_cells": 4}, {"donor_id": "tiny:d2", "n_cells": 4}]


def test_progress_rises_to_one(write, build, obs, mapping):
    events = []
    build(write("a.h5ad", obs), mapping, progress=events.append)
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


# --- bad input ----------------------------------------------------------------------------------------------------


def negative(counts):
    counts[3, 2] = -1
    return counts


def not_a_number(counts):
    counts[3, 2] = np.nan
    return counts


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(np.log1p, "holds fractions such as"), (negative, "holds negative values"), (not_a_number, "holds 1 NaN")],
)
def test_values_that_are_not_counts_are_refused(write, build, obs, mapping, root, spoil, says, counts_of):
    with pytest.raises(InvalidInputError, match=f"no raw counts: X {says}.*raw/X or layers"):
        build(write("a.h5ad", obs, counts=sp.csr_matrix(spoil(counts_of(8)))), mapping)
    assert list_atlases(root) == []


def test_missing_file_is_named(build, mapping, tmp_path):
    with pytest.raises(NotFoundError, match=r"none\.h5ad does not exist"):
        build(str(tmp_path / "none.h5ad"), mapping)


@pytest.mark.parametrize("damage", ["text", "half", "other hdf5", "zero bytes"])
def test_damaged_files_are_refused(write, build, obs, mapping, damage):
    path = Path(write("a.h5ad", obs))
    if damage == "text":
        path.write_text("cell,gene\n")
    elif damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "zero bytes":
        path.write_bytes(b"")
    else:
        with h5py.File(path, "w") as h5:
            h5["matrix"] = [1, 2]
    with pytest.raises(InvalidInputError, match=r"copy it again|not an h5ad"):
        build(str(path), mapping)


def test_zero_cells_are_refused(write, build, mapping):
    obs = {"cell_type": np.array([], dtype=str), "treatment": np.array([], dtype=str), "donor_id": np.array([], str)}
    with pytest.raises(InvalidInputError, match="has no cells"):
        build(write("a.h5ad", obs, counts=sp.csr_matrix((0, 6))), mapping)


@pytest.mark.parametrize(
    ("genes", "says"),
    [
        (["Cd14", "Isg15", "Mx1", "Nkg7", "Lyz2", "Actb"], "genes are not human: 100% .* mouse"),
        (["CD14", "ISG15", "MX1", "NKG7", "Lyz2", "Actb"], "genes mix species: 33%"),
        (["GRCh38_CD14", "GRCh38_MX1", "mm10_Mx1", "mm10_Lyz2", "mm10_A", "mm10_B"], "mixes species: .*mm10"),
        ([f"ENSMUSG{number:011d}" for number in range(6)], "genes of another species"),
        ([str(number) for number in range(6)], "numbers, as Entrez ids are"),
    ],
)
def test_genes_that_are_not_human_are_refused(write, build, obs, mapping, genes, says):
    with pytest.raises((InvalidInputError, MissingKeyError), match=says):
        build(write("a.h5ad", obs, genes=genes), mapping)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_repeated_gene_names_are_refused(write, build, obs, mapping):
    with pytest.raises(
        InvalidInputError, match=r"1 gene names occur more than once in var .CD14.*var_names_make_unique"
    ):
        build(write("a.h5ad", obs, genes=["CD14", "ISG15", "MX1", "NKG7", "LYZ", "CD14"]), mapping)


def test_ensembl_index_without_symbols_lists_the_var_columns(write, build, obs, mapping):
    ids = [f"ENSG{number:011d}" for number in range(6)]
    with pytest.raises(MissingKeyError, match=r"no column of symbols .*it has \['length'\]"):
        build(write("a.h5ad", obs, genes=ids, var={"length": range(6)}), mapping)


@pytest.mark.parametrize(("organisms", "says"), [("Mus musculus", "is not human"), (None, "mixes species")])
def test_organism_other_than_human_is_refused(write, build, obs, mapping, organisms, says):
    column = [organisms] * 8 if organisms else ["Homo sapiens", "Mus musculus"] * 4
    with pytest.raises(InvalidInputError, match=says):
        build(write("a.h5ad", {**obs, "organism": column}), mapping)


def test_missing_obs_column_lists_what_obs_has(write, build, obs):
    with pytest.raises(MissingKeyError, match=r"no column for perturbation \(tried cytokine, stim\); it has cell_type"):
        build(write("a.h5ad", {**obs, "donor": obs["donor_id"]}), load_mapping("parse_pbmc"))
    with pytest.raises(MissingKeyError, match="no column for cell_type"):
        build(write("b.h5ad", {"donor_id": ["a", "b"]}), load_mapping("cellxgene"))


@pytest.mark.parametrize("name", ["../up", "Tiny", "", "a/b"])
def test_names_that_leave_the_root_are_refused(write, build, obs, mapping, name):
    with pytest.raises(InvalidInputError, match="atlas name"):
        build(write("a.h5ad", obs), mapping, name=name)
    with pytest.raises(InvalidInputError, match="dataset name"):
        build(write("a.h5ad", obs), mapping, dataset="../x")


def test_root_that_cannot_be_written_is_a_storage_error(write, build, obs, mapping, root):
    root.write_text("a file, not a folder")
    with pytest.raises(StorageError, match="cannot be written"):
        build(write("a.h5ad", obs), mapping)


def test_failed_rebuild_leaves_the_old_atlas_whole(write, build, obs, mapping, root, counts_of):
    build(write("a.h5ad", obs), mapping)
    before = read_cells(root)
    with pytest.raises(InvalidInputError):
        build(write("b.h5ad", obs, counts=sp.csr_matrix(np.log1p(counts_of(8)))), mapping)
    pd.testing.assert_frame_equal(read_cells(root), before)
    assert check_atlas("tiny", root)["ok"]


def test_listing_atlases_imports_nothing_heavy():
    code = (
        "import sys; from haystack_kernel.atlas import list_atlases, atlas_info, load_mapping; list_atlases('/none');"
        "print([m for m in ('pandas', 'anndata', 'duckdb', 'h5py', 'scipy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_old_categoricals_are_read(write, build, obs, mapping, root):
    path = write("a.h5ad", obs)
    adata = ad.read_h5ad(path)
    with h5py.File(path, "a") as h5:
        labels = adata.obs["cell_type"].astype("category")
        del h5["obs/cell_type"]
        h5["obs/cell_type"] = labels.cat.codes.to_numpy()
        h5["obs/__categories/cell_type"] = np.array(list(labels.cat.categories), dtype=h5py.string_dtype())
    build(path, mapping)
    assert read_cells(root)[keys.CELL_TYPE_ORIGINAL].value_counts().to_dict() == {
        "classical monocyte": 4,
        "natural killer cell": 4,
    }


def test_two_builds_at_once_both_end_in_the_atlas(write, build, obs, mapping, root):
    sources = {name: write(f"{name}.h5ad", obs) for name in ("one", "two", "three")}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: build(sources[name], mapping, dataset=name, add=True), sources))
    assert read_cells(root)[keys.DATASET].value_counts().to_dict() == dict.fromkeys(sources, 8)
    assert check_atlas("tiny", root)["ok"]


def test_source_in_a_remote_store_is_read_in_place(write, build, obs, mapping, root):
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/a.h5ad", Path(write("a.h5ad", obs)).read_bytes())
    build("memory://bucket/a.h5ad", mapping)
    atlas = open_atlases(["tiny"], root=root)
    cells = atlas.select(CellSet(atlas="tiny", dataset="tiny", is_control=False))
    assert atlas.fetch(cells).X.sum() == cells[keys.TOTAL_COUNTS].sum()
    files.rm("/bucket/a.h5ad")
    with pytest.raises(NotFoundError, match=r"memory://bucket/a\.h5ad, which does not exist any more"):
        open_atlases(["tiny"], root=root)


def test_build_that_was_killed_leaves_nothing_that_the_next_one_trips_over(write, build, obs, mapping, root):
    left = root / "tiny" / ".staging-dead"
    left.mkdir(parents=True)
    (left / "cells.parquet").write_bytes(b"half")
    assert list_atlases(root) == []
    build(write("a.h5ad", obs), mapping)
    assert not left.exists()
    assert {path.name.partition("-")[0] for path in (root / "tiny").iterdir()} == {
        ".lock",
        "atlas.json",
        "cells.parquet",
        "genes",
        "groups.parquet",
    }


def test_build_without_add_into_an_atlas_of_other_datasets_is_refused(write, build, obs, mapping, root):
    build(write("a.h5ad", obs), mapping, dataset="one")
    with pytest.raises(InvalidInputError, match="'tiny' exists and holds one; add two to it with --add"):
        build(write("b.h5ad", obs), mapping, dataset="two")
    again = build(write("c.h5ad", {key: values[:6] for key, values in obs.items()}), mapping, dataset="one")
    assert (again.n_atlas_cells, check_atlas("tiny", root)["ok"]) == (6, True)


def test_a_dataset_that_is_added_is_called_after_its_file_and_others_are_not_written_again(
    write, build, obs, mapping, root
):
    build(write("a.h5ad", obs), mapping)
    [first] = (root / "tiny" / "cells.parquet").iterdir()
    written = first.stat()
    report = build(write("second file.h5ad", obs), mapping, add=True)
    assert report.datasets == {"second_file": 8}
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert list(atlas_info("tiny", root)["datasets"]) == ["second_file", "tiny"]


def test_an_open_atlas_keeps_its_cells_while_a_build_replaces_them(write, build, obs, mapping, root, counts_of):
    wanted = CellSet(atlas="tiny", dataset="tiny", is_control=True)
    build(write("a.h5ad", obs), mapping)
    opened = open_atlases(["tiny"], root=root)
    build(
        write("b.h5ad", {key: values[:4] for key, values in obs.items()}, genes=["X1", "X2", "X3", "X4", "X5", "X6"]),
        mapping,
    )
    assert opened.conditions()["n_cells"].sum() == 8
    cells = opened.select(wanted)
    assert list(cells[keys.CELL_INDEX]) == [0, 1, 4, 5]
    np.testing.assert_array_equal(opened.fetch(cells).X.toarray(), counts_of(8)[[0, 1, 4, 5]])
    assert len(open_atlases(["tiny"], root=root).select(wanted)) == 2


def test_what_was_replaced_more_than_a_day_ago_is_deleted_by_the_next_build(write, build, obs, mapping, root):
    source = write("a.h5ad", obs)
    build(source, mapping)
    build(write("b.h5ad", {key: values[:4] for key, values in obs.items()}), mapping)
    retired = list((root / "tiny" / ".old").iterdir())
    assert len(retired) == 2
    for path in retired:
        os.utime(path, (1_000, 1_000))
    build(source, mapping)
    kept = set((root / "tiny" / ".old").iterdir())
    assert len(kept) == 2
    assert not kept & set(retired)
    assert len(pq.read_table(root / "tiny" / "cells.parquet")) == 8


def test_totals_can_be_skipped_and_the_report_says_so(write, build, obs, mapping, root, counts_of):
    report = build(write("a.h5ad", obs), mapping, skip_totals=True)
    cells = read_cells(root).sort_values(keys.CELL_INDEX)
    np.testing.assert_array_equal(cells[keys.N_GENES], (counts_of(8) > 0).sum(axis=1))
    assert cells[keys.TOTAL_COUNTS].isna().all()
    assert any("counts per cell were not read" in note for note in report.notes)
    atlas = open_atlases(["tiny"], root=root)
    assert atlas.conditions()["median_total_counts"].isna().all()
    with pytest.raises(InvalidInputError, match=r"stored as csc.*write the file as CSR"):
        build(write("b.h5ad", obs, counts=sp.csc_matrix(counts_of(8))), mapping, skip_totals=True)


def test_no_known_cell_type_is_reported_with_what_to_do(write, build):
    report = build(
        write("a.h5ad", {"cell_type": ["zorg", "blip", "zorg"], "donor_id": ["a"] * 3}), load_mapping("cellxgene")
    )
    [note] = report.notes
    assert note.startswith("no cell type is known to the ontology (0 of 2 labels; zorg, blip)")
    assert [(one.label, one.n_cells) for one in report.unmapped] == [("blip", 1), ("zorg", 2)]


KILLED = """
import os, sys
from pathlib import Path
from haystack_kernel.atlas import build_atlas, load_mapping
from haystack_kernel.knowledge import load_knowledge

source, root, moment = sys.argv[1:]
seen = 0

def kill(event, arguments):
    global seen
    if event == "os.rename" and str(arguments[1]).startswith(root):
        if seen == int(moment):
            os.kill(os.getpid(), 9)
        seen += 1

sys.addaudithook(kill)
mapping = load_mapping("cellxgene", unperturbed=True)
build_atlas(source, name="tiny", root=root, mapping=mapping, knowledge=load_knowledge())
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", [3, 5, 6])  # parts, then atlas.json, then what is no longer named
def test_build_killed_at_any_renaming_leaves_the_old_atlas_or_the_new_one(write, build, obs, root, moment):
    build(write("a.h5ad", obs), load_mapping("cellxgene", unperturbed=True))
    other = write("b.h5ad", {key: values[:4] for key, values in obs.items()}, genes=[f"X{i}" for i in range(6)])
    done = subprocess.run([sys.executable, "-c", KILLED, other, str(root), str(moment)], check=False)
    assert done.returncode == -9
    found = check_atlas("tiny", root)
    assert found["ok"], found
    n_cells = len(open_atlases(["tiny"], root=root).select(CellSet(atlas="tiny", dataset="tiny", is_control=True)))
    assert n_cells == (8 if moment < 6 else 4)
    build(other, load_mapping("cellxgene", unperturbed=True))
    assert len(pq.read_table(root / "tiny" / "cells.parquet")) == 4
