"""A run folder that schema version one wrote still serves: it is a finished run of two rounds on the demo atlas."""

import tarfile
from pathlib import Path

import pytest

from haystack_kernel import flow
from haystack_kernel.config.settings import load_settings
from haystack_kernel.manage import fork
from haystack_kernel.report.trust import trust_table
from haystack_kernel.schema import ROUND_FIELDS
from haystack_kernel.store import RunStore

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).parent / "data" / "run_of_version_one.tar.xz"
OLD_RUN = "run-of-version-one"


@pytest.fixture(scope="module")
def old_settings(tmp_path_factory):
    """Settings whose storage holds the old run; tests only read the run."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder / "store" / "runs", filter="data")
    places = {"storage": "store", "atlas_root": "atlases", "knowledge": "knowledge", "cache": "cache"}
    return load_settings(layer="test", **{name: str(folder / place) for name, place in places.items()})


def test_a_fork_takes_over_what_the_old_run_scored(old_settings):
    parent = RunStore(old_settings.storage).load(OLD_RUN)
    made = fork(OLD_RUN, changes={"threshold": 8}, settings=old_settings)
    (new,) = made.record.rounds  # its first round reached 8 and not 9
    assert made.record.forked_from.reused[-1] == "ground 1"
    assert made.record.settings == parent.settings
    for entry in ("choose", "cells", "predict", "ground"):
        names = set(ROUND_FIELDS[entry])
        assert new.model_dump_json(include=names) == parent.rounds[0].model_dump_json(include=names)
    assert new.confidence.verdict_words in str(trust_table(made.record))
    assert (made.record.termination, flow.next_step(made.record)) == ("threshold", "interpret")


def test_a_fork_with_another_seed_reads_the_cells_of_the_old_candidates_again(old_settings):
    made = fork(OLD_RUN, changes={"seed": 1}, settings=old_settings)
    assert made.record.forked_from.reused == ("understand", "retrieve", "choose 1")
    made.work(until="submit")
    assert made.record.rounds[0].n_prompt == RunStore(old_settings.storage).load(OLD_RUN).rounds[0].n_prompt
