"""Engines of other packages: found, run apart, checked."""

from __future__ import annotations

import json
import shutil
import sys

import anndata as ad
import numpy as np
import pytest

from inference.baselines import Cells, predict
from inference.engines import require_installed
from inference.errors import EngineError
from inference.foreign import arrays_of, find_faults, to_anndata
from inference.foreign import predict as predict_foreign
from inference.installed import find_installed, installed_engines
from inference.manifest import EMBED, Manifest, ManifestError, Task, dump_manifest, parse_manifest
from inference.run_inference import main
from tests.packages import EXAMPLE, install

__all__ = ["install"]


@pytest.fixture
def cells(make_adata):
    def of(adata):
        return Cells(
            adata.X, tuple(adata.var_names), *(adata.obs[name].to_numpy(str) for name in ("cell_type", "donor_id"))
        )

    return {
        "prompt": of(make_adata(1, is_treated=True, cell_types=("a", "b"))),
        "control": of(make_adata(2, cell_types=("a", "b"))),
        "query": of(make_adata(3)),
    }


@pytest.mark.slow
def test_the_worked_example_predicts_from_a_manifest_with_its_terms_in_the_record(install, roles, tmp_path, capsys):
    site = install({"nearest_type": "nearest_type:NearestType"}, name="example_engine", version="1.0")
    shutil.copy(EXAMPLE / "nearest_type.py", site)
    assert len((EXAMPLE / "nearest_type.py").read_text().splitlines()) < 100
    output = tmp_path / "out.h5ad"
    task = Task("t", str(roles["prompt"]), str(roles["query"]), str(output), 0, "nearest_type", str(roles["control"]))
    (tmp_path / "manifest.json").write_text(dump_manifest(Manifest(tasks=(task,))))
    assert main(["--manifest", str(tmp_path / "manifest.json")]) == 0, capsys.readouterr().err
    found = ad.read_h5ad(output)
    query = ad.read_h5ad(roles["query"])
    assert found.var_names.equals(query.var_names)
    assert found.obs_names.equals(query.obs_names)
    before, after = (np.asarray(one.X.sum(axis=0)).ravel() for one in (query, found))
    assert (after[:5] > 2 * before[:5]).all()
    assert (after[5:10] < before[5:10]).all()
    record = json.loads(found.uns["haystack_inference"])
    assert record["model"] == {
        "name": "example_engine 1.0",
        "sha256": find_installed("nearest_type").digest,
        "licence": "Apache-2.0",
        "citation": "Example engine of HAYSTACK's documentation, version 1.0",
    }
    assert record["versions"]["example_engine"] == "1.0"
    assert record["inputs"]["engine"] == record["model"]["sha256"]  # another version is another prediction


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("raise RuntimeError('no weights')", r"failed: RuntimeError: no weights \(foreign_code.py, line 1\)"),
        (
            "import os; print('half-way', flush=True); os.kill(os.getpid(), 9)",
            "ended by signal 9; its last words: half-way",
        ),
        ("import os; os._exit(0)", "ended with exit code 0 and without an answer"),
        ("engine = 3", r"foreign_code:engine has no method predict\(prompt"),
        ("import time; time.sleep(10_000)", "did not answer within 1.5 s and was ended"),
    ],
)
def test_an_engine_that_fails_says_how(install, cells, source, match):
    install({"bad": "foreign_code:engine"}, source=source)
    limit = 1.5 if "sleep" in source else 300
    with pytest.raises(EngineError, match=match):
        predict_foreign(require_installed("bad"), **cells, seed=0, limit_s=limit)


