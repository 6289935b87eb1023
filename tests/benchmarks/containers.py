"""The whole round trip in containers: the service, the job that works a run, and the job that predicts.

    python tests/benchmarks/containers.py [--question "How would B cells respond to IFN-beta?"] [--atlas FOLDER]
        [--keep FOLDER]

The images are built before (docker/README.md) and are known to buildah as localhost/haystack-api, -orchestrator and
-inference; nothing but buildah and root is needed to run them. The service gets the variables of
docker/gcp/cloud-run-deploy-dev.yaml, so Identity-Aware Proxy says who asks, with a key of this program. Cloud Storage,
Batch and Logging are those of tests/servers; Batch runs every job in the container of the image that the job names.

In: images. Out: the steps with their seconds, the bills, and the report as the service sends it; it ends with an
error where a step fails, or where a log, a record or a page holds a secret.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import jwt
import psutil
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from haystack_kernel.atlas import atlas_info, move_source

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "How would B cells respond to IFN-beta?"
ADA = "ada@example.org"
BUCKET, SECRET = "haystack-test", "not-a-key-but-a-secret-of-this-test"

PATIENCE_S = 1800  # ends hangs
ENDED = ("done", "failed", "cancelled")


def load_server(name):
    """The module ``tests/servers/<name>.py``."""
    spec = importlib.util.spec_from_file_location(f"servers_{name}", ROOT / "tests" / "servers" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- containers -------------------------------------------------------------------------------------------------------


class Containers:
    """One working container of each image, on the network of this machine."""

    def __init__(self, variables):
        self.variables = variables  # for every container: where the local services are
        self.uses = []  # image and command, in order
        self._names, self._configs = {}, {}

    def config(self, image):
        """What the image says of itself: its command, user, labels."""
        if image not in self._configs:
            text = subprocess.check_output(["buildah", "inspect", "--type", "image", image])
            self._configs[image] = json.loads(text)["OCIv1"]["config"]
        return self._configs[image]

    def command(self, image, words, variables):
        """The words that run ``words`` in the container of an image, as the image's user."""
        if image not in self._names:
            made = subprocess.check_output(["buildah", "from", image], text=True).split()
            self._names[image] = made[-1]
        self.uses.append((image, words))
        given = {**variables, **self.variables}
        flags = [word for name, value in given.items() for word in ("--env", f"{name}={value}")]
        return [
            "buildah",
            "run",
            "--isolation",
            "chroot",
            "--network",
            "host",
            *flags,
            self._names[image],
            "--",
            *words,
        ]

    def job(self, container, variables):
        """The words that run the container of a Batch job."""
        entry = [container.entrypoint] if container.entrypoint else self.config(container.image_uri)["Entrypoint"]
        return self.command(container.image_uri, [*entry, *container.commands], variables)

    def remove(self):
        for name in self._names.values():
            subprocess.run(["buildah", "rm", name], check=False, stdout=subprocess.DEVNULL)


