"""Check what runs in the cloud need: packages, credentials, settings, a bucket, the Batch service.

In: settings. Out: what was found and what to do, with one function per check. The answers never contain a secret.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import MissingExtraError
from haystack_kernel.manage.local_checks import Found, write_and_delete

if TYPE_CHECKING:
    from haystack_kernel.schema import Settings

_GCP = ("gcsfs", "google.cloud.batch_v1", "google.cloud.storage")
_CALL_S = 10.0


def packages(settings: Settings) -> Found:
    """Check that the packages of the extra ``gcp`` are installed."""
    missing = [name for name in _GCP if not _is_there(name)]
    text = f"{', '.join(missing)} cannot be imported" if missing else "gcsfs, google-cloud-batch, google-cloud-storage"
    return Found(not missing, text, "pip install 'haystack-kernel[gcp]'" if missing else "")


def credentials(settings: Settings) -> Found:
    """Check that Google's libraries find credentials; their kind is shown, never their content."""
    batch = _batch(settings)
    if batch.get("insecure"):
        return Found(ok=True, text="not needed: the Batch endpoint is on this machine (batch.insecure)")
    if not _is_there("google.auth"):
        raise MissingExtraError("google-auth is not installed: pip install 'haystack-kernel[gcp]'")  # noqa: EM101
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    remedy = "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
    try:
        found, project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    except DefaultCredentialsError:
        return Found(ok=False, text="none found", remedy=remedy)
    kind = f"{type(found).__module__.split('.')[-1]}.{type(found).__name__}"
    return Found(ok=True, text=f"{kind}, project {project or 'unset'}")


def settings(settings: Settings) -> Found:
    """Check that project, region and images are set."""
    batch = _batch(settings)
    names = ("project", "region", "inference_image", "orchestrator_image")
    missing = [name for name in names if not batch.get(name)]
    text = ", ".join(f"{name} {batch.get(name) or 'unset'}" for name in names)
    variables = ", ".join(f"HAYSTACK_BATCH__{name.upper()}" for name in missing)
    return Found(not missing, text, f"set {variables}" if missing else "")


def service_account(settings: Settings) -> Found:
    """Check which service account jobs run as."""
    account = _batch(settings).get("service_account")
    remedy = "set HAYSTACK_BATCH__SERVICE_ACCOUNT; without it jobs run as the project's default account"
    return Found(bool(account), account or "unset", "" if account else remedy)


def bucket(settings: Settings) -> Found:
    """Check that a small object can be created, read and deleted in the storage."""
    if not settings.storage.startswith("gs://"):
        local = "a local folder, which cloud jobs cannot read"
        is_fine = bool(_batch(settings).get("insecure"))
        return Found(is_fine, local, "" if is_fine else "set HAYSTACK_STORAGE to gs://bucket/prefix")
    write_and_delete(settings.storage)
    return Found(ok=True, text=f"objects can be written, read and deleted in {settings.storage}")


def service(settings: Settings) -> Found:
    """Check that the Batch service answers for the project and region."""
    batch = _batch(settings)
    if not (batch.get("project") and batch.get("region")):
        return Found(ok=False, text="not checked: project or region is unset", remedy="see 'batch settings'")
    from google.api_core.exceptions import GoogleAPIError
    from google.cloud import batch_v1

    if not batch.get("endpoint"):
        client = batch_v1.BatchServiceClient()
    elif not batch.get("insecure"):
        client = batch_v1.BatchServiceClient(client_options={"api_endpoint": batch["endpoint"]})
    else:
        import grpc
        from google.cloud.batch_v1.services.batch_service.transports import BatchServiceGrpcTransport

        transport = BatchServiceGrpcTransport(channel=grpc.insecure_channel(batch["endpoint"]))
        client = batch_v1.BatchServiceClient(transport=transport)
    parent = f"projects/{batch['project']}/locations/{batch['region']}"
    request = batch_v1.ListJobsRequest(parent=parent, filter='labels.app="haystack"', page_size=1)
    try:
        page = client.list_jobs(request=request, timeout=_CALL_S, retry=None)
        n_found = len(next(iter(page.pages)).jobs)
    except GoogleAPIError as error:
        first = str(error).splitlines()[0][:200]
        remedy = f"gcloud services enable batch.googleapis.com --project {batch['project']}; roles/batch.jobsEditor"
        return Found(ok=False, text=f"{type(error).__name__}: {first}", remedy=remedy)
    return Found(ok=True, text=f"{parent} answers ({'there are' if n_found else 'no'} jobs of HAYSTACK)")


def quota(settings: Settings) -> Found:
    """Say which quota to look at before the first job; the service reports a quota only once a job waits for it."""
    batch = _batch(settings)
    machine, region = (batch.get(name) or "unset" for name in ("machine", "region"))
    text = f"cannot be read from here: the GPUs of machine {machine} need a quota above 0 in region {region}"
    remedy = "https://console.cloud.google.com/iam-admin/quotas (NVIDIA_A100_GPUS, PREEMPTIBLE_*, GPUS_ALL_REGIONS)"
    return Found(ok=False, text=text, remedy=remedy)


def _batch(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = settings.model_dump().get("batch", {})
    return found


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False
