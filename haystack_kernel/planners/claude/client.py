"""The client of the service, and one request for a structured answer with one round of repair.

In: settings, a step, prompts and a schema. Out: answers that were validated, or an error that says why there is none.
"""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anthropic
import httpx2
from pydantic import BaseModel, ConfigDict, ValidationError

from haystack_kernel.errors import ContractError, HaystackError, ServiceError
from haystack_kernel.planners.claude.meter import OFFLINE

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from haystack_kernel.planners.claude.meter import Meter
    from haystack_kernel.schema import ClaudeSettings

UNUSABLE = "unusable answer"
_NOT_JSON = "write one JSON object that fits the schema, and nothing else"


class Answering(BaseModel):
    """Base of the answers that are asked for: nothing is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


A = TypeVar("A", bound=Answering)


def as_data(value: Any) -> str:  # noqa: ANN401 - anything JSON has
    """Write data so that nothing in it can look like the end of the data."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")


class PlayingClient(anthropic.DefaultHttpxClient):
    """HTTP client that gives the recorded answer that its meter plays, and else sends the request."""

    meter: Meter

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:  # noqa: ANN401 - as httpx2 has them
        """Answer from the record, or from the service."""
        call = self.meter.playing
        if call is None:
            return super().send(request, **options)
        is_text = isinstance(call.answer, str)
        content = call.answer if is_text else json.dumps(call.answer)
        headers = {"content-type": "text/plain" if is_text else "application/json"}
        return httpx2.Response(call.status or 500, headers=headers, content=content.encode(), request=request)


