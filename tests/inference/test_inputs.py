from __future__ import annotations

import hashlib

import pytest

from inference.errors import InputError
from inference.inputs import Inputs, input_uris
from inference.manifest import EMBED, Task


def _task(roles, number):
    return Task(f"t{number}", str(roles["prompt"]), str(roles["query"]), f"out{number}", 1, "none")


def test_shared_file_is_read_once_and_kept_until_the_last_task_is_over(roles, tmp_path):
    tasks = [_task(roles, 1), _task(roles, 2)]
    inputs = Inputs(tasks, folder=tmp_path / "scratch")
    query = str(roles["query"])
    digest = hashlib.sha256(roles["query"].read_bytes()).hexdigest()
    first = inputs.cells(query)
    assert inputs.digest(query) == digest
    roles["query"].rename(tmp_path / "elsewhere")
    inputs.release(tasks[0])
    assert inputs.cells(query) is first
    assert inputs.digest(query) == digest
    inputs.release(tasks[1])
    with pytest.raises(InputError, match="no such file"):
        inputs.cells(query)


def test_downloads_are_deleted_after_the_last_task_and_the_readers_own_files_are_not(roles, tmp_path):
    task = _task(roles, 1)
    inputs = Inputs([task], folder=roles["query"].parent / "other")
    inputs.cells(str(roles["query"]))
    inputs.release(task)
    assert roles["query"].exists()
    inputs = Inputs([task], folder=roles["query"].parent)  # as if the file had been downloaded there
    inputs.cells(str(roles["query"]))
    inputs.release(task)
    assert not roles["query"].exists()


def test_an_embedding_reads_the_query_alone():
    assert input_uris(Task("a", None, "q.h5ad", "o.h5ad", 0, "stack", kind=EMBED)) == {"query": "q.h5ad"}