@pytest.mark.slow
def test_what_an_engine_returns_is_taken_as_it_is_meant(install, cells):
    source = """
import os
class Doubles:
    citation = "A & B 2026"
    def predict(self, *, prompt, query, **others):
        assert not query.obs_names.duplicated().any() and set(prompt.obs) == {"cell_type", "donor"}
        answer = query[:, ["GENE3", "GENE1"]].copy()
        answer.X = answer.X * 2
        return answer
"""
    install({"doubles": "foreign_code:Doubles"}, source=source)
    made = predict_foreign(require_installed("doubles"), **cells, seed=0)
    expected = cells["query"].counts.toarray().copy()
    expected[:, [1, 3]] *= 2
    assert np.array_equal(made.counts.toarray(), expected)
    assert np.flatnonzero(made.changeable).tolist() == [1, 3]
    assert made.notes == ("the engine gave no answer for 38 of 40 genes, which stay as they are",)
    assert made.record["model"]["licence"] == "MIT"  # of the package, where the engine states none


def test_an_answer_that_is_neither_cells_nor_changes_is_refused():
    with pytest.raises(TypeError, match=r"predict returned str; expected: an AnnData .* or a pandas Series"):
        arrays_of("done")
    with pytest.raises(TypeError, match="the AnnData that predict returned has no X"):
        arrays_of(ad.AnnData(shape=(2, 2)))


def _counts(query, **changes):
    whole = query.counts
    names = np.array([f"cell{number}" for number in range(whole.shape[0])])
    found = {"kind": "counts", "genes": np.array(query.genes), "cells": names, "shape": np.array(whole.shape)}
    found |= {"values": whole.data.copy(), "indices": whole.indices, "indptr": whole.indptr}
    return found | changes


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"genes": np.array([f"gene{i}" for i in range(40)])}, ""),  # case is no difference
        (
            {"genes": np.array([f"ENSG{i}" for i in range(40)])},
            "40 of its 40 genes are not among the query's, such as ENSG0",
        ),
        ({"genes": np.array(["GENE1"] * 40)}, "39 genes are there more than once"),
        ({"shape": np.array([29, 40])}, "X is 29 x 40: 30 query cells x 40 genes are needed"),
        ({"cells": np.array([f"cell{29 - i}" for i in range(30)])}, "not the query cells in their order"),
        ({"values": np.full(3, np.nan)}, "3 of its 3 values are NaN or infinite"),
        ({"values": np.array([1.0, np.inf])}, "1 of its 2 values are NaN or infinite"),
        ({"values": np.array([1.0, -2.0])}, "1 counts are negative"),
        ({"values": np.array([0.5, 2.0])}, "1 values of X are not whole numbers"),
        ({"values": np.array([1e9])}, "a count is 1e.09; 16777216 and more cannot"),
        ({"values": np.zeros(4)}, "all counts are 0"),
        ({"values": np.array(["3", "4"])}, "of type <U1, which are no numbers"),
        ({"values": np.array([1 + 2j])}, "of type complex128, which are no numbers"),
    ],
)
def test_every_fault_of_an_answer_is_named(cells, changes, match):
    said = "; ".join(find_faults(_counts(cells["query"], **changes), cells["query"]))
    assert match in said.replace("+", ".") if match else not said


@pytest.mark.parametrize(
    ("genes", "values", "match"),
    [
        (["GENE1", "GENE2"], [0.5, -0.5], ""),
        ([], [], "it holds no gene"),
        (["GENE1"], [0.5, 0.5], "2 values for 1 genes"),
        (["GENE1"], [40.0], "1 changes are beyond 9.2"),
        (["GENE1"], [np.nan], "1 of its 1 values are NaN"),
    ],
)
def test_every_fault_of_a_change_is_named(cells, genes, values, match):
    answer = {"kind": "change", "genes": np.array(genes, dtype=str), "values": np.array(values, dtype=float)}
    said = "; ".join(find_faults(answer, cells["query"]))
    assert match in said if match else not said


