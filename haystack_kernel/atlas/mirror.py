"""Atlases in a bucket: what describes and indexes them is copied to this disk, the cells stay where they are.

In: the address of all atlases. Out: a local folder that stands for it, brought up to date.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.atlas.record import RECORD_FILE, AtlasRecord, index_files, load_record
from haystack_kernel.errors import StorageError
from haystack_kernel.schema import DEMO_ATLAS, NAME_PATTERN
from haystack_kernel.store.buckets import open_files

if TYPE_CHECKING:
    from collections.abc import Iterable

    from haystack_kernel.store.buckets import BucketFiles
    from haystack_kernel.store.files import FolderFiles


def local_root(root: str, *, cache: str, names: Iterable[str] | None = None) -> str:
    """Return the local folder that stands for the folder of all atlases.

    Parameters
    ----------
    root
        Folder or address of all atlases.
    cache
        Local folder below which copies are kept; safe to delete.
    names
        Atlases that will be searched: their index is copied as well. None: all are only described, as for a list.

    Returns
    -------
    ``root`` itself where it is local. Otherwise a folder with the newest record of each atlas; the demo atlas is made
    in it like in any other folder, and one of that name in the bucket is not looked at.

    Raises
    ------
    StorageError, ServiceError
        The bucket cannot be read, or a part of an index is damaged.

    Examples
    --------
    >>> local_root("/data/atlases", cache="/tmp/cache")
    '/data/atlases'
    """
    if "://" not in root:
        return root
    folder = Path(cache) / "atlases" / hashlib.sha256(root.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    files, place = open_files(root)
    wanted = files.names(place) if names is None else names
    valid = [name for name in wanted if name != DEMO_ATLAS and re.fullmatch(NAME_PATTERN, name)]
    there = [name for name in valid if _copy_record(files, f"{place}/{name}", folder / name, address=f"{root}/{name}")]
    if names is None:
        for record in folder.glob(f"*/{RECORD_FILE}"):
            if record.parent.name not in (*there, DEMO_ATLAS):
                record.unlink(missing_ok=True)
    else:
        for name in there:
            _copy_index(files, f"{place}/{name}", folder / name, record=load_record(name, folder))
    return str(folder)


def _copy_record(files: BucketFiles | FolderFiles, place: str, folder: Path, *, address: str) -> bool:
    """Copy what describes one atlas, and return whether there is such an atlas."""
    path = folder / RECORD_FILE
    try:
        data = files.read(f"{place}/{RECORD_FILE}")
    except FileNotFoundError:
        path.unlink(missing_ok=True)
        return False
    data = _with_addresses(data, address=address)
    if not path.is_file() or path.read_bytes() != data:
        _write(path, data)
    return True


def _with_addresses(data: bytes, *, address: str) -> bytes:
    """The record with the full address of each source file that lies beside it, since the copy does not."""
    try:
        record = json.loads(data)
        for entry in record["datasets"].values():
            uri = entry["source"]["uri"]
            if "://" not in uri and not Path(uri).is_absolute():
                entry["source"]["uri"] = f"{address}/{uri}"
    except (ValueError, KeyError, TypeError, AttributeError):  # whoever opens it says what is wrong with it
        return data
    return json.dumps(record).encode()


def _copy_index(files: BucketFiles | FolderFiles, place: str, folder: Path, *, record: AtlasRecord) -> None:
    """Copy the parts of the index that are not here yet; their names hold a digest, so that none is ever changed."""
    for ref in index_files(record):
        path, where = folder / ref.path, f"{place}/{ref.path}"
        if path.is_file() and path.stat().st_size == ref.n_bytes:
            continue
        try:
            data = files.read(where)
        except FileNotFoundError as error:
            msg = f"{where} is missing, which atlas {record.name!r} names: copy the whole folder of the atlas"
            raise StorageError(msg, path=where) from error
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            msg = f"{where} is not the file that atlas {record.name!r} names: copy the folder of the atlas again"
            raise StorageError(msg, path=where)
        _write(path, data)


def _write(path: Path, data: bytes) -> None:
    """Write a file in one step, so that another process never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files, place = open_files(str(path))
    files.write(place, data)
