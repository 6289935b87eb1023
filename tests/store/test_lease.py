"""Leases: one worker at a time, told apart by process and by renewal, on a disk and in a bucket."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from haystack_kernel.errors import ConflictError
from haystack_kernel.store import Lease, RunStore, find_worker
from haystack_kernel.store.lease import Worker

RUN_ID = "run-20260102t030405-abcdef"
HOLD = """
import sys, time
from haystack_kernel.jobs import SystemClock
from haystack_kernel.store import Lease, RunStore
with Lease.acquire(RunStore(sys.argv[1]), sys.argv[2], clock=SystemClock(), ttl_s=float(sys.argv[3])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(params=["disk", "bucket"])
def store(request, tmp_path):
    if request.param == "disk":
        return RunStore(str(tmp_path))
    request.getfixturevalue("bucket_server")
    return RunStore("gs://haystack-test/team")


def take(store, clock, **options):
    return Lease.acquire(store, RUN_ID, clock=clock, **options)


def test_of_two_workers_one_holds_the_lease_until_it_is_released(store, clock):
    assert find_worker(store, RUN_ID) == (0, None)
    with take(store, clock):
        number, worker = find_worker(store, RUN_ID)
        assert (number, worker.pid, worker.is_alive(clock.now())) == (1, os.getpid(), True)
        with pytest.raises(ConflictError, match=rf"process {os.getpid()} on .*haystack attach {RUN_ID}") as caught:
            take(store, clock)
        assert caught.value.facts["pid"] == os.getpid()
    assert find_worker(store, RUN_ID)[1].ended == "paused"
    with take(store, clock) as second:
        assert not second.took_over
        assert find_worker(store, RUN_ID)[0] == 2


def test_a_worker_that_ends_with_an_error_says_so(store, clock):
    with pytest.raises(KeyboardInterrupt), take(store, clock):
        raise KeyboardInterrupt
    assert find_worker(store, RUN_ID)[1].ended == "interrupted"


def test_of_many_that_ask_at_once_exactly_one_is_given_the_lease(store, clock):
    outcomes, barrier = [], threading.Barrier(6)

    def attempt():
        barrier.wait()
        try:
            outcomes.append(take(store, clock))
        except ConflictError:
            outcomes.append(None)

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([lease for lease in outcomes if lease]) == 1


def elsewhere(store, clock, **update):
    """Leave the lease of a worker of another machine, heard of just now, after one of this process."""
    with take(store, clock):
        worker = find_worker(store, RUN_ID)[1]
    there = worker.model_copy(update={"machine": "another", "host": "gpu-7", "ended": "", **update})
    store.write(RUN_ID, "lease/0002.json", there.model_dump_json().encode())


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_worker_of_another_machine_that_is_not_heard_of_has_lost_its_lease(store, clock, jump_s):
    elsewhere(store, clock)
    clock.sleep(20.0)
    with pytest.raises(ConflictError, match="gpu-7"):
        take(store, clock)
    clock.sleep(jump_s)
    with take(store, clock) as lease:
        assert lease.took_over
        lease.check()


def test_a_worker_learns_before_it_saves_that_another_has_taken_over(store, clock):
    with take(store, clock) as stale:
        worker = find_worker(store, RUN_ID)[1].model_copy(update={"machine": "another"})
        store.create_file(RUN_ID, "lease/0002.json", worker.model_dump_json().encode())
        stale.check()  # its lease cannot have run out yet, so nothing is read
        clock.sleep(20.0 if store.uri(RUN_ID).startswith("/") else 50.0)
        with pytest.raises(ConflictError, match="is being worked on by process"):
            stale.check()


def test_a_worker_that_was_renewed_too_late_still_learns_that_another_has_taken_over(store, clock):
    """The machine slept, another worker took over, and the sleeper's thread wakes up before its next save."""
    with take(store, clock, ttl_s=0.3) as stale:
        worker = find_worker(store, RUN_ID)[1].model_copy(update={"machine": "another"})
        clock.sleep(600.0)
        store.create_file(RUN_ID, "lease/0002.json", worker.model_dump_json().encode())
        deadline = time.monotonic() + 600
        while json.loads(store.read(RUN_ID, "lease/0001.json"))["renewed_at"] < clock.now().isoformat():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(ConflictError, match="is being worked on by process"):
            stale.check()


def test_a_worker_that_goes_on_after_itself_reads_nothing_unless_another_came_between(bucket_server, clock):
    store = RunStore("gs://haystack-test/team")
    with take(store, clock) as first:
        first.check()
    assert len(bucket_server.requests) == 3  # looked for a lease, created one, released it
    with take(store, clock):
        pass
    assert len(bucket_server.requests) == 5
    with take(RunStore("gs://haystack-test/team"), clock), pytest.raises(ConflictError):
        take(store, clock)
    with take(store, clock) as last:
        assert not last.took_over
    assert find_worker(store, RUN_ID)[0] == 4


def test_a_lease_is_renewed_while_its_worker_works(store):
    from haystack_kernel.jobs import SystemClock

    with take(store, SystemClock(), ttl_s=1.0):
        first = find_worker(store, RUN_ID)[1].renewed_at
        deadline = time.monotonic() + 600
        while find_worker(store, RUN_ID)[1].renewed_at == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_lease_that_no_version_can_read_keeps_its_number(store, clock):
    store.write(RUN_ID, "lease/0001.json", b"{}")
    assert find_worker(store, RUN_ID) == (1, None)
    with take(store, clock):
        assert find_worker(store, RUN_ID)[0] == 2


# --- real processes -------------------------------------------------------------------------------------------------


@pytest.fixture
def hold(tmp_path):
    """Start a process that holds the lease until it reads a line: ``hold(ttl_s)``."""
    started = []

    def start(ttl_s):
        command = [sys.executable, "-c", HOLD, str(tmp_path), RUN_ID, str(ttl_s)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_worker_is_told_at_once_though_its_lease_has_not_run_out(hold, tmp_path):
    from haystack_kernel.jobs import SystemClock

    clock, store = SystemClock(), RunStore(str(tmp_path))
    process = hold(600)
    with pytest.raises(ConflictError, match=f"process {process.pid} on"):
        take(store, clock)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not find_worker(store, RUN_ID)[1].is_alive(clock.now())
    with take(store, clock) as lease:
        assert lease.took_over


@pytest.mark.slow
def test_a_stopped_worker_loses_its_lease_and_learns_of_it_when_it_continues(hold, tmp_path):
    from haystack_kernel.jobs import SystemClock

    clock, store = SystemClock(), RunStore(str(tmp_path))
    process = hold(1.5)
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 600
    while find_worker(store, RUN_ID)[1].is_alive(clock.now()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with take(store, clock) as lease:
        process.send_signal(signal.SIGCONT)
        process.communicate("go on\n", timeout=600)
        assert json.loads(store.read(RUN_ID, "lease/0001.json"))["pid"] == process.pid
        lease.check()  # the other one rewrote its own file alone
        assert find_worker(store, RUN_ID)[1].pid == os.getpid()


def test_a_process_id_that_was_given_again_is_another_process(clock):
    given = {
        "token": "t",
        "host": "h",
        "pid": os.getppid(),
        "since": clock.now(),
        "renewed_at": clock.now(),
        "ttl_s": 30,
    }
    from haystack_kernel.store import lease

    same = Worker(machine=lease._machine(), process=lease._process(os.getppid()), **given)
    assert same.is_alive(clock.now())
    assert not same.model_copy(update={"process": "12345"}).is_alive(clock.now())
