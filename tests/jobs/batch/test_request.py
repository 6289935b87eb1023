"""The request to Google Cloud Batch, field by field, and everything it refuses before a call."""

from datetime import timedelta

import pytest
from google.cloud import batch_v1

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.jobs.batch.attempts import Attempt, Rung, attempt_id, ladder, rung_of
from haystack_kernel.jobs.batch.machines import MACHINES, machine_of
from haystack_kernel.jobs.batch.request import build_request, check_job_id, clean_label, storage_tag
from haystack_kernel.ports import Consent
from haystack_kernel.schema import BatchSettings, JobSpec

RUN_ID = "run-20260102t030405-abcdef"
POLICY = batch_v1.AllocationPolicy


def settings_of(**changes):
    given = {
        "project": "lab",
        "region": "us-east1",
        "inference_image": "registry/inference:1",
        "orchestrator_image": "registry/orchestrator:1",
    }
    return BatchSettings(**{**given, **changes})


def spec_of(**changes):
    given = {
        "owner": {"id": RUN_ID, "round": 2},
        "job_id": f"haystack-{RUN_ID}-01234567",
        "command": ("--manifest", "gs://b/m.json"),
        "manifest_uri": "gs://b/m.json",
        "spec_hash": "0123456789abcdef" * 4,
        "n_tasks": 6,
        "timeout_s": 1800.5,
    }
    return JobSpec(**{**given, **changes})


def request_of(spec=None, settings=None, clock=None, **changes):
    spec = spec or spec_of()
    given = {
        "number": 1,
        "first": 1,
        "job_id": spec.job_id,
        "spec": spec,
        "command": spec.command,
        "n_shards": 1,
        "machine": "a100-40gb",
        "rung": Rung(provisioning="on_demand", locations=("regions/us-east1",)),
        "created_at": "2026-01-02T00:00:00Z",
    }
    return build_request(Attempt(**{**given, **changes}), settings or settings_of())


def test_only_a_job_that_works_a_run_tells_its_topic():
    settings = settings_of(topic="projects/lab/topics/haystack-dev-jobs")
    orchestrator = spec_of(kind="orchestrator", command=("resume", RUN_ID))
    (told,) = request_of(orchestrator, settings).job.notifications
    assert told.pubsub_topic == settings.topic
    assert told.message.type_ == batch_v1.JobNotification.Type.JOB_STATE_CHANGED
    assert not told.message.new_job_state, "every state"
    assert not request_of(settings=settings).job.notifications
    assert not request_of(orchestrator).job.notifications
    with pytest.raises(ValueError, match=r"'jobs' must be projects/<p>/topics/<name>"):
        settings_of(topic="jobs")


def test_the_default_request_is_that_of_the_design_with_the_drivers_it_forgot():
    request = request_of()
    assert request.parent == "projects/lab/locations/us-east1"
    assert request.job_id == f"haystack-{RUN_ID}-01234567"
    (group,) = request.job.task_groups
    assert (group.task_count, group.parallelism, group.task_count_per_node) == (1, 1, 1)
    task = group.task_spec
    assert (task.compute_resource.cpu_milli, task.compute_resource.memory_mib) == (4000, 85_000)
    assert task.max_retry_count == 0
    assert task.max_run_duration == timedelta(seconds=1800.5)
    (runnable,) = task.runnables
    assert runnable.container.image_uri == "registry/inference:1"
    assert list(runnable.container.commands) == ["--manifest", "gs://b/m.json", "--device", "cuda"]
    assert runnable.container.entrypoint == ""  # of the image: python -m inference.run_inference
    assert runnable.container.options == "--shm-size=8g"
    (instance,) = request.job.allocation_policy.instances
    assert instance.install_gpu_drivers is True
    assert instance.policy.machine_type == "a2-highgpu-1g"
    (accelerator,) = instance.policy.accelerators
    assert (accelerator.type_, accelerator.count, accelerator.install_gpu_drivers) == ("nvidia-tesla-a100", 1, False)
    assert instance.policy.provisioning_model == POLICY.ProvisioningModel.STANDARD
    assert instance.policy.boot_disk.size_gb == 100
    assert list(request.job.allocation_policy.location.allowed_locations) == ["regions/us-east1"]
    assert request.job.logs_policy.destination == batch_v1.LogsPolicy.Destination.CLOUD_LOGGING
    assert "service_account" not in request.job.allocation_policy
    assert not request.job.allocation_policy.network.network_interfaces


