"""What an attacker sends: forged sign-ins, other sites, tricks in paths, bodies that do not end, secrets in logs."""

import base64
import json
import logging
import re
import socket
import time
from contextlib import ExitStack
from urllib.parse import quote

import httpx
import pytest

pytestmark = pytest.mark.slow

ADA = "ada@example.org"
QUESTION = "How would B cells respond to IFN-beta?"
AUDIENCE = "/projects/1/locations/here/services/haystack"
BACKEND = "/projects/1/global/backendServices/2"
HEADER = "x-goog-iap-jwt-assertion"


# --- Identity-Aware Proxy ---------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(iap, settings, open_ports):
    """A client of a service behind the proxy, the proxy's signer, and how often its keys were fetched."""
    with iap(settings, open_ports, audience=(AUDIENCE, BACKEND), admins=("boss@example.org",)) as found:
        yield found


def who(client, token):
    answer = client.get("/api/v1/me", headers={HEADER: token} if token is not None else {})
    return answer.json().get("name") if answer.status_code == 200 else answer.status_code


def test_a_header_that_the_proxy_signed_is_believed(proxy):
    client, signer, fetched = proxy
    assert who(client, signer.sign()) == ADA
    assert who(client, signer.sign(email="Ada@Example.org", aud=BACKEND)) == ADA
    assert client.get("/api/v1/me", headers={HEADER: signer.sign(email="Boss@example.org")}).json()["is_admin"]
    assert not client.get("/api/v1/me", headers={HEADER: signer.sign()}).json()["is_admin"]
    assert fetched == [1]  # keys are kept


def unsigned(claims):
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "kid": "key-1"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."


def forgeries(signer, other):
    now = int(time.time())
    public = signer.public_pem()
    claims = {
        "iss": "https://cloud.google.com/iap",
        "aud": AUDIENCE,
        "email": ADA,
        "sub": "1",
        "iat": now,
        "exp": now + 60,
    }
    token = signer.sign()
    head, body, signature = token.split(".")
    changed = (
        base64.urlsafe_b64encode(json.dumps({**claims, "email": "boss@example.org"}).encode()).decode().rstrip("=")
    )
    return {
        "none": None,
        "empty": "",
        "nonsense": "nonsense",
        "another key": signer.sign(key=other.key),
        "another key of another name": other.sign(),
        "expired": signer.sign(exp=now - 120),
        "for ever": signer.sign(exp=now + 10_000_000),
        "not yet": signer.sign(iat=now + 3600, exp=now + 4000),
        "wrong audience": signer.sign(aud="/projects/1/locations/here/services/other"),
        "no audience": signer.sign(aud=None),
        "other issuer": signer.sign(iss="https://accounts.google.com"),
        "no issuer": signer.sign(iss=None),
        "no expiry": signer.sign(exp=None),
        "no e-mail": signer.sign(email=None),
        "e-mail is a list": signer.sign(email=[ADA]),
        "e-mail with a line": signer.sign(email="ada@example.org\nx"),
        "algorithm none": unsigned(claims),
        "the public key as a secret": signer.sign_hs256(public, claims),
        "changed body": f"{head}.{changed}.{signature}",
        "no signature": f"{head}.{body}.",
    }


def test_no_other_header_is_believed(proxy, new_signer):
    client, signer, _ = proxy
    believed = {name: who(client, token) for name, token in forgeries(signer, new_signer("key-9")).items()}
    assert set(believed.values()) == {401}, believed


@pytest.mark.parametrize(
    "headers",
    [
        {"x-goog-authenticated-user-email": f"accounts.google.com:{ADA}"},
        {"x-goog-authenticated-user-id": "1", "x-forwarded-user": ADA, "x-forwarded-email": ADA},
        {"x-goog-iap-jwt-assertion-email": ADA, "authorization": f"Bearer {ADA}"},
        {"x-haystack-lab": "", "cookie": "haystack_session="},
    ],
)
def test_plain_headers_are_never_believed(proxy, headers):
    client, _, _ = proxy
    assert client.get("/api/v1/me", headers=headers).status_code == 401


