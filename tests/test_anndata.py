"""An AnnData in memory goes in, a run or an AnnData comes out; what was given is kept with the run, never changed."""

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import haystack_kernel as haystack
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.report import query_card
from haystack_kernel.run import open_run

pytestmark = pytest.mark.slow
QUESTION = "How would B cells respond to IFN-beta?"


@pytest.fixture(scope="module")
def cells(tiny_h5ad):
    """All cells of the tiny atlas, in memory: cell type, treatment and donor are columns of obs."""
    return ad.read_h5ad(tiny_h5ad)


def only(cells, **wanted):
    keep = np.ones(cells.n_obs, dtype=bool)
    for column, values in wanted.items():
        keep &= cells.obs[column].isin([values] if isinstance(values, str) else values).to_numpy()
    return cells[keep]


@pytest.fixture(scope="module")
def b_cells(cells):
    """36 untreated B cells, without a column that says so."""
    made = only(cells, cell_type="B cell").copy()
    del made.obs["perturbation"]
    return made


MONOCYTES = ["CD14+ monocyte", "CD4 T cell"]


@pytest.fixture(scope="module")
def shown(cells):
    """Prompt and control cells that a person might hold: two types, three donors, in one object."""
    return only(cells, cell_type=MONOCYTES).copy()


def unchanged(adata):
    """A copy to compare with later: every matrix, column, name and key."""
    return adata.copy(), list(adata.uns), list(adata.obs.columns)


def assert_unchanged(adata, before):
    copy, uns, columns = before
    assert list(adata.uns) == uns
    assert list(adata.obs.columns) == columns
    pd.testing.assert_frame_equal(adata.obs, copy.obs)
    pd.testing.assert_frame_equal(adata.var, copy.var)
    assert (sparse.csr_matrix(adata.X) != sparse.csr_matrix(copy.X)).nnz == 0
    assert set(adata.layers) == set(copy.layers)


# --- cells of one's own, in a run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(tmp_path_factory, settings_in, b_cells, shown):
    """Settings, the cells given (in an order of their own), and what was predicted from cells in memory alone."""
    settings = settings_in(tmp_path_factory.mktemp("asked"))
    given = b_cells[::3][::-1].copy()
    before = unchanged(given), unchanged(shown)
    predicted = haystack.predict(given, "IFN-beta", prompt=shown, n_prompt=40, max_rounds=1, settings=settings)
    assert_unchanged(given, before[0])
    assert_unchanged(shown, before[1])
    return settings, given, predicted


def run_of(predicted, settings):
    return haystack.attach(json.loads(predicted.uns["haystack"]["run_id"]), settings=settings)


def test_query_prompt_and_control_in_memory_make_a_run_that_reopens_without_them(asked, shown):
    """No atlas is named or opened; the run folder alone holds everything, also after the cache is gone."""
    settings, given, predicted = asked
    run = run_of(predicted, settings)
    record = run.record
    assert record.status == "done"
    assert record.config.atlases == ("own",)
    assert record.digests.keys().isdisjoint({"atlas:tiny", "atlas:own"})
    assert {one.prompt.label for one in record.candidates} == {
        "CD14-positive monocyte",
        "CD4-positive, alpha-beta T cell",
    }
    assert all(one.donor_matched and one.strategy == "direct" for one in record.candidates)
    assert record.rounds[0].query_source == "all 12 cells of your AnnData"
    folder = Path(settings.storage) / "runs"
    kept = sorted(path.name for path in (folder / run.run_id / "inputs").iterdir())
    assert len(kept) == 2
    assert {record.config.query_h5ad, record.config.prompt_h5ad} == {f"inputs/{name}" for name in kept}
    used = haystack.get.prompts(run)
    for role, treatment in (("prompt", "IFN-beta"), ("control", "control")):
        ids = {f"own/{role}/{name}" for name in only(shown, perturbation=treatment).obs_names}
        assert set(used.loc[used["role"] == role, "cell_id"]) <= ids
    assert set(used.loc[used["role"] == "query", "cell_id"]) == set(given.obs_names)
    shutil.rmtree(settings.cache)
    child = haystack.fork(run.run_id, changes={"engine": "mean"}, settings=settings)
    assert {"retrieve", "cells 1"} <= set(child.record.forked_from.reused)
    other = haystack.fork(run.run_id, changes={"seed": 4}, settings=settings)
    shutil.rmtree(settings.cache)
    assert other.work(until="submit").record.rounds[0].n_query == 12  # read from its own folder
    for one in (child, other):
        assert one.record.config.query_h5ad == record.config.query_h5ad
        assert sorted(path.name for path in (folder / one.run_id / "inputs").iterdir()) == kept


