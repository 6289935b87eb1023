"""The service on small runs: people, requests in this process, a server on the loopback."""

import asyncio
import base64
import hmac
import json
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi", reason="the extra 'service' is not installed")

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.manage.tenancy import Person
from haystack_kernel.schema import Access, JobStatus
from haystack_kernel.service.app import build
from haystack_kernel.service.identity import IapIdentity, TokenIdentity

TOKEN = "t" * 40
ADA, BEN, EVE = "ada@example.org", "ben@example.org", "eve@example.org"
AUDIENCE = "/projects/1/locations/here/services/haystack"


class SaidIdentity:
    """Implements Identity: believes the header ``x-person``; ``eve@example.org`` is an admin."""

    kind = "iap"
    may_wait = False

    def person(self, headers, cookies):
        name = headers.get("x-person")
        return Person(name, is_admin=name == EVE) if name else None


class Client:
    """Sends requests to an application in this process."""

    def __init__(self, app, **headers):
        self.app, self.headers = app, {name.replace("_", "-"): value for name, value in headers.items()}

    def ask(self, method, path, *, person=None, headers=None, **more):
        sent = {**self.headers, **({"x-person": person} if person else {}), **(headers or {})}

        async def send():
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=120) as client:
                return await client.request(method, path, headers=sent, **more)

        return asyncio.run(send())

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def post(self, path, **more):
        return self.ask("POST", path, **more)


def settings_in(folder, root, **service):
    return load_settings(
        layer="test",
        storage=str(folder / "store"),
        atlas_root=str(root),
        knowledge=str(folder / "knowledge"),
        cache=str(folder / "cache"),
        atlases=["tiny"],
        grounding={"n_draws": 199, "n_resamples": 0},
        inference={"n_prompt": 4, "n_query": 3},
        jobs={"poll_s": 0.05},
        service={"watch_s": 0.2, "local_runs_at_once": 50, "runs_at_once": 50, **service},
    )


@pytest.fixture
def settings(tmp_path, tiny_atlas_root):
    return settings_in(tmp_path, tiny_atlas_root)


@pytest.fixture
def store(settings):
    from haystack_kernel.store import RunStore

    return RunStore(settings.storage)


class Jobs:
    """Implements the Executor port without doing anything: a job is what ``state`` says, and costs nothing."""

    name = "local"

    def __init__(self):
        self.state, self.submitted, self.consents = "running", [], []

    def of(self, consent):
        """The same jobs, started with the consent of one call."""
        self.consents.append(consent)
        return self

    def submit(self, spec):
        self.submitted.append(spec)

    def status(self, job):
        return JobStatus(state=self.state, log_tail="reading the question\n<b>no markup</b>")

    tend = status

    def cancel(self, job):
        self.state = "cancelled"
        return self.status(job)


@pytest.fixture
def jobs():
    return Jobs()


@pytest.fixture
def open_ports(settings, jobs):
    """Ports whose local jobs are ``jobs``; those of Google Cloud are the real ones, which reach nothing here."""

    def start(consent):
        ports = connect(settings, consent=consent)
        return replace(ports, executors={**ports.executors, "local": jobs.of(consent)})

    return start


@pytest.fixture
def app(settings, open_ports):
    return build(settings, identity=SaidIdentity(), open_ports=open_ports)


@pytest.fixture
def client(app):
    return Client(app)


@pytest.fixture
def client_of():
    """A client of a service with other settings and ports."""
    return lambda settings, open_ports: Client(build(settings, identity=SaidIdentity(), open_ports=open_ports))


@pytest.fixture
def token_client(settings, jobs_of_token):
    """A client of a service with a token, whose jobs are ``jobs_of_token``."""

    def open_ports(consent):
        ports = connect(settings, consent=consent)
        return replace(ports, executors={**ports.executors, "local": jobs_of_token})

    return Client(build(settings, identity=TokenIdentity(TOKEN), open_ports=open_ports))


@pytest.fixture
def jobs_of_token():
    return Jobs()


@pytest.fixture
def live_app():
    """A service on the loopback: ``with live_app(settings, open_ports) as address``."""
    return lambda settings, open_ports, **more: live(
        build(settings, identity=SaidIdentity(), open_ports=open_ports), **more
    )


@pytest.fixture
def client_type():
    return Client


@pytest.fixture
def serving_of():
    """A server of the standard library: ``with serving_of(handler) as address``."""
    return serving


@pytest.fixture
def new_signer():
    return Signer


