"""The parsed question of a record, and the error of a step out of order.

In: a run record. Out: its query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.errors import ContractError

if TYPE_CHECKING:
    from haystack_kernel.schema import (
        RunRecord,
        StructuredQuery,
    )


def query_of(record: RunRecord) -> StructuredQuery:
    """The parsed question; ContractError before it was understood."""
    if record.query is None:
        raise out_of_order(record)
    return record.query


def out_of_order(record: RunRecord) -> ContractError:
    """The error of a step that lacks what earlier ones make."""
    msg = f"a step of run {record.run_id} was called before those it builds on; call flow.work, which keeps the order"
    return ContractError(msg, run_id=record.run_id)