def test_a_new_key_of_the_proxy_is_learned_and_unknown_keys_do_not_make_it_ask_each_time(proxy, new_signer):
    client, signer, fetched = proxy
    assert who(client, signer.sign()) == ADA
    fresh = new_signer("key-2")
    client.published.append(fresh.public())
    assert who(client, fresh.sign()) in (ADA, 401)  # at once, or when the keys may be asked for again
    before = fetched[0]
    for number in range(20):
        assert who(client, new_signer(f"unknown-{number}").sign()) == 401
    assert fetched[0] - before <= 2


# --- the token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {'t' * 40}"},
        {"authorization": "Bearer "},
        {"cookie": f"haystack_session={'t' * 40}"},
        {"cookie": "haystack_session="},
        {"authorization": "Bearer t\u00e9"},
    ],
)
def test_a_wrong_token_signs_nobody_in(token_client, headers):
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    assert token_client.get("/api/v1/me", headers=sent).status_code == 401


def test_the_printed_address_signs_in_and_leaves_no_token_in_the_browser(token_client):
    answer = token_client.get("/sign-in", params={"token": "t" * 40})
    cookie = answer.headers["set-cookie"]
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "t" * 40 not in cookie
    session = {"cookie": cookie.partition(";")[0]}
    assert token_client.get("/api/v1/me", headers=session).json()["name"] == "local"
    assert token_client.get("/sign-in", params={"token": "wrong"}).status_code == 401


def test_tries_to_sign_in_are_counted(token_client):
    seen = [token_client.get("/sign-in", params={"token": "wrong"}).status_code for _ in range(25)]
    assert (seen[0], seen[-1]) == (401, 429)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "169.254.169.254"])
def test_a_name_that_is_not_the_services_own_is_refused(token_client, host):
    answer = token_client.get("/api/v1/me", headers={"authorization": f"Bearer {'t' * 40}", "host": host})
    assert answer.status_code == 421  # a foreign name that was made to point here


# --- other sites ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "is_let_in"),
    [
        ({"origin": "http://127.0.0.1"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://127.0.0.1.evil.example"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:9"}, False),
        ({}, False),
    ],
)
def test_a_form_of_another_site_changes_nothing(token_client, jobs_of_token, headers, is_let_in):
    cookie = token_client.get("/sign-in", params={"token": "t" * 40}).headers["set-cookie"].partition(";")[0]
    form = {"question": QUESTION, "do": "ask"}
    answer = token_client.post("/ask", data=form, headers={"cookie": cookie, **headers})
    assert (answer.status_code == 303) == is_let_in, answer.text
    assert bool(jobs_of_token.submitted) == is_let_in
    if not is_let_in:
        assert answer.status_code == 403


def test_no_other_site_may_read_an_answer(client, done):
    answer = client.ask(
        "OPTIONS",
        f"/api/v1/runs/{done}",
        person=ADA,
        headers={"origin": "http://evil.example", "access-control-request-method": "GET"},
    )
    for response in (answer, client.get(f"/api/v1/runs/{done}", person=ADA, headers={"origin": "http://evil.example"})):
        assert not [name for name in response.headers if name.startswith("access-control-")]
        assert response.headers["cross-origin-resource-policy"] == "same-origin"


# --- paths and headers ------------------------------------------------------------------------------------------------


TRICKS = [
    "../../access.json",
    "..%2f..%2faccess.json",
    "%2e%2e/%2e%2e/etc/passwd",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "rounds/../access.json",
    "rounds/%2e%2e/access.json",
    "./access.json",
    "rounds//..//access.json",
    "..\\access.json",
    "de.csv%00.txt",
    "de.csv%0d%0aset-cookie:%20a=b",
    "lease/0001.json",
    "rounds/../lease/0001.json",
    ".hidden",
    "a" * 5000,
]


def test_no_path_leaves_what_a_run_offers(client, done):
    for path in TRICKS:
        answer = client.get(f"/api/v1/runs/{done}/files/{path}", person=ADA)
        assert answer.status_code in (404, 422), (path, answer.text)
        assert "set-cookie" not in answer.headers, path
        assert "root:" not in answer.text, path
        assert '"owner"' not in answer.text, path


def test_an_id_that_is_none_finds_nothing(client):
    tricks = ("..", "%2e%2e", "..%2f..", "run-2026%0d%0ax", "RUN-20260102T030405", "a" * 300, "x/../y", "%00")
    for run_id in tricks:
        for path in (f"/api/v1/runs/{run_id}", f"/runs/{run_id}", f"/runs/{run_id}/report", f"/shared/{run_id}/secret"):
            assert client.get(path, person=ADA).status_code in (404, 422, 307), path


@pytest.mark.parametrize("name", ['a"; filename="b.html', "\u00e4 \u202egnp.csv", "a;b.csv"])
def test_the_name_of_a_file_stays_a_name_in_the_header(client, done, store, name):
    store.write(done, f"notes/{name}", b"x")
    answer = client.get(f"/api/v1/runs/{done}/files/notes/{quote(name)}", person=ADA)
    assert answer.status_code == 200, answer.text
    pattern = rf"attachment; filename=\"[A-Za-z0-9_.-]+\"; filename\*=UTF-8''{done}-[A-Za-z0-9_.%-]+"
    assert re.fullmatch(pattern, answer.headers["content-disposition"])


def test_no_header_can_be_injected(client, done):
    link = client.get(f"/shared/{done}/abc%0d%0aset-cookie:%20evil=1", person=ADA)
    assert "evil" not in str(link.headers)
    named = client.get(f"/api/v1/runs/{done}/files/de.csv", person=ADA, headers={"x-request-id": "mine\r\nevil: 1"})
    assert "evil" not in str(named.headers)
    assert named.headers["x-request-id"] != "mine"


# --- texts ------------------------------------------------------------------------------------------------------------

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}} & B cells IFN-beta'


