"""The local Cloud Storage keeps the service's promises to the real clients."""

import io

import pytest

pytest.importorskip("google.cloud.storage")
gcsfs = pytest.importorskip("gcsfs")

from google.api_core.exceptions import BadRequest, NotFound, PreconditionFailed, TooManyRequests  # noqa: E402
from google.cloud import storage  # noqa: E402

LARGE = bytes(range(256)) * 4096 * 9  # 9 MiB: a resumable upload


@pytest.fixture
def bucket(bucket_server):
    client = storage.Client()
    yield client.bucket("haystack-test")
    client.close()


@pytest.fixture
def fs(bucket_server):
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield gcsfs.GCSFileSystem(use_listings_cache=False)
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["multipart", "resumable"])
def test_generations_change_with_content_and_metagenerations_with_metadata(bucket, data):
    blob = bucket.blob("a/b")
    blob.upload_from_string(data, if_generation_match=0)
    first = blob.generation
    assert blob.metageneration == 1
    blob.metadata = {"k": "v"}
    blob.patch()
    assert (blob.generation, blob.metageneration) == (first, 2)
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(data, if_metageneration_match=1)
    blob.upload_from_string(data + b"x", if_generation_match=first, if_metageneration_match=2)
    assert blob.generation > first
    assert blob.metageneration == 1
    for wrong in (0, first):
        with pytest.raises(PreconditionFailed):
            blob.upload_from_string(data, if_generation_match=wrong)
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(data, if_generation_not_match=blob.generation)
    assert bucket.get_blob("a/b").download_as_bytes() == data + b"x"


def test_a_precondition_that_fails_while_chunks_arrive_is_refused_at_the_end(bucket, bucket_server):
    def other():
        bucket_server.objects.put("haystack-test", "a", b"theirs", meta={}, query={})

    bucket_server.fail("upload_id", kind="before", action=other)
    with pytest.raises(PreconditionFailed):
        bucket.blob("a").upload_from_string(LARGE, if_generation_match=0)
    assert bucket.blob("a").download_as_bytes() == b"theirs"


def test_deletes_and_copies_keep_their_preconditions(bucket):
    blob = bucket.blob("a")
    blob.upload_from_string(b"1")
    first = blob.generation
    blob.upload_from_string(b"2")
    with pytest.raises(PreconditionFailed):
        blob.delete(if_generation_match=first)
    with pytest.raises(PreconditionFailed):
        bucket.copy_blob(blob, bucket, "b", if_source_generation_match=first)
    copy = bucket.copy_blob(blob, bucket, "b", if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        bucket.blob("b").rewrite(blob, if_generation_match=0)
    assert bucket.blob("b").rewrite(blob, if_generation_match=copy.generation)[0] is None
    blob.delete(if_generation_match=blob.generation)
    with pytest.raises(NotFound):
        bucket.blob("a").delete()
    assert [one.name for one in bucket.list_blobs()] == ["b"]


def test_ranges_and_old_generations(bucket):
    blob = bucket.blob("a")
    blob.upload_from_string(b"0123456789")
    assert blob.download_as_bytes(start=2, end=4) == b"234"
    assert blob.download_as_bytes(start=8) == b"89"
    with pytest.raises(NotFound):
        bucket.blob("a", generation=blob.generation - 1).download_as_bytes()


def test_a_checksum_that_does_not_fit_refuses_the_upload(bucket):
    data = io.BytesIO(LARGE)
    with pytest.raises(BadRequest, match="doesn't match calculated"):
        bucket.blob("a").upload_from_file(data, size=len(LARGE), crc32c_checksum_value="AAAAAA==", retry=None)
    assert not list(bucket.list_blobs())


def test_one_object_takes_one_write_a_second_where_asked(bucket, bucket_server, clock):
    bucket_server.objects.min_gap_s, bucket_server.objects.now = 1.0, clock.monotonic
    bucket.blob("a").upload_from_string(b"1", retry=None)
    bucket.blob("b").upload_from_string(b"1", retry=None)
    with pytest.raises(TooManyRequests):
        bucket.blob("a").upload_from_string(b"2", retry=None)
    clock.sleep(1)
    bucket.blob("a").upload_from_string(b"2", retry=None)


def test_gcsfs_reads_writes_lists_and_deletes(fs, tmp_path):
    fs.pipe_file("haystack-test/d/small", b"small", consistency="md5")
    (tmp_path / "large").write_bytes(LARGE)
    fs.put_file(str(tmp_path / "large"), "haystack-test/d/large", chunksize=1 << 20, consistency="md5")
    fs.get_file("haystack-test/d/large", str(tmp_path / "back"), consistency="md5")
    assert (tmp_path / "back").read_bytes() == LARGE
    assert fs.cat_ranges(["haystack-test/d/large"] * 2, [0, 300], [5, 303]) == [LARGE[:5], LARGE[300:303]]
    assert fs.find("haystack-test/d") == ["haystack-test/d/large", "haystack-test/d/small"]
    with pytest.raises(FileExistsError):
        fs.pipe_file("haystack-test/d/small", b"again", mode="create")
    fs.rm("haystack-test/d", recursive=True)
    assert not fs.exists("haystack-test/d")
