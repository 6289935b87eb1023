"""Ids, addresses and paths from outside are checked here before they touch a file system.

In: text. Out: the same text, or InvalidInputError.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import RUN_ID_PATTERN, address_fault, is_run_id

if TYPE_CHECKING:
    from datetime import datetime


def new_run_id(now: datetime) -> str:
    """Make a run id that sorts by time: ``run-20260102t030405-1a2b3c``.

    Parameters
    ----------
    now
        Time of the run's creation, in UTC.

    Returns
    -------
    The id.
    """
    return f"run-{now:%Y%m%dt%H%M%S}-{secrets.token_hex(3)}"


def check_run_id(run_id: str) -> str:
    """Return ``run_id`` if it is one.

    Parameters
    ----------
    run_id
        What is meant to be the id of a run.

    Returns
    -------
    The same id.

    Raises
    ------
    InvalidInputError
        It does not match the pattern (it becomes part of a path and of a Batch job id).
    """
    if not isinstance(run_id, str) or not is_run_id(run_id):
        msg = (
            f"{run_id!r} is not a run id: 8 to 45 characters, a-z, 0-9 and '-', a letter first ({RUN_ID_PATTERN}). "
            "`haystack list` shows the runs there are"
        )
        raise InvalidInputError(msg, run_id=str(run_id))
    return run_id


def check_storage(storage: str) -> str:
    """Return ``storage`` without a trailing slash if it can hold run folders.

    Parameters
    ----------
    storage
        A folder or a ``gs://`` address.

    Returns
    -------
    The address without a trailing slash.

    Raises
    ------
    InvalidInputError
        Control characters, ``..``, an unknown scheme or a bucket address without a bucket.
    """
    if not storage.strip() or any(ord(char) < 32 or ord(char) == 127 for char in storage):
        msg = f"storage {storage!r} is empty or holds control characters; give a folder or gs://bucket/prefix"
        raise InvalidInputError(msg, storage=storage)
    if fault := address_fault(storage):
        msg = f"storage {fault}"
        raise InvalidInputError(msg, storage=storage)
    if ".." in PurePosixPath(storage.rpartition("://")[2]).parts:
        msg = f"storage {storage!r} may not contain '..'; give the folder itself"
        raise InvalidInputError(msg, storage=storage)
    return storage.rstrip("/") or "/"


def check_inner_path(path: str) -> str:
    """Return a path relative to a run folder if it cannot leave that folder.

    Raises
    ------
    InvalidInputError
        Absolute, with ``..``, a backslash or control characters.
    """
    parts = PurePosixPath(path).parts
    bad = path.startswith("/") or ".." in parts or "\\" in path or any(ord(char) < 32 for char in path)
    if bad or not parts:
        msg = f"{path!r} is not a path inside a run folder: relative, no '..', forward slashes"
        raise InvalidInputError(msg, path=path)
    return path


def hide_home(text: str) -> str:
    """``text`` with the home folder written as ``~``, so that what is shared does not name its user.

    A path inside encoded data (base64 holds slashes) or at the end of another path is left alone.

    Parameters
    ----------
    text
        Any text.

    Returns
    -------
    The text without the home folder.
    """
    home = str(Path.home())
    return text if home == "/" else re.sub(rf"(?<![\w+/=.]){re.escape(home)}(?![\w.-])", "~", text)