def test_the_same_cells_are_the_same_option_and_others_are_not(b_cells, few_cells):
    run = open_run(QUESTION, query_h5ad=b_cells)
    again = open_run(QUESTION, run_id=run.run_id, query_h5ad=b_cells.copy())
    assert again.record.serial == run.record.serial
    other = b_cells[:20]
    with pytest.raises(InvalidInputError, match="was started with other options"):
        open_run(QUESTION, run_id=run.run_id, query_h5ad=other)
    kept = few_cells / "runs" / run.run_id / run.record.config.query_h5ad
    other.copy().write_h5ad(kept)
    with pytest.raises(InvalidInputError, match=r"files that run .* reads were replaced: query_h5ad"):
        haystack.resume(run.run_id)
    kept.unlink()
    for path in (few_cells.parent / "cache" / "inputs").iterdir():
        path.unlink()
    with pytest.raises(NotFoundError, match=r"your AnnData, which run .* was given, is not in its folder"):
        haystack.resume(run.run_id)


def test_own_prompt_cells_stand_beside_an_atlas_that_is_named(b_cells, shown, few_cells):
    treated = only(shown, perturbation="IFN-beta", cell_type="CD4 T cell")
    control = only(shown, perturbation="control", cell_type="CD4 T cell")
    told = []
    run = open_run(
        QUESTION,
        query_h5ad=b_cells,
        prompt_h5ad=treated,
        control_h5ad=control,
        atlases=["tiny"],
        progress=lambda event: told.append(event.message),
    )
    assert run.record.config.atlases == ("own", "tiny")
    assert "own prompt cells: 36, own control cells: 36" in told
    run.retrieve()
    assert {one.prompt.atlas for one in run.record.candidates} == {"own", "tiny"}
    run.work(until="submit")
    assert run.record.rounds[0].n_control > 0


def test_a_prompt_that_its_own_labels_contradict_is_refused_with_what_it_holds(b_cells, shown, few_cells):
    control = only(shown, perturbation="control")
    treated = only(shown, perturbation="IFN-beta")
    with pytest.raises(
        InvalidInputError, match=r"cannot be the prompt cells: your AnnData holds no cell.*control \(72\)"
    ):
        haystack.ask(QUESTION, query=b_cells, prompt=control)
    with pytest.raises(InvalidInputError, match=r"cannot be the control cells: .*all of them treated.*IFN-beta \(72\)"):
        haystack.ask(QUESTION, query=b_cells, prompt=treated, control=treated)
    with pytest.raises(InvalidInputError, match="belongs to prompt cells of your own, and none are given"):
        haystack.ask(QUESTION, query=b_cells, control=control)
    with pytest.raises(InvalidInputError, match=r"holds no cell .* effect of TNF-alpha .*IFN-beta"):
        haystack.ask("How would B cells respond to TNF-alpha?", query=b_cells, prompt=treated)
    with pytest.raises(InvalidInputError, match="prompt must be an AnnData or the path of an h5ad file, not dict"):
        haystack.ask(QUESTION, query=b_cells, prompt={"cells": 1})
    with pytest.raises(InvalidInputError, match="question asks for none"):
        haystack.ask("What do NK cells of donor d1 look like?", prompt=treated, atlas="tiny")
    assert not (few_cells / "runs").exists()


def test_a_treatment_that_no_table_knows_is_answered_by_own_prompt_cells_under_the_users_name(
    b_cells, shown, few_cells
):
    own = shown.copy()
    own.obs["perturbation"] = own.obs["perturbation"].astype(str).replace("IFN-beta", "XQ-4471")
    question = "How would B cells respond to XQ-4471?"
    run = open_run(question, query_h5ad=b_cells, prompt_h5ad=own)
    assert run.query.perturbation.name == "XQ-4471"
    assert "no table knows this name: it is taken as yours" in repr(query_card(run.record))
    run.work(until="submit")
    assert run.record.rounds[0].n_prompt > 0
    assert {one.prompt.perturbation for one in run.record.candidates} == {"XQ-4471"}
    with pytest.raises(InvalidInputError, match="'XQ-4471' is not a known treatment"):
        open_run(question, query_h5ad=b_cells)


def test_without_query_cells_those_of_the_control_are_transformed(cells, few_cells):
    """A question about one of the types of the prompt itself: its own control cells are the query."""
    run = open_run("How would CD4 T cells respond to IFN-beta?", prompt_h5ad=only(cells, cell_type=MONOCYTES))
    run.work(until="submit")
    assert run.record.query_set.atlas == "own"
    with pytest.raises(Exception, match="no unperturbed B cells to transform"):
        open_run(QUESTION, prompt_h5ad=only(cells, cell_type=MONOCYTES)).retrieve()


