"""Atlases in a bucket: described and searched by copies on this disk, which follow what is in the bucket."""

import json

import fsspec
import pytest

from haystack_kernel.atlas import atlas_info, check_atlas, list_atlases, local_root, open_atlases
from haystack_kernel.atlas.record import atlas_folder
from haystack_kernel.errors import InvalidInputError, StorageError

ROOT = "memory://bucket/atlases"


@pytest.fixture
def bucket(tiny_atlas_root):
    """The atlas "tiny" and something else in a bucket; its file system."""
    files = fsspec.filesystem("memory")
    files.put(str(tiny_atlas_root / "tiny"), "/bucket/atlases/tiny", recursive=True)
    files.pipe("/bucket/atlases/notes.txt", b"no atlas")
    files.pipe("/bucket/atlases/demo/atlas.json", b"of another machine")
    yield files
    files.rm("/bucket", recursive=True)


@pytest.fixture
def root(tmp_path):
    return lambda names=None: local_root(ROOT, cache=str(tmp_path / "cache"), names=names)


def test_an_atlas_in_a_bucket_is_listed_described_searched_and_checked_like_one_of_this_disk(
    bucket, root, tiny_atlas_root
):
    assert list_atlases(root()) == ["tiny"]
    ours, theirs = atlas_info("tiny", root()), atlas_info("tiny", tiny_atlas_root)
    assert {**ours, "path": ""} == {**theirs, "path": ""}
    opened = [open_atlases(["tiny"], root=where).conditions() for where in (root(["tiny"]), tiny_atlas_root)]
    assert opened[0].equals(opened[1])
    assert check_atlas("tiny", root(["tiny"]))["ok"]


def test_the_copy_follows_the_bucket_and_is_read_once(bucket, root):
    folder = atlas_folder("tiny", root(["tiny"]))
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert atlas_folder("tiny", root(["tiny"])) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == times
    changed = json.loads(bucket.cat("/bucket/atlases/tiny/atlas.json")) | {"digest": "sha256:new"}
    bucket.pipe("/bucket/atlases/tiny/atlas.json", json.dumps(changed).encode())
    assert atlas_info("tiny", root())["digest"] == "sha256:new"
    bucket.rm("/bucket/atlases/tiny", recursive=True)
    assert list_atlases(root()) == []


@pytest.mark.parametrize(("change", "match"), [("cut", "is not the file"), ("rm", "is missing")])
def test_an_index_that_was_not_copied_whole_is_refused(bucket, root, change, match):
    part = next(name for name in bucket.find("/bucket/atlases/tiny") if "cells.parquet" in name)
    if change == "cut":
        bucket.pipe(part, bucket.cat(part)[:-1])
    else:
        bucket.rm(part)
    with pytest.raises(StorageError, match=match):
        root(["tiny"])


def test_a_source_beside_the_record_is_read_from_the_bucket(bucket, root):
    record = json.loads(bucket.cat("/bucket/atlases/tiny/atlas.json"))
    (entry,) = record["datasets"].values()
    entry["source"]["uri"] = "cells.h5ad"
    bucket.pipe("/bucket/atlases/tiny/atlas.json", json.dumps(record).encode())
    (found,) = atlas_info("tiny", root())["datasets"].values()
    assert found["source"] == f"{ROOT}/tiny/cells.h5ad"


def test_an_atlas_is_not_built_in_an_address():
    """It would end in a folder called "gs:" of the working directory."""
    with pytest.raises(InvalidInputError, match=r"gcloud storage cp -r FOLDER/mine gs://bucket/atlases/"):
        atlas_folder("mine", "gs://bucket/atlases")
