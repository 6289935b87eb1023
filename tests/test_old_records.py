"""A run folder that schema version one wrote still serves: it is a finished run of two rounds on the demo atlas."""

import json
import shutil
import tarfile
import warnings
from pathlib import Path

import pytest

from haystack_kernel import flow
from haystack_kernel.config.connect import connect
from haystack_kernel.config.drift import current_digests
from haystack_kernel.config.settings import load_settings
from haystack_kernel.manage import fork
from haystack_kernel.report.trust import trust_table
from haystack_kernel.run import attach, resume
from haystack_kernel.schema import ROUND_FIELDS
from haystack_kernel.store import RunStore

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).parent / "data" / "run_of_version_one.tar.xz"
OLD_RUN = "run-of-version-one"


@pytest.fixture(scope="module")
def old_settings(tmp_path_factory, demo_atlas_root):
    """Settings whose storage holds the old run; tests only read the run."""
    return _unpack(tmp_path_factory.mktemp("old"), demo_atlas_root)


@pytest.fixture(scope="module")
def same_sources(tmp_path_factory, demo_atlas_root):
    """The same, as if the knowledge and the demo atlas of then were those of today."""
    folder = tmp_path_factory.mktemp("same")
    settings = _unpack(folder, demo_atlas_root)
    ports = connect(settings)
    digests = current_digests(ports.store.load(OLD_RUN).config, ports)
    for path in (folder / "store" / "runs").rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("digests"):
            path.write_text(json.dumps(content | {"digests": digests}), encoding="utf-8")
    return settings


def _unpack(folder, atlas_root):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder / "store" / "runs", filter="data")
    places = {"storage": "store", "knowledge": "knowledge", "cache": "cache"}
    own = {name: str(folder / place) for name, place in places.items()}
    return load_settings(layer="test", atlas_root=str(atlas_root), **own)


def test_a_fork_after_the_knowledge_has_changed_takes_over_nothing(old_settings):
    assert fork(OLD_RUN, changes={"threshold": 8}, settings=old_settings).record.forked_from.reused == ()


def test_a_fork_takes_over_what_the_old_run_scored(same_sources):
    parent = RunStore(same_sources.storage).load(OLD_RUN)
    made = fork(OLD_RUN, changes={"threshold": 8}, settings=same_sources)
    (new,) = made.record.rounds  # its first round reached 8 and not 9
    assert made.record.forked_from.reused[-1] == "ground 1"
    assert made.record.settings == parent.settings
    for entry in ("choose", "cells", "predict", "ground"):
        names = set(ROUND_FIELDS[entry])
        assert new.model_dump_json(include=names) == parent.rounds[0].model_dump_json(include=names)
    assert new.confidence.verdict_words in str(trust_table(made.record))
    assert (made.record.termination, flow.next_step(made.record)) == ("threshold", "interpret")


def test_a_fork_with_another_seed_reads_the_cells_of_the_old_candidates_again(same_sources):
    made = fork(OLD_RUN, changes={"seed": 1}, settings=same_sources)
    assert made.record.forked_from.reused == ("understand", "retrieve", "choose 1")
    made.work(until="submit")
    assert made.record.rounds[0].n_prompt == RunStore(same_sources.storage).load(OLD_RUN).rounds[0].n_prompt


def test_it_opens_and_renders(old_settings):
    run = attach(OLD_RUN, settings=old_settings)
    assert (run.record.status, run.record.steps[0].usage, run.status()["worker"]) == ("done", None, None)
    assert {"gene", "log2fc", "is_de"} <= set(run.de)
    assert RunStore(old_settings.storage).summary(OLD_RUN).score == run.score
    assert run.work().record == attach(OLD_RUN, settings=old_settings).record  # nothing is left to do
    report = Path(run.write_report())
    assert run.record.question in report.read_text(encoding="utf-8")


def test_it_goes_on_where_it_stopped(old_settings, tmp_path):
    """The same folder as its process left it after the rounds: the copies of the record were never replaced."""
    store = tmp_path / "store"
    shutil.copytree(old_settings.storage, store)
    for number in (16, 17):
        (store / "runs" / OLD_RUN / "record" / f"{number:04d}.json").unlink()
    settings = old_settings.model_copy(update={"storage": str(store)})
    assert attach(OLD_RUN, settings=settings).status()["status"] == "interrupted"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what changed since it was made is said
        run = resume(OLD_RUN, settings=settings).work()
    assert run.status()["status"] == "done"
    assert [time.step for time in run.record.steps][-3:] == ["decide 2", "interpret", "publish"]
    assert RunStore(settings.storage).summary(OLD_RUN).serial == run.record.serial