class Service:
    """The language model as one step of a run asks it.

    Parameters
    ----------
    settings
        Section ``claude``.
    meter
        Consent, caps, retries and the record of the step.
    prompt
        The instructions, which are the same in every request of the step and therefore cached.
    is_replay
        Whether every answer comes from a transcript, so that no credentials are needed.
    """

    def __init__(self, settings: ClaudeSettings, meter: Meter, *, prompt: str, is_replay: bool = False) -> None:
        self.settings, self.meter, self.prompt = settings, meter, prompt
        # one connection a request: a step may end at any of them, and an idle one would be left open
        http = PlayingClient(verify=_trusted(), limits=httpx2.Limits(max_keepalive_connections=0))
        http.meter = meter
        options: dict[str, Any] = {
            "http_client": http,
            "middleware": [meter],
            "max_retries": 0,  # an answer may ask to wait for an hour: the meter decides
            "timeout": settings.timeout_s,
        }
        self.client = _replay_client(options) if is_replay else _live_client(settings, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    @property
    def system(self) -> list[Any]:
        """The instructions as a block that the service may cache."""
        return [{"type": "text", "text": self.prompt, "cache_control": {"type": "ephemeral"}}]

    def ask(self, kind: type[A], said: str, *, check: Callable[[A], list[str]], model: str | None = None) -> A:
        """Ask for one structured answer.

        Parameters
        ----------
        kind
            Its schema.
        said
            What the model is told, data delimited.
        check
            Returns what is wrong with an answer of the right form: one sentence each, with what is possible.
        model
            None takes the setting.

        Raises
        ------
        ServiceError
            The model refused, or its answer could not be used after one repair.
        """
        form: Any = {"type": "json_schema", "schema": anthropic.transform_schema(kind)}
        messages: list[Any] = [{"role": "user", "content": said}]
        problems: list[str] = []
        for _ in range(2):
            with translated(self.meter):
                message = self.client.messages.create(
                    model=model or self.settings.model,
                    max_tokens=self.settings.max_tokens,
                    system=self.system,
                    messages=messages,
                    output_config={"format": form},
                )
            if message.stop_reason == "refusal":
                why = getattr(message.stop_details, "explanation", None) or "it gave no reason"
                why = f"the model refused to answer: {str(why)[:200]}"
                raise self.failure(why)
            answer, problems = _read(kind, message)
            if answer is not None and not (problems := check(answer)):
                return answer
            told = {"problems": problems, "do": "answer again in full with these problems mended"}
            messages += [
                {"role": "assistant", "content": message.content or [{"type": "text", "text": "(nothing)"}]},
                {"role": "user", "content": json.dumps(told)},
            ]
        why = f"the answer could not be used after one repair: {'; '.join(problems)[:600]}"
        raise self.failure(why)

    def failure(self, why: str) -> ServiceError:
        """The error of a step whose answers cannot be used; the step asks anew when it is repeated."""
        self.meter.reject(why)
        view = self.meter.view
        offline = OFFLINE.format(run_id=view.run_id)
        if view.step == "understand":
            msg = f"planner claude, step 'understand': {why}. Ask again, or with --planner offline"
        else:
            msg = f"planner claude, step {view.step!r}: {why}. Resume the run to ask again, {offline}"
        return ServiceError(msg, service="claude", retryable=True, run_id=view.run_id, reason=UNUSABLE)


@cache
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted; reading them takes a tenth of a second."""
    return httpx2.create_ssl_context()


@contextmanager
def translated(meter: Meter) -> Iterator[None]:
    """Turn what the SDK raises into errors of ours, which hold neither a key nor a header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown tools and retired models, which the answer shows as well
            yield
    except HaystackError:
        raise
    except anthropic.APIStatusError as error:
        where = "resume the run to try again" if meter.view.step != "understand" else "try again"
        said = _message_of(error)
        if error.status_code in (401, 403):
            msg = (
                f"the service of planner claude refuses the credentials (status {error.status_code}: {said}); check "
                "claude.api_key (ANTHROPIC_API_KEY) or the rights in the Google Cloud project"
            )
            raise ServiceError(msg, service="claude", retryable=False) from None
        msg = f"the service of planner claude answered with status {error.status_code}: {said}; {where}"
        raise ServiceError(msg, service="claude", retryable=error.status_code >= 429) from None
    except anthropic.APIConnectionError as error:
        kind = "did not answer in time" if isinstance(error, anthropic.APITimeoutError) else "cannot be reached"
        msg = f"the service of planner claude {kind} ({type(error.__cause__ or error).__name__}); check the network"
        raise ServiceError(msg, service="claude", retryable=True) from None
    except (anthropic.AnthropicError, ValueError, RuntimeError) as error:
        msg = f"the SDK of planner claude failed: {type(error).__name__}: {str(error)[:200]}"
        raise ServiceError(msg, service="claude", retryable=False) from error


def _read(kind: type[A], message: Any) -> tuple[A | None, list[str]]:  # noqa: ANN401 - a Message of the SDK
    """The answer of a message, or what is wrong with it."""
    if message.stop_reason == "max_tokens":
        return None, ["the answer was cut off; write less"]
    text = "".join(block.text for block in message.content if block.type == "text")
    try:
        return kind.model_validate_json(text), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        if any(item["type"] == "json_invalid" for item in found):
            return None, [_NOT_JSON]
        return None, [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found]


def _message_of(error: anthropic.APIStatusError) -> str:
    body = error.body
    inner = body.get("error") if isinstance(body, dict) else None
    said = inner.get("message") if isinstance(inner, dict) else None
    return str(said or type(error).__name__)[:200]


def _live_client(settings: ClaudeSettings, options: dict[str, Any]) -> Any:  # noqa: ANN401 - one of three clients
    """The client of the provider; what is not set, the SDK takes from its own defaults."""
    base: dict[str, Any] = {"base_url": settings.base_url} if settings.base_url else {}
    token = settings.access_token.get_secret_value() if settings.access_token else None
    if settings.provider == "vertex":
        named = {"project_id": settings.project, "region": settings.region, "access_token": token}
        return anthropic.AnthropicVertex(**_given(named), **base, **options)
    if settings.provider == "google_cloud":
        named = {"project": settings.project, "location": settings.region, "workspace_id": settings.workspace}
        provider = None if token is None else (lambda: token)
        return anthropic.AnthropicGoogleCloud(token_provider=provider, **_given(named), **base, **options)
    if settings.api_key is None:
        msg = "planner claude was asked without credentials; it checks them when a run is opened"
        raise ContractError(msg)
    return anthropic.Anthropic(api_key=settings.api_key.get_secret_value(), **base, **options)


def _given(named: dict[str, str | None]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if value}


def _replay_client(options: dict[str, Any]) -> anthropic.Anthropic:
    # nothing is sent: the address is one that nothing listens on
    return anthropic.Anthropic(api_key="replay", base_url="http://127.0.0.1:9", **options)
