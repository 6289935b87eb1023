"""Fail each call of the scripts of docker/gcp once: what is said, and whether reruns complete with the same end state.

Every request of the real ``gcloud`` is refused the first time it is made, so that each run of a script gets one call
further than the run before. Prints one line per call; exits with 1 where a message names no step or the end differs.

    python tests/benchmarks/gcloud_faults.py [403 [deploy.sh teardown.sh]]
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.servers.gcloud import answering, google_cloud  # noqa: E402
from tests.servers.gcloud_forks import fast_gcloud  # noqa: E402

PROJECT, REGION = "my-lab-dev", "us-east1"
BUCKET = f"{PROJECT}-haystack-dev"
COMMON = ("--env", "dev", "--project", PROJECT, "--apply")
SCRIPTS = {
    "setup.sh": ("--vpc", "--wake", "--github", "lab/haystack"),
    "deploy.sh": ("--bucket", BUCKET, "--tag", "abc", "--vpc", "--wake", "--member", "group:lab@example.org"),
    "teardown.sh": ("--delete-images", "--delete-bucket", BUCKET, "--delete-bucket", BUCKET),
}
SAID = re.compile(r"^error: (?P<step>.+?)(?:: gcloud refused|' failed, so what exists is not known)", re.MULTILINE)
NAMES = {403: "PERMISSION_DENIED", 500: "INTERNAL", 503: "UNAVAILABLE"}
_VARYING = re.compile(r'"(etag|generation|resourceVersion|observedGeneration)": [^,}]+|-\d{5}-abc')


def state_of(cloud):
    """What the project holds, without what counts how often it was written."""
    kept = {path: policy.get("bindings", []) for path, policy in cloud.policies.items()}
    members = {path: sorted((one["role"], sorted(one["members"])) for one in found) for path, found in kept.items()}
    things = _VARYING.sub("", repr(sorted(cloud.things.items())).replace("'", '"'))
    return things, {path: found for path, found in members.items() if found}, sorted(cloud.enabled)


def main():
    status = int(sys.argv[1]) if len(sys.argv) > 1 else 403
    chosen = sys.argv[2:] or list(SCRIPTS)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, fast_gcloud(Path(folder)) as front, answering(302) as page:
        ends = []
        for is_faulty in (False, True):
            with google_cloud(PROJECT, REGION) as (cloud, variables):
                given = {**os.environ, **variables, "CLOUDSDK_CONFIG": f"{folder}/config"}
                given |= {"PATH": f"{front}:{os.environ['PATH']}", "HAYSTACK_SMOKE_URL": page}
                states = []
                for script, words in SCRIPTS.items():
                    for image in ("api", "orchestrator", "inference"):
                        cloud.push(f"haystack-{image}", "abc")
                    cloud.fails_each = (
                        (status, f"{NAMES[status]}: refused by this test") if is_faulty and script in chosen else None
                    )
                    wrong += walk(cloud, script, words, given)
                    states.append(state_of(cloud))
                ends.append(states)
    for script, plain, after in zip(SCRIPTS, *ends, strict=True):
        same = plain == after
        wrong += not same
        print(f"{script}: the end state is {'the same' if same else 'ANOTHER'} as without failures")
    return int(wrong > 0)


def walk(cloud, script, words, given):
    """Run a script until it succeeds; returns how many of its failures named no step."""
    wrong, n_runs = 0, 0
    while True:
        n_failed, n_runs = len(cloud.failed), n_runs + 1
        command = ["bash", str(ROOT / "docker" / "gcp" / script), *COMMON, *words]
        done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=900, check=False)
        failed = cloud.failed[n_failed:]
        found = SAID.search(done.stderr)
        for call in failed:
            step = found["step"] if found and done.returncode else ""
            wrong += not step
            print(f"{script}: {call}: {step or 'NOT SAID: ' + done.stderr[-200:]!r}", flush=True)
        if done.returncode == 0:
            print(f"{script}: completes after {n_runs} runs", flush=True)
            return wrong
        if not failed:
            print(f"{script}: DOES NOT COMPLETE: {done.stderr[-500:]}", flush=True)
            return wrong + 1


if __name__ == "__main__":
    sys.exit(main())
