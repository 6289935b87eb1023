"""The end of a job's log, read from Cloud Logging no more often than its read quota allows.

In: a project and a job's uid. Out: text; where the log cannot be read, one line that says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.ports import Clock

N_LINES = 60
MIN_PAUSE_S = 15.0  # between two reads of one job's log; the quota is about 60 reads a minute for a project
_TIMEOUT_S = 20.0
_MAX_CHARACTERS = 8000


def log_filter(project: str, uid: str) -> str:
    """Return the filter for what the program and the service's agent wrote about a job."""
    names = " OR ".join(f'"projects/{project}/logs/{name}"' for name in ("batch_task_logs", "batch_agent_logs"))
    return f'logName=({names}) AND labels.job_uid="{uid}"'


class LogReader:
    """Reads the ends of logs, and remembers each for a while.

    Parameters
    ----------
    project
        The project that pays for the job.
    clock
        Measures the pause between two reads.
    connect
        Makes the client, a LoggingServiceV2Client, at the first read.
    """

    def __init__(self, project: str, *, clock: Clock, connect: Callable[[], Any]) -> None:
        self._project = project
        self._clock = clock
        self._connect = connect
        self._client: Any = None
        self._seen: dict[str, tuple[float, str]] = {}

    def tail(self, uid: str) -> str:
        """Newest lines of the job's log, in order of time; a service that refuses raises no error."""
        now = self._clock.monotonic()
        at, text = self._seen.get(uid, (now - MIN_PAUSE_S, ""))
        if now - at < MIN_PAUSE_S:
            return text
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError

        try:
            from google.cloud.logging_v2.types import ListLogEntriesRequest

            request = ListLogEntriesRequest(
                resource_names=[f"projects/{self._project}"],
                filter=log_filter(self._project, uid),
                order_by="timestamp desc",
                page_size=N_LINES,
            )
            self._client = self._client or self._connect()
            pages = self._client.list_log_entries(request=request, timeout=_TIMEOUT_S, retry=None).pages
            entries = list(next(iter(pages)).entries)
        except (GoogleAPIError, GoogleAuthError, ImportError) as error:
            text = f"(the log cannot be read now: {str(error).splitlines()[0][:200]}; it is on the job's page)"
        else:  # the service answers with the newest entry first
            lines = [entry.text_payload.rstrip() or str(dict(entry.json_payload or {})) for entry in reversed(entries)]
            text = "\n".join(lines)[-_MAX_CHARACTERS:]
        self._seen[uid] = (now, text)
        return text
