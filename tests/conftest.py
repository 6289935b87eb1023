"""What several test modules share: fake clock, records."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from haystack_kernel.schema import RunConfig, RunRecord

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read by gcsfs at its first import


class FakeClock:
    """Implements the Clock port; sleeping moves it, nothing waits."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def record(clock):
    return RunRecord(
        run_id="run-20260102t030405-abcdef",
        question="How would B cells respond to IFN-beta?",
        config=RunConfig(),
        created_at=clock.now(),
    )


@pytest.fixture(scope="session")
def shared():
    """Folder of the real data beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the real data folder 'shared' is not beside this checkout")
    return folder
