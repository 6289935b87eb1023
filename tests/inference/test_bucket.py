"""Whole objects through the real client library: preconditions, checksums, and a service that misbehaves."""

import base64
import hashlib

import google_crc32c
import pytest

from haystack_kernel.schema import Settings
from inference.bucket import CHUNK, Objects
from inference.errors import BucketError
from inference.files import SAVE_PATIENCE_S
from inference.patience import Patience

pytestmark = pytest.mark.slow

URI = "gs://haystack-test/runs/a/predictions.h5ad"
LARGE = bytes(range(256)) * 4096 * 20  # 20 MiB: three chunks


@pytest.fixture
def lines():
    return []


@pytest.fixture
def objects(bucket_server, clock, lines):
    """Objects whose waiting costs no time."""
    return Objects(Patience(seconds=300, sleep=clock.sleep, monotonic=clock.monotonic, tell=lines.append))


def kept(server, uri=URI):
    return server.objects.contents[tuple(uri.removeprefix("gs://").split("/", 1))]


# --- what is written and read ---------------------------------------------------------------------------------------


def test_a_small_object_is_one_request_each_way_and_a_large_one_goes_up_in_chunks(objects, bucket_server):
    objects.write(URI, b"small")
    assert objects.read(URI) == b"small"
    assert [line.split()[0] for line in bucket_server.requests] == ["POST", "GET"]
    bucket_server.requests.clear()
    objects.write(URI, LARGE)
    assert [line.split()[0] for line in bucket_server.requests] == ["POST"] + ["PUT"] * -(-len(LARGE) // CHUNK)
    assert objects.read(URI) == LARGE == kept(bucket_server)


def test_the_server_tells_the_checksums_of_what_it_keeps(objects, bucket_server):
    objects.write(URI, b"abc")
    found = bucket_server.objects.get("haystack-test", "runs/a/predictions.h5ad")
    assert found["md5Hash"] == base64.b64encode(hashlib.md5(b"abc").digest()).decode()
    assert found["crc32c"] == base64.b64encode(google_crc32c.value(b"abc").to_bytes(4, "big")).decode()


def test_files_go_up_and_come_down(objects, bucket_server, tmp_path):
    (tmp_path / "up").write_bytes(LARGE)
    objects.upload(tmp_path / "up", URI)
    objects.download(URI, tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == LARGE
    objects.remove(URI)
    objects.remove(URI)
    assert objects.generation(URI) is None
    with pytest.raises(FileNotFoundError, match="no such file"):
        objects.download(URI, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_names_are_those_directly_below_however_many_pages_they_take(objects, bucket_server):
    for number in range(1003):
        bucket_server.objects.put("haystack-test", f"runs/r{number:04d}/run.json", b"", meta={}, query={})
    objects.write("gs://haystack-test/runs/x.txt", b"")
    assert objects.names("gs://haystack-test/runs") == [*[f"r{number:04d}" for number in range(1003)], "x.txt"]
    assert objects.names("gs://haystack-test/elsewhere") == []


def test_a_write_over_a_generation_wins_only_while_it_is_there(objects):
    first = objects.write(URI, b"1", over=0)
    assert objects.write(URI, b"2", over=0) is None
    second = objects.write(URI, b"2", over=first)
    assert objects.write(URI, b"3", over=first) is None
    assert objects.generation(URI) == second != first
    assert objects.read(URI) == b"2"


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "chunks"])
def test_a_write_over_a_generation_holds_for_large_files_too(objects, bucket_server, data):
    first = objects.write(URI, data, over=0)
    assert objects.write(URI, data + b"x", over=0) is None
    assert objects.write(URI, data + b"x", over=first) is not None


# --- the service misbehaves -----------------------------------------------------------------------------------------


def test_429_for_a_minute_is_waited_out_and_told(objects, bucket_server, clock, lines):
    bucket_server.fail("POST /upload", status=429, times=1000, holds=lambda: clock.monotonic() < 60)
    objects.write(URI, b"data")
    assert kept(bucket_server) == b"data"
    assert 60 <= clock.monotonic() <= 60 + 48
    assert len(bucket_server.requests) < 12  # pauses grow
    assert lines
    assert all("answered 429; trying again in" in line for line in lines)


@pytest.mark.parametrize("kind", ["refuse", "reset", "lose", "cut", "shorten"])
@pytest.mark.parametrize("data", [b"some bytes of a small file", LARGE], ids=["small", "chunks"])
def test_a_download_that_fails_or_is_cut_short_is_repeated(objects, bucket_server, kind, data):
    objects.write(URI, data)
    bucket_server.fail("alt=media", kind=kind, times=3)
    assert objects.read(URI) == data


@pytest.mark.parametrize("kind", ["refuse", "reset", "lose", "halve", "cut", "shorten"])
@pytest.mark.parametrize("data", [b"some bytes of a small file", LARGE], ids=["small", "chunks"])
@pytest.mark.parametrize("match", ["uploadType=(multipart|resumable)(?!.*upload_id)", "upload_id|multipart"])
def test_an_upload_that_fails_or_is_cut_short_arrives_whole(objects, bucket_server, kind, data, match):
    """The request that starts it, and those that carry it."""
    bucket_server.fail(match, kind=kind, times=2)
    objects.write(URI, data)
    assert kept(bucket_server) == data


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "chunks"])
def test_a_creation_whose_answer_is_lost_is_our_own(objects, bucket_server, data):
    bucket_server.fail("multipart|upload_id", kind="lose", times=3)
    generation = objects.write(URI, data, over=0)
    assert generation == objects.generation(URI)
    assert objects.write(URI, data, over=0) is None  # the same bytes of another writer are not ours


