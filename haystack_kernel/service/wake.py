"""The one route that is not for people: Pub/Sub pushes here what jobs of Google Cloud Batch tell of their state.

In: messages that the guard let pass, so of the wake account. Out: a look at the run of the job that a message names. A
message is never believed: it only says where to look, so that one that is sent again does nothing more.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from haystack_kernel.service.guard import WAKE_PATH

if TYPE_CHECKING:
    from haystack_kernel.manage.notices import EndWatch

LOG = logging.getLogger("haystack.service")
router = APIRouter(include_in_schema=False)
_PATIENCE = timedelta(minutes=5)  # after which a run that somebody else works on is left to the look of the watch
_JOBS = "/jobs/"


class Message(BaseModel):
    """What Pub/Sub pushes, as far as it is read."""

    attributes: dict[str, str] = Field(default_factory=dict)
    publish_time: datetime | None = Field(default=None, alias="publishTime")


class PushIn(BaseModel):
    """The body of a push."""

    message: Message


@router.post(WAKE_PATH)
def hear_batch(request: Request, told: PushIn) -> Response:
    """Look at the run of the job; 503 has the message sent again where the run is about to count as ended."""
    watch: EndWatch = request.app.state.watch
    names = [value for value in told.message.attributes.values() if _JOBS in value]
    if not names:  # another form than is known: whatever job it is
        LOG.info("a message named no job; looked at all runs, told the end of %d", len(watch.look()))
        return Response(status_code=204)
    is_said = [watch.hear(name) for name in names]
    now, at = request.app.state.desk.ports.clock.now(), told.message.publish_time
    if not all(is_said) and at is not None and at.tzinfo is not None and now - at < _PATIENCE:
        return Response(status_code=503, headers={"Retry-After": "10"})
    return Response(status_code=204)
