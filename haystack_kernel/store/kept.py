"""Where the user's own cells are: files, and cells that were given in memory.

In: a run's configuration and the ports. Out: addresses of the files, and the digits of their content.

Cells that were given in memory are kept in the cache until the run has a folder, and in that folder from then on; their
option holds the path that they have in both.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.errors import NotFoundError
from haystack_kernel.schema import CELL_OPTIONS
from haystack_kernel.store.given import is_kept, keep_cells, shown_name

if TYPE_CHECKING:
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunConfig, RunRecord, Settings


def locate(config: RunConfig, ports: Ports, *, run_id: str) -> RunConfig:
    """Return the options with full addresses of all files, to open them.

    Parameters
    ----------
    config
        The run's configuration, as its record holds it.
    ports
        The store of the run folders, and the cache.
    run_id
        The run; it need not have a folder yet.

    Returns
    -------
    The same options with addresses that can be opened from here.

    Raises
    ------
    NotFoundError
        Cells that the run was given in memory are neither in its folder nor in the cache.
    """
    located = config.located()
    kept = {name: path for name in CELL_OPTIONS if is_kept(path := getattr(located, name))}
    return located.model_copy(update={name: _address(path, ports, run_id=run_id) for name, path in kept.items()})


def keep_with_run(record: RunRecord, ports: Ports) -> None:
    """Write cells that were given in memory into the run folder, unless they are there.

    Parameters
    ----------
    record
        The run.
    ports
        The store of the run folders, and the cache.
    """
    for name in CELL_OPTIONS:
        path = getattr(record.config, name)
        if is_kept(path) and not ports.store.exists(record.run_id, path):
            ports.store.write(record.run_id, path, (Path(ports.settings.cache) / path).read_bytes())


def recall(record: RunRecord, ports: Ports) -> None:
    """Put the cells that a run was given in memory back into the cache, for a run that is made from it.

    Parameters
    ----------
    record
        The run.
    ports
        The store of the run folders, and the cache.
    """
    for name in CELL_OPTIONS:
        path = getattr(record.config, name)
        if is_kept(path) and not (there := Path(ports.settings.cache) / path).exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(ports.store.read(record.run_id, path))


def take_along(config: RunConfig, settings: Settings) -> RunConfig:
    """Return the options with files of the user's own cells that lie on this disk kept as cells in memory are.

    A run that other machines work on takes them along in its folder.

    Parameters
    ----------
    config
        The run's configuration.
    settings
        Names the cache.

    Returns
    -------
    The same options for a run of this machine; else with paths within the run folder.
    """
    if config.executor == "local" or settings.batch.insecure:
        return config
    here = {
        name: path
        for name, path in ((name, getattr(config.located(), name)) for name in CELL_OPTIONS)
        if path and "://" not in path and not is_kept(path) and Path(path).is_file()
    }
    return config.model_copy(update={name: keep_cells(Path(path), Path(settings.cache)) for name, path in here.items()})


def content_of(path: str) -> str:
    """Return the digits of the content that the name of kept cells holds.

    Parameters
    ----------
    path
        From :func:`haystack_kernel.store.keep_cells`.

    Returns
    -------
    The digits; empty for another name.
    """
    found = re.search(r"-([0-9a-f]+)[.]h5ad$", path)
    return found.group(1) if found else ""


def _address(path: str, ports: Ports, *, run_id: str) -> str:
    if ports.store.exists(run_id, path):
        return ports.store.uri(run_id, path)
    cached = Path(ports.settings.cache) / path
    if cached.is_file():
        return str(cached)
    msg = (
        f"{shown_name(path)}, which run {run_id} was given, is not in its folder ({path}); put the file back, or ask "
        "the question again with it"
    )
    raise NotFoundError(msg, path=path, run_id=run_id)
