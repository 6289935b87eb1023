from __future__ import annotations

import errno
import hashlib
import os

import pytest

from inference import files
from inference.errors import StorageError, UriError
from inference.files import remembered_sha256, sha256_of


@pytest.mark.parametrize(
    ("uri", "plain"),
    [
        ("a/b.h5ad", "a/b.h5ad"),
        ("/a/b.h5ad", "/a/b.h5ad"),
        ("file:///a/b", "/a/b"),
        ("gs://my-bucket/runs/x.h5ad", "gs://my-bucket/runs/x.h5ad"),
        ("/a/b..c", "/a/b..c"),
    ],
)
def test_check_uri_when_allowed_gives_the_plain_form(uri, plain):
    assert files.check_uri(uri) == plain


@pytest.mark.parametrize(
    "uri",
    ["", "../x", "/a/../b", "gs://b-b/a/../c", "gs://b-b", "gs://b-b/", "gs://B_/x", "gs:x", "s3://b/x", "http://h/x",
     "a\nb", "a\x00b", "gs://b-b//x", "file:///a/../b", "a\\..\\b"],
)  # fmt: skip
def test_check_uri_when_not_allowed_is_refused(uri):
    with pytest.raises(UriError, match="address"):
        files.check_uri(uri)


def test_publish_replaces_the_whole_file_and_leaves_nothing_beside(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"new")
    target = tmp_path / "deep" / "er" / "target"
    files.publish(source, str(target))
    files.publish(source, f"file://{target}")
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_publish_into_a_path_through_a_file_is_one_clear_error(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"new")
    with pytest.raises(StorageError, match="a folder where a file is needed"):
        files.publish(source, str(source / "target"))


@pytest.mark.parametrize(
    ("code", "match"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permission denied"), (errno.EIO, "storage failed")],
)
def test_disk_errors_say_what_to_do(tmp_path, code, match):
    with pytest.raises(StorageError, match=match), files.clear_disk_errors(tmp_path):
        raise OSError(code, "words of the system")


def test_read_write_exists_and_remove_go_round(tmp_path):
    uri = str(tmp_path / "note.txt")
    assert not files.exists(uri)
    files.write_text("grüße", uri, folder=tmp_path)
    assert files.exists(uri)
    assert files.read_bytes(uri).decode() == "grüße"
    assert files.local_copy(uri, folder=tmp_path) == tmp_path / "note.txt"
    assert files.sha256_of(tmp_path / "note.txt") == hashlib.sha256("grüße".encode()).hexdigest()
    files.remove(uri)
    files.remove(uri)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_file_not_found(tmp_path):
    for read in (files.read_bytes, lambda uri: files.local_copy(uri, folder=tmp_path)):
        with pytest.raises(FileNotFoundError):
            read(str(tmp_path / "none"))


def test_shard_reads_the_batch_variables(monkeypatch):
    monkeypatch.delenv("BATCH_TASK_INDEX", raising=False)
    monkeypatch.delenv("BATCH_TASK_COUNT", raising=False)
    assert files.shard() == (0, 1)
    monkeypatch.setenv("BATCH_TASK_INDEX", "2")
    monkeypatch.setenv("BATCH_TASK_COUNT", "5")
    assert files.shard() == (2, 5)
    monkeypatch.setenv("BATCH_TASK_INDEX", "5")
    with pytest.raises(UriError, match="index < count"):
        files.shard()


def aged(path, *, content, time_ns):
    """A file that was last changed long ago."""
    path.write_bytes(content)
    os.utime(path, ns=(time_ns, time_ns))
    return path


def keeps_attributes(folder):
    path = folder / "probe"
    path.touch()
    try:
        os.setxattr(path, "user.haystack.probe", b"1")
    except (OSError, AttributeError):
        return False
    return True


def test_digest_of_a_large_file_follows_its_content(tmp_path):
    """Whether or not the file system keeps attributes."""
    for time_ns, size in ((1, 2**24), (2, 2**24 + 1), (3, 2**24)):
        path = aged(tmp_path / "large", content=bytes(size), time_ns=time_ns)
        assert remembered_sha256(path) == remembered_sha256(path) == sha256_of(path)
    path.chmod(0o400)  # nothing can be kept with it, unless by the superuser
    os.utime(path, ns=(4, 4))
    assert remembered_sha256(path) == sha256_of(path)


def test_digest_of_a_large_file_is_kept_until_its_size_or_time_changes(tmp_path):
    if not keeps_attributes(tmp_path):
        pytest.skip(f"the file system of {tmp_path} keeps no attributes; the test before holds there, too")
    path = aged(tmp_path / "large", content=bytes(2**24), time_ns=1)
    want = sha256_of(path)
    assert remembered_sha256(path) == want
    assert os.getxattr(path, "user.haystack.sha256").decode() == f"{2**24} 1 {want}"
    os.setxattr(path, "user.haystack.sha256", f"{2**24} 1 {'0' * 64}".encode())
    assert remembered_sha256(path) == "0" * 64  # what is kept is believed
    os.utime(path, ns=(2, 2))
    assert remembered_sha256(path) == want
    aged(path, content=bytes(2**24 + 1), time_ns=2)
    assert remembered_sha256(path) == sha256_of(path) != want
    os.setxattr(path, "user.haystack.sha256", b"damaged")
    assert remembered_sha256(path) == sha256_of(path)
    path.write_bytes(bytes(2**24))  # just now: another change may follow within the clock's tick
    os.removexattr(path, "user.haystack.sha256")
    assert remembered_sha256(path) == want
    assert "user.haystack.sha256" not in os.listxattr(path)
