"""The scripts of docker/gcp with the real gcloud: what they ask of Google Cloud, twice, after failures, and undone.

Tests of set-up, deployment and teardown follow each other on one project, as an operator's commands do.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.servers.gcloud import answering, google_cloud
from tests.servers.gcloud_forks import fast_gcloud

ROOT = Path(__file__).resolve().parents[1]
GCP = ROOT / "docker" / "gcp"
PROJECT, REGION = "my-lab-dev", "us-east1"
HERE = f"/v1/projects/{PROJECT}"
BUCKET = f"{PROJECT}-haystack-dev"
COMMON = ("--env", "dev", "--project", PROJECT)
SETUP = (*COMMON, "--vpc", "--wake", "--github", "lab/haystack")
DEPLOY = (*COMMON, "--bucket", BUCKET, "--tag", "abc", "--wake", "--member", "group:lab@example.org")
WAKE_URL = f"https://haystack-dev-wake-123456789.{REGION}.run.app"
IMAGES = ("haystack-api", "haystack-orchestrator", "haystack-inference")

needs_gcloud = pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def account(name):
    return f"haystack-dev-{name}@{PROJECT}.iam.gserviceaccount.com"


def member(name):
    return f"serviceAccount:{account(name)}"


def service_of(cloud, name):
    """A service of Cloud Run: itself, its template, its container, the container's variables."""
    (service,) = [thing for path, thing in cloud.things.items() if path.endswith(f"/services/{name}")]
    spec = service["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return service, spec, container, {one["name"]: one.get("value") for one in container["env"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A Google Cloud of this module and a function that runs a script against it."""
    folder = tmp_path_factory.mktemp("gcloud")
    with google_cloud(PROJECT, REGION) as (cloud, variables), fast_gcloud(folder) as front:
        variables |= {"CLOUDSDK_CONFIG": str(folder / "config")}
        variables |= {"PATH": f"{front}:{os.environ['PATH']}"} if front else {}

        def run(script, *words, **more):
            environment = {**os.environ, **variables, **more}
            command = ["bash", str(GCP / script), *words]
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)

        yield cloud, run


