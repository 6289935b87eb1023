"""A run that goes on later: what changed around it is said, its own settings are kept."""

import json
import shutil

import anndata as ad
import pytest

from haystack_kernel.atlas import move_source
from haystack_kernel.config.connect import connect, software_versions
from haystack_kernel.config.drift import find_drift, pinned, recorded_settings
from haystack_kernel.errors import ContractError, InvalidInputError, NotFoundError
from haystack_kernel.manage import fork
from haystack_kernel.run import Run, open_run, resume

pytestmark = pytest.mark.slow

REPLACED = r"is another file than before .*accept_changes=True \(--accept-changes\)"
QUESTION = "How would B cells respond to IFN-beta?"


@pytest.fixture
def begun(tiny_env):
    """A run that has searched and was cancelled."""
    return open_run(QUESTION).work(until="choose").cancel()


def test_a_record_keeps_the_sections_that_numbers_depend_on_and_no_path(begun):
    settings = begun._ports.settings
    assert begun.record.settings == recorded_settings(settings)
    assert set(begun.record.settings) == {"retrieval", "rounds", "grounding"}
    assert begun.record.settings["grounding"]["n_draws"] == 199
    assert "/" not in json.dumps(begun.record.settings)


def test_nothing_is_said_where_nothing_changed(begun):
    assert resume(begun.run_id).record.notes == ()


def test_changed_settings_are_said_and_the_run_keeps_its_own(begun, monkeypatch):
    monkeypatch.setenv("HAYSTACK_GROUNDING__N_DRAWS", "999")
    with pytest.warns(UserWarning, match=r"grounding\.n_draws is 999 now; the run keeps 199"):
        run = resume(begun.run_id)
    assert len(run.record.notes) == 1
    assert pinned(run._ports.settings, run.record).grounding.n_draws == 199
    saved = run.work(until="assemble").refresh().record
    assert saved.notes == run.record.notes
    with pytest.warns(UserWarning, match="n_draws"):
        assert resume(begun.run_id).record.notes == saved.notes  # said again, noted once


def test_a_step_works_with_the_settings_of_the_run(tiny_env):
    run = open_run(QUESTION)
    few = run._ports.settings.retrieval.model_copy(update={"n_top": 1})
    changed = run._ports.settings.model_copy(update={"retrieval": few})
    assert len(Run(run.record, ports=connect(changed)).retrieve().candidates) == 2


def test_an_atlas_that_was_rebuilt_is_said_before_going_on(begun, tiny_atlas_root, tmp_path, monkeypatch):
    other = tmp_path / "rebuilt"
    shutil.copytree(tiny_atlas_root, other)
    path = other / "tiny" / "atlas.json"
    old = path.read_text()
    digest = begun.record.digests["atlas:tiny"]
    assert digest in old
    path.write_text(old.replace(digest, digest[::-1]))
    settings = begun._ports.settings.model_copy(update={"atlas_root": str(other)})
    (note,) = find_drift(begun.record, connect(settings), versions=software_versions())
    assert note.startswith("atlas tiny was rebuilt since the run searched it")
    assert digest[:8] in note


def test_an_atlas_that_is_gone_is_said(begun, tmp_path):
    settings = begun._ports.settings.model_copy(update={"atlas_root": str(tmp_path / "nowhere")})
    (note,) = find_drift(begun.record, connect(settings), versions=software_versions())
    assert "cannot be opened now" in note
    assert "tiny" in note


def test_other_software_is_said(begun):
    versions = {**software_versions(), "numpy": "99.0"}
    (note,) = find_drift(begun.record, begun._ports, versions=versions)
    assert "-> 99.0" in note


def test_a_run_that_is_done_is_left_in_peace(begun):
    done = begun.record.model_copy(update={"status": "done"})
    assert find_drift(done, begun._ports, versions={"numpy": "99"}) == ()


def test_settings_of_a_later_version_are_refused_in_words(begun):
    later = begun.record.model_copy(update={"settings": {"grounding": {"n_dreams": 3}}})
    with pytest.raises(ContractError, match=r"begun by haystack-kernel .*grounding\.n_dreams"):
        pinned(begun._ports.settings, later)


# --- files of the user's --------------------------------------------------------------------------------------------


@pytest.fixture
def own_cells(tiny_h5ad, tmp_path):
    """A file of the user's own cells."""
    own = ad.read_h5ad(tiny_h5ad)
    own = own[(own.obs["cell_type"] == "B cell").to_numpy()].copy()
    own.write_h5ad(tmp_path / "own.h5ad")
    return tmp_path / "own.h5ad"


