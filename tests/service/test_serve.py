"""`haystack serve`: where it listens and for whom; slow heads and open streams do not hold it."""

import socket
import threading
import time
from contextlib import ExitStack

import httpx
import pytest

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.service import serve as module
from haystack_kernel.service.serve import listen, serve

pytestmark = pytest.mark.slow

ADA = "ada@example.org"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_token_does_not_travel_unencrypted_to_other_machines(settings, host):
    with pytest.raises(InvalidInputError, match="Identity-Aware Proxy"):
        serve(settings, host=host, port=0, show=print)


def test_a_port_that_is_taken_is_refused_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InvalidInputError, match="--port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_who_is_told_the_address_can_connect_before_the_server_has_started():
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname(), timeout=120):
        pass


def test_a_connection_that_never_says_what_it_wants_is_closed(settings, open_ports, live_app, monkeypatch):
    monkeypatch.setattr(module, "_HEAD_S", 1.5)
    with live_app(settings, open_ports) as address, ExitStack() as opened:
        host, port = address.removeprefix("http://").split(":")
        sent = (b"", b"GET /api/v1/me HTTP/1.1\r\nHost: x\r\n")
        slow = [opened.enter_context(socket.create_connection((host, int(port)), timeout=120)) for _ in sent]
        for connection, begun in zip(slow, sent, strict=True):
            connection.sendall(begun)
        for connection in slow:
            assert connection.recv(100) == b""
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(base_url=address, headers={"x-person": ADA}, timeout=120, transport=transport) as client:
            for _ in range(2):  # one connection, which stays open between its requests
                answer = client.get("/api/v1/me")
                assert answer.status_code == 200
                time.sleep(1.7)


def test_it_stops_while_a_run_is_followed(settings, open_ports, live_app, put):
    run_id = put(1, owner=ADA)
    began = threading.Event()

    def follow(address):
        with (
            httpx.Client(base_url=address, headers={"x-person": ADA}, timeout=60) as client,
            client.stream("GET", f"/api/v1/runs/{run_id}/events") as answer,
        ):
            began.set()
            for _ in answer.iter_lines():
                pass

    with live_app(settings, open_ports) as address:
        thread = threading.Thread(target=follow, args=(address,), daemon=True)
        thread.start()
        assert began.wait(120)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 120  # ends hangs
    thread.join(120)
    assert not thread.is_alive()
