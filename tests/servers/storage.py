"""A local Cloud Storage: the emulator behind a proxy that enforces the precondition the emulator ignores.

In: requests of the real client libraries. Out: the emulator's answers, and 412 for an upload with
``ifGenerationMatch=0`` to an object that exists. Downloads can be made slow.
"""

import http.client
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlparse

from gcp_storage_emulator.server import create_server


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out in two writes: else each answer waits 40 ms

    def _forward(self):
        body = self._body()
        parsed = urlparse(self.path)
        query = parse_qs(parsed.query)
        if self.command == "GET" and (query.get("alt") == ["media"] or parsed.path.startswith("/download/")):
            time.sleep(self.server.delay_s)
        with self.server.lock:
            if query.get("ifGenerationMatch") == ["0"] and self._exists(parsed, query=query, body=body):
                self._answer(412, b'{"error": {"code": 412, "message": "conditionNotMet"}}')
                return
            status, headers, answer = self._ask(self.command, self.path, body=body, headers=dict(self.headers))
        self._answer(status, answer, headers=headers)

    def __getattr__(self, name):
        """The base class calls ``do_<METHOD>``: all are forwarded alike."""
        if name.startswith("do_"):
            return self._forward
        raise AttributeError(name)

    def _body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            del self.headers["Transfer-Encoding"]
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _exists(self, parsed, *, query, body):
        bucket = re.search(r"/b/([^/]+)/o", parsed.path).group(1)
        name = (
            query["name"][0] if "name" in query else json.loads(re.search(rb"\{.*?\}", body, re.DOTALL).group())["name"]
        )
        return self._ask("GET", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}", body=b"", headers={})[0] == 200

    def _ask(self, method, path, *, body, headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=30)
        kept = {
            k: v for k, v in headers.items() if k.lower() not in ("content-length", "connection", "accept-encoding")
        }
        connection.request(method, path, body=body, headers=kept)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), data

    def _answer(self, status, data, *, headers=None):
        self.send_response(status)
        for name, value in (headers or {"Content-Type": "application/json"}).items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        """Stay silent."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # of connections that wait to be taken; beyond it they wait seconds for a second try


@contextmanager
def storage_server(*buckets, delay_s=0.0):
    """Address of a running server that holds empty ``buckets``; give it to STORAGE_EMULATOR_HOST.

    Every download begins ``delay_s`` late.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        upstream = probe.getsockname()[1]
    emulator = create_server("127.0.0.1", upstream, in_memory=True)
    emulator.start()
    proxy = _Server(("127.0.0.1", 0), _Proxy)
    proxy.upstream, proxy.lock, proxy.delay_s = upstream, threading.Lock(), delay_s
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{proxy.server_address[1]}"
    for bucket in buckets:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.upstream)
        data = json.dumps({"name": bucket})
        connection.request("POST", "/storage/v1/b", body=data, headers={"Content-Type": "application/json"})
        connection.getresponse().read()
        connection.close()
    try:
        yield address
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
        emulator.stop()
