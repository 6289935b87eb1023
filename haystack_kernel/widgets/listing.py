"""The runs of a storage as a list: find one, watch it, compare two, fork one with a change.

In: a storage. Out: :class:`RunList`, :class:`ForkForm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin

from haystack_kernel.config.connect import connect
from haystack_kernel.config.engines import engine_names
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.manage.changes import parse_changes
from haystack_kernel.manage.comparison import Comparison, compare
from haystack_kernel.manage.forking import fork
from haystack_kernel.manage.listing import STATUSES, list_summaries
from haystack_kernel.manage.submission import submit
from haystack_kernel.ports import Consent
from haystack_kernel.report.html import Html, escape, paragraph, table
from haystack_kernel.report.words import counted
from haystack_kernel.schema import OPTIONS, RunConfig
from haystack_kernel.widgets import markup
from haystack_kernel.widgets.part import Part

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.ports import Ports
    from haystack_kernel.run import Run
    from haystack_kernel.schema import RunSummary, Settings

_N_SHOWN = 25


class RunList(Part):
    """The newest runs of a storage.

    Parameters
    ----------
    storage
        Where the run folders are; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.

    Examples
    --------
    >>> runs = RunList()  # doctest: +SKIP
    >>> runs.find("", {"text": "IL-15"})  # doctest: +SKIP
    >>> [row.run_id for row in runs.rows]  # doctest: +SKIP
    """

    actions: ClassVar[tuple[str, ...]] = ("find", "open", "pick", "compare")

    def __init__(self, *, storage: str | None = None, settings: Settings | None = None) -> None:
        super().__init__()
        self.settings = settings or load_settings(storage=storage)
        self.text, self.status = "", ""
        self.picked: list[str] = []
        self.opened: str | None = None
        self.comparison: Comparison | None = None
        self.rows: list[RunSummary] = []
        self._read()

    @property
    def leads_to(self) -> tuple[tuple[str, str], ...]:
        """The run that was chosen is watched."""
        return (("watch", self.opened),) if self.opened is not None else ()

    # --- what may be done ---

    def find(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Read the list again, with the filters of the fields."""
        del arg
        given = values or {}
        self.text, self.status = str(given.get("text", self.text)).strip(), str(given.get("status", self.status))
        self._read()

    def open(self, arg: str, values: dict[str, Any] | None = None) -> None:
        """Choose the run to look at; whoever shows this list shows it."""
        del values
        self.opened = arg

    def pick(self, arg: str, values: dict[str, Any] | None = None) -> None:
        """Pick a run for a comparison, or drop it; the last two picked are compared."""
        del values
        self.picked = [item for item in self.picked if item != arg] + ([arg] if arg not in self.picked else [])
        self.picked = self.picked[-2:]

    def compare(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Compare the two picked runs."""
        del arg, values
        if len(self.picked) != 2:
            msg = "pick two runs to compare"
            raise InvalidInputError(msg)
        one, other = self.picked

        def do() -> None:
            self.comparison = compare(one, other, settings=self.settings)

        self.work("Comparing the two runs", do)

    def _read(self) -> None:
        try:
            self.rows = list_summaries(
                settings=self.settings, status=self.status or None, text=self.text or None, limit=_N_SHOWN
            )
        except NotFoundError:  # nothing was asked in this storage yet
            self.rows = []

    # --- what is shown ---

    def picture(self, *, live: bool) -> str:
        """The table, and the comparison below it."""
        parts = []
        if live:
            states = {"": "any status"} | {name: name for name in STATUSES}
            find = markup.button("Refresh", "find", off=bool(self.busy))
            both = markup.button("Compare the two picked", "compare", off=bool(self.busy) or len(self.picked) != 2)
            parts.append(
                f'<div class="fields" data-key="filters">{markup.field("Search", "text", self.text, enter="find")}'
                f"{markup.select('Status', 'status', states, self.status, change='find')}"
                f'<div class="buttons">{find}{both}</div></div>'
            )
        parts += [markup.status_line(self.busy), markup.problem_box(self.problem)]
        if not self.rows:
            parts.append(paragraph("No run fits." if self.text or self.status else "No run is in this storage yet."))
        else:
            columns = ("question", "status", "score", "began (UTC)", "engine", "run") + (("show",) if live else ())
            caption = (
                f"The newest {len(self.rows)} runs" if len(self.rows) == _N_SHOWN else counted(len(self.rows), "run")
            )
            parts.append(table(columns, [self._row(row, live=live) for row in self.rows], caption=caption))
        if self.comparison is not None:
            parts.append(markup.section("comparison", "Comparison", self.comparison.html()))
        return markup.page(*parts, kind="runs")

    def _row(self, row: RunSummary, *, live: bool) -> tuple[object, ...]:
        score = "" if row.score != row.score else f"{row.score:.1f}"
        status = Html(f'<span class="badge {escape(row.status)}">{escape(row.status)}</span>')
        cells = (row.question, status, score, f"{row.created_at:%Y-%m-%d %H:%M}", row.engine, row.run_id)
        if not live:
            return cells
        show = markup.button("show", "open", arg=row.run_id, kind="chip", label=f"Show run {row.run_id}")
        is_on = row.run_id in self.picked
        pick = markup.pressed(
            "picked" if is_on else "pick", "pick", arg=row.run_id, is_on=is_on, label=f"Pick {row.run_id}"
        )
        return (*cells, Html(f'<span class="pair">{show}{pick}</span>'))


class ForkForm(Part):
    """Make a new run from an old one with a change, and start it.

    Parameters
    ----------
    run_id
        The old run.
    storage
        Where the run folders are; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.
    open_ports
        Makes the ports of a call from its consent to spending; None connects as the settings say.

    Examples
    --------
    >>> form = ForkForm("run-20260102t030405-1a2b3c")  # doctest: +SKIP
    >>> form.fork("", {"option": "engine", "value": "shift"})  # doctest: +SKIP
    """

    actions: ClassVar[tuple[str, ...]] = ("choose", "fork")

    def __init__(
        self,
        run_id: str,
        *,
        storage: str | None = None,
        settings: Settings | None = None,
        open_ports: Callable[[Consent], Ports] | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or load_settings(storage=storage)
        self._open_ports = open_ports or (lambda consent: connect(self.settings, consent=consent))
        self.parent = self._open_ports(Consent()).store.load(run_id)
        self.option, self.value = "engine", ""
        self.run: Run | None = None
        self.reused: tuple[str, ...] = ()

    @property
    def is_about(self) -> tuple[str, str] | None:
        """It forks the old run."""
        return "fork", self.parent.run_id

    @property
    def leads_to(self) -> tuple[tuple[str, str], ...]:
        """The new run is watched."""
        return (("watch", self.run.run_id),) if self.run is not None else ()

    # --- what may be done ---

    def choose(self, arg: str, values: dict[str, Any] | None = None) -> None:
        """Choose the option to change."""
        del values
        if arg not in OPTIONS:
            msg = f"{arg!r} is not an option of a run; possible: {', '.join(OPTIONS)}"
            raise InvalidInputError(msg, given=arg)
        self.option, self.value = arg, ""

    def fork(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Make the new run and start it, with the consent of this call where it costs money."""
        del arg
        given = values or {}
        self.option, self.value = str(given.get("option", self.option)), str(given.get("value", self.value)).strip()
        changes = parse_changes([f"{self.option}={self.value}"])
        cap = str(given.get("max_cost") or "").strip()
        consent = Consent.given(bool(given.get("approve")), float(cap) if cap.replace(".", "", 1).isdigit() else None)

        def begin() -> None:
            made = fork(self.parent.run_id, changes=changes, settings=self.settings)
            origin = made.record.forked_from
            self.reused = origin.reused if origin else ()
            self.run = submit(made.run_id, ports=self._open_ports(consent))

        self.work("Making the new run", begin)

    # --- what is shown ---

    def _value(self, now: object) -> str:
        """The field of the new value: a choice where only some are possible."""
        kind = RunConfig.model_fields[self.option].annotation
        possible = [value for value in get_args(kind) if isinstance(value, str)] if get_origin(kind) is Literal else []
        possible = ["true", "false"] if kind is bool else possible
        possible = engine_names(self.settings) if self.option == "engine" else possible
        if not possible:
            return markup.field("New value", "value", self.value, enter="fork", hint=f"now {now}")
        said = str(now).lower()
        words = {value: f"{value} (now)" if value == said else value for value in possible}
        return markup.select("New value", "value", words, self.value or said)

    def picture(self, *, live: bool) -> str:
        """The form, and what came of it."""
        if not live and self.run is None:
            return Html("")
        heading = f"<h3>{escape('Fork with one change')}</h3>"
        parts = [heading, paragraph(f"From run {self.parent.run_id}: {self.parent.question}", kind="small")]
        if live:
            options = {name: name.replace("_", " ") for name in OPTIONS}
            now = getattr(self.parent.config, self.option)
            consent = ""
            if self.parent.config.executor == "batch" or self.option == "executor":
                consent = (
                    '<label class="check"><input type="checkbox" name="approve" value="yes"> I approve jobs that cost '
                    f"money</label>{markup.field('Most it may cost, in US dollars', 'max_cost', '', kind='number')}"
                )
            go = markup.button("Fork and start", "fork", kind="main", off=bool(self.busy))
            parts.append(
                f'<div class="fields">{markup.select("Option", "option", options, self.option, change="choose")}'
                f"{self._value(now)}{consent}"
                f'<div class="buttons">{go}</div></div>'
            )
            parts.append(paragraph("Steps that the change does not affect are reused.", kind="small"))
        parts += [markup.status_line(self.busy), markup.problem_box(self.problem)]
        if self.run is not None:
            kept = f" It took over: {', '.join(self.reused)}." if self.reused else ""
            parts.append(f'<p class="told">{escape(f"Started as run {self.run.run_id}.{kept}")}</p>')
        return markup.page(*parts, kind="fork")
