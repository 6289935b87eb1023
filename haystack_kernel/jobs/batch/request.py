"""Turn a job into a request to Google Cloud Batch, and refuse here, before any call, whatever can be refused.

In: an Attempt and settings. Out: a CreateJobRequest; pure, no network.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.jobs.batch.machines import find_machine, machine_of

if TYPE_CHECKING:
    from google.cloud import batch_v1

    from haystack_kernel.jobs.batch.attempts import Attempt
    from haystack_kernel.jobs.batch.machines import Machine
    from haystack_kernel.ports import Consent
    from haystack_kernel.schema import BatchSettings, JobSpec

APP = "haystack"
MAX_BYTES = 1_000_000
HASH_DIGITS = 32  # of the spec's hash, in the label that tells an equal job from another of the same id
_JOB_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_SECRET = re.compile(r"projects/[^/]+/secrets/[^/]+/versions/[^/]+")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_ON_GPU = ("--device", "cuda")
_LONGEST_FLEX_S = 7 * 86_400.0
_RESERVED = ("goog-", "google-")


def build_request(
    attempt: Attempt, settings: BatchSettings, *, storage: str = "", consent: Consent | None = None
) -> batch_v1.CreateJobRequest:
    """Build the request of one attempt; building it again gives the same request.

    Parameters
    ----------
    attempt
        What to run, where, and in how many shards.
    settings
        Section ``batch``: project, region, machines, images, service account.
    storage
        Where the run folders are; its tag is a label of the job.
    consent
        Consent of the current call. An orchestrator gets it as words of its command; no record holds it.

    Raises
    ------
    InvalidInputError
        A setting is missing or wrong; the message says which and what to set.
    """
    from google.cloud import batch_v1

    check_settings(attempt.spec, settings)
    check_job_id(attempt.job_id)
    machine = find_machine(attempt.machine)
    group = batch_v1.TaskGroup(
        task_spec=_task(attempt, machine, settings, consent=consent),
        task_count=attempt.n_shards,
        parallelism=attempt.n_shards,
        task_count_per_node=1,
    )
    job = batch_v1.Job(
        task_groups=[group],
        allocation_policy=_allocation(attempt, machine, settings, storage=storage),
        logs_policy=batch_v1.LogsPolicy(destination=batch_v1.LogsPolicy.Destination.CLOUD_LOGGING),
        labels=build_labels(attempt, settings, storage=storage),
        notifications=_notifications(attempt, settings),
    )
    request = batch_v1.CreateJobRequest(
        parent=f"projects/{settings.project}/locations/{settings.region}", job_id=attempt.job_id, job=job
    )
    data = batch_v1.CreateJobRequest.serialize(request)
    if len(data) > MAX_BYTES:
        msg = f"the request of job {attempt.job_id} has {len(data):,} bytes, the service takes {MAX_BYTES:,}"
        raise InvalidInputError(msg, n_bytes=len(data))
    request.request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{attempt.job_id}\n{data.hex()}"))
    return request


def build_labels(attempt: Attempt, settings: BatchSettings, *, storage: str = "") -> dict[str, str]:
    """Build the labels of the job and its machines, by which bills, orphans and jobs to attach to are found."""
    spec = attempt.spec
    own = {
        "app": APP,
        f"{spec.owner.kind}-id": spec.owner.id,
        "job": spec.job_id,
        "kind": spec.kind,
        "round": str(spec.owner.round),
        "attempt": str(attempt.number),
        "spec-hash": spec.spec_hash[:HASH_DIGITS],
        "storage": storage_tag(storage),
    }
    return {name: clean_label(value) for name, value in {**settings.labels, **own}.items()}


def storage_tag(storage: str) -> str:
    """Return a tag that tells jobs of one storage from those of another in a shared project and region."""
    return hashlib.sha256(storage.rstrip("/").encode()).hexdigest()[:16]


def clean_label(text: str) -> str:
    """Return ``text`` as a valid value of a label: lower case, digits, ``_`` and ``-``, at most 63 characters."""
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]


def check_job_id(job_id: str) -> None:
    """Raise InvalidInputError unless the id has the form that the service accepts."""
    if not _JOB_ID.fullmatch(job_id):
        msg = f"job id {job_id!r} must be 1 to 63 of a-z, 0-9 and '-', begin with a letter and not end with '-'"
        raise InvalidInputError(msg, job_id=job_id)


def check_settings(spec: JobSpec, settings: BatchSettings) -> None:
    """Raise InvalidInputError unless the settings can run ``spec``; nothing is asked of the cloud.

    Parameters
    ----------
    spec
        The job.
    settings
        Project, region, images and machines.
    """
    required = {
        "project": "the Google Cloud project that pays",
        "region": "e.g. us-central1",
        f"{spec.kind}_image": f"the address of the image of docker/Dockerfile.{spec.kind} in your registry",
    }
    problems = [
        f"set batch.{name} (HAYSTACK_BATCH__{name.upper()}), {what}"
        for name, what in required.items()
        if not getattr(settings, name)
    ]
    problems += [*_wrong_for_job(spec, settings), *_wrong_image(spec, settings), *_wrong_in_section(settings)]
    machine = machine_of(spec, settings)
    if settings.cpu_milli is not None and settings.cpu_milli > machine.n_cpus * 1000:
        problems.append(
            f"batch.cpu_milli {settings.cpu_milli:,} is more than the {machine.n_cpus} CPUs of {machine.words}"
        )
    if settings.memory_mib is not None and settings.memory_mib > machine.memory_gib * 1024:
        problems.append(f"batch.memory_mib {settings.memory_mib:,} is more than {machine.words} has")
    if problems:
        msg = f"executor 'batch' cannot run this job: {'; '.join(problems)}"
        raise InvalidInputError(msg, problems=problems)


def _wrong_for_job(spec: JobSpec, settings: BatchSettings) -> list[str]:
    """Problems with where the job would run and what it would read there."""
    found = []
    if settings.region and (far := [zone for zone in settings.zones if not zone.startswith(f"{settings.region}-")]):
        found.append(f"batch.zones {', '.join(far)} lie outside batch.region {settings.region}")
    if not settings.insecure and spec.manifest_uri and not spec.manifest_uri.startswith("gs://"):
        found.append(f"its container cannot read {spec.manifest_uri}; give --storage gs://bucket/prefix")
    if settings.flex_start and spec.kind == "inference" and spec.timeout_s > _LONGEST_FLEX_S:
        found.append("batch.flex_start takes jobs of 7 days at most: lower jobs.timeout_s")
    return found


def _wrong_image(spec: JobSpec, settings: BatchSettings) -> list[str]:
    """Problems with the images of engines of other packages."""
    words = "build one from the inference image, with the engine's package installed in it"
    bare = [name for name in spec.engines if name not in settings.engine_images and not settings.insecure]
    found = [f"batch.engine_images names no image for engine {name!r}: {words}" for name in bare]
    images = {name: settings.engine_images[name] for name in spec.engines if name in settings.engine_images}
    if len(set(images.values())) > 1:
        named = ", ".join(f"{name} in {image}" for name, image in images.items())
        found.append(
            f"one job has one image, and batch.engine_images names several ({named}): build one image with all of "
            "these engines, or ask for one engine at a time"
        )
    return found


def image_of(spec: JobSpec, settings: BatchSettings) -> str:
    """Address of the image that a job runs in: that of its engines of other packages, else the inference image."""
    if spec.kind == "orchestrator":
        return settings.orchestrator_image
    own = (settings.engine_images[name] for name in spec.engines if name in settings.engine_images)
    return next(own, settings.inference_image)


def _wrong_in_section(settings: BatchSettings) -> list[str]:
    """Problems within section ``batch`` whatever the job: its network, the forms of its secrets and labels."""
    found = _wrong_gpus(settings)
    if settings.subnetwork and not settings.network:
        found.append("batch.subnetwork needs batch.network")
    if settings.no_external_ip and not settings.subnetwork:
        found.append("batch.no_external_ip needs batch.network and batch.subnetwork, with Private Google Access or NAT")
    found += [
        f"batch.secrets {name} must be projects/<p>/secrets/<name>/versions/<n or latest>"
        for name, secret in settings.secrets.items()
        if not (_VARIABLE.fullmatch(name) and _SECRET.fullmatch(secret))
    ]
    found += [
        f"batch.labels {name!r} must be 1 to 63 of a-z, 0-9, '_', '-', and not begin with goog"
        for name in settings.labels
        if not _LABEL_KEY.fullmatch(name) or name.startswith(_RESERVED)
    ]
    return found


def _wrong_gpus(settings: BatchSettings) -> list[str]:
    """Problem with engines that are said to need a GPU: a name that no image belongs to is a misspelt one."""
    unused = sorted(set(settings.gpu_engines) - set(settings.engine_images))
    if not unused or settings.insecure:
        return []
    near = get_close_matches(unused[0], settings.engine_images, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return [f"batch.gpu_engines names {unused[0]!r}, for which batch.engine_images has no image{hint}"]


def _notifications(attempt: Attempt, settings: BatchSettings) -> list[batch_v1.JobNotification]:
    """Tell a topic of each change of state, where one is set; a prediction is watched by who works its run."""
    from google.cloud import batch_v1

    if not settings.topic or attempt.spec.kind != "orchestrator":
        return []
    changed = batch_v1.JobNotification.Message(type_=batch_v1.JobNotification.Type.JOB_STATE_CHANGED)
    return [batch_v1.JobNotification(pubsub_topic=settings.topic, message=changed)]


def _task(attempt: Attempt, machine: Machine, settings: BatchSettings, *, consent: Consent | None) -> batch_v1.TaskSpec:
    """What each machine runs: the container with its command, what it may use and for how long."""
    from google.cloud import batch_v1

    spec = attempt.spec
    if spec.kind == "orchestrator":
        verb, *rest = attempt.command
        words = consent.words if consent is not None else ()
        container = batch_v1.Runnable.Container(
            image_uri=image_of(spec, settings), entrypoint="haystack", commands=[verb, *words, *rest]
        )
    else:  # the image's entry point is the inference program
        needs_flag = spec.needs_gpu and machine.accelerator and not settings.insecure
        container = batch_v1.Runnable.Container(
            image_uri=image_of(spec, settings),
            # A paid GPU that torch does not see ends the job at once; the processor would take many times as long.
            # Only the model reads this flag: an image that is a program of its own is started with the manifest alone.
            commands=[*attempt.command, *(_ON_GPU if needs_flag else ())],
            options=f"--shm-size={settings.shm_gib}g",
        )
    # Only the orchestrator gets secrets, and only by reference.
    secrets = settings.secrets if spec.kind == "orchestrator" else {}
    return batch_v1.TaskSpec(
        runnables=[batch_v1.Runnable(container=container)],
        compute_resource=batch_v1.ComputeResource(
            cpu_milli=settings.cpu_milli or machine.cpu_milli, memory_mib=settings.memory_mib or machine.memory_mib
        ),
        max_retry_count=0,  # attempts are owned by the client: each keeps its own log and its own outputs
        max_run_duration=timedelta(seconds=spec.timeout_s),
        environment=batch_v1.Environment(variables=dict(spec.environment), secret_variables=secrets),
    )


def _allocation(
    attempt: Attempt, machine: Machine, settings: BatchSettings, *, storage: str
) -> batch_v1.AllocationPolicy:
    """The machines of the attempt: their type, disk, provisioning, places and network."""
    from google.cloud import batch_v1

    policy = batch_v1.AllocationPolicy
    models = policy.ProvisioningModel
    model = {"spot": models.SPOT, "flex_start": models.FLEX_START, "on_demand": models.STANDARD}
    instance = policy.InstancePolicy(
        machine_type=machine.machine_type,
        provisioning_model=model[attempt.rung.provisioning],
        boot_disk=policy.Disk(size_gb=settings.boot_disk_gib),
    )
    if machine.accelerator:
        instance.accelerators = [policy.Accelerator(type_=machine.accelerator, count=machine.n_accelerators)]
    made = policy(
        instances=[policy.InstancePolicyOrTemplate(policy=instance, install_gpu_drivers=bool(machine.accelerator))],
        location=policy.LocationPolicy(allowed_locations=list(attempt.rung.locations)),
        labels=build_labels(attempt, settings, storage=storage),
    )
    account = settings.service_account
    if attempt.spec.kind == "orchestrator":
        account = settings.orchestrator_account or account
    if account:
        made.service_account = batch_v1.ServiceAccount(email=account)
    if settings.network:
        interface = policy.NetworkInterface(
            network=settings.network,
            subnetwork=settings.subnetwork,
            no_external_ip_address=settings.no_external_ip,
        )
        made.network = policy.NetworkPolicy(network_interfaces=[interface])
    return made
