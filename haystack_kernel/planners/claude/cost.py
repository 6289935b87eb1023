"""What requests to Claude cost: before, at most and likely; afterwards, from the usage that the answer states.

In: a model, a request or the usage of an answer, the packaged prices. Out: dollars, and usage for the record.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import CostEstimate, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.schema import ClaudeSettings, RunConfig

_BYTES_A_TOKEN = 2  # at least: a bound from below, so that what is reserved is a bound from above
_TYPICAL = {"understand": (4000, 1500), "choose": (30_000, 4000), "interpret": (9000, 3500)}  # tokens read, written


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens of one model; ``over`` is the prompt size from which ``long`` holds instead."""

    input: float
    output: float
    cache_write: float
    cache_read: float
    over: int = 0
    long: Price | None = None

    def of(self, usage: Usage) -> float:
        """Dollars of one answer."""
        if self.long is not None and usage.input_tokens > self.over:
            return self.long.of(usage)
        fresh = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
        read = usage.cache_read_tokens * self.cache_read + usage.cache_write_tokens * self.cache_write
        return (fresh * self.input + read + usage.output_tokens * self.output) / 1e6

    def most(self, request: Mapping[str, Any]) -> float:
        """The most that an answer to a request can cost: all of it written to the cache, and the longest answer."""
        size = len(json.dumps(request, ensure_ascii=False).encode()) // _BYTES_A_TOKEN
        return self.of(Usage(input_tokens=size, cache_write_tokens=size, output_tokens=int(request["max_tokens"])))


@cache
def load_prices() -> tuple[str, dict[str, Price]]:
    """Return the month of the packaged list prices, and the prices by model."""
    raw = json.loads(Path(__file__).with_name("prices.json").read_text(encoding="utf-8"))
    prices = {}
    for name, row in raw["models"].items():
        long = dict(row.pop("long", {}))
        over = long.pop("over", 0)
        prices[name] = Price(**row, over=over, long=Price(**long) if long else None)
    return raw["as_of"], prices


def price_of(model: str) -> Price:
    """Return the price of a model; dates and platform suffixes of its name are ignored.

    Raises
    ------
    InvalidInputError
        The packaged prices do not have it, so that no cap could be kept.
    """
    _, prices = load_prices()
    known = [name for name in prices if model == name or model.startswith((f"{name}-20", f"{name}@"))]
    if not known:
        msg = f"no price of model {model!r} is known, so no cap could be kept; possible: {', '.join(prices)}"
        raise InvalidInputError(msg, model=model)
    return prices[known[0]]


def usage_in(answer: Any, *, model: str) -> Usage | None:  # noqa: ANN401 - the body of any answer
    """Return what an answer says that it used, with its price; None where it says nothing."""
    said = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(said, dict) or "output_tokens" not in said:
        return None
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    fresh, written, read, out = (int(said.get(name) or 0) for name in names)
    usage = Usage(
        input_tokens=fresh + written + read, output_tokens=out, cache_read_tokens=read, cache_write_tokens=written
    )
    return usage.model_copy(update={"usd": price_of(model).of(usage)})


def estimate_planner(config: RunConfig, settings: ClaudeSettings) -> CostEstimate:
    """Estimate what the planner of a run may cost: typical sizes of its steps, and at most the cap of the settings.

    Parameters
    ----------
    config
        The options; each round asks once more.
    settings
        Section ``claude``.

    Returns
    -------
    Low: one round. High: the cap ``claude.max_usd``, at which the run stops.

    Examples
    --------
    >>> estimate_planner(RunConfig(), ClaudeSettings()).high_usd  # doctest: +SKIP
    1.0
    """
    as_of, _ = load_prices()
    price = price_of(settings.model)
    usd = {step: price.of(Usage(input_tokens=read, output_tokens=out)) for step, (read, out) in _TYPICAL.items()}
    once = usd["understand"] + usd["interpret"]
    low, likely = once + usd["choose"], once + usd["choose"] * (1 + config.max_rounds) / 2
    cap = settings.max_usd
    return CostEstimate(
        machine=settings.model,
        low_usd=min(low, cap),
        likely_usd=min(likely, cap),
        high_usd=cap,
        low_s=30,
        likely_s=120,
        high_s=settings.max_seconds,
        basis=f"list prices of {as_of}, to be checked; typical sizes of requests; high: the cap claude.max_usd",
    )