def replace_with_other_cells(path):
    own = ad.read_h5ad(path)
    own[: own.n_obs // 2].copy().write_h5ad(path)


def test_own_cells_that_were_replaced_stop_resume_and_fork_unless_the_change_is_accepted(tiny_env, own_cells):
    run = open_run(QUESTION, query_h5ad=str(own_cells)).work(until="submit")
    begun = run.record
    assert len(begun.inputs["query_h5ad"]) == 64
    assert resume(run.run_id).record.notes == ()
    replace_with_other_cells(own_cells)
    says = r"query_h5ad .*own\.h5ad is another file than before .*accept_changes=True \(--accept-changes\)"
    for again in (
        lambda: resume(run.run_id),
        lambda: open_run(run_id=run.run_id),
        lambda: fork(run.run_id, changes={"threshold": 9}),
    ):
        with pytest.raises(InvalidInputError, match=says):
            again()
    forked = fork(run.run_id, changes={"threshold": 9}, accept_changes=True).record
    assert forked.forked_from.reused == ("understand", "retrieve", "choose 1")  # the cells are read again
    with pytest.warns(UserWarning, match="is another file than before"):
        accepted = resume(run.run_id, accept_changes=True).record
    assert accepted.inputs == forked.inputs != begun.inputs
    with pytest.warns(UserWarning, match="is another file than before"):
        assert resume(run.run_id).record.notes == accepted.notes  # noted, and not asked again


def test_own_cells_in_a_bucket_that_were_replaced_are_told_by_their_generation(tiny_env, own_cells, bucket_server):
    gcsfs = pytest.importorskip("gcsfs")
    gcsfs.GCSFileSystem.clear_instance_cache()  # instances remember the server of another test

    def put(data):
        bucket_server.objects.put("haystack-test", "mine/own.h5ad", data, meta={}, query={})

    put(own_cells.read_bytes())
    run = open_run(QUESTION, query_h5ad="gs://haystack-test/mine/own.h5ad").work(until="submit")
    before = run.record.inputs["query_h5ad"]
    assert before.startswith("generation ")
    assert resume(run.run_id).record.notes == ()
    replace_with_other_cells(own_cells)
    put(own_cells.read_bytes())
    for again in (lambda: resume(run.run_id), lambda: fork(run.run_id, changes={"threshold": 9})):
        with pytest.raises(InvalidInputError, match=f"query_h5ad gs://haystack-test/mine/own.h5ad {REPLACED}"):
            again()
    forked = fork(run.run_id, changes={"threshold": 9}, accept_changes=True).record
    assert forked.forked_from.reused == ("understand", "retrieve", "choose 1")
    with pytest.warns(UserWarning, match=f"is another file than before .{before[:19]}"):
        accepted = resume(run.run_id, accept_changes=True)
    assert accepted.record.inputs["query_h5ad"] != before
    del bucket_server.objects.buckets["haystack-test"]["mine/own.h5ad"]
    with pytest.raises(NotFoundError, match=r"query_h5ad gs://haystack-test/mine/own\.h5ad does not exist"):
        resume(run.run_id)
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def own_atlas(tiny_env, tiny_h5ad, tiny_atlas_root, tmp_path, monkeypatch):
    """The source of an atlas of the user's own, which may be replaced."""
    source = shutil.copy(tiny_h5ad, tmp_path / "prompts.h5ad")
    shutil.copytree(tiny_atlas_root, tmp_path / "own_atlases")
    move_source("tiny", str(source), root=tmp_path / "own_atlases")
    monkeypatch.setenv("HAYSTACK_ATLAS_ROOT", str(tmp_path / "own_atlases"))
    return source


def test_a_prompt_source_that_was_replaced_stops_the_step_that_reads_it_and_finished_steps_stay(own_atlas):
    """The index names rows of the old file: there is no going on with the new one, accepted or not."""
    says = r"prompts\.h5ad changed since the atlas was built \(its bytes differ\); restore it, or build the atlas again"
    whole = own_atlas.read_bytes()
    early = open_run(QUESTION).work(until="assemble")
    late = open_run(QUESTION, seed=1).work(until="submit")
    own_atlas.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # as long as before
    for again in (early, fork(early.run_id, changes={"threshold": 9})):
        with pytest.raises(InvalidInputError, match=says):
            resume(again.run_id, accept_changes=True).work(until="submit")
        assert again.refresh().record.failure.step == "assemble"
        assert again.record.rounds[0].choice == early.record.rounds[0].choice
    assert resume(late.run_id).work(until="ground").record.rounds[0].task_seconds  # its cells were read before
    assert "cells 1" in fork(late.run_id, changes={"threshold": 9}).record.forked_from.reused

    own_atlas.write_bytes(whole + b"more")
    shorter = rf"prompts\.h5ad has {len(whole) + 4} bytes, atlas 'tiny' was built from {len(whole)}: it was changed"
    with pytest.warns(UserWarning, match=f"an atlas of the run cannot be opened now: .*{shorter}"):
        resume(early.run_id)
    with pytest.raises(InvalidInputError, match=shorter):
        fork(early.run_id, changes={"threshold": 9})