def test_labels_bill_and_find_the_job():
    labels = dict(request_of(settings=settings_of(labels={"team": "Stein Lab"}), number=3).job.labels)
    assert labels == {
        "app": "haystack",
        "run-id": RUN_ID,
        "job": f"haystack-{RUN_ID}-01234567",
        "kind": "inference",
        "round": "2",
        "attempt": "3",
        "spec-hash": "0123456789abcdef" * 2,
        "storage": storage_tag(""),
        "team": "stein-lab",
    }
    assert all(value == clean_label(value) for value in labels.values())


def test_the_same_attempt_gives_the_same_request_and_another_another_request_id():
    assert request_of() == request_of()
    assert request_of().request_id != request_of(job_id=attempt_id(spec_of().job_id, 2)).request_id


def test_a_job_asks_for_the_gpu_of_its_machine_and_of_no_other():
    """Where the GPU is paid for and torch does not see it, the processor must not take its place."""
    paid = request_of(settings=settings_of(machine="l4"))
    free = [request_of(machine="cpu"), request_of(settings=settings_of(insecure=True))]  # the latter: of this machine
    words = [list(one.job.task_groups[0].task_spec.runnables[0].container.commands) for one in (paid, *free)]
    assert words == [["--manifest", "gs://b/m.json", "--device", "cuda"], *[["--manifest", "gs://b/m.json"]] * 2]


def test_an_engine_of_another_package_has_its_own_image_a_machine_without_gpu_and_the_manifest_alone():
    mine = {"engine_images": {"mine": "registry/mine:1", "other": "registry/other:2"}}
    spec = spec_of(engines=("mine",), needs_gpu=False)
    for settings, machine in ((settings_of(**mine), "cpu"), (settings_of(**mine, gpu_engines=["mine"]), "a100-40gb")):
        assert machine_of(spec, settings).name == machine
        request = request_of(spec, settings, machine=machine)
        container = request.job.task_groups[0].task_spec.runnables[0].container
        assert container.image_uri == "registry/mine:1"
        # a program of its own would not know what only the model reads
        assert list(container.commands) == ["--manifest", "gs://b/m.json"]
        (instance,) = request.job.allocation_policy.instances
        assert instance.install_gpu_drivers == bool(instance.policy.accelerators) == (machine != "cpu")
    beside_the_model = request_of(spec_of(engines=("mine",), needs_gpu=True), settings_of(**mine))
    container = beside_the_model.job.task_groups[0].task_spec.runnables[0].container
    assert (container.image_uri, list(container.commands)[-1]) == ("registry/mine:1", "cuda")


def test_one_job_has_one_image():
    """Of several engines of a back-test only the first one's image would be started, without the others in it."""
    spec = spec_of(engines=("mine", "other"), needs_gpu=False)
    both = {"mine": "registry/both:1", "other": "registry/both:1"}
    shared = request_of(spec, settings_of(engine_images=both), machine="cpu")
    assert shared.job.task_groups[0].task_spec.runnables[0].container.image_uri == "registry/both:1"
    for images, says in (
        (
            both | {"other": "registry/other:2"},
            r"several \(mine in registry/both:1, other in registry/other:2\): build",
        ),
        ({"mine": "registry/both:1"}, "names no image for engine 'other': build one from the inference image"),
    ):
        with pytest.raises(InvalidInputError, match=says):
            request_of(spec, settings_of(engine_images=images))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"engine_images": {"weighted": "registry/x:1"}},
            "'weighted' is an engine of HAYSTACK, whose image is batch.inf",
        ),
        ({"engine_images": {"My-Engine": "registry/x:1"}}, "'My-Engine' is no name of an engine: 2 to 40 of a-z"),
        ({"engine_images": {"auto": "registry/x:1"}}, "'auto' is no name of an engine"),
        ({"engine_images": {"mine": " "}}, "give the address of an image for 'mine'"),
        ({"gpu_engines": ["stack"]}, "'stack' is an engine of HAYSTACK"),
    ],
)
def test_images_and_gpus_of_what_is_no_engine_of_another_package_are_no_settings(changes, says):
    with pytest.raises(ValueError, match=says):
        settings_of(**changes)


def test_specs_of_earlier_versions_named_one_engine():
    whole = spec_of().model_dump(exclude={"engines"})
    assert JobSpec.model_validate({**whole, "engine": ""}).engines == ()
    assert JobSpec.model_validate({**whole, "engine": "mine"}).engines == ("mine",)


@pytest.mark.parametrize(
    ("name", "machine_type", "accelerator"),
    [
        ("a100-40gb", "a2-highgpu-1g", "nvidia-tesla-a100"),
        ("a100-80gb", "a2-ultragpu-1g", "nvidia-a100-80gb"),
        ("l4", "g2-standard-8", "nvidia-l4"),
        ("cpu", "e2-standard-4", None),
    ],
)
def test_a_preset_is_a_real_pair_of_machine_and_accelerator(name, machine_type, accelerator):
    (instance,) = request_of(machine=name).job.allocation_policy.instances
    assert instance.policy.machine_type == machine_type
    assert [item.type_ for item in instance.policy.accelerators] == ([accelerator] if accelerator else [])
    assert instance.install_gpu_drivers == (accelerator is not None)