def test_another_writer_between_the_tries_is_not_overwritten(objects, bucket_server):
    def other():
        bucket_server.objects.put("haystack-test", "runs/a/predictions.h5ad", b"theirs", meta={}, query={})

    bucket_server.fail("POST /upload", status=503)
    bucket_server.fail("POST /upload", kind="before", action=other)
    assert objects.write(URI, b"mine", over=0) is None
    assert kept(bucket_server) == b"theirs"


def test_a_chunk_that_fails_is_sent_again_alone(objects, bucket_server):
    bucket_server.fail("upload_id", status=503, times=3)
    objects.write(URI, LARGE)
    starts = [line for line in bucket_server.requests if "uploadType=resumable" in line and "upload_id" not in line]
    assert len(starts) == 1
    assert kept(bucket_server) == LARGE


def test_what_stays_damaged_is_given_up(objects, bucket_server):
    objects.write(URI, b"some bytes")
    bucket_server.fail("alt=media", kind="shorten", times=100)
    with pytest.raises(BucketError, match="differs from what was sent") as caught:
        objects.read(URI)
    assert caught.value.is_passing


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "run `gcloud auth application-default login`"),
        (403, "permission denied"),
        (400, "answered 400"),
    ],
)
def test_what_will_not_pass_is_said_at_once(objects, bucket_server, clock, status, says):
    bucket_server.fail("/o", status=status, times=100)
    actions = [
        lambda: objects.read(URI),
        lambda: objects.write(URI, b""),
        lambda: objects.write(URI, LARGE, over=0),
        lambda: objects.generation(URI),
        lambda: objects.names("gs://haystack-test/runs"),
        lambda: objects.remove(URI),
    ]
    for action in actions:
        with pytest.raises(BucketError, match=says) as caught:
            action()
        assert caught.value.status == status
        assert not caught.value.is_passing
        assert "haystack-test/runs" in str(caught.value)
    assert clock.monotonic() == 0


def test_a_service_that_stays_away_is_given_up_with_its_status_and_the_file(objects, bucket_server, clock):
    bucket_server.fail("", status=503, times=10_000)
    with pytest.raises(BucketError, match=f"{URI}.* 503, for 300 s") as caught:
        objects.read(URI)
    assert (caught.value.status, caught.value.is_passing) == (503, True)
    assert clock.monotonic() == pytest.approx(300)


def test_a_missing_bucket_is_a_fault_while_writing_and_an_absence_while_reading(objects):
    with pytest.raises(BucketError, match="does not exist; create it first"):
        objects.write("gs://no-such-bucket/x", b"")
    with pytest.raises(BucketError, match="does not exist; create it first"):
        objects.names("gs://no-such-bucket/x")
    with pytest.raises(FileNotFoundError, match="no such file or bucket"):
        objects.read("gs://no-such-bucket/x")
    assert objects.generation("gs://no-such-bucket/x") is None


def test_a_service_that_is_not_there_is_no_connection(monkeypatch, clock):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    patience = Patience(seconds=5, sleep=clock.sleep, monotonic=clock.monotonic)
    with pytest.raises(BucketError, match="no connection"):
        Objects(patience).read(URI)


def test_a_slow_service_is_waited_for(objects, bucket_server, clock):
    objects.write(URI, b"data")
    bucket_server.fail("alt=media", kind="wait", delay_s=0.3)
    assert objects.read(URI) == b"data"
    assert clock.monotonic() == 0  # one request, no second try


def test_what_was_computed_is_saved_for_longer_than_something_is_read(bucket_server, clock):
    """A bucket that fails for half an hour costs a question its answer after five minutes, and a prediction nothing."""
    objects = Objects(Patience(seconds=300, saving_s=1800, sleep=clock.sleep, monotonic=clock.monotonic))
    bucket_server.fail("", times=9999, holds=lambda: clock.monotonic() < 2000)
    with pytest.raises(BucketError, match="503, for 300 s"):
        objects.read(URI)
    assert clock.monotonic() == pytest.approx(300)
    objects.write(URI, b"prediction")
    assert kept(bucket_server) == b"prediction"
    assert 2000 <= clock.monotonic() <= 2100


def test_the_program_and_the_settings_wait_half_an_hour_for_what_was_computed():
    assert SAVE_PATIENCE_S >= 1800
    assert Settings().bucket.save_patience_s >= 1800