def test_a_file_on_this_disk_goes_along_to_the_cloud_in_the_run_folder(tiny_h5ad, tiny_settings, tmp_path):
    """An orchestrator elsewhere reads no disk of this machine; the same file given again is the same option."""
    from haystack_kernel.config.options import build_config, changed_options
    from haystack_kernel.manage.submission import check_reachable
    from haystack_kernel.store import take_along

    settings = type(tiny_settings).model_validate({**tiny_settings.model_dump(), "storage": "gs://bucket"})
    config = build_config(settings, executor="batch", query_h5ad=str(tiny_h5ad), prompt_h5ad=str(tiny_h5ad))
    taken = take_along(config, settings)
    assert taken.query_h5ad == taken.prompt_h5ad
    assert taken.query_h5ad.startswith("inputs/tiny-")
    assert (Path(settings.cache) / taken.query_h5ad).read_bytes() == tiny_h5ad.read_bytes()
    check_reachable(taken, settings)
    with pytest.raises(InvalidInputError, match=r"prompt_h5ad \(--prompt\) is "):
        check_reachable(config, settings)
    assert changed_options(taken, settings, query_h5ad=str(tiny_h5ad)) == ""
    elsewhere = tmp_path / "other.h5ad"
    elsewhere.write_bytes(b"other")
    assert "query_h5ad is" in changed_options(taken, settings, query_h5ad=str(elsewhere))


# --- predict and score ---------------------------------------------------------------------------------------------


def test_predict_returns_the_cells_given_with_effects_map_and_origin(asked):
    """Twelve cells in an order of their own; the labels tell the type, and the run behind the answer is kept."""
    settings, given, predicted = asked
    assert predicted.obs_names.tolist() == given.obs_names.tolist()
    assert predicted.obs["donor_id"].astype(str).tolist() == given.obs["donor_id"].astype(str).tolist()
    assert (sparse.csr_matrix(predicted.layers["query"]) != sparse.csr_matrix(given.X)).nnz == 0
    assert haystack.get.de(predicted).set_index("gene").loc["ISG15", "log2fc"] > 1
    assert haystack.get.cells(predicted)["role"].value_counts()["predicted"] == given.n_obs
    assert np.isfinite(predicted.obsm["X_umap"]).all()
    story = {name: json.loads(text) for name, text in predicted.uns["haystack"].items()}
    assert story["engine"] == "weighted"
    assert "licence of their data sets" in story["licence"]
    assert haystack.get.rounds(predicted)["is_best"].sum() == 1
    scored = haystack.score(predicted, settings=settings)
    assert scored.value == pytest.approx(4)  # cells without their prompt say nothing of replication
    assert all("competitive null alone" in one for one in scored.components.query("score == score")["reason"])


def test_a_measured_response_is_scored_high_and_the_same_cells_shuffled_are_not(cells):
    """CD4 T cells with and without IFN-beta; then with the labels dealt out anew within each donor."""
    measured = only(cells, cell_type="CD4 T cell").copy()
    right = haystack.score(measured, perturbation="IFN-beta")
    assert right.value >= 7
    assert right.de.set_index("gene").loc["ISG15", "log2fc"] > 1
    assert repr(right).startswith("IFN-beta | CD4-positive, alpha-beta T cell: ")
    assert "pathway coherence" in right._repr_html_()
    apart = [only(measured, perturbation=name) for name in ("IFN-beta", "control")]
    assert haystack.score(apart[0], control=apart[1], perturbation="IFN-beta").value == right.value
    shuffled = measured.copy()
    rng = np.random.default_rng(5)
    shuffled.obs["perturbation"] = (
        measured.obs.groupby("donor_id", observed=True)["perturbation"].transform(rng.permutation).to_numpy()
    )
    assert haystack.score(shuffled, perturbation="IFN-beta").value < 4


def test_what_cannot_be_predicted_or_scored_says_what_the_cells_hold(cells, b_cells, shown):
    with pytest.raises(InvalidInputError, match=r"several types: CD14-positive monocyte \(36\), CD4.*give cell_type"):
        haystack.predict(shown, "IFN-beta")
    bare = ad.AnnData(b_cells.X, var=b_cells.var)
    with pytest.raises(InvalidInputError, match="no label of the cells surely names a cell type"):
        haystack.predict(bare, "IFN-beta")
    with pytest.raises(InvalidInputError, match=r"do not tell treated from control cells \(36 unlabelled; no such col"):
        haystack.score(b_cells, perturbation="IFN-beta")
    with pytest.raises(InvalidInputError, match="name the treatment whose response is scored"):
        haystack.score(shown)
