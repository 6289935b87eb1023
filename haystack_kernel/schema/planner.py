"""What a planner that asks a language model used, and every request it made with the answer.

In: plain values. Out: usage of a step; calls, as they lie in the run folder; the transcript of a run.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from haystack_kernel.schema.base import Frozen


class Usage(Frozen):
    """What an answer of the planner used; rules use nothing."""

    input_tokens: int = Field(default=0, ge=0, description="all, those of the cache included")
    output_tokens: int = Field(default=0, ge=0)
    usd: float = Field(default=0.0, ge=0)
    cache_read_tokens: int = Field(default=0, ge=0, description="of input_tokens, at the price of a cache read")
    cache_write_tokens: int = Field(default=0, ge=0, description="of input_tokens, at the price of a cache write")
    calls: int = Field(default=0, ge=0, description="requests, failed ones included")
    model: str = ""
    prompts: str = Field(default="", description="digest of the prompt files")

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            usd=self.usd + other.usd,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            calls=self.calls + other.calls,
            model=other.model or self.model,
            prompts=other.prompts or self.prompts,
        )


class Call(Frozen):
    """One request to a language model and its answer; no header of either is kept, so no key is."""

    number: int = Field(ge=1)
    step: str = Field(description="of the run: understand, choose 2, interpret")
    model: str
    digest: str = Field(description="SHA-256 of the canonical request")
    request: dict[str, Any]
    asked_at: datetime
    reserved_usd: float = Field(ge=0, description="the most it could cost; counts until its answer is here")
    status: int | None = Field(default=None, description="HTTP status; None: no answer arrived")
    answer: Any = Field(default=None, description="JSON body, or text where it was none")
    retry_after_s: float | None = None
    seconds: float = Field(default=0.0, ge=0)
    usage: Usage = Usage()
    is_free: bool = Field(default=False, description="answered from a transcript: nothing was paid")
    rejected: str = Field(default="", description="why a repeated step asks again instead of taking this answer")


class Transcript(Frozen):
    """All calls of a run in order; what planner replay reads."""

    calls: tuple[Call, ...] = ()
