"""Digests of the files that a user gives to a run, so that a file replaced under the same path is noticed.

In: a configuration. Out: one digest per file; what differs from a record, in sentences.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.schema import FILE_OPTIONS
from haystack_kernel.store import content_of, is_kept, locate
from haystack_kernel.store.buckets import BucketFiles
from inference.manifest import DEMO_MODEL, MODEL_ENGINE
from inference.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunConfig


def input_digests(config: RunConfig, ports: Ports, *, run_id: str) -> dict[str, str]:
    """Digest every file of the user's that the run reads.

    Parameters
    ----------
    config
        The run's configuration.
    ports
        The run folders, and the cache in which digests are kept, so that an unchanged file is read once.
    run_id
        The run; it need not have a folder yet.

    Returns
    -------
    Option -> SHA-256 of a file of this machine, or the generation of an object in a bucket. Of cells that were given
    in memory, the digits that their name holds, which their content has to have where it lies on a disk.

    Raises
    ------
    NotFoundError
        A file does not exist.
    """
    located, found = locate(config, ports, run_id=run_id), {}
    folder = Path(ports.settings.cache) / "digests"
    for name in FILE_OPTIONS:
        uri, given = getattr(located, name), getattr(config, name)
        is_of_model = name in ("model", "genelist")
        if uri is None or (is_of_model and (located.engine != MODEL_ENGINE or located.model == DEMO_MODEL)):
            continue
        if is_kept(given):
            known = content_of(given)
            digest = known if "://" in uri else _digest_of(Path(uri), folder, name=name)[: len(known)]
            found[name] = f"content {digest}"
        elif uri.startswith("gs://"):
            generation = BucketFiles(Patience(seconds=ports.patience_s)).generation(uri)
            if generation is None:
                msg = f"the {name} {uri} does not exist; give the address of a file that does"
                raise NotFoundError(msg, uri=uri)
            found[name] = f"generation {generation}"
        elif "://" not in uri:
            found[name] = _digest_of(Path(uri), folder, name=name)
    return found


def changed_inputs(before: Mapping[str, str], now: Mapping[str, str], config: RunConfig) -> list[str]:
    """Say which files were replaced since ``before``; a file that a record of an earlier version lacks is no change."""
    return [
        f"{name} {getattr(config, name)} is another file than before ({before[name][:19]} -> {digest[:19]})"
        for name, digest in now.items()
        if before.get(name, digest) != digest
    ]


def check_unchanged(before: Mapping[str, str], now: Mapping[str, str], config: RunConfig, *, run_id: str) -> None:
    """Refuse to go on with files that were replaced.

    Raises
    ------
    InvalidInputError
        Names each file, and how to go on all the same.
    """
    if changed := changed_inputs(before, now, config):
        msg = (
            f"files that run {run_id} reads were replaced: {'; '.join(changed)}. Put the old ones back, ask the "
            "question as a new run, or go on with the new ones: accept_changes=True (--accept-changes)"
        )
        raise InvalidInputError(msg, run_id=run_id, changed=changed)


def _digest_of(path: Path, folder: Path, *, name: str) -> str:
    """SHA-256 of a file, remembered for its size, time of change and place on the disk."""
    try:
        seen = path.stat()
    except OSError as error:
        msg = f"the {name} {path} cannot be read ({error.strerror}); give the path of a file that can"
        raise NotFoundError(msg, path=str(path)) from error
    key = f"{path}\n{seen.st_size}\n{seen.st_mtime_ns}\n{seen.st_ino}\n{seen.st_dev}"
    kept = folder / hashlib.sha256(key.encode()).hexdigest()
    with suppress(OSError):
        return kept.read_text(encoding="ascii")
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    with suppress(OSError):  # a cache that cannot be written costs time alone
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(digest, encoding="ascii")
    return digest