def test_every_preset_asks_for_no_more_than_its_machine_has():
    for machine in MACHINES.values():
        assert machine.cpu_milli <= machine.n_cpus * 1000
        assert machine.memory_mib < machine.memory_gib * 1024


def test_spot_zones_network_and_account_are_where_the_service_reads_them():
    settings = settings_of(
        network="projects/lab/global/networks/n",
        subnetwork="projects/lab/regions/us-east1/subnetworks/s",
        no_external_ip=True,
        service_account="batch@lab.iam.gserviceaccount.com",
        boot_disk_gib=200,
        shm_gib=16,
    )
    rung = Rung(provisioning="spot", locations=("zones/us-east1-b",))
    request = request_of(settings=settings, rung=rung, n_shards=8)
    policy = request.job.allocation_policy
    assert policy.instances[0].policy.provisioning_model == POLICY.ProvisioningModel.SPOT
    assert policy.instances[0].policy.boot_disk.size_gb == 200
    assert list(policy.location.allowed_locations) == ["zones/us-east1-b"]
    (interface,) = policy.network.network_interfaces
    assert interface.no_external_ip_address is True
    assert interface.subnetwork.endswith("/s")
    assert policy.service_account.email == "batch@lab.iam.gserviceaccount.com"
    group = request.job.task_groups[0]
    assert (group.task_count, group.parallelism) == (8, 8)
    assert group.task_spec.runnables[0].container.options == "--shm-size=16g"


@pytest.mark.parametrize(
    ("accounts", "expected"),
    [
        ({"service_account": "predict@lab"}, {"inference": "predict@lab", "orchestrator": "predict@lab"}),
        (
            {"service_account": "predict@lab", "orchestrator_account": "work@lab"},
            {"inference": "predict@lab", "orchestrator": "work@lab"},
        ),
    ],
)
def test_what_works_a_run_may_have_an_account_of_its_own(accounts, expected):
    settings = settings_of(**accounts)
    specs = {
        "inference": spec_of(),
        "orchestrator": spec_of(kind="orchestrator", command=("run", "How?"), manifest_uri=""),
    }
    found = {kind: request_of(spec=spec, settings=settings) for kind, spec in specs.items()}
    assert {kind: one.job.allocation_policy.service_account.email for kind, one in found.items()} == expected


