"""Calls of the Google Cloud Batch service with retries and clear errors.

In: requests. Out: the service's answer, AbsentError, TakenError, RefusedError, or ServiceError. Nothing is imported or
opened before the first call.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import HaystackError, MissingExtraError, ServiceError
from inference.patience import growing_pauses

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.cloud import batch_v1

    from haystack_kernel.ports import Clock
    from haystack_kernel.schema import BatchSettings

_TRIES = 6
_LONGEST_PAUSE_S = 30.0
_CALL_TIMEOUT_S = 60.0
_PLUGIN = "Getting metadata from plugin failed"  # gRPC reports expired credentials as an outage with these words


class AbsentError(HaystackError):
    """The service has no such job."""


class TakenError(HaystackError):
    """The service has a job of that id already."""


class RefusedError(HaystackError):
    """The service refuses the request for good; nothing was changed."""


class BatchService:
    """Calls the service, retries where that helps, and raises errors that say what to do.

    Parameters
    ----------
    settings
        Project, region, endpoint.
    clock
        Waits between tries.
    """

    def __init__(self, settings: BatchSettings, *, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._client: batch_v1.BatchServiceClient | None = None

    def create(self, request: batch_v1.CreateJobRequest) -> batch_v1.Job:
        """Create a job; raises TakenError if the id exists, which also happens when an earlier answer was lost."""
        return self._call("create_job", request)

    def get(self, job_id: str) -> batch_v1.Job:
        """Return a job; raises AbsentError if there is none of that id."""
        return self._call("get_job", {"name": self.name(job_id)})

    def tasks(self, job_id: str, group: str) -> list[batch_v1.Task]:
        """Return the tasks that the service shows: for a while after the start, or for good, these may be none."""
        try:
            return self._list("list_tasks", {"parent": f"{self.name(job_id)}/taskGroups/{group}"})
        except AbsentError:
            return []

    def cancel(self, job_id: str, request_id: str) -> None:
        """Ask a job to stop, which takes a while; its record stays. Raises RefusedError if it has ended."""
        self._call("cancel_job", {"name": self.name(job_id), "request_id": request_id})

    def list(self, label: str, value: str) -> list[batch_v1.Job]:
        """Return the jobs of the region that have the label."""
        parent = f"projects/{self._settings.project}/locations/{self._settings.region}"
        return self._list("list_jobs", {"parent": parent, "filter": f'labels.{label}="{value}"'})

    def name(self, job_id: str) -> str:
        """Full name of a job."""
        return f"projects/{self._settings.project}/locations/{self._settings.region}/jobs/{job_id}"

    def console(self, job_id: str) -> str:
        """Address of the job's page in the cloud console."""
        region, project = self._settings.region, self._settings.project
        return f"https://console.cloud.google.com/batch/jobsDetail/regions/{region}/jobs/{job_id}?project={project}"

    def logging_client(self) -> Any:  # noqa: ANN401 - gapic clients share no type
        """Make a client of Cloud Logging, which uses the same endpoint if that is a local one."""
        from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client, transports

        if not self._settings.insecure:
            return LoggingServiceV2Client()
        import grpc

        channel = grpc.insecure_channel(self._settings.endpoint)
        return LoggingServiceV2Client(transport=transports.LoggingServiceV2GrpcTransport(channel=channel))

    def _list(self, method: str, request: dict[str, str]) -> Any:  # noqa: ANN401 - one of several messages
        """Return the items of all pages; the retries cover every page."""
        return self._call(method, request, finish=list)

    def _call(self, method: str, request: Any, *, finish: Callable[[Any], Any] | None = None) -> Any:  # noqa: ANN401
        """Make one call, and try again after a pause with jitter while the service is out of reach."""
        require_batch()
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError

        transient = (
            exceptions.ServerError,
            exceptions.TooManyRequests,
            exceptions.Aborted,
            exceptions.Cancelled,
            exceptions.RetryError,
        )
        pauses, last = growing_pauses(_LONGEST_PAUSE_S), None
        for tries_left in reversed(range(_TRIES)):
            try:
                function = getattr(self._connected(), method)
                answer = function(request=request, retry=None, timeout=_CALL_TIMEOUT_S)
                return finish(answer) if finish else answer
            except (GoogleAuthError, exceptions.Unauthenticated, exceptions.PermissionDenied) as error:
                raise self._denied(error) from error
            except transient as error:
                if _PLUGIN in str(error):
                    raise self._denied(error) from error
                if not tries_left:
                    last = error
                    break
            except exceptions.NotFound as error:
                raise AbsentError(_line(error)) from error
            except exceptions.AlreadyExists as error:
                raise TakenError(_line(error)) from error
            except exceptions.ClientError as error:
                raise RefusedError(_line(error)) from error
            self._clock.sleep(next(pauses))
        if isinstance(last, exceptions.ResourceExhausted):
            msg = (
                f"Google Cloud Batch refuses {method} because a quota is used up, and goes on doing so: {_line(last)}. "
                "Wait for other jobs to end, or ask for more of the quota that it names (IAM & Admin > Quotas), then "
                "resume the run"
            )
            raise ServiceError(msg, service="batch", retryable=True, quota=_line(last)) from last
        msg = "Google Cloud Batch is out of reach; jobs go on without us, and resuming the run finds them"
        raise ServiceError(msg, service="batch", retryable=True) from last

    def _denied(self, error: Exception) -> ServiceError:
        from google.api_core.exceptions import PermissionDenied

        if isinstance(error, PermissionDenied):
            cure = (
                f"give this account roles/batch.jobsEditor on project {self._settings.project!r} and "
                "roles/iam.serviceAccountUser on the job's service account, and enable the Batch API"
            )
        else:
            cure = "log in again with `gcloud auth application-default login`"
        msg = f"Google Cloud refuses the credentials ({_line(error)}): {cure}. Nothing is lost: resume the run then"
        return ServiceError(msg, service="batch", retryable=False)

    def _connected(self) -> batch_v1.BatchServiceClient:
        """The client, which is made at the first call."""
        from google.cloud import batch_v1

        if self._client is None and self._settings.insecure:
            import grpc
            from google.cloud.batch_v1.services.batch_service.transports import BatchServiceGrpcTransport

            channel = grpc.insecure_channel(self._settings.endpoint)
            self._client = batch_v1.BatchServiceClient(transport=BatchServiceGrpcTransport(channel=channel))
        elif self._client is None:
            options = {"api_endpoint": self._settings.endpoint} if self._settings.endpoint else None
            self._client = batch_v1.BatchServiceClient(client_options=options)
        return self._client


def require_batch() -> None:
    """Raise MissingExtraError unless the client library is installed."""
    try:
        import_module("google.cloud.batch_v1")
    except ImportError as error:
        msg = "executor 'batch' needs google-cloud-batch: pip install 'haystack-kernel[gcp]'"
        raise MissingExtraError(msg, extra="gcp") from error


def _line(error: Exception) -> str:
    """First line of the error's message, or the name of its class."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
