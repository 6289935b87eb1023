"""Watch a run from any notebook: phases, queue and machine time, money, attempts, log, rounds, answer; cancel it.

In: a run id. Out: :class:`Monitor`, which looks at the run folder from a thread of its own until the run is over.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import HaystackError
from haystack_kernel.jobs import in_usd
from haystack_kernel.manage.submission import submit
from haystack_kernel.manage.watching import Watch
from haystack_kernel.ports import Consent
from haystack_kernel.report import answer, rounds_table
from haystack_kernel.report.html import escape, items, paragraph, table
from haystack_kernel.report.words import span
from haystack_kernel.widgets import markup
from haystack_kernel.widgets.part import Part

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from haystack_kernel.manage.watching import Look, Phase
    from haystack_kernel.ports import Ports
    from haystack_kernel.run import Run
    from haystack_kernel.schema import Settings

_ICONS = {
    "done": "\N{CHECK MARK}",
    "now": "\N{BLACK RIGHT-POINTING TRIANGLE}",
    "waiting": "",
    "stopped": "\N{BALLOT X}",
}
_STATUS = {  # what a status means to somebody who waits for the answer
    "running": "is being worked on",
    "done": "is done",
    "failed": "failed",
    "cancelled": "was cancelled",
    "interrupted": "was left unfinished, and nobody works on it now",
}


class Monitor(Part):
    """A run as it is now; :meth:`follow` keeps it up to date.

    Parameters
    ----------
    run_id
        The run.
    storage
        Where the run folders are; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.
    max_cost
        Cap of the run in dollars, where the caller knows it; it is stored nowhere.
    open_ports
        Makes the ports of a call from its consent to spending; None connects as the settings say.

    Raises
    ------
    NotFoundError
        No such run in this storage.

    Examples
    --------
    >>> monitor = Monitor("run-20260102t030405-1a2b3c")  # doctest: +SKIP
    >>> monitor.seen.status  # doctest: +SKIP
    'done'
    """

    actions: ClassVar[tuple[str, ...]] = ("refresh", "cancel", "resume")

    def __init__(
        self,
        run_id: str,
        *,
        storage: str | None = None,
        settings: Settings | None = None,
        max_cost: float | None = None,
        open_ports: Callable[[Consent], Ports] | None = None,
    ) -> None:
        super().__init__()
        settings = settings or load_settings(storage=storage)
        self._open_ports = open_ports or (lambda consent: connect(settings, consent=consent))
        self._watch = Watch(run_id, ports=self._open_ports(Consent()))
        self.max_cost = max_cost
        self.said = ""
        self._tables: tuple[pd.DataFrame, pd.DataFrame] | None = None
        self._follower: threading.Thread | None = None
        self._stop = threading.Event()
        self.seen: Look = self._watch.look()

    @property
    def run(self) -> Run:
        """The run, with its newest record."""
        return self._watch.run

    @property
    def is_about(self) -> tuple[str, str] | None:
        """It watches its run."""
        return "watch", self.run.run_id

    @property
    def leads_to(self) -> tuple[tuple[str, str], ...]:
        """A run that is done can be explored and forked."""
        run_id = self.run.run_id
        return (("explore", run_id), ("fork", run_id)) if self.seen.status == "done" else ()

    @property
    def is_moving(self) -> bool:
        """Whether the run goes on."""
        return not self.seen.is_over

    # --- what may be done ---

    def refresh(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Look at the run now."""
        del arg, values
        self.seen = self._watch.look()
        self.problem = ""

    def follow(self) -> Monitor:
        """Look again and again from a daemon thread, until the run is over or :meth:`close` is called."""
        if self._follower is None or not self._follower.is_alive():
            self._stop.clear()
            self._follower = threading.Thread(target=self._keep_looking, name=f"monitor {self.run.run_id}", daemon=True)
            self._follower.start()
        return self

    def close(self) -> None:
        """Stop looking; the run goes on."""
        self._stop.set()
        if self._follower is not None and self._follower is not threading.current_thread():
            self._follower.join(30)

    def wait(self, *, timeout_s: float | None = None) -> Run:
        """Wait until the run is over; interrupting ends the waiting, not the run.

        Parameters
        ----------
        timeout_s
            Longest wait in seconds; None waits to the end.

        Returns
        -------
        The run, over or not.

        Examples
        --------
        >>> monitor.wait().score  # doctest: +SKIP
        8.5
        """
        self.follow()
        try:
            self.said = "The kernel waits for this run. Interrupting it ends the waiting, not the run."
            self.changed()
            if self._follower is not None:
                self._follower.join(timeout_s)
            self.said = ""
        except KeyboardInterrupt:
            self.said = (
                f"Stopped waiting. Run {self.run.run_id} goes on without this notebook; "
                f'haystack.attach("{self.run.run_id}") shows it again, and Cancel ends it.'
            )
            self.changed()
        return self.run

    def cancel(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Stop the run and its jobs, and say what was billed."""
        del arg, values

        def end() -> None:
            self.run.cancel()
            self.seen = self._watch.look()
            self.said = f"Cancelled. {billed_words(self.seen)} Finished steps are kept, and the run can be resumed."

        self.work("Cancelling the run and its jobs", end)

    def resume(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Go on with a run that stopped, in a process of its own or as a job, with the consent of this call."""
        del arg
        given = values or {}
        cap = str(given.get("max_cost") or "").strip()
        consent = Consent.given(bool(given.get("approve")), float(cap) if cap.replace(".", "", 1).isdigit() else None)

        def begin() -> None:
            self.said = ""
            submit(self.run.run_id, ports=self._open_ports(consent))
            self.seen = self._watch.look()
            self.follow()

        self.work("Starting the next attempt", begin)

    def _keep_looking(self) -> None:
        while not self._stop.is_set():
            try:
                self.seen, self.problem = self._watch.look(), ""
            except HaystackError as error:  # a storage that fails now may answer again
                self.problem = f"The run cannot be read now: {error}"
            self.changed()
            if self.seen.is_over and not self.problem:
                return
            self._stop.wait(self._watch.poll_s)

    # --- what is shown ---

    def picture(self, *, live: bool) -> str:
        """The run: status, phases, money, rounds, answer."""
        seen, record = self.seen, self.seen.record
        parts = [
            self._head(),
            markup.status_line(self.busy, said=self.said),
            markup.problem_box(self.problem or self._failure()),
            self._tiles(),
            self._phases(),
        ]
        if record.interpretation is not None:
            parts.append(markup.section("answer", "Answer", self._answer()))
        if record.rounds:
            parts.append(markup.section("rounds", "Rounds", rounds_table(record)))
        parts.append(self._attempts())
        if seen.log:
            log = f'<pre class="log" tabindex="0" aria-label="End of the log">{escape(seen.log[-4000:])}</pre>'
            parts.append(markup.folded_part("log", "Log", log))
        parts.append(self._foot(live=live))
        return markup.page(*parts, kind="monitor")

    def _head(self) -> str:
        status = self.seen.status
        words = f"Run {self.seen.record.run_id} {_STATUS[status]}."
        badge = f'<span class="badge {escape(status)}">{escape(status)}</span>'
        question = f'<p class="headline">{escape(self.seen.record.question)}</p>'
        return f'<div class="head" data-key="head">{question}<p>{badge} {escape(words)}</p></div>'

    def _failure(self) -> str:
        failure, detail = self.seen.state["failure"], self.seen.state["detail"]
        if failure:
            return f"Failed at step {failure['step']}: {failure['message']}"
        return f"{detail[:1].upper()}{detail[1:]}." if detail else ""

    def _tiles(self) -> str:
        seen, cap = self.seen, self.cap
        over = "" if seen.is_over else "so far"
        left = f"about {span(seen.left_s)} left by earlier runs" if seen.left_s else ""
        if not seen.is_over and not left:
            left = "no earlier run tells how long it takes"
        tiles = [("time", markup.tick("elapsed", span(seen.elapsed_s)), markup.tick("left", left))]
        if seen.machine_s is not None:
            waited, worked = span(seen.queue_s), span(seen.machine_s)
            is_here = seen.record.config.executor == "local"
            note = "by a process of this machine" if is_here else f"after {waited} in the queue"
            tiles.append(("prediction", markup.tick("worked", worked), markup.tick("waited", note)))
        money = "free" if seen.record.config.executor == "local" else in_usd(seen.spent_usd)
        limit = f"of {in_usd(cap)} at most" if cap is not None else "no cap is known here"
        where = "this machine" if seen.record.config.executor == "local" else f"{limit}, by list prices {over}".strip()
        tiles.append(("cost", escape(money), escape(where)))
        limit = escape(f"stops at {seen.record.config.threshold:g}")
        tiles.append(("score", escape(seen.record.score_words or "none yet"), limit))
        boxes = "".join(
            f'<div><div class="name">{escape(name)}</div><div class="value">{value}</div>'
            f'<div class="note">{note}</div></div>'
            for name, value, note in tiles
        )
        return f'<div class="tiles" data-key="tiles">{boxes}</div>'

    @property
    def cap(self) -> float | None:
        """The lowest cap that is known: of the call that started the run, or of the settings."""
        caps = [cap for cap in (self.max_cost, self._watch.cap_usd) if cap is not None]
        return min(caps) if caps else None

    def _phases(self) -> str:
        rows = "".join(self._phase(item) for item in self.seen.phases)
        return f'<ol class="phases" data-key="phases" aria-label="Phases of the run">{rows}</ol>'

    def _phase(self, item: Phase) -> str:
        words = {"done": "done", "now": "under way", "waiting": "waiting", "stopped": "stopped"}[item.state]
        name = f"{item.name}{item.round or ''}"
        took = span(item.seconds) if item.state != "waiting" else ""
        if item.state == "done" and item.seconds < 0.5:
            took = "< 1 s"
        if item.state == "now":
            left = f", about {span(item.left_s)} left" if item.left_s else ""
            tasks = f", {item.n_done} of {item.n_tasks} tasks" if item.n_tasks else ""
            took = f"{took}{left}{tasks}"
        share = 0.0 if item.state == "stopped" and item.fraction is None else item.fraction
        value = "" if share is None else f' value="{share:.2f}"'
        bar = f'<progress max="1"{value} aria-label="{escape(item.title)}: {words}"></progress>'
        icon = f'<span class="icon" aria-hidden="true">{_ICONS[item.state]}</span>'
        text = f'<span class="phase">{escape(item.title)}</span>'
        opening = f'<li class="{item.state}" data-key="{escape(name)}">'
        return f"{opening}{icon}{text}{bar}{markup.tick(f'took-{name}', took)}</li>"

    def _answer(self) -> str:
        if self.seen.record.best_round is not None and self._tables is None and self.seen.is_over:
            try:
                self._tables = (self.run.de, self.run.pathways)
            except HaystackError:  # the tables of a run may have been removed to free space
                return str(answer(self.seen.record))
        de, pathways = self._tables or (None, None)
        return str(answer(self.seen.record, de=de, pathways=pathways))

    def _attempts(self) -> str:
        bills = self.seen.attempts
        job = self.seen.job
        if not bills:
            if job is None or job.state in ("running", "succeeded") or not job.detail:
                return ""
            return markup.section("attempts", "Job", paragraph(f"{job.state}: {job.detail}"))
        rows = [
            (f"{bill.kind} {bill.attempt}", bill.machine, span(bill.seconds), in_usd(bill.usd), bill.state)
            for bill in bills
        ]
        columns = ("attempt", "machine", "paid for", "cost", "how it ended, or stands")
        told = ""
        if job is not None and job.detail and not job.is_terminal:
            why, _, events = job.detail.partition(" Last events: ")
            told = items([f"now {job.state}: {why}"])
            told += markup.folded_part("events", "Last events", items(events.split(" | "))) if events else ""
        return markup.section("attempts", "Attempts", table(columns, rows, caption="Machines paid for"), told)

    def _foot(self, *, live: bool) -> str:
        seen, run_id = self.seen, self.seen.record.run_id
        report = seen.state["report"]
        parts = [paragraph(f"Report: {report}", kind="small")] if report else []
        if seen.state["notes"]:
            parts.append(items(seen.state["notes"]))
        if not live:
            if not seen.is_over:
                drawn = f"Drawn {seen.seen_at:%Y-%m-%d %H:%M:%S} UTC while the run was going on. "
                parts.append(paragraph(f'{drawn}haystack.attach("{run_id}") shows it as it is.', kind="small"))
            return markup.section("foot", "", *parts)
        buttons = []
        if seen.status == "running":
            end = markup.button("Cancel the run", "cancel", kind="danger", off=bool(self.busy))
            sure = paragraph(
                "This stops the run and its jobs. Finished steps are kept, and it can be resumed.", kind="small"
            )
            buttons.append(markup.folded_part("cancel", "Cancel …", sure, end))
        elif seen.status != "done":
            costs = seen.record.config.costs_money
            consent = (
                '<label class="check"><input type="checkbox" name="approve" value="yes"> I approve what costs money'
                f"</label>{markup.field('Most it may cost, in US dollars', 'max_cost', '', kind='number')}"
            )
            resume = markup.button(
                "Approve and resume" if costs else "Resume", "resume", kind="main", off=bool(self.busy)
            )
            buttons.append(f"{consent if costs else ''}{resume}")
        if buttons:
            parts.append(f'<div class="buttons" data-key="buttons">{"".join(buttons)}</div>')
        return markup.section("foot", "", *parts)


def billed_words(seen: Look) -> str:
    """What a run cost, in one sentence."""
    if not seen.attempts:
        where = (
            "jobs of this machine cost nothing" if seen.record.config.executor == "local" else "no machine was paid for"
        )
        return f"Nothing was billed: {where}."
    n_attempts = len(seen.attempts)
    attempts = f"{n_attempts} attempt{'' if n_attempts == 1 else 's'}"
    return f"Billed: {in_usd(seen.spent_usd)} for {attempts}, by list prices."
