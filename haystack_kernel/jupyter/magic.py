"""``%ask How would lung fibroblasts respond to TGF-beta?`` in any notebook.

In: a line or a cell. Out: a :class:`haystack_kernel.run.Run`, worked to its end in this kernel.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import ApprovalNeededError, InvalidInputError

if TYPE_CHECKING:
    from haystack_kernel.run import Run
    from haystack_kernel.schema import Clarification

_ADVICE = "write `run = %ask How would B cells respond to IFN-beta?` on a line of its own, or open_run(question).work()"
_VARIABLE = re.compile(r"\{.*\}|\$\w+")
_MARK = re.compile(
    r"""(?P<quote>\"{3}|'{3}|"|')|(?P<comment>\#)|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<ask>%ask(?=\s+[^\s?]))"""
)
_BARE = re.compile(r"^(?P<before>\s*(?:[^\s='\"()#%!?]+(?:\[[^\]]*\])?\s*=\s*)?)(?P<ask>ask\s+\S+\s.*\?\s*)$")
# what may stand before %ask where Python expects a value: nothing, an operator, a bracket, a keyword
_VALUE_FOLLOWS = re.compile(r"(?:^|[=(\[{,:;]|\b(?:return|yield|await|else|in|and|or|not|if))\s*$")
_RUNNING_MAGIC = re.compile(r"^\s*%(?P<name>\w+)\s+(?:-\S+\s+(?:\d+\s+)?)*")
_RUNNERS = ("time", "timeit", "prun", "memit", "mprun", "lprun", "debug")  # magics whose line is code
_LINE_END = re.compile(r"^(?P<text>.*?\?+)(?P<rest>\s*;?\s*(?:\#.*)?)$")
_BRACKET_END = re.compile(r"^(?P<text>.*?\?+)(?P<rest>\s*(?:[)\]},:;\#].*)?)$")
_BRACKET_END_WITHOUT_MARK = re.compile(r"^(?P<text>.*?)(?P<rest>[\s)\]},:;]*)$")


def ask(line: str, cell: str | None = None, *, shell: Any = None) -> Run:  # noqa: ANN401 - IPython's is untyped
    """Ask HAYSTACK a question.

    Usage, after ``%load_ext haystack_kernel`` in an earlier cell: ``%ask How would lung fibroblasts respond to
    TGF-beta?`` or ``%%ask`` with the question in the cell's body. ``answer = %ask …`` keeps the run; without a name it
    is ``run``, also while it works and after an interrupt. Settings come from haystack.toml and HAYSTACK_* variables.
    What costs money is asked about first, and so is what a planner would ask back, where somebody can answer.
    """
    from haystack_kernel.run import Run

    question = " ".join(f"{line} {cell or ''}".split())
    if not question:
        msg = f"%ask needs a question; {_ADVICE}"
        raise InvalidInputError(msg)
    if _VARIABLE.fullmatch(question):
        msg = f"%ask takes its text as it stands and fills in no variables such as {question}; {_ADVICE}"
        raise InvalidInputError(msg, given=question)
    run = _open(question)
    if shell is not None and isinstance(shell.user_ns.get("run", run), Run):
        shell.user_ns["run"] = run  # before it works: after an interrupt, "run" alone would start the magic %run
    return run.work() if shell is None else _work_in_sight(run)


def _work_in_sight(run: Run) -> Run:
    """Work a run to its end, and show what the form of the widgets shows: reading, candidates, estimate, answer."""
    from IPython.display import display

    from haystack_kernel.manage.watching import usual_times
    from haystack_kernel.report import answer, query_card
    from haystack_kernel.report.html import Html, paragraph

    display(query_card(run.understand().record))
    display(run.retrieve().candidates)
    estimate = run.work(until="submit").estimate()
    usual = usual_times(run.record.config, run._ports).words(max_rounds=run.record.config.max_rounds)
    words = paragraph(f"Estimate: this machine works on the run, which costs nothing. {usual}")
    display(Html(words) if estimate is None else estimate)
    run.work()
    if run.record.best_round is not None:
        display(answer(run.record, de=run.de, pathways=run.pathways))
    return run


def _open(question: str) -> Run:
    """Open the run; where it costs money, with the consent that the person types now."""
    from haystack_kernel.run import open_run

    try:
        return open_run(question, ask_back=_ask_back)
    except ApprovalNeededError as error:
        typed = _typed(f"{error}\nTo approve, type the most that it may cost in US dollars; Enter stops: ")
        if not typed:
            raise
    try:
        most = float(typed)
    except ValueError:
        msg = f"{typed!r} is no amount of money; nothing was started"
        raise InvalidInputError(msg, given=typed) from None
    return open_run(question, ask_back=_ask_back, approve=True, max_cost=most)


def _ask_back(asked: Clarification) -> str | None:
    """Show what the planner would like to know, and return the question that the person picks."""
    listed = "\n".join(f"  {number}. {text}" for number, text in enumerate(asked.questions, 1))
    typed = _typed(
        f"{asked.text}\n{listed}\nType a number, or the question as you mean it; Enter goes on as it was read: "
    )
    if typed.isdigit() and 1 <= int(typed) <= len(asked.questions):
        return asked.questions[int(typed) - 1]
    return typed or None


