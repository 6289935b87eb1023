"""How long a failing service is asked again."""

import itertools

import pytest

from inference.errors import BucketError
from inference.patience import Attempts, Patience


class FailingError(ConnectionError):
    """What a broken connection raises."""


def attempts(clock, *, seconds=100.0, lines=None):
    tell = (lambda line: None) if lines is None else lines.append
    patience = Patience(seconds=seconds, longest_pause_s=8, sleep=clock.sleep, monotonic=clock.monotonic, tell=tell)
    return Attempts("gs://b-b/x", patience)


def failing(n_times, *, clock, at):
    """A request that fails ``n_times`` and notes when it was asked."""

    def ask():
        at.append(clock.monotonic())
        if len(at) <= n_times:
            raise FailingError
        return "answer"

    return ask


def test_pauses_double_up_to_the_longest_with_jitter(clock):
    at = []
    assert attempts(clock).repeat(failing(8, clock=clock, at=at)) == "answer"
    pauses = [after - before for before, after in itertools.pairwise(at)]
    bounds = [1, 2, 4, 8, 8, 8, 8, 8]
    assert all(bound <= pause <= bound * 1.5 for bound, pause in zip(bounds, pauses, strict=True))
    assert len({round(pause / bound, 6) for bound, pause in zip(bounds, pauses, strict=True)}) > 1


def test_the_last_try_comes_when_the_patience_ends(clock):
    at = []
    with pytest.raises(BucketError, match=r"no connection .*for 10 s") as caught:
        attempts(clock, seconds=10).repeat(failing(99, clock=clock, at=at))
    assert at[-1] == pytest.approx(10)
    assert isinstance(caught.value.__cause__, FailingError)


def test_without_patience_there_is_one_try(clock):
    at = []
    with pytest.raises(BucketError):
        attempts(clock, seconds=0).repeat(failing(1, clock=clock, at=at))
    assert at == [0]


def test_each_request_that_gets_through_starts_the_patience_anew(clock):
    tries = attempts(clock, seconds=11)
    for _ in range(5):  # more than 11 s in all
        started = clock.monotonic()
        assert tries.each(failing(3, clock=clock, at=[]))() == "answer"
        assert 7 <= clock.monotonic() - started <= 10.5


def test_the_first_short_wait_is_not_told(clock):
    lines = []
    attempts(clock, lines=lines).repeat(failing(1, clock=clock, at=[]))
    assert lines == []
    attempts(clock, lines=lines).repeat(failing(3, clock=clock, at=[]))
    assert len(lines) == 2
    assert all(line.startswith("gs://b-b/x: no connection") for line in lines)


def test_what_is_no_fault_of_the_service_passes_at_once(clock):
    def wrong():
        raise KeyError("ours")

    with pytest.raises(KeyError):
        attempts(clock).repeat(wrong)
    assert clock.monotonic() == 0


def test_credentials_that_cannot_be_renewed_name_the_login(clock):
    auth = pytest.importorskip("google.auth.exceptions")

    def expired():
        raise auth.RefreshError("invalid_grant: Token has been expired or revoked.")

    with pytest.raises(BucketError, match="gcloud auth application-default login") as caught:
        attempts(clock).repeat(expired)
    assert caught.value.status == 401
    assert clock.monotonic() == 0


def test_a_token_service_that_cannot_be_reached_may_pass(clock):
    auth = pytest.importorskip("google.auth.exceptions")
    at = []

    def away():
        at.append(0)
        if len(at) < 3:
            raise auth.TransportError("no route to host")
        return "answer"

    assert attempts(clock).repeat(away) == "answer"
