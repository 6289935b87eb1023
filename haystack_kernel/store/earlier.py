"""Finished runs of a storage that are like one that is to be estimated.

In: a store and the options of a run. Out: records, the newest first.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from haystack_kernel.errors import ContractError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.ports import Store
    from haystack_kernel.schema import RunConfig, RunRecord

_N_EARLIER, _N_LOOKED_AT = 5, 40  # runs that an estimate rests on, and runs that are looked at to find them


def finished_like(config: RunConfig, store: Store) -> Iterator[RunRecord]:
    """Yield the newest finished runs with the same engine and executor, at most five.

    Parameters
    ----------
    config
        Options of the run that is to be estimated.
    store
        The storage; one that does not exist yet holds none.

    Yields
    ------
    Their records, the newest first.

    Examples
    --------
    >>> [record.run_id for record in finished_like(config, store)]  # doctest: +SKIP
    """
    n_found = 0
    with suppress(NotFoundError):
        for run_id in store.list_runs()[:_N_LOOKED_AT]:
            with suppress(NotFoundError, ContractError):
                row = store.summary(run_id)
                if row.status == "done" and (row.engine, row.executor) == (config.engine, config.executor):
                    yield store.load(run_id)
                    n_found += 1
            if n_found == _N_EARLIER:
                return
