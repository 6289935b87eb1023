"""A proxy that makes a local service behave like a far one: every request waits, some fail, some come back cut short.

In: the address of a server. Out: its answers, late; a count of requests; 429, 503, 403 or half an answer where asked.
"""

import http.client
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse


class _Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out in two writes: else each answer waits 40 ms

    def _forward(self):
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with server.lock:
            server.n_requests += 1
            server.n_reads += self.command == "GET" and "alt=media" in self.path
            status = server.failing.pop(0) if server.failing else None
            cut = server.n_cut > 0 and self.command == "GET" and "Range" in self.headers
            server.n_cut -= cut
        time.sleep(server.delay_s)
        if status:
            self._answer(status, b'{"error": {"code": %d, "message": "as asked"}}' % status, headers={})
            return
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        with server.few:  # the server behind answers one at a time
            connection = http.client.HTTPConnection(server.upstream, timeout=60)
            connection.request(self.command, self.path, body=body, headers=kept)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
        self._answer(answer.status, data[: len(data) // 2] if cut else data, headers=dict(answer.getheaders()))

    def __getattr__(self, name):
        """The base class calls ``do_<METHOD>``: all are forwarded alike."""
        if name.startswith("do_"):
            return self._forward
        raise AttributeError(name)

    def _answer(self, status, data, *, headers):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        with suppress(ConnectionError):  # a client that reads ahead may go before the answer comes
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *args):
        """Stay silent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def slow_proxy(address, *, delay_s=0.03):
    """A running proxy of ``address``.

    ``.address``, ``.n_requests``, ``.n_reads`` of them of contents, and to be set: ``.delay_s`` seconds each request
    waits, ``.failing`` a list of status codes that the next requests get, ``.n_cut`` how many of the next ranged reads
    come back half.
    """
    server = _Server(("127.0.0.1", 0), _Slow)
    server.upstream, server.delay_s = urlparse(address).netloc, delay_s
    server.few = threading.BoundedSemaphore(4)
    server.lock, server.failing, server.n_cut = threading.Lock(), [], 0
    server.n_requests = server.n_reads = 0
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