def end(process):
    """End a process and all that it started."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        for one in [*parent.children(recursive=True), parent]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait(60)


# --- who asks ---------------------------------------------------------------------------------------------------------


class Proxy:
    """Signs as Identity-Aware Proxy does, and publishes its key on the loopback."""

    def __init__(self, audience):
        self.audience, self._key = audience, ec.generate_private_key(ec.SECP256R1())

    def headers(self, email, *, key=None):
        now = int(time.time())
        claims = {"iss": "https://cloud.google.com/iap", "aud": self.audience, "sub": "accounts.google.com:1"}
        claims |= {"email": email, "iat": now, "exp": now + 600}
        signed = jwt.encode(claims, key or self._key, algorithm="ES256", headers={"kid": "key-1"})
        return {"x-goog-iap-jwt-assertion": signed}

    @contextmanager
    def keys(self):
        """Address of the published key."""
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        body = json.dumps({"keys": [{**public, "kid": "key-1", "use": "sig", "alg": "ES256"}]}).encode()

        class Keys(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


# --- the service ------------------------------------------------------------------------------------------------------


def service_variables():
    """The variables of the deployed service, the words of deploy.sh filled in."""
    words = {
        "NAME": "haystack",
        "PROJECT": "lab",
        "NUMBER": "1",
        "REGION": "us-central1",
        "BUCKET": BUCKET,
        "API_IMAGE": "localhost/haystack-api",
        "ORCHESTRATOR_IMAGE": "localhost/haystack-orchestrator",
        "INFERENCE_IMAGE": "localhost/haystack-inference",
        "ADMINS": f'"{ADA}"',
        "TOPIC": "projects/lab/topics/haystack-jobs",
        "SECRET": "unused",
    }
    text = (ROOT / "docker" / "gcp" / "cloud-run-deploy-dev.yaml").read_text(encoding="utf-8")
    filled = re.sub(r"\$\{(\w+)\}", lambda found: words.get(found[1], f"{found[1].lower()}@lab.test"), text)
    (container,) = yaml.safe_load(filled)["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one.get("value", SECRET) for one in container["env"]}


@contextmanager
def serving(containers, variables, log):
    """The service in its container, by the image's own command but for the port; its address."""
    words = [*containers.config("localhost/haystack-api")["Cmd"]]
    words[words.index("--port") + 1] = "0"
    command = containers.command("localhost/haystack-api", words, variables)
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            line = process.stdout.readline().strip()  # it listens before it says so
            if not re.fullmatch(r"http://0\.0\.0\.0:\d+", line):
                raise SystemExit(f"the service did not start: {line!r}\n{log.read_text()}")
            yield f"http://127.0.0.1:{line.rpartition(':')[2]}"
        finally:
            end(process)
            process.stdout.close()


def follow(client, run_id, *, headers, tell):
    """Wait until a run has ended and tell of every change; its last state."""
    seen, deadline = None, time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        state = client.get(f"/api/v1/runs/{run_id}", headers=headers()).raise_for_status().json()
        shown = (state["status"], state["orchestrator"]["state"], len(state["steps"]))
        if shown != seen:
            tell(f"{shown[0]}, orchestrator {shown[1]}, {shown[2]} steps; dollars so far: {state['cost_by_kind']}")
            seen = shown
        if state["status"] in ENDED and state["orchestrator"]["state"] in ("succeeded", "failed", "cancelled"):
            return state
        time.sleep(1)
    raise SystemExit(f"run {run_id} did not end within {PATIENCE_S} s")


