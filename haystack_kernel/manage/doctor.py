"""Is this installation able to do what is asked of it? Each check has a time limit, so none can hang.

In: what for (local, batch or claude). Out: one line per check: ok, what was found, what to do.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.manage import cloud_checks, local_checks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from haystack_kernel.schema import Settings

Purpose = Literal["local", "batch", "claude"]
LIMIT_S = 20.0


@dataclass(frozen=True)
class Line:
    """One check. ``needed`` False: what fails here takes something away, but not what was asked for."""

    check: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class Check:
    """A named look at one thing: returns what was found, raises what a person should read."""

    name: str
    look: Callable[[Settings], local_checks.Found]
    needed: bool = True
    limit_s: float = LIMIT_S


CHECKS: dict[Purpose, tuple[Check, ...]] = {
    "local": (
        Check("python", local_checks.python),
        Check("packages", local_checks.packages),
        Check("storage", local_checks.storage),
        Check("cache", local_checks.cache),
        Check("atlas_root", local_checks.atlas_root),
        Check("compiled code", local_checks.compiled_cache, needed=False),
        Check("memory", local_checks.memory),
        Check("torch", local_checks.torch, needed=False),
        Check("fast kernels", local_checks.fast_kernels, needed=False),
        Check("demo model", local_checks.demo_model, needed=False),
    ),
    "batch": (
        Check("gcp packages", cloud_checks.packages),
        Check("credentials", cloud_checks.credentials),
        Check("batch settings", cloud_checks.settings),
        Check("service account", cloud_checks.service_account, needed=False),
        Check("bucket", cloud_checks.bucket),
        Check("batch service", cloud_checks.service),
        Check("quota", cloud_checks.quota, needed=False),
    ),
    "claude": (
        Check("anthropic package", cloud_checks.anthropic),
        Check("anthropic key", cloud_checks.anthropic_key),
    ),
}


def examine(
    purpose: str = "local",
    *,
    settings: Settings | None = None,
    limit_s: float | None = None,
    extra: Sequence[Check] = (),
) -> list[Line]:
    """Check what is needed for ``purpose``; every purpose needs what ``local`` needs.

    Parameters
    ----------
    purpose
        ``local``, ``batch`` or ``claude``.
    settings
        None reads them from the layers and the environment.
    limit_s
        Longest time of one check; None takes its own. All checks run at once.
    extra
        Further local_checks.

    Raises
    ------
    InvalidInputError
        Another purpose.
    """
    if purpose not in get_args(Purpose):
        msg = f"doctor cannot check for {purpose!r}; possible: {', '.join(get_args(Purpose))}"
        raise InvalidInputError(msg, purpose=purpose)
    chosen = settings or load_settings()
    wanted = [*CHECKS["local"], *(CHECKS[purpose] if purpose != "local" else ()), *extra]  # type: ignore[index]
    started = [(check, _start(check, chosen)) for check in wanted]
    return [_line(check, answers, limit_s=limit_s or check.limit_s) for check, answers in started]


def is_well(lines: Sequence[Line]) -> bool:
    """Whether every needed check is fine."""
    return all(line.ok for line in lines if line.needed)


def _start(check: Check, settings: Settings) -> queue.Queue[local_checks.Found | Exception]:
    """Look in a thread that may be left behind: a call that never returns does not keep the process alive."""
    answers: queue.Queue[local_checks.Found | Exception] = queue.Queue(maxsize=1)

    def look() -> None:
        try:
            answers.put(check.look(settings))
        except Exception as error:  # noqa: BLE001 - whatever a broken installation raises is what is to be shown
            answers.put(error)

    threading.Thread(target=look, name=f"doctor: {check.name}", daemon=True).start()
    return answers


def _line(check: Check, answers: queue.Queue[local_checks.Found | Exception], *, limit_s: float) -> Line:
    try:
        answer = answers.get(timeout=limit_s)
    except queue.Empty:
        found, remedy = f"no answer within {limit_s:g} s", "check the network, or the disk behind the folder"
        return Line(check.name, ok=False, found=found, remedy=remedy, needed=check.needed)
    if isinstance(answer, Exception):
        first = (str(answer).strip() or type(answer).__name__).splitlines()[0]
        found, remedy = f"{type(answer).__name__}: {first[:300]}", "see the message"
        return Line(check.name, ok=False, found=found, remedy=remedy, needed=check.needed)
    return Line(check.name, ok=answer.ok, found=answer.text, remedy=answer.remedy, needed=check.needed)