def test_no_text_of_a_run_becomes_markup(client, put, done, store):
    put(1, owner=ADA, question=HOSTILE, status="done", notes=(HOSTILE,))
    failed = {"kind": "JobFailedError", "message": HOSTILE, "step": "collect"}
    from haystack_kernel.schema import Failure

    run_id = put(2, owner=ADA, question=HOSTILE, status="failed", failure=Failure(**failed))
    store.write(run_id, "</a><script>alert(1)</script>.txt", b"x")
    for path in (
        "/runs",
        f"/runs/{run_id}",
        f"/runs?text={HOSTILE}",
        f"/ask?question={HOSTILE}",
        f"/runs/{run_id}/report",
    ):
        text = client.get(path, person=ADA).text
        assert "<script>alert" not in text, path
        assert "<img src=x" not in text, path
        assert "{{7*7}}" in text or "49" not in text, path
    asked = client.post("/ask", person=ADA, data={"question": HOSTILE, "more": HOSTILE, "engine": HOSTILE})
    assert "<script>alert" not in asked.text


def test_a_hostile_report_is_served_with_nothing_that_it_could_use(client, done, store):
    store.write(
        done, "report.html", b"<script>fetch('/api/v1/runs').then(steal)</script><meta http-equiv=refresh content=0>"
    )
    answer = client.get(f"/api/v1/runs/{done}/report", person=ADA)
    policy = answer.headers["content-security-policy"]
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]
    assert "allow-same-origin" not in policy
    assert "allow-top-navigation" not in policy
    page = client.get(f"/runs/{done}/report", person=ADA).text
    assert 'sandbox="allow-scripts"' in page
    assert "fetch(" not in page


def test_every_page_carries_a_policy_that_names_no_other_host(client, done):
    for path in (
        "/runs",
        f"/runs/{done}",
        "/ask",
        "/atlases",
        "/atlases/tiny",
        "/health",
        f"/runs/{done}/report",
        "/nothing",
    ):
        answer = client.get(path, person=ADA, headers={"accept": "text/html"})
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy, path
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "<script>" not in answer.text
        assert set(re.findall(r' style="([a-z-]+):', answer.text)) <= {"width", "text-align"}  # of bars and of tables
        assert 'src="http' not in answer.text
        assert 'href="http' not in answer.text


# --- size, time, rate -------------------------------------------------------------------------------------------------


def test_a_body_over_the_limit_is_refused_however_it_is_sent(client, jobs):
    large = b'{"question": "' + b"a" * 400_000 + b'"}'
    said = client.post("/api/v1/runs", person=ADA, content=large, headers={"content-type": "application/json"})

    async def chunks():
        for start in range(0, len(large), 50_000):
            yield large[start : start + 50_000]

    unsaid = client.post("/api/v1/runs", person=ADA, content=chunks(), headers={"content-type": "application/json"})
    assert (said.status_code, unsaid.status_code) == (413, 413)
    lied = client.post("/api/v1/runs", person=ADA, content=b"{}", headers={"content-length": "-1"})
    assert lied.status_code == 413
    assert jobs.submitted == []