def check_images(containers, *, tell):
    """Each image says what it is, runs as a user who is not root, and brings no secret in its variables."""
    for name in ("api", "orchestrator", "inference"):
        config = containers.config(f"localhost/haystack-{name}")
        assert config["User"] == "10001:10001"
        labels = {key.rpartition(".")[2] for key in config["Labels"] if key.startswith("org.opencontainers.image.")}
        assert labels >= {"title", "version", "revision", "source", "licenses"}
        assert not re.search(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_?KEY", " ".join(config["Env"]), re.IGNORECASE)
    tell("the images have their labels and user 10001, and no secret among their variables")


def check_door(client, proxy, *, tell):
    """Who the proxy does not sign for gets nothing."""
    assert client.get("/health/ready").status_code == 200
    tell("the service answers /health/ready")
    forged = proxy.headers(ADA, key=ec.generate_private_key(ec.SECP256R1()))
    for headers in ({}, {"x-goog-authenticated-user-email": ADA}, forged):
        assert client.get("/api/v1/runs", headers=headers).status_code == 401
    page = client.get("/runs", headers={**proxy.headers(ADA), "accept": "text/html"})
    assert page.status_code == 200, page.text
    tell("its page is for those whom the proxy signs for, and for nobody else")


def ask(client, proxy, question, *, tell):
    """Submit a question, first without and then with consent to spending; the run's id."""
    body = {"question": question}
    refused = client.post("/api/v1/runs", json=body, headers=proxy.headers(ADA))
    tell(f"without consent: {refused.status_code} {refused.json()['detail'][:160]}")
    assert 400 <= refused.status_code < 500, refused.text
    made = client.post("/api/v1/runs", json={**body, "approve": True, "max_cost": 20}, headers=proxy.headers(ADA))
    assert made.status_code == 201, made.text
    tell(f"submitted as {made.json()['run_id']}")
    return made.json()["run_id"]


def check_report(client, proxy, run_id, *, tell):
    """Its owner reads the report, nobody else does; its text."""
    report = client.get(f"/api/v1/runs/{run_id}/report", headers=proxy.headers(ADA))
    assert report.status_code == 200, report.text
    tell(f"report of {len(report.content):,} bytes read through the service")
    stranger = client.get(f"/api/v1/runs/{run_id}/report", headers=proxy.headers("eve@example.org"))
    assert stranger.status_code == 404, stranger.text
    return report.text


def stand_ins(storage):
    """Variables that send the clients of Cloud Storage to this machine, without a look for credentials."""
    return {"STORAGE_EMULATOR_HOST": storage.address, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}


def put_atlas(folder, storage):
    """Copy a local atlas into the bucket, its cells first, as docs/google-cloud.md says; its name."""

    def put(path, key):
        storage.objects.put(BUCKET, key, path.read_bytes(), meta={}, query={})

    os.environ.update(stand_ins(storage))
    with tempfile.TemporaryDirectory() as root:
        copy = Path(shutil.copytree(folder, Path(root) / folder.name))
        for dataset, entry in atlas_info(folder.name, root)["datasets"].items():
            source = Path(entry["source"])
            put(source, f"cells/{source.name}")
            move_source(folder.name, f"gs://{BUCKET}/cells/{source.name}", root=root, dataset=dataset)
        for path in copy.rglob("*"):
            if path.is_file():
                put(path, f"atlases/{path.relative_to(root)}")
    return folder.name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--atlas", type=Path, help="folder of an atlas to ask in place of the demo atlas")
    parser.add_argument("--keep", type=Path, help="folder for the report, the record and the logs")
    asked, started = parser.parse_args(), time.monotonic()

    def tell(line):
        print(f"{time.monotonic() - started:6.1f} s  {line}", flush=True)

    with ExitStack() as stack:
        folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        storage = stack.enter_context(load_server("storage").faulty_storage(BUCKET))
        containers = Containers(stand_ins(storage))
        stack.callback(containers.remove)
        batch = stack.enter_context(load_server("batch").batch_server(containers.job, patience_s=0))
        stack.callback(lambda: [end(process) for held in batch.jobs.values() for process in held.processes])
        variables = service_variables()
        proxy = Proxy(variables["HAYSTACK_SERVICE__AUDIENCE"])
        variables |= {
            "HAYSTACK_SERVICE__KEYS_URL": stack.enter_context(proxy.keys()),
            "HAYSTACK_SERVICE__WATCH_S": "1",
            "HAYSTACK_BATCH__ENDPOINT": batch.address,
            "HAYSTACK_BATCH__INSECURE": "true",
            "HAYSTACK_BATCH__POLL_INTERVAL_S": "1",
        }
        if asked.atlas:
            variables["HAYSTACK_ATLASES"] = json.dumps([put_atlas(asked.atlas, storage)])
        check_images(containers, tell=tell)
        log = folder / "service.log"
        address = stack.enter_context(serving(containers, variables, log))
        client = stack.enter_context(httpx.Client(base_url=address, timeout=300))
        check_door(client, proxy, tell=tell)
        run_id = ask(client, proxy, asked.question, tell=tell)
        state = follow(client, run_id, headers=lambda: proxy.headers(ADA), tell=tell)
        kept = {name: data for (_, name), data in storage.objects.contents.items()}
        (folder / "run.json").write_bytes(kept[f"runs/{run_id}/run.json"])
        for uid, text in batch.logs.items():
            (folder / f"{uid}.log").write_text(text)
        assert state["status"] == "done", json.dumps(state, indent=1)
        assert set(state["cost_by_kind"]) == {"orchestrator", "inference"}, state["cost_by_kind"]
        report = check_report(client, proxy, run_id, tell=tell)
        (folder / "report.html").write_text(report)
        for image, words in containers.uses:
            tell(f"ran in {image}: {' '.join(words)}")
        tell(f"machines paid for: {', '.join(batch.started)}")
        texts = [log.read_text(), report, *batch.logs.values()]
        texts += [data.decode("utf-8", "replace") for data in kept.values()]
        assert not any(SECRET in text for text in texts), "a secret is in a log, a file or the report"
        tell(f"done: {state['headline']}")


if __name__ == "__main__":
    main()
