"""A local Cloud Storage in memory: what the JSON API promises to a client, and the faults it may show.

In: requests of the real client libraries. Out: their answers, with preconditions on generations enforced, checksums
that are true, the limit of writes to one object where asked, and injected faults (:class:`Fault`).
"""

import base64
import hashlib
import json
import re
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs, unquote, urlparse

import google_crc32c

STEP = 256 * 1024  # bytes; every chunk of a resumable upload but the last is a multiple of it
OBJECT = re.compile(r"(?:/download)?/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<key>[^/]+)(?:/(?P<verb>copyTo|rewriteTo)"
                    r"/b/(?P<to_bucket>[^/]+)/o/(?P<to_key>[^/]+))?")  # fmt: skip
BUCKET = re.compile(r"/storage/v1/b(?:/(?P<bucket>[^/]+))?(?P<objects>/o)?")
UPLOAD = re.compile(r"/(?:upload|resumable/upload)/storage/v1/b/(?P<bucket>[^/]+)/o")


class RefusedError(Exception):
    """An answer other than success."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Fault:
    """What goes wrong with requests whose ``METHOD path?query`` (and name, of an upload) matches ``match``.

    ``kind``: ``refuse`` answers ``status``; ``reset`` drops the connection before anything is done, ``lose`` after;
    ``cut`` sends half of the body and drops the connection, ``shorten`` sends half as if it were all; ``halve`` keeps
    half of what was sent; ``wait`` answers ``delay_s`` late; ``before`` calls ``action`` first.
    """

    match: str
    kind: str = "refuse"
    status: int = 503
    times: float = 1
    delay_s: float = 0.0
    holds: object = None  # called without arguments; the fault stays away while it returns False
    action: object = None
    n_seen: int = 0

    def applies(self, request):
        return (
            self.n_seen < self.times
            and re.search(self.match, request) is not None
            and (self.holds is None or self.holds())
        )


@dataclass
class Session:
    """A resumable upload under way."""

    bucket: str
    meta: dict
    query: dict
    data: bytearray = field(default_factory=bytearray)
    result: dict | None = None


class Objects:
    """Buckets of objects, and the rules by which they change."""

    def __init__(self, buckets, *, min_gap_s, now):
        self.buckets = {name: {} for name in buckets}
        self.contents, self.written_at, self.sessions = {}, {}, {}
        self.numbers, self.min_gap_s, self.now = count(1_700_000_000_000_001), min_gap_s, now

    def bucket(self, name):
        if name not in self.buckets:
            raise RefusedError(404, "The specified bucket does not exist.")
        return self.buckets[name]

    def get(self, bucket, key, query=None):
        found = self.bucket(bucket).get(key)
        asked = (query or {}).get("generation")
        if found is None or (asked and asked != found["generation"]):
            raise RefusedError(404, f"No such object: {bucket}/{key}")
        return found

    def check(self, bucket, key, query, *, prefix="if", reading=False):
        """Refuse what its preconditions forbid; 304 for a reader who has the newest, else 412."""
        found = self.bucket(bucket).get(key)
        for name, shown in (("Generation", "generation"), ("Metageneration", "metageneration")):
            now = int(found[shown]) if found else 0
            wanted, unwanted = query.get(f"{prefix}{name}Match"), query.get(f"{prefix}{name}NotMatch")
            if wanted is not None and int(wanted) != now:
                raise RefusedError(412, "At least one of the pre-conditions you specified did not hold.")
            if unwanted is not None and int(unwanted) == now:
                raise RefusedError(304 if reading else 412, "At least one of the pre-conditions did not hold.")

    def put(self, bucket, key, data, *, meta, query):
        self.check(bucket, key, query)
        last = self.written_at.get((bucket, key))
        if last is not None and self.now() - last < self.min_gap_s:
            raise RefusedError(
                429, f"The object {bucket}/{key} exceeded the rate limit for object mutation operations."
            )
        data = bytes(data)
        crc32c = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
        md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
        for name, found in (("crc32c", crc32c), ("md5Hash", md5)):
            if meta.get(name, found) != found:
                raise RefusedError(400, f'Provided {name} "{meta[name]}" doesn\'t match calculated {name} "{found}".')
        generation, now = str(next(self.numbers)), time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        made = {"kind": "storage#object", "bucket": bucket, "name": key, "size": str(len(data)), "crc32c": crc32c,
                "md5Hash": md5, "generation": generation, "metageneration": "1", "etag": generation,
                "contentType": meta.get("contentType", "application/octet-stream"), "timeCreated": now,
                "updated": now, "storageClass": "STANDARD", "id": f"{bucket}/{key}/{generation}"}  # fmt: skip
        made |= {"metadata": meta["metadata"]} if meta.get("metadata") else {}
        self.bucket(bucket)[key], self.contents[bucket, key] = made, data
        self.written_at[bucket, key] = self.now()
        return made

    def delete(self, bucket, key, query):
        self.get(bucket, key, query)
        self.check(bucket, key, query)
        del self.bucket(bucket)[key], self.contents[bucket, key]

    def patch(self, bucket, key, changes, query):
        found = self.get(bucket, key, query)
        self.check(bucket, key, query)
        made = found | {"metageneration": str(int(found["metageneration"]) + 1)}
        made |= {name: value for name, value in changes.items() if name in ("metadata", "contentType", "cacheControl")}
        self.bucket(bucket)[key] = made
        return made

    def copy(self, place, query, meta):
        bucket, key = place["bucket"], place["key"]
        found = self.get(bucket, key)
        self.check(bucket, key, query, prefix="ifSource")
        kept = {name: value for name, value in found.items() if name in ("contentType", "metadata")} | meta
        made = self.put(place["to_bucket"], place["to_key"], self.contents[bucket, key], meta=kept, query=query)
        size = {"totalBytesRewritten": made["size"], "objectSize": made["size"], "done": True, "resource": made}
        return made if place["verb"] == "copyTo" else {"kind": "storage#rewriteResponse", **size}

    def listing(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = {}, set()
        for key, found in sorted(self.bucket(bucket).items()):
            if key.startswith(prefix) and delimiter and delimiter in key[len(prefix) :]:
                prefixes.add(prefix + key[len(prefix) :].split(delimiter)[0] + delimiter)
            elif key.startswith(prefix):
                items[key] = found
        names = [name for name in sorted({*items, *prefixes}) if name > query.get("pageToken", "")]
        page = names[: int(query.get("maxResults", 1000))]
        answer = {"kind": "storage#objects", "items": [items[name] for name in page if name in items],
                  "prefixes": [name for name in page if name in prefixes]}  # fmt: skip
        return answer | ({"nextPageToken": page[-1]} if len(page) < len(names) else {})

    def resume(self, session, content_range, body):
        """Take a chunk; returns the object when the upload is whole, else None."""
        first, last, total = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", content_range).groups()
        if session.result is not None:
            return session.result
        if first is not None:
            if int(first) > len(session.data):
                raise RefusedError(400, "Invalid request: the chunk does not follow the bytes received so far.")
            if total == "*" or int(last) + 1 < int(total):
                if (int(last) + 1 - int(first)) % STEP:
                    raise RefusedError(400, "Invalid request: the chunk is no multiple of 256 KiB.")
                body = body[: len(body) // STEP * STEP]  # of a chunk that broke off, whole steps are kept
            session.data += body[len(session.data) - int(first) :]
        if total != "*" and len(session.data) == int(total):
            key = session.query.get("name") or session.meta["name"]
            session.result = self.put(session.bucket, key, session.data, meta=session.meta, query=session.query)
        return session.result


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out in two writes: else each answer waits 40 ms

    def __getattr__(self, name):
        """The base class calls ``do_<METHOD>``."""
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def log_message(self, *args):
        """Stay silent."""

    def _serve(self):
        server, body = self.server, self._body()
        request = f"{self.command} {unquote(self.path)}{_name_in(body) if '/upload/' in self.path else ''}"
        with server.lock:
            server.requests.append(request)
            fault = next((one for one in server.faults if one.applies(request)), None) or Fault("", kind="none")
            fault.n_seen += 1
        is_media = "alt=media" in self.path or self.path.startswith("/download/")
        time.sleep(fault.delay_s + (server.delay_s if is_media else 0.0))
        if fault.kind == "reset":
            self._drop()
            return
        if fault.kind == "before":
            fault.action()
        if fault.kind == "refuse":
            status, headers, data = _problem(fault.status, "Invalid Credentials" if fault.status == 401 else "as asked")
        else:
            with server.lock:
                status, headers, data = self._act(body[: len(body) // 2] if fault.kind == "halve" else body)
        if fault.kind == "lose":
            self._drop()
            return
        if fault.kind == "shorten":
            data = data[: len(data) // 2]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        with suppress(ConnectionError):  # a client that does not wait any longer
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if fault.kind == "cut" else data)
        if fault.kind == "cut":
            self._drop()

    def _drop(self):
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _act(self, body):
        parsed = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(parsed.query).items()}
        try:
            if match := UPLOAD.fullmatch(parsed.path):
                return self._upload(unquote(match["bucket"]), query, body)
            if match := OBJECT.fullmatch(parsed.path):
                place = {name: unquote(value) if value else value for name, value in match.groupdict().items()}
                return self._object(place, query, body)
            if match := BUCKET.fullmatch(parsed.path):
                return self._bucket(match, query, body)
            return self._batch(body) if parsed.path.startswith("/batch/") else _problem(501, self.path)
        except RefusedError as refused:
            return _problem(refused.status, refused.message)

    def _bucket(self, match, query, body):
        objects, name = self.server.objects, match["bucket"]
        if self.command == "POST" and name is None:
            objects.buckets.setdefault(json.loads(body)["name"], {})
            return _answer({"kind": "storage#bucket", "name": json.loads(body)["name"]})
        if match["objects"]:
            return _answer(objects.listing(unquote(name), query))
        if name is None:
            return _answer({"kind": "storage#buckets", "items": [{"name": one} for one in objects.buckets]})
        objects.bucket(name)
        return _answer({"kind": "storage#bucket", "name": name, "location": "US", "storageClass": "STANDARD"})

    def _object(self, place, query, body):
        objects, bucket, key = self.server.objects, place["bucket"], place["key"]
        if place["verb"]:
            return _answer(objects.copy(place, query, json.loads(body or b"{}")))
        if self.command == "DELETE":
            objects.delete(bucket, key, query)
            return 204, {}, b""
        if self.command == "PATCH":
            return _answer(objects.patch(bucket, key, json.loads(body), query))
        found = objects.get(bucket, key, query)
        objects.check(bucket, key, query, reading=True)
        if query.get("alt") != "media" and not self.path.startswith("/download/"):
            return _answer(found)
        data = objects.contents[bucket, key]
        headers = {"Content-Type": found["contentType"], "X-Goog-Generation": found["generation"],
                   "X-Goog-Metageneration": found["metageneration"], "X-Goog-Stored-Content-Length": found["size"],
                   "X-Goog-Stored-Content-Encoding": "identity",
                   "X-Goog-Hash": f"crc32c={found['crc32c']},md5={found['md5Hash']}"}  # fmt: skip
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None or asked.groups() == ("", ""):
            return 200, headers, data
        first = int(asked[1]) if asked[1] else max(len(data) - int(asked[2]), 0)
        end = min(int(asked[2]) + 1, len(data)) if asked[1] and asked[2] else len(data)
        if first >= len(data):
            return 416, {"Content-Range": f"bytes */{len(data)}"}, b""
        return 206, headers | {"Content-Range": f"bytes {first}-{end - 1}/{len(data)}"}, data[first:end]

    def _upload(self, bucket, query, body):
        objects, kind = self.server.objects, query.get("uploadType")
        objects.bucket(bucket)
        if "upload_id" in query:
            return self._chunk(query["upload_id"], body)
        if kind == "resumable":
            meta = json.loads(body or b"{}")
            meta.setdefault("contentType", self.headers.get("X-Upload-Content-Type", "application/octet-stream"))
            objects.check(bucket, query.get("name") or meta["name"], query)
            name = f"upload{next(objects.numbers)}"
            objects.sessions[name] = Session(bucket, meta, query)
            return 200, {"Location": f"http://{self.headers['Host']}{self.path}&upload_id={name}"}, b""
        meta = {"contentType": self.headers.get("Content-Type")}
        if kind == "multipart":
            meta, body = _parts(self.headers["Content-Type"], body)
        return _answer(objects.put(bucket, query.get("name") or meta["name"], body, meta=meta, query=query))

    def _chunk(self, name, body):
        objects = self.server.objects
        if name not in objects.sessions:
            raise RefusedError(404, "no such upload")
        if self.command == "DELETE":
            del objects.sessions[name]
            return 499, {}, b""
        session = objects.sessions[name]
        done = objects.resume(session, self.headers.get("Content-Range", f"bytes 0-{len(body) - 1}/{len(body)}"), body)
        if done is not None:
            return _answer(done)
        return 308, {"Range": f"bytes=0-{len(session.data) - 1}"} if session.data else {}, b""

    def _batch(self, body):
        """Deletions sent together, as gcsfs does."""
        boundary, parts = "batch_answer", []
        for number, path in enumerate(re.findall(rb"DELETE (\S+)", body), start=1):
            place, line = OBJECT.fullmatch(urlparse(path.decode()).path), "204 No Content"
            try:
                self.server.objects.delete(unquote(place["bucket"]), unquote(place["key"]), {})
            except RefusedError as refused:
                line = f"{refused.status} Refused"
            parts.append(f"--{boundary}\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>\r\n\r\n"
                         f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n\r\n")  # fmt: skip
        text = "".join(parts) + f"--{boundary}--\r\n"
        return 200, {"Content-Type": f"multipart/mixed; boundary={boundary}"}, text.encode()


def _parts(content_type, body):
    """Metadata and content of a multipart upload; 400 where the end is missing."""
    boundary = b"--" + re.search(r'boundary="?([^";]+)"?', content_type)[1].encode()
    newline = b"\r\n" if body.startswith(boundary + b"\r\n") else b"\n"
    if not body.rstrip().endswith(boundary + b"--"):
        raise RefusedError(400, "Malformed multipart body.")
    _, head, rest = body.split(boundary + newline, 2)
    meta = json.loads(head.split(newline * 2, 1)[1])
    content_head, content = rest.split(newline * 2, 1)
    kind = re.search(rb"(?i)content-type:\s*(\S+)", content_head)
    meta.setdefault("contentType", kind[1].decode() if kind else "application/octet-stream")
    return meta, content[: content.rindex(newline + boundary + b"--")]


def _name_in(body):
    """The object of an upload, which its address need not tell."""
    found = re.search(rb'"name": ?"([^"]+)"', body[:2000])
    return f" {found[1].decode()}" if found else ""


def _answer(found):
    return 200, {"Content-Type": "application/json; charset=UTF-8"}, json.dumps(found).encode()


def _problem(status, message):
    reasons = {304: "notModified", 401: "authError", 403: "forbidden", 404: "notFound", 412: "conditionNotMet",
               429: "rateLimitExceeded", 503: "backendError"}  # fmt: skip
    errors = [{"domain": "global", "reason": reasons.get(status, "invalid"), "message": message}]
    data = json.dumps({"error": {"code": status, "message": message, "errors": errors}}).encode()
    return status, {"Content-Type": "application/json"}, b"" if status == 304 else data


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # of connections that wait to be taken; beyond it they wait seconds for a second try

    def fail(self, match, **options):
        """Make requests that match go wrong, see :class:`Fault`."""
        self.faults.append(Fault(match, **options))
        return self.faults[-1]


@contextmanager
def faulty_storage(*buckets, delay_s=0.0, min_gap_s=0.0, now=time.monotonic):
    """A running server that holds empty ``buckets``; its ``address`` is for STORAGE_EMULATOR_HOST.

    ``.requests`` lists what was asked, ``.fail`` injects a :class:`Fault`, ``.objects`` is what is kept. Every download
    begins ``delay_s`` late; of writes to one object nearer than ``min_gap_s`` the second gets 429 (the service: 1 s).
    """
    server = _Server(("127.0.0.1", 0), _Handler)
    server.lock, server.delay_s, server.requests, server.faults = threading.RLock(), delay_s, [], []
    server.objects = Objects(buckets, min_gap_s=min_gap_s, now=now)
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def storage_server(*buckets, delay_s=0.0):
    """Address of a running server that holds empty ``buckets``; see :func:`faulty_storage`."""
    with faulty_storage(*buckets, delay_s=delay_s) as server:
        yield server.address
