"""The Messages API in a local server: it checks requests as the real one does, and plays a stated model.

No model runs here. What is said comes from a script, from an honest reply that a test gives, or, in the obedient mode,
from orders of the form ``[[obey {...}]]`` found anywhere in the data that the model was shown.

In: replies and faults. Out: JSON or server-sent events through the real SDK; requests and usage as they were counted.
"""

import base64
import binascii
import hashlib
import html
import json
import re
import threading
import time
import unicodedata
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

KEY = "sk-ant-test-0123456789"
MODELS = {  # model -> least length of a cached prefix in tokens, of published tables; the longest where none is known
    "claude-sonnet-5-5": 1024,
    "claude-haiku-5-5": 4096,
    "claude-opus-5-5": 4096,
}
LOOK_BACK = 20  # blocks before a breakpoint in which a cached prefix is looked for
MAX_BREAKPOINTS, MAX_STRICT_TOOLS, MAX_OPTIONAL = 4, 20, 24
_UNSUPPORTED = ("minimum", "maximum", "minLength", "maxLength", "pattern", "maxItems", "uniqueItems", "multipleOf")
_HIDDEN = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad\u202a\u202b\u202c\u202d\u202e"))


# --- what a model may reply -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """One assistant turn; ``stop`` None follows from its blocks."""

    blocks: tuple = ()
    stop: str | None = None
    delay_s: float = 0.0  # before the answer, and between the events of a stream
    cut_after: int | None = None  # events of a stream, or bytes of an answer, after which the connection ends
    stream_error: str | None = None  # an error event in the middle of a stream


@dataclass(frozen=True)
class Fault:
    """An HTTP answer that is no message."""

    status: int
    kind: str = "api_error"
    message: str = "a designed fault"
    headers: dict = field(default_factory=dict)
    body: bytes | None = None  # in place of the API's error form


def says(text, **options):
    """Plain text; a mapping or list is written as JSON."""
    text = text if isinstance(text, str) else json.dumps(text)
    return Reply(({"type": "text", "text": text},), **options)


def uses(*calls, text=""):
    """Tool calls, each ``(name, input)``."""
    blocks = [{"type": "text", "text": text}] if text else []
    return Reply((*blocks, *({"type": "tool_use", "name": name, "input": given} for name, given in calls)))


def refuses(category="bio"):
    """A refusal by a classifier."""
    return Reply((), stop="refusal:" + category)


def truncated(text='{"task_type": "cell_'):
    """An answer that reached max_tokens."""
    return says(text, stop="max_tokens")


def malformed(text="Certainly! Here is the JSON you asked for: {task_type: "):
    """Text where JSON was asked for."""
    return says(text)


def unauthorized():
    """401."""
    return Fault(401, "authentication_error", "invalid x-api-key")


def rate_limited(retry_after=3600):
    """429 that asks to wait for an hour."""
    return Fault(429, "rate_limit_error", "rate limit reached", {"retry-after": str(retry_after)})


def overloaded():
    """529."""
    return Fault(529, "overloaded_error", "Overloaded")


def broken(status=500):
    """A fault of the service: 500, 502, 503, 504."""
    return Fault(status, "api_error", "Internal server error")


def page(content_type="text/html"):
    """An HTML page with status 200, as a proxy or a login page in between answers."""
    return Fault(200, headers={"Content-Type": content_type}, body=b"<html><body>Please log in</body></html>")


# --- what the model was shown ---------------------------------------------------------------------------------------