@pytest.fixture
def iap():
    """A service behind Identity-Aware Proxy: its client, the proxy's signer, how often its keys were fetched."""
    from http.server import BaseHTTPRequestHandler

    @contextmanager
    def start(settings, open_ports, **service):
        signer, fetched = Signer(), [0]
        published = [signer.public()]

        class Keys(BaseHTTPRequestHandler):
            def do_GET(self):
                fetched[0] += 1
                body = json.dumps({"keys": published}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        with serving(Keys) as address:
            changed = {**settings.service.model_dump(), "identity": "iap", "keys_url": address, **service}
            made = type(settings).model_validate({**settings.model_dump(), "service": changed})
            client = Client(build(made, identity=IapIdentity(made.service), open_ports=open_ports))
            client.published = published
            yield client, signer, fetched

    return start


@pytest.fixture
def cloudy(settings, jobs):
    """The service where runs go to Google Cloud; its jobs are ``jobs``, which ask the real gate for consent."""
    from haystack_kernel.jobs import SpendingGate
    from haystack_kernel.jobs.consent import Spending
    from haystack_kernel.jobs.cost import estimate_cost

    batch = {
        "project": "p",
        "region": "us-central1",
        "orchestrator_image": "image@sha256:0",
        "inference_image": "image@sha256:1",
        "insecure": True,
    }
    changed = {"jobs": {**settings.jobs.model_dump(), "executor": "batch"}, "batch": batch}
    changed["service"] = {**settings.service.model_dump(), "usd_per_day": 20.0}
    made = type(settings).model_validate({**settings.model_dump(), **changed})

    class Gated:
        def __init__(self, consent):
            self.consent = consent

        def submit(self, spec):
            SpendingGate(self.consent).check(spec, estimate_cost(spec, made.batch), Spending())
            jobs.submit(spec)

        def __getattr__(self, name):
            return getattr(jobs, name)

    def open_ports(consent):
        ports = connect(made, consent=consent)
        return replace(ports, executors={"local": jobs, "batch": Gated(consent)})

    return made, open_ports


@pytest.fixture
def put(store, record):
    """Put a run into the storage: ``put(1, owner=ADA, status="done")``."""

    def make(number, *, owner=None, **changes):
        run_id = f"run-20260102t{number:06d}-abcdef"
        made = record.model_copy(update={"run_id": run_id, **changes})
        if owner is not None:
            access = Access(owner=owner, submitted_at=record.created_at)
            store.change_access(run_id, lambda before: before or access)
        return store.create(made).run_id

    return make


@pytest.fixture
def done(settings, finished):
    """A finished run of Ada's, with its report and all its files: its id."""
    from haystack_kernel.store import RunStore

    made, record = finished
    source = Path(made.settings.storage) / "runs" / record.run_id
    shutil.copytree(source, Path(settings.storage) / "runs" / record.run_id)
    access = Access(owner=ADA, submitted_at=record.created_at)
    RunStore(settings.storage).change_access(record.run_id, lambda before: access)
    return record.run_id


# --- Identity-Aware Proxy ---------------------------------------------------------------------------------------------


class Signer:
    """Signs as the proxy does, with a key of this test."""

    def __init__(self, kid="key-1"):
        self.kid, self.key = kid, ec.generate_private_key(ec.SECP256R1())

    def public(self):
        found = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        return {**found, "kid": self.kid, "use": "sig", "alg": "ES256"}

    def public_pem(self):
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign_hs256(self, secret, claims):
        """Sign with a public text as the secret, which a careless reader takes for the key."""
        head = json.dumps({"alg": "HS256", "typ": "JWT", "kid": self.kid}).encode()
        parts = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (head, json.dumps(claims).encode())]
        mark = hmac.new(secret, ".".join(parts).encode(), "sha256").digest()
        return ".".join([*parts, base64.urlsafe_b64encode(mark).decode().rstrip("=")])

    def sign(self, email=ADA, *, key=None, algorithm="ES256", headers=None, **claims):
        now = int(time.time())
        body = {
            "iss": "https://cloud.google.com/iap",
            "aud": AUDIENCE,
            "sub": "accounts.google.com:1",
            "email": email,
            "iat": now,
            "exp": now + 600,
            **claims,
        }
        body = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(body, key or self.key, algorithm=algorithm, headers={"kid": self.kid, **(headers or {})})


@contextmanager
def serving(handler):
    """An HTTP server of the standard library on the loopback, in a thread; its address."""
    from http.server import ThreadingHTTPServer

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(120)


@contextmanager
def live(app, *, port=0):
    """The application behind uvicorn on the loopback; its address."""
    from haystack_kernel.service.serve import listen, server_of

    listener = listen("127.0.0.1", port)
    server = server_of(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 120
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(120)
        listener.close()
