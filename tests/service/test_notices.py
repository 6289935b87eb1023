"""The end of a run is told once, to a webhook with a signature, and by mail; jobs are tended meanwhile."""

import hashlib
import hmac
import json
import warnings
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler

import pytest

from haystack_kernel.config.connect import connect
from haystack_kernel.errors import MissingExtraError
from haystack_kernel.manage.catalogue import Catalogue
from haystack_kernel.manage.notices import EndWatch
from haystack_kernel.store import RunStore

pytestmark = pytest.mark.slow

ADA = "ada@example.org"
SECRET = "a secret of this test"


@contextmanager
def webhook(serve, answers):
    """A webhook that answers with the given statuses, then 200: its address and what it was sent."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((dict(self.headers), body))
            self.send_response(answers.pop(0) if answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with serve(Handler) as address:
        yield address, heard


@pytest.fixture
def watch_of(settings, clock):
    """A watch over the storage of this test: ``watch_of(webhook="…")``; ``.said`` is what could not be sent."""

    def make(**service):
        changed = {**settings.service.model_dump(), **service}
        made = type(settings).model_validate({**settings.model_dump(), "service": changed})
        ports = replace(connect(made), clock=clock)
        said = []
        watch = EndWatch(Catalogue(ports), ports, address_of=lambda run_id: f"https://h/{run_id}", log=said.append)
        watch.said = said
        return watch

    return make


def test_of_two_services_one_tells_the_webhook_what_ended(serving_of, watch_of, put, record):
    run_id = put(1, owner=ADA, status="done", question="How would B cells respond to a secret drug?")
    put(2, status="done")  # of the command line: nobody asked the service for it
    with webhook(serving_of, []) as (address, heard):
        watches = [watch_of(webhook=address, webhook_secret=SECRET) for _ in range(2)]
        assert sorted(watch.look() for watch in watches) == [[], [run_id]]
        assert [watch.look() for watch in watches] == [[], []]
    ((headers, body),) = heard
    message = json.loads(body)
    assert message["run_id"] == run_id
    assert (message["status"], message["owner"], message["score"]) == ("done", ADA, None)
    assert message["url"] == f"https://h/{run_id}"
    assert "secret drug" not in body.decode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Haystack-Signature"] == f"sha256={signature}"


def test_a_run_that_goes_on_and_ends_again_is_told_again(serving_of, watch_of, put, store, clock):
    run_id = put(1, owner=ADA, status="failed")
    with webhook(serving_of, []) as (address, heard):
        watch = watch_of(webhook=address)
        assert watch.look() == [run_id]
        store = RunStore(store.storage)  # one that sees that there is an index
        again = store.save(store.load(run_id).model_copy(update={"status": "running"}))
        store.save(again.model_copy(update={"status": "done"}))
        assert watch_of(webhook=address).look() == [run_id]
        clock.sleep(6)
        assert watch.look() == [], "another watch told it"
        again = store.save(store.load(run_id).model_copy(update={"status": "running"}))
        store.save(again.model_copy(update={"status": "failed"}))
        clock.sleep(6)
        assert watch.look() == [run_id], "the same watch tells each end"
    assert [json.loads(body)["status"] for _, body in heard] == ["failed", "done", "failed"]


def test_a_webhook_that_fails_is_tried_again_and_then_said(serving_of, watch_of, put):
    put(1, owner=ADA, status="done")
    with webhook(serving_of, [503, 500]) as (address, heard):
        watch = watch_of(webhook=address)
        watch.look()
        assert (len(heard), watch.said) == (3, [])
    put(2, owner=ADA, status="done")
    watch = watch_of(webhook=address)  # which nobody answers any more
    watch.look()
    assert len(watch.said) == 1
    assert address not in watch.said[0]


def test_a_message_goes_to_the_addresses_of_apprise(serving_of, watch_of, put):
    pytest.importorskip("apprise", reason="the extra 'notify' is not installed")
    run_id = put(1, owner=ADA, status="failed")
    with webhook(serving_of, []) as (address, heard), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's own imports
        watch_of(notify=(address.replace("http://", "json://"),)).look()
    assert run_id in heard[0][1].decode()
    assert "failed" in heard[0][1].decode()


def test_mail_without_the_package_is_refused_at_the_start(watch_of, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    with pytest.raises(MissingExtraError, match="notify"):
        watch_of(notify=("json://localhost",))