def content_blocks(message):
    """The blocks of a message; text alone is one block."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def shown_strings(body):
    """Every string of user turns and tool results: the data, and nothing of the system prompt or the tools."""
    return [text for message in body["messages"] if message["role"] == "user" for text in _strings(message["content"])]


def system_text(body):
    """The system prompt."""
    system = body.get("system") or ""
    return system if isinstance(system, str) else "\n".join(block["text"] for block in system)


def tool_results(body):
    """Tool name -> contents of its results in this conversation, in order, read as JSON where they are."""
    names, results = {}, {}
    for message in body["messages"]:
        for block in content_blocks(message):
            if block["type"] == "tool_use":
                names[block["id"]] = block["name"]
            elif block["type"] == "tool_result":
                content = block.get("content", "")
                text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
                with suppress(ValueError):
                    text = json.loads(text)
                results.setdefault(names.get(block["tool_use_id"]), []).append(text)
    return results


def calls_made(body):
    """Tool calls of this conversation, as (name, input)."""
    return [
        (block["name"], block["input"])
        for message in body["messages"]
        if message["role"] == "assistant"
        for block in content_blocks(message)
        if block["type"] == "tool_use"
    ]


def schema_asked(body):
    """The JSON schema that the answer must have, or None."""
    form = (body.get("output_config") or {}).get("format") or {}
    return form.get("schema")


def filled(schema, *, root=None):
    """The plainest value that a schema allows; what a test states for a field belongs in its own honest reply."""
    root = root or schema
    if "$ref" in schema:
        return filled(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root=root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        kinds = schema["anyOf"]
        return None if any(kind.get("type") == "null" for kind in kinds) else filled(kinds[0], root=root)
    kind = schema.get("type")
    if kind == "object":
        wanted = schema.get("required", ())
        return {name: filled(part, root=root) for name, part in schema.get("properties", {}).items() if name in wanted}
    if kind == "array":
        return [filled(schema["items"], root=root)] * schema.get("minItems", 0)
    return {"string": "", "integer": 0, "number": 0, "boolean": False, "null": None}[kind]


def honest(body):
    """The default model: fills the schema that is asked for, or calls the tool ``submit``, or says that it is done."""
    schema = schema_asked(body)
    if schema is not None:
        return says(filled(schema))
    for tool in body.get("tools") or ():
        if tool["name"] == "submit":
            return uses(("submit", filled(tool["input_schema"])))
    return says("done")


# --- the obedient model ---------------------------------------------------------------------------------------------


def orders_in(text, *, depth=4):
    """Every ``[[obey {...}]]`` in a text, however it is wrapped: JSON, entities, %xx, base64, hidden signs."""
    found = []
    for variant in _variants(text, depth):
        for match in re.finditer(r"\[\[\s*obey\s*", variant, re.IGNORECASE):
            with suppress(ValueError):
                order, _ = json.JSONDecoder().raw_decode(variant[match.end() :])
                if order not in found:
                    found.append(order)
    return found


def _variants(text, depth):
    seen, fresh = set(), {text}
    for _ in range(depth):
        seen |= fresh
        fresh = {variant for known in fresh for variant in _decoded(known)} - seen
        if not fresh:
            break
    return seen | fresh


def _decoded(text):
    yield html.unescape(text)
    yield unquote(text)
    yield unicodedata.normalize("NFKC", text).translate(_HIDDEN)
    yield text[::-1]
    yield text.replace('\\"', '"').replace("\\\\", "\\")
    if "\\u" in text:
        yield re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    with suppress(ValueError):
        yield from _strings(json.loads(text))
    for word in re.findall(r"[A-Za-z0-9+/=_-]{24,}", text):
        with suppress(binascii.Error, UnicodeDecodeError, ValueError):
            yield base64.b64decode(
                word + "=" * (-len(word) % 4), altchars=b"-_" if set("-_") & set(word) else None
            ).decode()


def _strings(value):
    """Every string in a value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from (key, *_strings(part))
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def obedient(answer=honest):
    """A model that does what it is told by anything that it reads; without an order it replies as ``answer`` does.

    Orders: ``{"tool": name, "input": {...}}`` calls a tool (once, or always with ``"again": true``);
    ``{"fields": {...}}`` changes fields of the structured answer or of ``submit``, at any depth by dotted names, where
    the text ``{system}`` stands for the system prompt and ``{shown}`` for all that the model was shown;
    ``{"say": text}`` replies with that text.
    """

    def reply(body):
        orders = [order for text in shown_strings(body) for order in orders_in(text)]
        made = calls_made(body)
        for order in orders:
            call = (order.get("tool"), order.get("input", {}))
            if order.get("tool") and (order.get("again") or call not in made):
                return _note(uses(call), [order])
        for order in orders:
            if "say" in order:
                return _note(says(_expand(order["say"], body)), [order])
        base = answer(body)
        changes = [order for order in orders if "fields" in order]
        return _note(_changed(base, changes, body), changes) if changes else base

    return reply


@dataclass(frozen=True)
class Obeyed:
    """A reply and the orders that it follows."""

    reply: Reply
    orders: list


def _note(reply, orders):
    return Obeyed(reply, orders)


def _expand(value, body):
    if isinstance(value, str):
        return value.replace("{system}", system_text(body)).replace("{shown}", " ".join(shown_strings(body)))
    return value