def test_names_that_cannot_be_engines_are_listed_with_the_reason_and_never_used(install):
    entries = {"stack": "a:B", "auto": "a:B", "Good-One": "a:B", "fine": "a:B", "odd": "a.b", "x" * 41: "a:B"}
    install(entries, source="raise SystemExit('imported')")
    install({"fine": "other:C"}, name="second")
    found = {name: one.fault for name, one in installed_engines().items()}
    assert "that of an engine of HAYSTACK" in found["stack"]
    assert all("the name must be 2 to 40 of a-z" in found[name] for name in ("auto", "Good-One", "x" * 41))
    assert "'a.b' is not 'package.module:object'" in found["odd"]
    assert "two packages declare it" in found["fine"]
    with pytest.raises(EngineError, match="engine 'fine' cannot be used: two packages declare it"):
        require_installed("fine")
    assert "foreign_code" not in sys.modules


def test_an_answer_with_objects_is_refused_unread(install, cells, tmp_path):
    proof = tmp_path / "proof"
    source = f"""
import os, sys
import numpy as np
class Evil:
    def __reduce__(self):
        return (open, ({str(proof)!r}, "w"))
evil = np.array([Evil()], dtype=object)
np.savez(sys.argv[2] + "/answer.npz", kind=np.array("change"), genes=evil, values=np.ones(1))
os._exit(0)
"""
    install({"evil": "foreign_code:engine"}, source=source)
    with pytest.raises(EngineError, match="left an answer that cannot be read"):
        predict_foreign(require_installed("evil"), **cells, seed=0)
    assert not proof.exists()


def test_manifests_of_earlier_versions_open_and_new_fields_are_written_only_where_they_say_something():
    task = Task("t", "p", "q", "o", 0, "weighted")
    plain = json.loads(dump_manifest(Manifest(tasks=(task,))))
    assert "engine_limit_s" not in plain
    assert "others" not in plain["tasks"][0]
    assert parse_manifest(json.dumps(plain)) == Manifest(tasks=(task,))
    new = Manifest(tasks=(Task("t", "p", "q", "o", 0, "additive", others="x"),), engine_limit_s=60)
    assert parse_manifest(dump_manifest(new)) == new
    for changes, match in (({"others": ""}, "'others' must be"), ({"engine": "no-name"}, "unknown engine 'no-name'")):
        with pytest.raises(ManifestError, match=match):
            parse_manifest(json.dumps({"version": 1, "tasks": [plain["tasks"][0] | changes]}))
    with pytest.raises(ManifestError, match="'engine_limit_s' must be a number above 0"):
        parse_manifest(json.dumps(plain | {"engine_limit_s": 0}))
    with pytest.raises(ManifestError, match="leave out 'prompt', 'control' and 'others'"):
        parse_manifest(dump_manifest(Manifest(tasks=(Task("t", None, "q", "o", 0, "stack", others="x", kind=EMBED),))))


def test_an_engine_that_is_not_installed_ends_the_program_before_any_file_is_read(tmp_path, capsys):
    (tmp_path / "m.json").write_text(dump_manifest(Manifest(tasks=(Task("t", "p", "q", "o", 0, "absent"),))))
    assert main(["--manifest", str(tmp_path / "m.json")]) == 2
    said = capsys.readouterr().err
    assert "engine 'absent' is unknown; possible: none, mean" in said
    assert "for a job of the cloud in the image that batch.engine_images names for it" in said


def test_the_example_agrees_with_shift_where_one_type_is_all_there_is(cells):
    """The example's formula, recomputed by the engine that it must equal there."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        from nearest_type import NearestType
    finally:
        sys.path.remove(str(EXAMPLE))
    one = {role: _only(cell, "a") for role, cell in cells.items()}
    change = NearestType().predict(**{role: to_anndata(cell) for role, cell in one.items()}, others=None, seed=0)
    made, base = (predict(name, **one, seed=0).expected_log for name in ("shift", "none"))
    np.testing.assert_allclose(np.maximum(base + change.to_numpy(), 0), made, atol=1e-5)


def _only(cells, name):
    rows = np.flatnonzero(cells.cell_type == name)
    return Cells(cells.counts[rows], cells.genes, cells.cell_type[rows], cells.donor[rows])
