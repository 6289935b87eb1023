"""Tell when a run ends, once, whichever of several services finds it out; tend the jobs of runs meanwhile.

In: the runs of a storage. Out: a webhook's request and messages, and a small file in the folder of each run that was
told of.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import warnings
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import HaystackError, MissingExtraError
from haystack_kernel.jobs import owner_in
from haystack_kernel.schema import is_run_id
from haystack_kernel.steering import orchestrator_status
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import SecretStr

    from haystack_kernel.manage.catalogue import Catalogue
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunSummary, ServiceSettings
    from haystack_kernel.store import IndexedRun

SIGNATURE = "X-Haystack-Signature"
_TRIES = 3
_RECENT = timedelta(days=1)  # a run that ended longer ago is not told of any more
_TIMEOUT_S = 10.0


class EndWatch:
    """Looks at runs that are worked on, and tells of those that ended.

    Parameters
    ----------
    catalogue
        The runs.
    ports
        What they talk to. It consents to no spending: a job that needs another attempt waits for its owner.
    address_of
        Makes the address of a run's page from its id.
    log
        Called with one line for each message that could not be sent; it names no address.

    Raises
    ------
    MissingExtraError
        ``service.notify`` is set and apprise is not installed.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        ports: Ports,
        *,
        address_of: Callable[[str], str],
        log: Callable[[str], object],
    ) -> None:
        self._catalogue, self._ports = catalogue, ports
        self._settings: ServiceSettings = ports.settings.service
        self._address_of, self._log = address_of, log
        self._done: dict[str, int] = {}  # the serial at which the end of a run was dealt with: it may end again
        self._looked_at = float("-inf")  # at runs whose jobs tell of themselves
        if self._settings.notify:
            _load_apprise()

    def look(self) -> list[str]:
        """Look once at all runs that the service made; rarely at those whose jobs tell of themselves.

        Returns
        -------
        Ids of the runs whose end was told by this call.
        """
        now_s, waits = self._ports.clock.monotonic(), bool(self._ports.settings.batch.topic)
        if waits and now_s - self._looked_at >= self._settings.told_watch_s:
            self._looked_at, waits = now_s, False
        return [
            row.summary.run_id
            for row in self._catalogue.index.rows()
            if row.access is not None
            and not (waits and row.summary.status == "running" and row.summary.orchestrator == "batch")
            and self._look_at(row)
        ]

    def hear(self, job: str) -> bool:
        """Look at the run of a job that tells of a change of its state.

        Parameters
        ----------
        job
            The job's full name. One that works on no run of this service is passed over.

        Returns
        -------
        Whether all is said. False: the job has ended, but its run still counts as worked on, which a look in a minute
        may find otherwise.
        """
        run_id = owner_in(job)
        if not is_run_id(run_id):
            return True
        index = self._catalogue.index
        index.look_again([run_id])
        row = next((row for row in index.rows() if row.summary.run_id == run_id), None)
        if row is None or row.access is None or row.summary.orchestrator != "batch":
            return True
        self._look_at(row)
        if self._done.get(run_id) is not None:
            return True
        state = orchestrator_status(self._ports.store.load(run_id), self._ports)
        return state is None or not state.is_terminal

    def _look_at(self, row: IndexedRun) -> bool:
        """Look at one run that somebody asked the service for; whether its end was told by this call."""
        summary, access = row.summary, row.access
        if access is None or self._done.get(summary.run_id) == summary.serial:
            return False
        if summary.status == "running":
            self._done.pop(summary.run_id, None)
            summary = self._tend(summary)
        if summary.status == "running":
            return False
        ended = summary.changed_at or summary.created_at
        is_recent = self._ports.clock.now() - max(ended, access.submitted_at) < _RECENT
        is_told = is_recent and self._tell(summary, owner=access.owner)
        self._done[summary.run_id] = summary.serial
        return is_told

    def _tend(self, summary: RunSummary) -> RunSummary:
        """Give the run's job what it needs to go on, and return the run as it is then."""
        with suppress(HaystackError):  # the next look tries again
            record = self._ports.store.load(summary.run_id)
            if summary.orchestrator == "batch":
                orchestrator_status(record, self._ports, tend=True)
            return self._catalogue.find(summary.run_id, afresh=True).summary
        return summary

    def _tell(self, summary: RunSummary, *, owner: str) -> bool:
        """Send what is to be sent, unless another service has; whether this call was the one."""
        settings = self._settings
        if settings.webhook is None and not settings.notify:
            return False
        mark = layout.told_file(summary.serial)  # a run that goes on may end again
        said = {"at": f"{self._ports.clock.now():%Y-%m-%dT%H:%M:%SZ}"}
        try:
            if not self._ports.store.create_file(summary.run_id, mark, json.dumps(said).encode()):
                return False
        except HaystackError:
            return False
        message: dict[str, Any] = {
            "event": "run.ended",
            "run_id": summary.run_id,
            "status": summary.status,
            "score": None if summary.score != summary.score else round(summary.score, 2),
            "owner": owner,
            "cost_usd": round(summary.cost_usd, 4),
            "url": self._address_of(summary.run_id),
        }
        if settings.webhook is not None:
            self._post(settings.webhook, message)
        if settings.notify:
            self._notify(settings.notify, message, scored=summary.score_words)
        return True

    def _post(self, webhook: SecretStr, message: dict[str, Any]) -> None:
        import httpx

        body = json.dumps(message).encode()
        headers = {"Content-Type": "application/json"}
        if self._settings.webhook_secret is not None:
            key = self._settings.webhook_secret.get_secret_value().encode()
            headers[SIGNATURE] = f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"
        for attempt in range(_TRIES):
            try:
                answer = httpx.post(webhook.get_secret_value(), content=body, headers=headers, timeout=_TIMEOUT_S)
                if answer.status_code < 500:
                    if answer.status_code >= 400:
                        self._log(f"the webhook refused the end of run {message['run_id']}: {answer.status_code}")
                    return
            except httpx.HTTPError as error:
                reason = type(error).__name__
            else:
                reason = str(answer.status_code)
            if attempt + 1 < _TRIES:
                self._ports.clock.sleep(2.0**attempt)
        self._log(f"the webhook could not be told that run {message['run_id']} ended: {reason}")

    def _notify(self, addresses: tuple[SecretStr, ...], message: dict[str, Any], *, scored: str) -> None:
        apprise = _load_apprise()
        sender = apprise.Apprise()
        for address in addresses:
            sender.add(address.get_secret_value())
        title = f"HAYSTACK run {message['run_id']}: {message['status']}"
        end = f"{message['status']}, score {scored}" if scored else message["status"]
        body = f"Run {message['run_id']} of {message['owner']} is {end}.\n{message['url']}"
        if not sender.notify(title=title, body=body):
            self._log(f"a message about the end of run {message['run_id']} could not be sent")


def _load_apprise() -> Any:  # noqa: ANN401 - the package is untyped
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of modules that it imports
            import apprise
    except ImportError as error:
        msg = "service.notify needs apprise: pip install 'haystack-kernel[notify]'"
        raise MissingExtraError(msg, extra="notify") from error
    return apprise
