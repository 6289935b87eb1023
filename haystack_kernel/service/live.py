"""A run followed by server-sent events: the whole state whenever it changes, until the run ends.

In: a run that the person may read. Out: events ``run`` whose ids let a browser go on where it lost the connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from sse_starlette import EventSourceResponse

from haystack_kernel.errors import HaystackError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import Request

    from haystack_kernel.manage.tenancy import Person
    from haystack_kernel.service.desk import Desk

_LOOK_S = 1.0
_PING_S = 15
_TICKING = ("elapsed_s", "left_s")  # change all the time; the page counts them itself
_LONGEST_S = 1500.0  # a proxy ends longer answers; the browser connects again and goes on


async def run_events(request: Request, desk: Desk, person: Person, run_id: str) -> EventSourceResponse:
    """Answer with the events of a run; whether the person may read it is asked before each.

    Raises
    ------
    NotFoundError
        There is no such run that the person may see.
    """
    first = await anyio.to_thread.run_sync(desk.look, person, run_id)
    seen = request.headers.get("last-event-id", "")

    async def events() -> AsyncIterator[dict[str, Any]]:
        state, known = first, seen
        end = asyncio.get_running_loop().time() + _LONGEST_S
        while True:
            mark = _mark(state)
            if mark != known:
                known = mark
                yield {"event": "run", "id": mark, "data": json.dumps(state), "retry": 3000}
            if state["status"] != "running":
                yield {"event": "end", "id": mark, "data": "{}"}
                return
            if asyncio.get_running_loop().time() > end:
                return
            await asyncio.sleep(_LOOK_S)
            try:
                state = await anyio.to_thread.run_sync(desk.look, person, run_id)
            except HaystackError:  # no longer shared, or the storage fails: the browser asks again and is told
                return

    return EventSourceResponse(events(), ping=_PING_S, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


def _mark(state: dict[str, Any]) -> str:
    """Name a state, so that it is sent once."""
    shown = {name: value for name, value in state.items() if name not in _TICKING}
    worker = shown.get("worker")
    if isinstance(worker, dict):
        shown["worker"] = {name: value for name, value in worker.items() if name != "renewed_at"}
    return hashlib.sha256(json.dumps(shown, sort_keys=True, default=str).encode()).hexdigest()[:16]
