"""The plain state behind every widget: what is shown, what may be done, and work beside the kernel's own thread.

In: actions with the values of fields, as a front end or a test sends them. Out: a picture in HTML, and a call to every
listener when it changes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

from haystack_kernel.errors import HaystackError, InvalidInputError
from haystack_kernel.report.html import Html

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Values = dict[str, Any]


class Part:
    """Base of the parts of a page.

    A subclass draws itself in :meth:`picture` and names in ``actions`` the methods that a front end may call; nothing
    else can be called from there.
    """

    actions: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.busy = ""
        self.problem = ""
        self._listeners: list[Callable[[], object]] = []
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None

    # --- what is shown ---

    def picture(self, *, live: bool) -> str:
        """HTML of the state now; with ``live`` the fields and buttons too. Every text in it is escaped."""
        raise NotImplementedError

    @property
    def is_moving(self) -> bool:
        """Whether the picture changes without anybody doing anything."""
        return False

    @property
    def is_about(self) -> tuple[str, str] | None:
        """What it does with which run, one of ``watch``, ``explore`` and ``fork``; None: no run yet."""
        return None

    @property
    def leads_to(self) -> tuple[tuple[str, str], ...]:
        """What may be done next, with which run, in the words of ``is_about``."""
        return ()

    def still(self) -> Html:
        """The picture that stays in a saved notebook: no field, no button, no script."""
        return Html(self.picture(live=False))

    def _repr_html_(self) -> str:
        return self.still()._repr_html_()

    def __repr__(self) -> str:
        return repr(self.still())

    # --- what happens ---

    def listen(self, listener: Callable[[], object]) -> None:
        """Call ``listener`` whenever the picture may have changed, from whichever thread changed it."""
        self._listeners.append(listener)

    def changed(self) -> None:
        """Tell the listeners."""
        for listener in tuple(self._listeners):
            listener()

    def act(self, do: str, arg: str = "", values: Mapping[str, Any] | None = None) -> None:
        """Do what a front end asks for; an error becomes the problem that is shown.

        Parameters
        ----------
        do
            One of ``actions``.
        arg
            What it is done to, e.g. the key of a candidate.
        values
            Contents of the fields by name; those of checkboxes are lists.
        """
        if do not in self.actions:
            return
        with self._lock:
            self.problem = ""
            try:
                getattr(self, do)(arg, dict(values or {}))
            except HaystackError as error:
                self.problem = str(error)
        self.changed()

    def work(self, words: str, job: Callable[[], object]) -> None:
        """Do something that takes seconds in a thread of its own, so that the kernel stays free.

        Raises
        ------
        InvalidInputError
            Something is being done already.
        """
        if self.busy:
            msg = f"please wait: {self.busy[:1].lower()}{self.busy[1:]}"
            raise InvalidInputError(msg)
        self.busy = words

        def run() -> None:
            problem = ""
            try:
                job()
            except HaystackError as error:
                problem = str(error)
            except Exception as error:  # noqa: BLE001 - a thread has nobody else to tell
                problem = f"{type(error).__name__}: {error}"
            self.busy, self.problem = "", problem
            self.changed()

        self._thread = threading.Thread(target=run, name=words, daemon=True)
        self._thread.start()

    def settle(self, timeout_s: float = 600.0) -> None:
        """Wait until nothing is being done any more."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