def test_an_orchestrator_gets_its_command_settings_and_secrets_and_a_prediction_no_secret():
    secret = "projects/lab/secrets/claude/versions/latest"
    settings = settings_of(secrets={"anthropic_api_key": secret})
    spec = spec_of(kind="orchestrator", command=("run", "How?"), manifest_uri="", environment={"HAYSTACK_SEED": "3"})
    task = request_of(spec, settings, machine="cpu").job.task_groups[0].task_spec
    container = task.runnables[0].container
    assert (container.image_uri, container.entrypoint) == ("registry/orchestrator:1", "haystack")
    assert list(container.commands) == ["run", "How?"]
    assert dict(task.environment.variables) == {"HAYSTACK_SEED": "3"}
    assert dict(task.environment.secret_variables) == {"ANTHROPIC_API_KEY": secret}
    assert not request_of(settings=settings).job.task_groups[0].task_spec.environment.secret_variables


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"project": ""}, r"set batch.project \(HAYSTACK_BATCH__PROJECT\)"),
        ({"region": ""}, r"set batch.region \(HAYSTACK_BATCH__REGION\)"),
        ({"inference_image": ""}, r"HAYSTACK_BATCH__INFERENCE_IMAGE\), .*docker/Dockerfile.inference"),
        ({"zones": ["us-east1-b", "us-west1-a"]}, "us-west1-a lie outside batch.region us-east1"),
        ({"subnetwork": "s"}, "needs batch.network"),
        ({"no_external_ip": True}, "Private Google Access or NAT"),
        ({"secrets": {"KEY": "sk-123"}}, "batch.secrets KEY must be projects/"),
        ({"labels": {"goog-x": "1"}}, "not begin with goog"),
        ({"labels": {"Team": "1"}}, "batch.labels 'Team'"),
        ({"memory_mib": 90_000}, "memory_mib 90,000 is more than a100-40gb"),
        ({"cpu_milli": 13_000}, "13,000 is more than the 12 CPUs"),
        (
            {"gpu_engines": ["mina"], "engine_images": {"mine": "registry/mine:1"}},
            "gpu_engines names 'mina', for which batch.engine_images has no image; did you mean 'mine'",
        ),
        ({"machine": "h100"}, "machine 'h100' is unknown.*a2-highgpu-1g"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_what_to_set(changes, says):
    with pytest.raises(InvalidInputError, match=says):
        request_of(settings=settings_of(**changes))


def test_a_manifest_on_this_disk_is_refused_unless_the_service_is_of_this_machine():
    spec = spec_of(manifest_uri="/here/m.json")
    with pytest.raises(InvalidInputError, match=r"cannot read /here/m.json; give --storage gs://"):
        request_of(spec)
    assert request_of(spec, settings_of(insecure=True, endpoint="localhost:1"))


def test_a_request_that_is_too_big_is_refused():
    with pytest.raises(InvalidInputError, match="the service takes 1,000,000"):
        request_of(command=("--manifest", "x" * 1_000_001))


@pytest.mark.parametrize("job_id", ["", "9a", "a-", "A", "a_b", "a" * 64])
def test_a_job_id_that_the_service_refuses_is_refused_here(job_id):
    with pytest.raises(InvalidInputError, match="1 to 63"):
        check_job_id(job_id)


def test_the_longest_run_id_fits_into_the_ids_of_all_attempts():
    job_id = f"haystack-{'r' * 45}-01234567"
    ids = {attempt_id(job_id, number) for number in range(1, 200)}
    assert len(ids) == 199
    for name in ids:
        check_job_id(name)


def rungs_of(spec=None, **changes):
    return [(rung.provisioning, rung.locations) for rung in ladder(spec or spec_of(), settings_of(**changes))]


def test_the_ladder_goes_from_spot_over_flex_start_to_on_demand_everywhere():
    zones = ("us-east1-b", "us-east1-c")
    first, second = ("zones/us-east1-b",), ("zones/us-east1-c",)
    spots, last = [("spot", first), ("spot", second)], ("on_demand", first + second)
    flex = ("flex_start", first + second)
    assert rungs_of(zones=zones, spot=True) == [*spots, last]
    assert rungs_of(zones=zones, spot=True, flex_start=True) == [*spots, flex, last]
    assert rungs_of(zones=zones) == [("on_demand", first), ("on_demand", second), last]
    region = ("regions/us-east1",)
    assert rungs_of(spot=True, spot_attempts=2) == [("spot", region)] * 2 + [("on_demand", region)]
    assert rungs_of(flex_start=True) == [("flex_start", region), ("on_demand", region)]
    on_demand = [("on_demand", region)]
    assert rungs_of(spec_of(needs_gpu=False), flex_start=True) == on_demand  # it is for machines with a GPU
    assert rungs_of(spec_of(kind="orchestrator"), spot=True, flex_start=True) == on_demand


def test_a_flex_start_request_names_one_machine_type_and_no_job_is_too_long_for_it():
    rung = Rung(provisioning="flex_start", locations=("regions/us-east1",))
    settings = settings_of(flex_start=True)
    (instance,) = request_of(rung=rung, settings=settings).job.allocation_policy.instances
    assert instance.policy.provisioning_model == POLICY.ProvisioningModel.FLEX_START
    with pytest.raises(InvalidInputError, match="7 days at most"):
        request_of(spec_of(timeout_s=8 * 86_400), settings)


def test_the_last_attempt_allowed_is_on_demand_however_long_the_ladder():
    settings = settings_of(zones=[f"us-east1-{letter}" for letter in "abcdef"], max_attempts=3, spot=True)
    rungs = [rung_of(spec_of(), index, settings) for index in range(3)]
    assert [rung.provisioning for rung in rungs] == ["spot", "spot", "on_demand"]
    assert len(rungs[-1].locations) == 6


def test_consent_is_in_the_command_of_an_orchestrator_and_in_nothing_else():
    spec = spec_of(kind="orchestrator", command=("run", "--", "- a question"))
    given = Attempt(
        number=1,
        first=1,
        job_id=spec.job_id,
        spec=spec,
        command=spec.command,
        n_shards=1,
        machine="cpu",
        rung=Rung(locations=("regions/us-east1",)),
        created_at="2026-01-02T00:00:00Z",
    )
    made = build_request(given, settings_of(), consent=Consent(approve=True, max_usd=0.1234567))
    (runnable,) = made.job.task_groups[0].task_spec.runnables
    assert list(runnable.container.commands) == ["run", "--yes", "--max-cost", "0.1234567", "--", "- a question"]
    assert "--yes" not in given.model_dump_json()
    bare = build_request(given, settings_of(), consent=Consent())
    assert list(bare.job.task_groups[0].task_spec.runnables[0].container.commands) == ["run", "--", "- a question"]
