"""Pub/Sub wakes the service when a job tells of its state; nobody else does, and what it says is never believed."""

import json
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler

import pytest

pytest.importorskip("fastapi", reason="the extra 'service' is not installed")

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from haystack_kernel.schema import JobHandle, JobOwner
from haystack_kernel.store import Lease

pytestmark = pytest.mark.slow

ADA = "ada@example.org"
ACCOUNT = "haystack-wake@p.iam.gserviceaccount.com"
AUDIENCE = "https://haystack-wake-1.us-east1.run.app"
HERE = "/hooks/batch"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def token(*, key=KEY, algorithm="RS256", **changed):
    now = int(time.time())
    claims = {"iss": "https://accounts.google.com", "aud": AUDIENCE, "sub": "1", "email": ACCOUNT}
    claims |= {"email_verified": True, "iat": now, "exp": now + 3600}
    claims = {name: value for name, value in {**claims, **changed}.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": "k"})


def message(job, *, at="2026-01-02T03:04:05Z", **attributes):
    return {"message": {"attributes": {"JobName": job, **attributes}, "publishTime": at, "messageId": "1"}}


@contextmanager
def answering(serve, answers):
    """A server that publishes Google's keys at GET and takes a webhook's messages at POST."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            body = answers(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 - the base class names them so

        def log_message(self, *_):
            pass

    with serve(Handler) as address:
        yield address


@pytest.fixture
def woken(cloudy, jobs, client_of, clock, serving_of):
    """A service that may be woken: its client, what its webhook was told, and how often a job was asked for."""
    settings, open_ports = cloudy
    told, asked = [], []
    keys = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key())), "kid": "k", "alg": "RS256"}

    def answer(body):
        if body:
            told.append(json.loads(body))
        return json.dumps({"keys": [keys]}).encode()

    class Counted:
        def __getattr__(self, name):
            return lambda *words: asked.append(name) or getattr(jobs, name)(*words)

    def ports_of(consent):
        ports = open_ports(consent)
        return replace(ports, settings=made, executors={**ports.executors, "batch": Counted()}, clock=clock)

    with answering(serving_of, answer) as address:
        service = {"wake_account": ACCOUNT, "wake_audience": AUDIENCE, "wake_keys_url": address, "webhook": address}
        service = {**settings.service.model_dump(), **service}
        batch = {**settings.batch.model_dump(), "topic": "projects/p/topics/jobs"}
        made = type(settings).model_validate({**settings.model_dump(), "service": service, "batch": batch})
        yield client_of(made, ports_of), told, asked


@pytest.fixture
def running(put, clock):
    """A run that a job of Google Cloud Batch works on: its id and the full name of the job."""

    def make(number, *, owner=ADA):
        run_id = f"run-20260102t{number:06d}-abcdef"
        handle = JobHandle(
            job_id=f"haystack-{run_id}-0a1b2c3d",
            kind="orchestrator",
            owner=JobOwner(id=run_id),
            executor="batch",
            spec_hash="0" * 64,
            submitted_at=clock.now(),
        )
        put(number, owner=owner, orchestrator=handle)
        return run_id, f"projects/p/locations/us-east1/jobs/{handle.job_id}"

    return make


def push(client, body, *, sent=None, **more):
    headers = {"authorization": f"Bearer {token()}"} if sent is None else sent
    return client.ask("POST", HERE, headers=headers, json=body, **more).status_code


def test_a_message_has_the_end_told_once_however_often_it_comes(woken, running, jobs):
    client, told, _ = woken
    run_id, job = running(1)
    assert push(client, message(job, NewJobState="RUNNING")) == 204
    assert told == []
    jobs.state = "failed"
    assert [push(client, message(job, NewJobState="SUCCEEDED")) for _ in range(3)] == [204, 204, 204]
    assert [(one["run_id"], one["status"]) for one in told] == [(run_id, "failed")], "what it says is not believed"


def test_a_message_is_asked_for_again_while_a_worker_may_still_live(woken, running, jobs, store, clock):
    client, told, _ = woken
    run_id, job = running(1)
    jobs.state = "failed"
    with Lease.acquire(store, run_id, clock=clock):
        assert push(client, message(job)) == 503
        assert push(client, message(job, at="2026-01-02T02:04:05Z")) == 204, "somebody resumed it: not for ever"
        assert push(client, message(job, at="2026-01-02T03:04:05")) == 204, "a time without a zone is no time"
    assert push(client, message(job)) == 204
    assert [one["run_id"] for one in told] == [run_id]


def test_a_message_of_an_unknown_form_wakes_all_the_same(woken, running, jobs):
    client, told, _ = woken
    run_id, _ = running(1)
    jobs.state = "failed"
    assert push(client, {"message": {"data": "e30="}}) == 204
    assert [one["run_id"] for one in told] == [run_id]


FORGED = {
    "no token": None,
    "not a token": "a.b.c",
    "another key": token(key=OTHER_KEY),
    "another audience": token(aud="https://haystack-1.us-east1.run.app"),
    "no audience": token(aud=None),
    "another account": token(email="eve@p.iam.gserviceaccount.com"),
    "an account not verified": token(email_verified=None),
    "verified by a word": token(email_verified="true"),
    "another issuer": token(iss="https://cloud.google.com/iap"),
    "expired": token(exp=int(time.time()) - 60),
    "for a year": token(exp=int(time.time()) + 365 * 86_400),
    "without an end": token(exp=None),
    "not signed": token(key=None, algorithm="none"),
    "signed by the public key": jwt.api_jws.PyJWS().encode(
        json.dumps({"email": ACCOUNT, "aud": AUDIENCE}).encode(), b"x" * 32, algorithm="HS256", headers={"kid": "k"}
    ),
}


def test_nobody_else_wakes_it(woken, running, jobs):
    client, told, asked = woken
    _, job = running(1)
    jobs.state = "failed"
    for said, text in FORGED.items():
        sent = {} if text is None else {"authorization": f"Bearer {text}"}
        assert push(client, message(job), sent=sent) == 401, said
    good = token()
    for sent in ({"x-person": ADA}, {"x-goog-iap-jwt-assertion": good}, {"authorization": f"Basic {good}"}):
        assert push(client, message(job), sent=sent) == 401, sent
    assert client.ask("POST", f"{HERE}?token={good}", json=message(job)).status_code == 401
    assert (asked, told) == ([], [])


def test_its_token_opens_nothing_else(woken, running):
    client, _, _ = woken
    run_id, _ = running(1)
    sent = {"authorization": f"Bearer {token()}"}
    for path in (
        "/",
        "/api/v1/runs",
        f"/api/v1/runs/{run_id}",
        f"/runs/{run_id}",
        f"{HERE}/",
        f"{HERE}/../../api/v1/me",
    ):
        assert client.get(path, headers=sent).status_code == 401, path
    assert client.post(f"/api/v1/runs/{run_id}/cancel", headers=sent, json={}).status_code == 401
    assert client.get(HERE, headers=sent).status_code == 405
    assert push(client, {"message": {"attributes": {"JobName": 1}}}) == 422
    assert push(client, message("x" * 300_000)) == 413


def test_a_job_that_is_not_ours_is_passed_over(woken, running, put, jobs):
    client, told, asked = woken
    _, job = running(1, owner=None)  # of the command line: nobody asked the service for it
    put(2, owner=ADA)  # worked on by no job
    jobs.state = "failed"
    place = job.rpartition("/")[0]
    names = [job, f"{place}/haystack-run-20260102t000002-abcdef-0a1b2c3d"]
    names += [f"{place}/{name}" for name in ("other", "haystack-run-20260102t000009-abcdef-0a1b2c3d")]
    names += [f"{place}/haystack-../../etc-0a1b2c3d", f"{place}/haystack-{'a' * 400}-0a1b2c3d", f"{place}/"]
    assert [push(client, message(name)) for name in names] == [204] * len(names)
    assert (asked, told) == ([], [])


def test_runs_whose_jobs_tell_are_rarely_asked_for(woken, running, jobs, clock):
    client, told, asked = woken
    watch = client.app.state.watch
    run_id, _ = running(1)
    watch.look()  # the first look finds what happened before the service started
    assert asked
    del asked[:]
    jobs.state = "failed"
    clock.sleep(590)
    assert (watch.look(), asked) == ([], [])
    clock.sleep(20)  # a message was lost
    assert watch.look() == [run_id]
    assert len(told) == 1


def test_without_a_wake_account_there_is_no_such_route(settings, cloudy, client_of):
    client = client_of(*cloudy)
    assert push(client, message("x")) == 401
    assert client.post(HERE, person=ADA, json=message("x")).status_code == 404
    with pytest.raises(ValueError, match="together"):
        type(settings.service)(wake_account=ACCOUNT)
