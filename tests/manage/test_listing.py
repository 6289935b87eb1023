"""Many runs listed by filters: the newest first, one small file each, what is not needed is not read."""

from datetime import UTC, datetime, timedelta

import pytest

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.jobs import SystemClock
from haystack_kernel.manage import list_summaries
from haystack_kernel.manage.listing import parse_since
from haystack_kernel.schema import Choice, Composite, JobHandle, Round, RunConfig, RunRecord
from haystack_kernel.store import Lease, RunStore

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)


def record_of(run_id, *, days, status="done", question="How would B cells respond to IFN-beta?", score=None):
    rounds = ()
    if score is not None:
        done = Round(number=1, choice=Choice(candidate_keys=(), reason=""), candidates=())
        rounds = (done.model_copy(update={"composite": Composite(value=score, weight_computed=1)}),)
    return RunRecord(
        run_id=run_id,
        question=question,
        config=RunConfig(),
        created_at=NOW - timedelta(days=days),
        status=status,
        rounds=rounds,
        best_round=1 if rounds else None,
    )


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setenv("HAYSTACK_STORAGE", str(tmp_path / "store"))
    store = RunStore(str(tmp_path / "store"))
    store.create(record_of("run-20260110t110000-aaaaaa", days=0, status="running"))
    store.create(record_of("run-20260108t120000-aaaaaa", days=2, score=6.5))
    store.create(record_of("my-favourite", days=3, question="How would T cells respond to TNF?"))
    store.create(record_of("run-20251231t120000-aaaaaa", days=10, status="failed"))
    return tmp_path / "store" / "runs"


def ids(**filters):
    return [row.run_id for row in list_summaries(**filters, now=NOW)]


ALL = ["run-20260110t110000-aaaaaa", "run-20260108t120000-aaaaaa", "my-favourite", "run-20251231t120000-aaaaaa"]


def test_runs_come_newest_first_whatever_they_are_called(storage):
    assert ids() == ALL
    (row,) = list_summaries(status="done", text="b cells")
    assert (row.score, row.rounds, row.engine) == (6.5, 1, "weighted")


@pytest.mark.parametrize(
    ("filters", "places"),
    [
        ({"status": "failed"}, [3]),
        ({"since": "3d"}, [0, 1, 2]),
        ({"since": "60h"}, [0, 1]),
        ({"since": "2026-01-08"}, [0, 1]),
        ({"since": "1w", "status": "done"}, [1, 2]),
        ({"text": "tnf"}, [2]),
        ({"text": "FAVOUR"}, [2]),
        ({"limit": 2}, [0, 1]),
        ({"limit": 3}, [0, 1, 2]),
        ({"status": "done", "limit": 1}, [1]),
        ({"status": "cancelled"}, []),
    ],
)
def test_filters_keep_what_they_name(storage, filters, places):
    assert ids(**filters) == [ALL[place] for place in places]


def test_a_limit_leaves_old_runs_unread(storage, monkeypatch):
    (storage / "run-20251231t120000-aaaaaa" / "summary.json").unlink()
    (storage / "run-20251231t120000-aaaaaa" / "record" / "0001.json").write_text("{}")
    for number in range(70):
        RunStore(str(storage.parent)).create(record_of(f"run-20260105t0000{number:02d}-aaaaaa", days=5))
    assert len(ids(limit=20)) == 20  # a damaged one that was read would warn, which is an error here
    with pytest.warns(UserWarning, match="run-20251231t120000-aaaaaa is left out"):
        assert len(ids()) == 73


def test_the_summary_is_enough_and_the_record_where_there_is_none(storage):
    (storage / "my-favourite" / "record" / "0001.json").write_text("not read")
    (storage / "run-20260108t120000-aaaaaa" / "summary.json").unlink()
    (storage / "run-20251231t120000-aaaaaa" / "summary.json").write_text("{broken")
    assert ids() == ALL


def test_the_summary_follows_every_save(storage):
    store = RunStore(str(storage.parent))
    store.save(store.load(ALL[0]).model_copy(update={"status": "cancelled"}))
    assert store.summary(ALL[0]).status == "cancelled"
    assert ids(status="cancelled") == [ALL[0]]


def test_a_run_that_nobody_works_on_is_listed_as_interrupted(storage):
    store, now = RunStore(str(storage.parent)), datetime.now(UTC)
    for name in ("worked-on", "left-behind", "just-begun", "killed-job"):
        saved = store.create(record_of(name, days=0, status="running").model_copy(update={"created_at": now}))
        if name == "killed-job":
            job = JobHandle(job_id="gone", executor="local", manifest_uri="", spec_hash="", submitted_at=now)
            store.save(saved.model_copy(update={"orchestrator": job}))
    with pytest.raises(KeyboardInterrupt), Lease.acquire(store, "left-behind", clock=SystemClock()):
        raise KeyboardInterrupt
    with Lease.acquire(store, "worked-on", clock=SystemClock()):
        rows = {row.run_id: row.status for row in list_summaries(now=now)}
        left = [row.run_id for row in list_summaries(status="interrupted", now=now)]
    assert rows == {
        "worked-on": "running",
        "just-begun": "running",  # its kernel may be about to start
        "left-behind": "interrupted",
        "killed-job": "failed",
        ALL[0]: "interrupted",
        ALL[1]: "done",
        ALL[2]: "done",
        ALL[3]: "failed",
    }
    assert left == ["left-behind", ALL[0]]
    assert store.summary("left-behind").status == "running"  # what is stored stays what the record says


def test_a_run_that_has_ended_is_listed_from_its_summary_alone(storage):
    """A lease or a record that were read would fail."""
    for name in (ALL[1], ALL[3]):
        (storage / name / "lease").mkdir()
        (storage / name / "lease" / "0001.json").mkdir()
        (storage / name / "record" / "0001.json").write_text("not read")
    assert ids() == ALL


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("12h", NOW - timedelta(hours=12)),
        (" 2W ", NOW - timedelta(days=14)),
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("2026-01-02T03:00:00+02:00", datetime(2026, 1, 2, 1, tzinfo=UTC)),
    ],
)
def test_since_is_read_as_a_date_or_an_age(text, moment):
    assert parse_since(text, now=NOW) == moment


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ({"status": "over"}, "possible: running"),
        ({"since": "yesterday"}, "neither a date nor an age"),
        ({"limit": 0}, "at least 1"),
    ],
)
def test_filters_that_mean_nothing_are_refused(storage, filters, says):
    with pytest.raises(InvalidInputError, match=says):
        list_summaries(**filters)