def changes(cloud, run, script, *words, **more):
    """Run a script that succeeds; return what it printed and the requests that changed something."""
    before = len(cloud.changes)
    done = run(script, *words, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, cloud.changes[before:]


# --- options: no gcloud is called -------------------------------------------------------------------------------------


@needs_gcloud
@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("setup.sh", ("--project", PROJECT), "--env must be dev or prod"),
        ("setup.sh", ("--env", "dev", "--project", "My Lab"), "--project must be a project id"),
        ("setup.sh", (*COMMON, "--name", "x" * 19), "--name must be 3 to 18"),
        ("setup.sh", (*COMMON, "--region", "east; rm"), "--region must be a region"),
        ("setup.sh", (*COMMON, "--github", "lab"), "--github must be OWNER/REPOSITORY"),
        ("setup.sh", (*COMMON, "--bukket", "b"), "unknown option --bukket"),
        ("deploy.sh", COMMON, "--bucket must be the bucket that setup.sh made"),
        ("deploy.sh", (*DEPLOY, "--member", "lab"), "--member must be user:, group:"),
        ("teardown.sh", (*COMMON, "--delete-bucket", "one-bucket"), "only if it is named twice"),
        ("teardown.sh", (*COMMON, "--delete-bucket", "b-one", "--delete-bucket", "b-two"), "given two names"),
        ("build_and_push.sh", (*COMMON, "--builder", "kaniko"), "no docker, podman or buildah"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_asked(place, script, words, said):
    cloud, run = place
    before = len(cloud.requests)
    done = run(script, *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(cloud.requests) == before


def test_what_stands_first_in_a_long_policy_is_found():
    """Its end once closed the pipe of what printed it, and a role that was there was granted again."""
    looks = 'source "$1/common.sh"; lines=$(seq 200000); has_line 1 "$lines"; ! has_line 1.0 "$lines"; ! has_line 3 ""'
    command = ["bash", "-euo", "pipefail", "-c", looks, "bash", str(GCP)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- from an empty project to a deployed service, and back ------------------------------------------------------------


@needs_gcloud
@pytest.mark.slow
def test_a_plan_changes_nothing(place):
    cloud, run = place
    said, made = changes(cloud, run, "setup.sh", *COMMON)
    assert made == []
    assert "nothing is changed without --apply" in said
    assert f"gcloud storage buckets create gs://{BUCKET}" in said
    assert re.search(r"\d+ changes planned", said)
    assert "NVIDIA_A100_GPUS: 0; machine a100-40gb" in said  # the quotas that a first prediction would fail on
    assert "GPUS_ALL_REGIONS: 0; the limit of the project, whatever the kind. Ask for 1 or more" in said


@needs_gcloud
@pytest.mark.slow
def test_a_failing_call_stops_the_set_up_with_a_message_and_a_rerun_completes_it(place):
    cloud, run = place
    cloud.failures = [(f"POST {HERE}/serviceAccounts$", 403, "PERMISSION_DENIED: the caller may not create accounts")]
    done = run("setup.sh", *SETUP, "--apply")
    assert done.returncode == 1
    assert "may not create accounts" in done.stderr
    assert "run the same command again" in done.stderr
    assert "run.googleapis.com" in cloud.enabled, "what was made before stays"
    cloud.failures = [
        (
            "POST .*:setIamPolicy$",
            400,
            "INVALID_ARGUMENT: Service account x does not exist.",
        ),  # not known everywhere yet
        ("GET .*/repositories/haystack$", 403, "PERMISSION_DENIED: the caller may not look"),
    ]
    done = run("setup.sh", *SETUP, "--apply")
    assert done.returncode == 1
    assert "artifacts repositories describe haystack" in done.stderr
    assert "so what exists is not known" in done.stderr
    assert not [path for path in cloud.things if "/repositories" in path], "what may exist is not made"
    said, made = changes(cloud, run, "setup.sh", *SETUP, "--apply")
    assert f"POST {HERE}/locations/{REGION}/repositories" in made
    assert f"POST {HERE}/services:batchEnable" not in made, "what exists is kept"
    assert "changes made" in said


@needs_gcloud
@pytest.mark.slow
def test_each_account_has_the_least_it_needs_and_a_second_run_changes_nothing(place):
    cloud, run = place
    in_project = cloud.members(f"/v1/projects/{PROJECT}")
    assert in_project == {
        "roles/run.developer": {member("deploy")},
        "roles/batch.jobsEditor": {member("service"), member("orchestrator")},
        "roles/batch.agentReporter": {member("orchestrator"), member("inference")},
        "roles/logging.logWriter": {member("service"), member("orchestrator"), member("inference")},
        "roles/logging.viewer": {member("service"), member("orchestrator")},
    }
    accounts = f"{HERE}/serviceAccounts"
    assert cloud.members(f"{accounts}/{account('orchestrator')}") == {
        "roles/iam.serviceAccountUser": {member("service")}
    }
    assert cloud.members(f"{accounts}/{account('inference')}") == {
        "roles/iam.serviceAccountUser": {member("orchestrator")}
    }
    topic = f"projects/{PROJECT}/topics/haystack-dev-jobs"
    assert cloud.members(f"/v1/{topic}") == {"roles/pubsub.publisher": {member("orchestrator")}}
    woken = cloud.things[f"{HERE}/subscriptions/haystack-dev-wake"]
    assert woken["topic"] == topic
    assert woken["pushConfig"] == {
        "pushEndpoint": f"{WAKE_URL}/hooks/batch",
        "oidcToken": {"serviceAccountEmail": account("wake"), "audience": WAKE_URL},
    }
    provider = cloud.things[f"{HERE}/locations/global/workloadIdentityPools/github/providers/haystack-dev"]
    assert provider["attributeCondition"] == "assertion.repository == 'lab/haystack'"
    everyone = {member("service"), member("orchestrator"), member("inference")}
    assert cloud.members(f"/v1/b/{BUCKET}")["roles/storage.objectUser"] == everyone
    bucket = cloud.things[f"/v1/b/{BUCKET}"]
    assert bucket["iamConfiguration"]["uniformBucketLevelAccess"]["enabled"] is True
    assert bucket["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    assert bucket["versioning"]["enabled"] is True
    assert {rule["action"]["type"] for rule in bucket["lifecycle"]["rule"]} == {
        "Delete",
        "AbortIncompleteMultipartUpload",
    }
    said, made = changes(cloud, run, "setup.sh", *SETUP, "--apply")
    assert made == []
    assert "Nothing to do" in said


@needs_gcloud
@needs_curl
@pytest.mark.slow
def test_a_deployment_names_images_by_digest_and_lets_only_the_proxy_in(place):
    cloud, run = place
    digests = {image: cloud.push(image, "abc") for image in IMAGES}
    cloud.push(IMAGES[0], "abcd")
    with answering(302) as url:  # the proxy sends a stranger to sign in
        said, _ = changes(cloud, run, "deploy.sh", *DEPLOY, "--apply", HAYSTACK_SMOKE_URL=url)
    assert "It answers (302)" in said
    service, spec, container, values = service_of(cloud, "haystack-dev")
    where = f"{REGION}-docker.pkg.dev/{PROJECT}/haystack"
    assert container["image"] == f"{where}/haystack-api@{digests['haystack-api']}"
    assert values["HAYSTACK_BATCH__INFERENCE_IMAGE"] == f"{where}/haystack-inference@{digests['haystack-inference']}"
    assert values["HAYSTACK_BATCH__ORCHESTRATOR_ACCOUNT"] == account("orchestrator")
    assert values["HAYSTACK_SERVICE__AUDIENCE"] == f"/projects/123456789/locations/{REGION}/services/haystack-dev"
    assert spec["serviceAccountName"] == account("service")
    assert service["metadata"]["annotations"]["run.googleapis.com/iap-enabled"] == "true"
    woken, woken_spec, woken_container, woken_values = service_of(cloud, "haystack-dev-wake")
    assert woken["metadata"]["annotations"]["run.googleapis.com/invoker-iam-disabled"] == "true"
    assert "run.googleapis.com/iap-enabled" not in woken["metadata"]["annotations"]
    scale = woken["spec"]["template"]["metadata"]["annotations"]
    assert (scale["autoscaling.knative.dev/minScale"], scale["autoscaling.knative.dev/maxScale"]) == ("0", "1")
    assert woken_container["image"] == container["image"]
    assert woken_spec["serviceAccountName"] == account("service")
    assert woken_values["HAYSTACK_SERVICE__WAKE_AUDIENCE"] == WAKE_URL
    assert woken_values["HAYSTACK_SERVICE__WAKE_ACCOUNT"] == account("wake")
    assert woken_values["HAYSTACK_SERVICE__ADDRESS"] == f"https://haystack-dev-123456789.{REGION}.run.app"
    differing = {name for name in values if values[name] != woken_values[name]}
    assert differing == {"HAYSTACK_SERVICE__AUDIENCE"}, "nobody can sign in there"
    assert woken_values["HAYSTACK_SERVICE__AUDIENCE"].endswith("/services/haystack-dev-wake")
    policies = [path for path in cloud.policies if path.endswith("/services/haystack-dev")]
    granted = {}
    for path in policies:
        granted |= cloud.members(path)
    proxy = "serviceAccount:service-123456789@gcp-sa-iap.iam.gserviceaccount.com"
    assert granted == {
        "roles/run.invoker": {proxy},
        "roles/iap.httpsResourceAccessor": {"group:lab@example.org"},
    }


@needs_gcloud
@needs_curl
@pytest.mark.slow
def test_a_revision_that_does_not_answer_gives_its_traffic_back(place):
    cloud, run = place
    for image in IMAGES:
        cloud.push(image, "abc")
    before = len(cloud.changes)
    with answering(503) as url:
        done = run("deploy.sh", *DEPLOY, "--apply", HAYSTACK_SMOKE_URL=url)
    policies = [line for line in cloud.changes[before:] if "setIamPolicy" in line or "generateServiceIdentity" in line]
    assert policies == [], "who may open it is not granted twice"
    assert done.returncode == 1
    assert "traffic back to haystack-dev-00001-abc" in done.stdout
    assert "its logs: gcloud run services logs read" in done.stderr
    service, *_ = service_of(cloud, "haystack-dev")
    assert service["spec"]["traffic"] == [{"revisionName": "haystack-dev-00001-abc", "percent": 100}]


@needs_gcloud
@pytest.mark.slow
def test_a_teardown_waits_for_jobs_keeps_the_bucket_and_leaves_no_role(place):
    cloud, run = place
    cloud.things.setdefault(f"/v1/b/{BUCKET}", {"name": BUCKET})
    jobs = f"{HERE}/locations/{REGION}/jobs"
    job = {"name": f"{jobs[4:]}/j", "labels": {"app": "haystack"}, "status": {"state": "RUNNING"}}
    cloud.things[f"{jobs}/j"] = job
    done = run("teardown.sh", *COMMON, "--apply")
    assert done.returncode == 1
    assert "these jobs still run, and cost: j" in done.stderr
    del cloud.things[f"{jobs}/j"]
    said, made = changes(cloud, run, "teardown.sh", *COMMON, "--apply")
    assert "Buckets stay" in said
    assert not [line for line in made if "/b/" in line]
    assert cloud.members(f"/v1/projects/{PROJECT}") == {}
    kept = {f"/v1/b/{BUCKET}", f"{HERE}/secrets/haystack-dev-anthropic-api-key"}
    kept |= {
        f"{HERE}/locations/{REGION}/repositories/haystack",
        f"{HERE}/locations/global/workloadIdentityPools/github",
    }
    assert set(cloud.things) == kept


# --- the manifests and what is built ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("environment", "scale"), [("dev", ("0", "2")), ("prod", ("1", "5"))])
def test_the_service_has_the_values_of_its_environment(environment, scale):
    service = yaml.safe_load((GCP / f"cloud-run-deploy-{environment}.yaml").read_text(encoding="utf-8"))
    notes = service["spec"]["template"]["metadata"]["annotations"]
    assert (notes["autoscaling.knative.dev/minScale"], notes["autoscaling.knative.dev/maxScale"]) == scale
    spec = service["spec"]["template"]["spec"]
    assert (spec["containerConcurrency"], spec["timeoutSeconds"]) == (80, 1800)
    (container,) = spec["containers"]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "4Gi"}
    names = [one["name"] for one in container["env"]]
    assert names[-1] == "ANTHROPIC_API_KEY", "deploy.sh cuts the manifest there where no secret is given"
    assert "valueFrom" in container["env"][-1]
    assert {one["name"]: one.get("value") for one in container["env"]}["DYNACONF"] == environment


def test_the_scripts_fill_in_every_word_of_the_manifests():
    filled = set(re.findall(r"^ *fill (\w+)", (GCP / "deploy.sh").read_text(encoding="utf-8"), re.MULTILINE))
    for path in GCP.glob("cloud-run-deploy-*.yaml"):
        text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
        assert set(re.findall(r"\$\{(\w+)\}", text)) == filled


def test_every_setting_that_the_manifests_name_exists():
    from haystack_kernel.schema import Settings

    known = {f"HAYSTACK_{name.upper()}" for name in Settings.model_fields}
    for section, field in Settings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", {})
        known |= {f"HAYSTACK_{section.upper()}__{name.upper()}" for name in inner}
    for path in GCP.glob("cloud-run-deploy-*.yaml"):
        assert set(re.findall(r"HAYSTACK_\w+", path.read_text(encoding="utf-8"))) <= known


@pytest.mark.slow
@needs_gcloud
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_images_are_built_and_pushed_by_commit_and_never_from_uncommitted_files(place, tmp_path):
    _, run = place
    tools = tmp_path / "bin"
    tools.mkdir()
    log = tmp_path / "log"
    builder = tools / "docker"
    builder.write_text(f'#!/bin/sh\n[ "$1" != "$FAILS" ] || exit 3\necho "$@" >> {log}\n', encoding="utf-8")
    builder.chmod(0o755)
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", ROOT, checkout], check=True)
    script = str(checkout / "docker/gcp/build_and_push.sh")
    path = f"{tools}:{os.environ['PATH']}"
    (checkout / "new.py").write_text("", encoding="utf-8")
    done = run(script, *COMMON, "--apply", PATH=path)
    assert done.returncode == 1
    assert "not committed" in done.stderr
    (checkout / "new.py").unlink()
    for verb in ("build", "push"):
        done = run(script, *COMMON, "--only", "lab", "--apply", PATH=path, FAILS=verb)
        assert done.returncode == 1
        assert f"error: {verb} lab: docker failed" in done.stderr
    log.unlink()
    done = run(script, *COMMON, "--only", "api,lab", "--tag", "v1", "--apply", PATH=path, FAILS="")
    assert done.returncode == 0, done.stderr
    lines = [
        line for line in log.read_text(encoding="utf-8").splitlines() if not line.startswith("version")
    ]  # asked by gcloud
    image = f"{REGION}-docker.pkg.dev/{PROJECT}/haystack/haystack"
    assert [line.split()[0] for line in lines] == ["build", "push", "build", "push"]
    assert lines[1] == f"push {image}-api:v1"
    assert "-f docker/Dockerfile.lab" in lines[2]
    revision = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert f"REVISION={revision.stdout.strip()}" in lines[0]


def test_what_is_deployed_is_the_commit_whose_checks_have_passed():
    folder = ROOT / ".github" / "workflows"
    flows = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in folder.glob("*.yml")}
    (deploy,) = flows["deploy"]["jobs"].values()
    checkout = deploy["steps"][0]
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"]["ref"] == "${{ inputs.ref }}"
    refs = {name: flows[name]["jobs"]["deploy"]["with"]["ref"] for name in ("deploy-dev", "deploy-prod")}
    assert refs == {"deploy-dev": "${{ github.event.workflow_run.head_sha }}", "deploy-prod": "${{ github.sha }}"}
    assert "credentials_json" not in (folder / "deploy.yml").read_text(encoding="utf-8"), "no key is stored"
    used = {word for step in deploy["steps"] for word in re.findall(r"--[a-z]+", step.get("run", ""))}
    known = "".join(
        (GCP / name).read_text(encoding="utf-8") for name in ("common.sh", "deploy.sh", "build_and_push.sh")
    )
    assert {word for word in used if f" {word})" not in known} == set()


def test_lifecycle_rules_never_delete_what_is_current():
    rules = json.loads((GCP / "lifecycle.json").read_text(encoding="utf-8"))["rule"]
    for rule in rules:
        if rule["action"]["type"] == "Delete":
            assert set(rule["condition"]) == {"daysSinceNoncurrentTime"}