def test_who_sends_too_much_is_told_to_wait(client_of, settings, open_ports):
    few = settings.service.model_copy(update={"requests_per_minute": 10, "submits_per_minute": 2})
    client = client_of(settings.model_copy(update={"service": few}), open_ports)
    bad = {"question": "How would glorps respond to IFN-beta?"}
    posted = [client.post("/api/v1/runs", person=ADA, json=bad).status_code for _ in range(3)]
    assert posted == [422, 422, 429]
    seen = [client.get("/api/v1/me", person=ADA) for _ in range(10)]
    assert seen[-1].status_code == 429
    assert int(seen[-1].headers["retry-after"]) >= 1
    assert client.get("/api/v1/me", person="ben@example.org").status_code == 200


def test_slow_clients_keep_nobody_else_waiting(settings, open_ports, live_app):
    short = settings.service.model_copy(update={"request_timeout_s": 1.0})
    with ExitStack() as stack:
        address = stack.enter_context(live_app(settings.model_copy(update={"service": short}), open_ports))
        host, port = address.removeprefix("http://").split(":")
        slow = [stack.enter_context(socket.create_connection((host, int(port)), timeout=120)) for _ in range(60)]
        head = f"POST /api/v1/parse HTTP/1.1\r\nHost: {host}\r\nX-Person: {ADA}\r\nContent-Length: 90\r\n"
        for number, connection in enumerate(slow):
            connection.sendall(f"{head}\r\n{{".encode() if number % 2 else head.encode())  # half never end the headers
        began = time.monotonic()
        answer = httpx.get(f"{address}/api/v1/me", headers={"x-person": ADA}, timeout=120)
        assert answer.status_code == 200
        assert time.monotonic() - began < 10  # before those are closed
        assert b" 408 " in slow[1].recv(300).splitlines()[0]


# --- what is written down ---------------------------------------------------------------------------------------------


def test_audit_lines_say_who_did_what_and_hold_no_secret_and_no_question(token_client, jobs_of_token, caplog):
    token = "t" * 40
    caplog.set_level(logging.DEBUG)
    token_client.get("/sign-in", params={"token": token})
    headers = {"authorization": f"Bearer {token}"}
    made = token_client.post("/api/v1/runs", json={"question": QUESTION, "max_cost": 3}, headers=headers).json()
    url = token_client.post(f"/api/v1/runs/{made['run_id']}/links", json={"days": 1}, headers=headers).json()["url"]
    token_client.get(url.removeprefix("http://127.0.0.1"), headers=headers)
    token_client.get(url.removeprefix("http://127.0.0.1"))
    token_client.get("/api/v1/me", headers={"authorization": "Bearer wrong-token-here"})
    lines = [json.loads(one.getMessage()) for one in caplog.records if one.name == "haystack.audit"]
    submit = next(line for line in lines if line["what"] == "POST /api/v1/runs")
    assert (submit["who"], submit["run"], submit["max_cost"], submit["status"]) == ("local", made["run_id"], 3.0, 201)
    assert next(line for line in lines if line["status"] == 401)["who"] is None
    written = "\n".join(one.getMessage() for one in caplog.records if one.name != "httpx")  # the client of this test
    for secret in (token, "wrong-token-here", url.rpartition("/")[2], QUESTION):
        assert secret not in written


def test_questions_are_written_down_where_that_is_asked_for(client_of, settings, open_ports, caplog):
    told = settings.service.model_copy(update={"log_questions": True})
    client = client_of(settings.model_copy(update={"service": told}), open_ports)
    caplog.set_level(logging.INFO, logger="haystack.audit")
    client.post("/api/v1/runs", person=ADA, json={"question": QUESTION})
    assert QUESTION in caplog.text


def test_a_failure_inside_tells_nothing_of_the_inside(client, put, settings, caplog):
    from pathlib import Path

    run_id = put(1, owner=ADA)
    Path(settings.storage, "runs", run_id, "access.json").write_text("{", encoding="utf-8")
    answer = client.get(f"/api/v1/runs/{run_id}", person=ADA)
    assert answer.status_code == 409
    assert "Traceback" not in answer.text
    assert str(settings.storage) not in answer.text
