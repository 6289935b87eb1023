"""Ask a question in steps: how it reads, which cells it would use, a first answer, what it costs, and the start.

In: a question and options. Out: :class:`Ask`, the state of that page; the run it started. Only :meth:`Ask.start` spends
money, and only with the consent that its call carries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, get_args

from haystack_kernel.atlas import atlas_info, list_atlases, local_root
from haystack_kernel.config.connect import connect
from haystack_kernel.config.engines import engine_names
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ApprovalNeededError, HaystackError, InvalidInputError
from haystack_kernel.jobs import in_usd
from haystack_kernel.manage.changes import parse_changes
from haystack_kernel.manage.previews import QUICK_ENGINES, Preview, QuickAnswer, preview, quick_answer
from haystack_kernel.manage.rewording import correct, reword, shown_terms
from haystack_kernel.manage.submission import submit
from haystack_kernel.manage.watching import Usual, usual_times
from haystack_kernel.ports import Consent
from haystack_kernel.report import candidate_table, query_card
from haystack_kernel.report.html import DOWN, UP, Html, escape, folded, items, paragraph, table
from haystack_kernel.report.words import cell_types, span
from haystack_kernel.schema import DEMO_ATLAS, EVIDENCE_WORDS, ExecutorName
from haystack_kernel.widgets import markup
from haystack_kernel.widgets.part import Part

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.ports import Ports
    from haystack_kernel.run import Run
    from haystack_kernel.schema import Candidate, Settings

_EXECUTORS = list(get_args(ExecutorName))
_PLACES = {"local": "this machine", "batch": "Google Cloud Batch"}
_IN_FORM = ("engine", "executor", "max_rounds", "threshold", "query_h5ad", "query_cells")  # options with a field
_N_GENES = 15
_EXAMPLE = "How would lung fibroblasts respond to TGF-beta?"


class Ask(Part):
    """A question on its way to a run.

    Parameters
    ----------
    question
        What to ask; may be typed later.
    storage
        Where run folders live; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.
    open_ports
        Makes the ports of a call from its consent to spending; None connects as the settings say.
    **options
        Fields of :class:`haystack_kernel.schema.RunConfig`.

    Examples
    --------
    >>> ask = Ask("How would NK cells respond to IL-15?")  # doctest: +SKIP
    >>> ask.look()  # doctest: +SKIP
    >>> ask.settle()  # doctest: +SKIP
    >>> ask.seen.record.query.cell_type_name  # doctest: +SKIP
    'natural killer cell'
    """

    actions: ClassVar[tuple[str, ...]] = (
        "keep",
        "look",
        "read",
        "answer",
        "mean",
        "edit",
        "pin",
        "ban",
        "start",
        "another",
    )

    def __init__(
        self,
        question: str = "",
        *,
        storage: str | None = None,
        settings: Settings | None = None,
        open_ports: Callable[[Consent], Ports] | None = None,
        **options: Any,  # noqa: ANN401 - fields of RunConfig, validated by it
    ) -> None:
        super().__init__()
        self.settings = settings or load_settings(storage=storage)
        self._open_ports = open_ports or (lambda consent: connect(self.settings, consent=consent))
        self._ports = self._open_ports(Consent())
        self.question = question
        self.options = {name: value for name, value in options.items() if value is not None}
        self.more = ""
        self.seen: Preview | None = None
        self.quick: QuickAnswer | None = None
        self.quick_problem = ""
        self._read_as = ("", "")  # the question that a language model has read, and the run that it was read for
        self.unread = False  # the rules cannot read the question, and a language model may
        self.usual = Usual()
        self.looked_at: tuple[str, dict[str, Any]] = ("", {})
        self.max_cost: float | None = None
        self.run: Run | None = None

    @property
    def leads_to(self) -> tuple[tuple[str, str], ...]:
        """The run that was started is watched."""
        return (("watch", self.run.run_id),) if self.run is not None else ()

    # --- what may be done ---

    def keep(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Take over what was typed, so that a page that is loaded again shows it."""
        del arg
        self._read(values or {})

    def look(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Parse the question, search the atlases and predict with the simple engines; nothing is saved or spent."""
        del arg
        self._read(values or {})
        self._look_again()

    def read(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Let a language model read the question, with the consent of this click and up to what its button says."""
        del arg
        self._read(values or {})
        self._look_again(consent=Consent(approve=True, max_usd=self.settings.claude.max_usd))

    def answer(self, arg: str, values: dict[str, Any] | None = None) -> None:
        """Answer what was asked back: ``arg`` is the question as it would have been asked."""
        self._read({name: value for name, value in (values or {}).items() if name != "question"})
        self.question = arg
        self._look_again()

    def mean(self, arg: str, values: dict[str, Any] | None = None) -> None:
        """Say that a word of the question means another term: ``arg`` is ``word => term``."""
        self._read(values or {})
        word, _, term = arg.partition(" => ")
        self.question = reword(self.question, word, term)
        self._look_again()

    def edit(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Correct the reading: the words of the question are changed until it says what the fields say."""
        del arg
        given = values or {}
        self._read({name: value for name, value in given.items() if name != "question"})
        if self.seen is None or self.seen.record.query is None:
            msg = "look at the question first"
            raise InvalidInputError(msg)
        wanted = {name.removeprefix("term "): str(value) for name, value in given.items() if name.startswith("term ")}
        self.question = correct(self.question, self.seen.record.query, wanted)
        self._look_again(wanted=wanted)

    def pin(self, arg: str, values: dict[str, Any] | None = None) -> None:
        """Use a candidate in every round, or no longer; the search is done again."""
        self._toggle("pin", arg, values or {})

    def ban(self, arg: str, values: dict[str, Any] | None = None) -> None:
        """Use a candidate in no round, or lift that; the search is done again."""
        self._toggle("ban", arg, values or {})

    def start(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Start the run in a process of its own, or as a job in the cloud with the consent of this very call.

        Raises
        ------
        InvalidInputError
            The question was not looked at as it is now, or the cap is no amount of money.
        """
        del arg
        given = values or {}
        if self.run is not None:
            msg = f"this question was started as {self.run.run_id}; ask another one"
            raise InvalidInputError(msg)
        if self.seen is None or self._is_changed(given):
            msg = "the question or an option was changed after you looked; look at it again before you start it"
            raise InvalidInputError(msg)
        is_free = not self.seen.record.config.costs_money
        approve = bool(given.get("approve"))
        if not is_free and not approve:
            msg = "this run costs money; tick the approval to start it. Nothing was started"
            raise InvalidInputError(msg)
        self.max_cost = None if is_free else _amount(given.get("max_cost"))
        consent = Consent(approve=approve and not is_free, max_usd=self.max_cost)
        run_id, question = self.seen.record.run_id, self.question

        def begin() -> None:
            # with the id of the preview, so that a second click finds the run that the first one made
            self.run = submit(question, run_id=run_id, ports=self._open_ports(consent), **self.options)

        self.work("Starting the run", begin)

    def another(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Go back to an empty form; a run that was started goes on."""
        del arg, values
        self.question, self.seen, self.quick, self.run, self.quick_problem = "", None, None, None, ""
        self.options = {name: value for name, value in self.options.items() if name not in ("pin", "ban")}

    # --- parts of it ---

    def _toggle(self, name: str, key: str, values: dict[str, Any]) -> None:
        self._read(values)
        before = {kind: list(self.options.get(kind, ())) for kind in ("pin", "ban")}
        is_on = key in before[name]
        after = {kind: [item for item in found if item != key] for kind, found in before.items()}
        if not is_on:
            after[name].append(key)
        self.options |= {kind: tuple(found) for kind, found in after.items()}
        self._look_again()

    def _read(self, values: dict[str, Any]) -> None:
        """Take over what was typed; an empty field leaves an option as configured."""
        self.question = str(values.get("question", self.question)).strip()
        kept = {name: value for name, value in self.options.items() if name not in _IN_FORM or name not in values}
        given = {name: str(values[name]).strip() for name in _IN_FORM if name in values}
        self.options = {**kept, **{name: value for name, value in given.items() if value}}
        if "atlases" in values:
            chosen = tuple(values["atlases"])
            self.options.pop("atlases", None)
            if chosen and chosen != tuple(self.settings.atlases):
                self.options["atlases"] = chosen
        if "more" in values:
            self._read_more(str(values["more"]))

    def _read_more(self, text: str) -> None:
        for name in parse_changes(_lines(self.more)):
            self.options.pop(name, None)
        self.more = text
        self.options |= parse_changes(_lines(text))

    def _is_changed(self, values: dict[str, Any]) -> bool:
        """Whether the fields differ from what was looked at."""
        self._read(values)
        return self.looked_at != (self.question, self.options)

    def _look_again(self, *, wanted: dict[str, str] | None = None, consent: Consent | None = None) -> None:
        self.quick, self.quick_problem = None, ""
        question, options = self.looked_at = (self.question, dict(self.options))

        def look() -> None:
            self.unread = False
            run_id = self._read_as[1] if self._read_as[0] == question else None
            # what Claude has read already is looked up, and may cost nothing
            given = consent or (Consent(approve=True, max_usd=0.0) if run_id else None)
            ports = self._ports if given is None else self._open_ports(given)
            try:
                self.seen = preview(question, ports=ports, run_id=run_id, **options)
                if self.seen.of_planner is not None and not self.seen.by_rules:
                    self._read_as = (question, self.seen.record.run_id)
            except ApprovalNeededError:
                self.unread = True
                raise
            self.usual = usual_times(self.seen.record.config, self._ports)
            self.busy = "Predicting with the simple engines"
            self.changed()
            try:
                self.quick = quick_answer(self.seen.record, ports=self._ports)
            except HaystackError as error:  # a first answer is no condition of asking
                self.quick_problem = str(error)
            if wanted and self.seen.record.query is not None:
                now = shown_terms(self.seen.record.query)
                other = [f"{name} reads as {now[name] or 'nothing'}" for name in wanted if _differs(wanted, now, name)]
                if other:
                    msg = f"the question was changed, and its {'; its '.join(other)}. Correct the words of the question"
                    raise InvalidInputError(msg)

        self.seen = None
        self.work("Searching the atlases", look)

    # --- what is shown ---

    def picture(self, *, live: bool) -> str:
        """The page: form, reading, candidates, a first answer, cost and start."""
        parts = [self._form(live=live and self.run is None), markup.status_line(self.busy)]
        parts.append(markup.problem_box(self.problem))
        if self.unread and live:
            parts.append(self._read_button(self.settings.claude.max_usd))
        if self.seen is not None:
            details = [self._reading(live=live and self.run is None)]
            details += [self._candidates(live=live and self.run is None), self._quick()]
            if self.run is not None:  # what follows is of more interest now
                details = [markup.folded_part("before", "What it was started with", *details)]
            parts += [*details, self._go(live=live)]
        elif not live:
            parts.append(paragraph("The question was not looked at.", kind="small"))
        return markup.page(*parts, kind="ask")

    def _form(self, *, live: bool) -> str:
        if not live:
            said = self.question or "No question was typed."
            return markup.section("form", "Question", f'<p class="headline">{escape(said)}</p>')
        off = bool(self.busy)
        area = markup.text_area("Question", "question", self.question, enter="look", hint=_EXAMPLE)
        as_set = {"": "as configured"}
        given = {name: str(self.options.get(name, "")) for name in _IN_FORM}
        engines = {name: name for name in engine_names(self.settings)}
        chosen = self.options.get("atlases", self.settings.atlases)
        options = markup.folded_part(
            "options",
            "Options",
            markup.checks("Atlases", "atlases", self._atlases(), chosen),
            '<div class="fields">',
            markup.select("Engine", "engine", as_set | engines, given["engine"]),
            markup.select(
                "Runs on", "executor", as_set | {name: _PLACES[name] for name in _EXECUTORS}, given["executor"]
            ),
            markup.field("Rounds at most", "max_rounds", given["max_rounds"], kind="number", hint="5"),
            markup.field("Score to stop at", "threshold", given["threshold"], kind="number", hint="7"),
            markup.field("Own query cells", "query_h5ad", given["query_h5ad"], hint="my_cells.h5ad"),
            markup.field("Which of them", "query_cells", given["query_cells"], hint="cell_type=B cell"),
            "</div>",
            markup.text_area("More options, one a line", "more", self.more, hint="seed=1", rows=1),
            is_open=bool(self.options),
        )
        look = markup.button("Look at it first" if self.seen is None else "Look again", "look", kind="main", off=off)
        note = paragraph(
            "Looking shows how the question is understood, which cells it would use, a first answer and the cost. "
            "Nothing is started.",
            kind="small",
        )
        return markup.section("form", "", area, options, f'<div class="buttons">{look}</div>', note)

    def _atlases(self) -> dict[str, str]:
        root = local_root(self.settings.atlas_root, cache=self.settings.cache)
        there = list_atlases(root)
        found = {}
        for name in dict.fromkeys((*there, DEMO_ATLAS, *self.settings.atlases)):
            n_cells = atlas_info(name, root).get("n_cells", 0) if name in there else 0
            found[name] = f"{name} ({n_cells:,} cells)" if n_cells else name
        return found

    def _reading(self, *, live: bool) -> str:
        assert_seen = self.seen
        if assert_seen is None or assert_seen.record.query is None:
            return ""
        record, query = assert_seen.record, assert_seen.record.query
        fields = ""
        if live:
            boxes = [
                markup.field(name, f"term {name}", term, enter="edit") for name, term in shown_terms(query).items()
            ]
            change = markup.button("Apply", "edit", off=bool(self.busy))
            chips = "".join(self._meanings())
            hint = "Applying changes the words of the question, so that what is answered stays what is asked."
            fields = markup.folded_part(
                "correct",
                "Correct the reading",
                f'<div class="fields">{"".join(boxes)}</div><div class="buttons">{change}</div>',
                paragraph(hint, kind="small"),
                is_open=bool(chips),
            )
            fields = chips + self._by_model() + fields
        return markup.section("reading", "How the question is understood", query_card(record), fields)

    def _by_model(self) -> str:
        """What a language model would do for the reading: read it, or settle what it asks back."""
        seen, off = self.seen, bool(self.busy)
        if seen is None or seen.of_planner is None or seen.record.query is None:
            return ""
        if seen.by_rules:
            told = paragraph("Read by rules for this look. Claude will read the question when the run starts.")
            return f"{told}{self._read_button(seen.of_planner.high_usd)}"
        asked = seen.record.query.clarification
        if asked is None:
            return ""
        chips = "".join(markup.button(text, "answer", arg=text, kind="chip", off=off) for text in asked.questions)
        return f'<div class="chips" data-key="asked back"><span>{escape(asked.text)}</span> {chips}</div>'

    def _read_button(self, high: float) -> str:
        text = f"Let Claude read it now (a few cents, at most {in_usd(high)})"
        return f'<div class="buttons" data-key="read">{markup.button(text, "read", off=bool(self.busy))}</div>'

    def _meanings(self) -> list[str]:
        """Words that may mean something else, with a button for each other meaning."""
        query = self.seen.record.query if self.seen else None
        found = []
        for term in (*query.resolutions, *query.unresolved) if query is not None else ():
            name = term.match.name if term.match else ""
            others = [item.name for item in term.alternatives if item.name != name][:5]
            if not others:
                continue
            taken = f"was taken as {name}" if name else "is not known"
            chips = "".join(
                markup.button(other, "mean", arg=f"{term.text} => {other}", kind="chip", off=bool(self.busy))
                for other in others
            )
            words = escape(f"“{term.text}” {taken}. It may also mean:")
            found.append(f'<div class="chips" data-key="mean {escape(term.text)}"><span>{words}</span> {chips}</div>')
        return found

    def _candidates(self, *, live: bool) -> str:
        if self.seen is None:
            return ""
        record = self.seen.record
        first = set(self.quick.candidates) if self.quick else set()
        if not live:
            return markup.section("candidates", "Cells it would use", candidate_table(record).html())
        pinned, banned = (set(self.options.get(name, ())) for name in ("pin", "ban"))
        rows = [self._candidate(item, first=first, pinned=pinned) for item in record.candidates]
        columns = ("cell type", "use", "perturbation", "dataset", "cells", "controls", "score", "first round", "why")
        caption = f"{len(rows)} candidates for the prompt, best first"
        lifted = "".join(
            markup.button(f"{key} (lift the ban)", "ban", arg=key, kind="chip", off=bool(self.busy))
            for key in sorted(banned)
        )
        bans = f'<div class="chips" data-key="bans"><span>Banned:</span> {lifted}</div>' if lifted else ""
        return markup.section("candidates", "Cells it would use", table(columns, rows, caption=caption), bans)

    def _candidate(self, item: Candidate, *, first: set[str], pinned: set[str]) -> tuple[object, ...]:
        prompt, off = item.prompt, bool(self.busy)
        name = f"{cell_types(item)}, {prompt.perturbation or 'unperturbed'}, {prompt.dataset}"
        is_pinned = item.pinned or item.key in pinned
        pin = markup.pressed(
            "pinned" if is_pinned else "pin", "pin", arg=item.key, is_on=is_pinned, label=f"Pin {name}"
        )
        ban = markup.button("ban", "ban", arg=item.key, kind="chip", label=f"Ban {name}", off=off)
        why = folded(EVIDENCE_WORDS[item.evidence_distance], item.reason)
        return (
            cell_types(item),
            Html(f'<span class="pair">{pin}{ban}</span>'),
            prompt.perturbation or "unperturbed",
            prompt.dataset,
            prompt.n_cells,
            item.control.n_cells if item.control else 0,
            item.score,
            "yes" if item.key in first else "",
            why,
        )

    def _quick(self) -> str:
        """What the simple engines say."""
        heading = "A first answer by the simple engines"
        if self.quick_problem:
            return markup.section("quick", heading, paragraph(f"None: {self.quick_problem}", kind="small"))
        if self.quick is None:
            return ""
        quick = self.quick
        signs = {1: UP, -1: DOWN, 0: ""}
        shown = [name for name in (*QUICK_ENGINES, "measured") if name in quick.effects]
        rows = [
            (row["gene"], signs[int(row["expected"])], *(float(row[name]) for name in shown))
            for _, row in quick.effects.head(_N_GENES).iterrows()
        ]
        caption = (
            f"Largest effects (log2 of predicted over query cells), from {quick.n_prompt:,} prompt, "
            f"{quick.n_control:,} control and {quick.n_query:,} query cells"
        )
        note = "No model was used and nothing was tested: the run scores the prediction and says how far to trust it."
        columns = ("gene", "expected", *shown)
        return markup.section(
            "quick", heading, table(columns, rows, caption=caption), items(quick.notes), paragraph(note, kind="small")
        )

    def _go(self, *, live: bool) -> str:
        """What it costs and how long it takes; with ``live`` also how to start it."""
        if self.seen is None:
            return ""
        words = items(cost_words(self.seen, self.usual))
        if self.run is not None:
            told = f"Started as run {self.run.run_id} on {_PLACES[self.run.record.config.executor]}."
            more = markup.button("Ask another question", "another") if live else ""
            buttons = f'<div class="buttons">{more}</div>' if more else ""
            return markup.section("go", "Cost and time", words, f'<p class="told">{escape(told)}</p>', buttons)
        if not live:
            return markup.section("go", "Cost and time", words, paragraph("The run was not started.", kind="small"))
        costs = self.seen.record.config.costs_money
        consent = ""
        if costs:
            high = f"{self.seen.high_usd:.2f}" if self.max_cost is None else f"{self.max_cost:g}"
            consent = (
                '<fieldset class="consent" data-key="consent"><legend>Approval</legend>'
                '<label class="check"><input type="checkbox" name="approve" value="yes"> '
                "I approve what costs money</label>"
                f"{markup.field('Most it may cost, in US dollars', 'max_cost', high, kind='number')}</fieldset>"
            )
        text = "Approve and start" if costs else "Start"
        start = markup.button(text, "start", kind="main", off=bool(self.busy))
        return markup.section("go", "Cost and time", words, consent, f'<div class="buttons">{start}</div>', kind="go")


def cost_words(seen: Preview, usual: Usual) -> list[str]:
    """What a run may cost and how long it may take, in sentences."""
    config = seen.record.config
    rounds = f"up to {config.max_rounds} round{'' if config.max_rounds == 1 else 's'}"
    if seen.of_round is None:
        found = [f"The run is worked on by this machine and costs nothing: {rounds} with engine {config.engine}."]
    else:
        one = seen.of_round
        of_round = f"{in_usd(one.low_usd)} to {in_usd(one.high_usd)}"
        of_all = f"{in_usd(seen.low_usd)} to {in_usd(seen.high_usd)}"
        paid = f"{span(one.low_s)} to {span(one.high_s)}"
        found = [f"One round costs about {in_usd(one.likely_usd)} ({of_round})."]
        found.append(f"With {rounds} and its orchestrator the run costs {of_all}, by list prices.")
        found.append(f"A machine ({one.machine}) is paid for {paid} a round. Waiting for one costs nothing.")
    if seen.of_planner is not None:
        one = seen.of_planner
        found = found if seen.of_round is not None else [f"Jobs run on this machine and cost nothing: {rounds}."]
        found.append(
            f"Planner claude ({one.machine}) costs about {in_usd(one.likely_usd)}, at most {in_usd(one.high_usd)}, by "
            "list prices."
        )
    if seen.record.engine_pick is not None:
        words = seen.record.engine_pick.words
        found.append(f"{words[0].upper()}{words[1:]}.")
    found.append(usual.words(max_rounds=config.max_rounds))
    if usual.queue_s is not None and seen.of_round is not None:
        waits = [span(seconds) for seconds in usual.queue_s]
        found.append(f"Those waited {waits[0]} to {waits[1]} for a machine, which is part of that time.")
    return found


def _differs(wanted: dict[str, str], now: dict[str, str], name: str) -> bool:
    """Whether a field reads as something that does not even contain the word that was typed, or the other way round."""
    want, have = wanted[name].casefold().strip(), now.get(name, "").casefold()
    return bool(want) != bool(have)


def _amount(value: object) -> float:
    """A cap in dollars as it was typed."""
    try:
        amount = float(str(value or "").replace("$", "").strip())
    except ValueError as error:
        msg = f"the most it may cost is {value!r}; give an amount in US dollars, e.g. 2.50"
        raise InvalidInputError(msg, given=str(value)) from error
    return amount


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
