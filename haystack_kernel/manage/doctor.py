"""Check an installation; every check has a time limit, so none can hang.

In: a purpose (local or batch). Out: one line per check: whether it passed, what was found, what to do.
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

Purpose = Literal["local", "batch"]
LIMIT_S = 20.0


@dataclass(frozen=True)
class Line:
    """The result of one check. ``needed`` False: a failure limits something, but not the purpose that was asked for."""

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
    """A named check: ``look`` returns what was found, or raises an error for the user to read."""

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
        Check("memory", local_checks.memory),
        Check("torch", local_checks.torch, needed=False),
        Check("fast kernels", local_checks.fast_kernels, needed=False),
        Check("demo model", local_checks.demo_model, needed=False),
        Check("planner", local_checks.planner, needed=False),
        Check("assistants", local_checks.assistants, needed=False),
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
}


def examine(
    purpose: str = "local",
    *,
    settings: Settings | None = None,
    limit_s: float | None = None,
    extra: Sequence[Check] = (),
) -> list[Line]:
    """Check that this installation has what ``purpose`` needs.

    All checks run at the same time. The checks of ``local`` are part of every purpose.

    Parameters
    ----------
    purpose
        ``local`` or ``batch``.
    settings
        None reads them from the settings files and the environment.
    limit_s
        Time limit of one check in seconds; None takes the check's own.
    extra
        Further checks.

    Returns
    -------
    One line per check, in a fixed order.

    Raises
    ------
    InvalidInputError
        The purpose is unknown.

    Examples
    --------
    >>> from haystack_kernel.manage import examine
    >>> [line.check for line in examine() if not line.ok and line.needed]  # doctest: +SKIP
    []
    """
    if purpose not in get_args(Purpose):
        msg = f"doctor cannot check for {purpose!r}; possible: {', '.join(get_args(Purpose))}"
        raise InvalidInputError(msg, purpose=purpose)
    chosen = settings or load_settings()
    wanted = [*CHECKS["local"], *(CHECKS[purpose] if purpose != "local" else ()), *extra]  # type: ignore[index]
    started = []
    for check in wanted:
        answers: queue.Queue[local_checks.Found | Exception] = queue.Queue(maxsize=1)
        # A call that never returns does not keep the process alive, because the thread is a daemon.
        threading.Thread(target=_look, args=(check, chosen, answers), name=f"doctor: {check.name}", daemon=True).start()
        started.append((check, answers))
    lines = []
    for check, answers in started:
        patience_s = limit_s or check.limit_s
        try:
            answer = answers.get(timeout=patience_s)
        except queue.Empty:
            ok, found = False, f"no answer within {patience_s:g} s"
            remedy = "check the network connection, or the disk of the folder"
        else:
            if isinstance(answer, Exception):
                first = (str(answer).strip() or type(answer).__name__).splitlines()[0]
                ok, found, remedy = False, f"{type(answer).__name__}: {first[:300]}", "see the message"
            else:
                ok, found, remedy = answer.ok, answer.text, answer.remedy
        lines.append(Line(check.name, ok=ok, found=found, remedy=remedy, needed=check.needed))
    return lines


def is_well(lines: Sequence[Line]) -> bool:
    """Whether every needed check passed."""
    return all(line.ok for line in lines if line.needed)


def _look(check: Check, settings: Settings, answers: queue.Queue[local_checks.Found | Exception]) -> None:
    """Run a check and put its result, or the error that it raised, into ``answers``."""
    try:
        answers.put(check.look(settings))
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises is shown
        answers.put(error)