def _typed(prompt: str) -> str:
    """What the person types; empty where nobody can: under papermill, or without a front end."""
    try:
        return input(prompt).strip()
    except (EOFError, NotImplementedError, OSError):
        return ""


def protect_question_mark(lines: list[str]) -> list[str]:
    """Rewrite ``%ask text?`` as a call, because IPython takes a line that ends in "?" for a request for help.

    It may stand wherever Python expects a value, after magics that run code, and go on after a backslash. Where it
    cannot be asked, the line raises an error that says what to write. All other lines, texts, comments, and the bodies
    of cell magics are returned as they are.
    """
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("%%") or not any("ask" in line for line in lines):
        return lines
    scanner = _Scanner(list(lines))
    for number in range(len(lines)):
        scanner.rewrite(number)
    return scanner.lines


def load(shell: Any) -> None:  # noqa: ANN401 - IPython's shell is untyped
    """Register the magic; called by ``%load_ext haystack_kernel``."""
    from IPython.core.magic import no_var_expand

    @no_var_expand  # {x} stays text
    @functools.wraps(ask)
    def magic(line: str, cell: str | None = None) -> Run:
        return ask(line, cell, shell=shell)

    shell.register_magic_function(magic, magic_kind="line_cell", magic_name="ask")
    if protect_question_mark not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(protect_question_mark)


def unload(shell: Any) -> None:  # noqa: ANN401 - IPython's shell is untyped
    """Take the magic out again."""
    if protect_question_mark in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(protect_question_mark)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("ask", None)


@dataclass
class _Scanner:
    """A cell read from its start: which string and how many brackets are open where a line begins."""

    lines: list[str]
    quote: str = ""
    depth: int = 0

    def rewrite(self, number: int) -> None:
        """Rewrite every ``%ask`` of one line, and read on to the next."""
        if not self.quote and not self.depth and (bare := _BARE.match(self.lines[number])):
            self.lines[number] = f"{bare['before']}%{bare['ask']}"  # no Python: "ask" and a sentence
        start = 0
        while (found := self._next_ask(number, start)) is not None:
            # Lines after a backslash move up and leave empty ones in their places, so that line numbers hold.
            following = number + 1
            while self.lines[number].rstrip().endswith("\\") and following < len(self.lines):
                joined = f"{self.lines[number].rstrip()[:-1].rstrip()} {self.lines[following].strip()}\n"
                self.lines[number], self.lines[following] = joined, "\n"
                following += 1
            line = self.lines[number]
            end = "\n" if line.endswith("\n") else ""
            before, text = line[:found], line[found + len("%ask") :].strip()
            if not _is_asked(before):
                if text.endswith("?") and not _is_foreign(before):
                    indent = line[: len(line) - len(line.lstrip())]
                    self.lines[number] = f"{indent}raise SyntaxError({f'%ask cannot stand here; {_ADVICE}'!r})\n"
                return
            question, rest = _split(text, in_brackets=self.depth > 0)
            call = f"get_ipython().run_line_magic('ask', {question!r})"
            self.lines[number] = f"{before}{call}{rest}{end}"
            start = len(before) + len(call)

    def _next_ask(self, number: int, start: int) -> int | None:
        """Where the next ``%ask`` begins that is neither in a string nor in a comment; None at the end of the line."""
        line = self.lines[number]
        while start < len(line):
            if self.quote:
                end = re.compile(rf"(?:\\.|[^\\])*?{self.quote}", re.DOTALL).match(line, start)
                if end is None:
                    self.quote = self.quote if len(self.quote) == 3 else ""  # others end with their line
                    return None
                self.quote, start = "", end.end()
                continue
            mark = _MARK.search(line, start)
            if mark is None or mark["comment"]:
                return None
            if mark["ask"]:
                return mark.start()
            self.quote = mark["quote"] or ""
            self.depth = max(0, self.depth + bool(mark["open"]) - bool(mark["close"]))
            start = mark.end()
        return None


def _is_asked(before: str) -> bool:
    """Whether ``%ask`` stands where a value is expected."""
    magic = _RUNNING_MAGIC.match(before)
    code = before[magic.end() :] if magic and magic["name"] in _RUNNERS else before
    return not _is_foreign(code) and _VALUE_FOLLOWS.search(code.rstrip()) is not None


def _is_foreign(before: str) -> bool:
    """Whether the line belongs to the shell or to another magic, whose text it is."""
    return before.lstrip().startswith(("!", "%", "?"))


def _split(text: str, *, in_brackets: bool) -> tuple[str, str]:
    """The question, and what follows it on its line: a semicolon, a comment, or the end of the brackets around it."""
    ends = (_BRACKET_END, _BRACKET_END_WITHOUT_MARK) if in_brackets else (_LINE_END,)
    match = next((found for end in ends if (found := end.match(text))), None)
    question, rest = (match["text"].strip(), match["rest"]) if match else (text, "")
    if len(question) > 1 and question[0] == question[-1] and question[0] in "\"'":
        question = question[1:-1]
    return question, rest