def _changed(reply, orders, body):
    blocks = []
    for block in reply.blocks:
        if block["type"] == "tool_use" and block["name"] == "submit":
            block = {**block, "input": _with_fields(block["input"], orders, body)}
        elif block["type"] == "text" and schema_asked(body) is not None:
            block = {**block, "text": json.dumps(_with_fields(json.loads(block["text"]), orders, body))}
        blocks.append(block)
    return Reply(tuple(blocks), stop=reply.stop)


def _with_fields(given, orders, body):
    changed = json.loads(json.dumps(given))
    for order in orders:
        for path, value in order["fields"].items():
            *parents, last = path.split(".")
            place = changed
            for name in parents:
                place = place.setdefault(name, {}) if isinstance(place, dict) else place[int(name)]
            if isinstance(place, dict):
                place[last] = _expand(value, body)
    return changed


# --- requests as the API checks and counts them ---------------------------------------------------------------------


def n_tokens(value):
    """About four characters of JSON are one token."""
    return max(1, -(-len(json.dumps(value, ensure_ascii=False)) // 4))


class _Refused(Exception):  # noqa: N818 - the name that it has in sentences
    def __init__(self, message, *, status=400, kind="invalid_request_error"):
        super().__init__(message)
        self.fault = Fault(status, kind, message)


def _require(condition, message, **options):
    if not condition:
        raise _Refused(message, **options)


def _check(body, *, thoughts, is_vertex):
    """Raise what the API would say to a request that it does not serve."""
    model = body.get("model")
    _require(model in MODELS, f"model: {model}", status=404, kind="not_found_error")
    _require(isinstance(body.get("max_tokens"), int) and body["max_tokens"] > 0, "max_tokens: Field required")
    _require(body.get("messages"), "messages: at least one message is required")
    for name in ("temperature", "top_p", "top_k"):
        _require(name not in body, f"`{name}` is not supported for this model")
    _require((body.get("thinking") or {}).get("type") != "enabled", "thinking.type: use 'adaptive' for this model")
    choice = (body.get("tool_choice") or {}).get("type", "auto")
    _require(choice in ("auto", "none"), "tool_choice: forced tool use is not supported for this model")
    _require(not (is_vertex and "cache_control" in body), "cache_control: Extra inputs are not permitted")
    strict = [tool for tool in body.get("tools") or () if tool.get("strict")]
    _require(len(strict) <= MAX_STRICT_TOOLS, "too many strict tools")
    schemas = [tool["input_schema"] for tool in strict]
    if (body.get("output_config") or {}).get("format"):
        schemas.append(schema_asked(body))
    n_optional = sum(_check_schema(schema) for schema in schemas)
    _require(n_optional <= MAX_OPTIONAL, f"schemas contain too many optional parameters ({n_optional})")
    _check_turns(body["messages"], thoughts=thoughts)


def _check_schema(schema):
    """Refuse what constrained decoding does not know; the number of optional properties."""
    n_optional = 0
    for part in _schemas(schema):
        bad = [word for word in _UNSUPPORTED if word in part]
        _require(not bad, f"schema: {', '.join(bad)} not supported")
        if part.get("type") == "object" or "properties" in part:
            _require(part.get("additionalProperties") is False, "schema: additionalProperties must be false")
            n_optional += len(part.get("properties", {})) - len(part.get("required", ()))
    return n_optional


def _schemas(schema):
    yield schema
    for name in ("properties", "$defs"):
        for part in schema.get(name, {}).values():
            yield from _schemas(part)
    for name in ("anyOf", "allOf"):
        for part in schema.get(name, ()):
            yield from _schemas(part)
    if isinstance(schema.get("items"), dict):
        yield from _schemas(schema["items"])


def _check_turns(messages, *, thoughts):
    _require(messages[0]["role"] == "user", "messages: first message must use the user role")
    _require(messages[-1]["role"] == "user", "This model does not support assistant message prefill")
    waiting = set()
    for message in messages:
        blocks = content_blocks(message)
        _require(blocks, "messages: content must not be empty")
        answered = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        _require(answered == waiting, f"tool_use ids and tool_result blocks differ: {sorted(answered ^ waiting)}")
        waiting = {block["id"] for block in blocks if block["type"] == "tool_use"}
        for block in blocks:
            _require(block["type"] != "text" or block["text"].strip(), "messages: text must be non-empty")
            if block["type"] == "thinking":
                known = thoughts.get(block.get("signature")) == block["thinking"]
                _require(known, "thinking blocks cannot be modified")


class _Cache:
    """Cached prefixes, as the API counts them: whole blocks up to a breakpoint, of a least length, for one model."""

    def __init__(self):
        self.known = set()

    def usage(self, body):
        """Input tokens: read from the cache, written to it, and the rest."""
        # A change of the answer's form changes the hidden prompt, and with it everything behind it.
        form = [{"form": body["output_config"]["format"]}] if schema_asked(body) else []
        system = body.get("system") or []
        system = [{"type": "text", "text": system}] if isinstance(system, str) else system
        blocks = [*form, *(body.get("tools") or ()), *system]
        blocks += [block for message in body["messages"] for block in content_blocks(message)]
        marks = [index for index, block in enumerate(blocks) if block.get("cache_control")]
        if "cache_control" in body:
            marks.append(len(blocks) - 1)
        _require(len(marks) <= MAX_BREAKPOINTS, f"a maximum of {MAX_BREAKPOINTS} blocks with cache_control")
        digest, total, prefixes = hashlib.sha256(body["model"].encode()), 0, []
        for block in blocks:
            plain = {key: value for key, value in block.items() if key != "cache_control"}
            digest.update(json.dumps(plain, sort_keys=True).encode())
            total += n_tokens(plain)
            prefixes.append((digest.hexdigest(), total))
        least = MODELS[body["model"]]
        read = 0
        for mark in marks:
            near = prefixes[max(0, mark - LOOK_BACK) : mark + 1]
            read = max([read, *(length for name, length in near if name in self.known)])
        written = 0
        for mark in marks:
            name, length = prefixes[mark]
            if length >= least:
                written = max(written, length - read)
                self.known.add(name)
        return {
            "input_tokens": total - read - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": read,
        }


# --- the server -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """One request as it came, and what was answered: usage of a message, or the status of a fault."""

    path: str
    headers: dict
    body: dict
    status: int
    usage: dict


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        name = urlparse(self.path).path.rsplit("/", 1)[-1]
        models = [
            {"type": "model", "id": known, "display_name": known, "created_at": "2026-10-07T00:00:00Z"}
            for known in MODELS
        ]
        if name == "models":
            self._send(
                200, {"data": models, "has_more": False, "first_id": models[0]["id"], "last_id": models[-1]["id"]}
            )
        elif name in MODELS:
            self._send(200, next(model for model in models if model["id"] == name))
        else:
            self._send_fault(Fault(404, "not_found_error", f"model: {name}"))

    def do_POST(self):
        server, path = self.server, urlparse(self.path).path
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        is_vertex = path.endswith(":rawPredict")
        if is_vertex:
            body["model"] = path.rsplit("/", 1)[-1].removesuffix(":rawPredict")
        with server.lock:
            try:
                answer, usage = self._answer(body, path=path, is_vertex=is_vertex)
            except _Refused as refused:
                answer, usage = refused.fault, {}
            status = answer.status if isinstance(answer, Fault) else 200
            server.requests.append(
                Asked(path, {name.lower(): value for name, value in self.headers.items()}, body, status, usage)
            )
        if isinstance(answer, dict):
            self._send(200, answer)
        elif isinstance(answer, Fault):
            self._send_fault(answer)
        else:
            message = server.message(body, answer, usage)
            time.sleep(answer.delay_s)
            with suppress(ConnectionError):
                self._stream(message, answer) if body.get("stream") else self._whole(message, answer)

    def _answer(self, body, *, path, is_vertex):
        server = self.server
        given = self.headers.get("x-api-key") or (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        _require(given == server.key, "invalid x-api-key", status=401, kind="authentication_error")
        version = body.get("anthropic_version") if is_vertex else self.headers.get("anthropic-version")
        _require(version, "anthropic-version: header is required")
        if path.endswith("/count_tokens"):
            return {"input_tokens": sum(_Cache().usage(body).values())}, {}
        if server.script and isinstance(server.script[0], Fault):
            return server.script.pop(0), {}
        _check(body, thoughts=server.thoughts, is_vertex=is_vertex)
        usage = server.cache.usage(body)
        reply = server.script.pop(0) if server.script else server.answer(body)
        if callable(reply):
            reply = reply(body)
        if isinstance(reply, Obeyed):
            server.obeyed += reply.orders
            reply = reply.reply
        return reply, usage

    def _send_fault(self, fault):
        form = {"type": "error", "error": {"type": fault.kind, "message": fault.message}, "request_id": "req_test"}
        self._send(fault.status, form if fault.body is None else fault.body, fault.headers)

    def _send(self, status, form, headers=None, *, cut_after=None):
        data = form if isinstance(form, bytes) else json.dumps(form).encode()
        with suppress(ConnectionError):
            self.send_response(status)
            known = {"Content-Type": "application/json", "request-id": "req_test", "Content-Length": str(len(data))}
            for key, value in {**known, **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data if cut_after is None else data[:cut_after])
        self.close_connection = cut_after is not None

    def _whole(self, message, reply):
        self._send(200, message, cut_after=reply.cut_after)

    def _stream(self, message, reply):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        events = list(_events(message))
        if reply.stream_error:
            half = len(events) // 2
            events[half:] = [
                ("error", {"type": "error", "error": {"type": reply.stream_error, "message": "Overloaded"}})
            ]
        for name, data in events[: reply.cut_after]:
            self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
            self.wfile.flush()
            time.sleep(reply.delay_s)

    def log_message(self, *args):
        """Stay silent."""


def _events(message):
    """The events of a streamed message."""
    used = message["usage"]
    start = {**message, "content": [], "stop_reason": None, "usage": {**used, "output_tokens": 1}}
    yield "message_start", {"type": "message_start", "message": start}
    for index, block in enumerate(message["content"]):
        empty, deltas = _deltas(block)
        yield "content_block_start", {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": index}
    end = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield "message_delta", {"type": "message_delta", "delta": end, "usage": {"output_tokens": used["output_tokens"]}}
    yield "message_stop", {"type": "message_stop"}


def _deltas(block):
    if block["type"] == "text":
        half = len(block["text"]) // 2
        parts = [{"type": "text_delta", "text": text} for text in (block["text"][:half], block["text"][half:])]
        return {"type": "text", "text": ""}, parts
    if block["type"] == "thinking":
        parts = [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
        return {"type": "thinking", "thinking": "", "signature": ""}, parts
    return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer, *, script, key, thinks):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.answer, self.script, self.key, self.thinks = answer, list(script), key, thinks
        self.lock, self.cache = threading.Lock(), _Cache()
        self.requests, self.obeyed, self.thoughts = [], [], {}
        self._n_named = 0

    @property
    def usages(self):
        """Usage of each message that was answered."""
        return [asked.usage for asked in self.requests if asked.usage]

    def said_to(self):
        """Everything that all requests held, as one text: what leaked is found in it."""
        return "\n".join(json.dumps(asked.body, ensure_ascii=False) for asked in self.requests)

    def _name(self, prefix):
        self._n_named += 1
        return f"{prefix}_{self._n_named:06d}"

    def message(self, body, reply, usage):
        """The message of a reply: ids, thoughts, the limit of tokens and usage added."""
        with self.lock:
            blocks = [dict(block) for block in reply.blocks]
            for block in blocks:
                if block["type"] == "tool_use":
                    block["id"] = self._name("toolu")
            if self.thinks and blocks:
                thought, signature = "The data are read as data.", self._name("signature")
                self.thoughts[signature] = thought
                blocks.insert(0, {"type": "thinking", "thinking": thought, "signature": signature})
            stop, details = reply.stop, None
            if stop and stop.startswith("refusal"):
                details = {"type": "refusal", "category": stop.partition(":")[2], "explanation": "declined"}
                stop = "refusal"
            n_out = sum(n_tokens(block) for block in blocks) or 1
            limit = body["max_tokens"]
            if n_out > limit:
                n_out, stop = limit, "max_tokens"
                blocks = [{**block, "text": block["text"][: 4 * limit]} for block in blocks if block["type"] == "text"]
            uses_tool = any(block["type"] == "tool_use" for block in blocks)
            usage["output_tokens"] = n_out
            return {
                "id": self._name("msg"),
                "type": "message",
                "role": "assistant",
                "model": body["model"],
                "content": blocks,
                "stop_reason": stop or ("tool_use" if uses_tool else "end_turn"),
                "stop_sequence": None,
                "stop_details": details,
                "usage": {**usage, "service_tier": "standard"},
            }


@contextmanager
def messages_server(answer=honest, *, script=(), key=KEY, thinks=False):
    """A running server.

    ``script`` is used up first: replies, faults, or functions of a request's body; then ``answer`` replies.
    ``.address`` is the base_url; ``.requests`` holds what was asked, ``.usages`` what was counted, ``.obeyed`` the
    orders that an obedient model followed. A request that the API would refuse is refused, whatever the script says.
    """
    server = _Server(answer, script=script, key=key, thinks=thinks)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
