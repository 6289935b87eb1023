"""How commands are added to the application: what all of them accept, their groups in the help, how they are stopped.

In: functions whose parameters are options. Out: commands of a Typer application.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from haystack_kernel.cli import output
from haystack_kernel.schema import RunConfig

if TYPE_CHECKING:
    from collections.abc import Callable

ASK, MANY, RESULTS = "Ask and follow", "Many questions", "Runs and results"
DATA, SYSTEM = "Data and models", "Installation"
INTERRUPTED = 130  # exit code: 128 + SIGINT, as a shell reports it
_DASHED = re.compile(r"-+\s")  # a word that begins like a list item is text: no option has a space in its name
_Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON, as in a pipe, also on a terminal.")]
_Table = Annotated[bool, typer.Option("--table", hidden=True)]  # the readable form, also in a pipe


class Command(TyperCommand):
    """A command that takes text with a leading dash, and that names the whole range of a number that is refused."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - click, which typer hides
        """Put text that begins as an item of a list behind ``--``, where nothing is taken for an option."""
        end = args.index("--") if "--" in args else len(args)
        for place, word in enumerate(args[:end]):
            is_value = place > 0 and args[place - 1].startswith("-")
            if _DASHED.match(word) and not is_value:
                rest = args[:place] + args[place + 1 :]
                args = [*rest, word] if "--" in rest else [*rest, "--", word]
                break
        try:
            parsed: list[str] = super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.replace("Value error, ", "")  # pydantic's word, which typer passes on
            low, high = getattr(error.param, "min", None), getattr(error.param, "max", None)
            if low is not None:
                limits = f"between {low} and {high}" if high is not None else f"at least {low}"
                error.message = f"{error.message} (it must be a number, {limits})"
            raise
        return parsed


class Group(TyperGroup):
    """A group of commands whose help lists them under headings, in the order in which they were added."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - click, which typer hides
        """Write one section per heading."""
        found = [(name, self.get_command(ctx, name)) for name in self.commands]
        shown = [(name, command) for name, command in found if command is not None and not command.hidden]
        margin = max(len(name) for name, _ in shown)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in shown:
            heading = getattr(command, "rich_help_panel", None)
            heading = heading if isinstance(heading, str) else "Commands"
            line = command.get_short_help_str(formatter.width - 6 - margin)
            sections.setdefault(heading, []).append((name.ljust(margin), line))
        for heading in sorted(sections, key=_place_of):
            with formatter.section(heading):
                formatter.write_dl(sections[heading])


def new_group(help_: str, **options: Any) -> typer.Typer:  # noqa: ANN401 - Typer's own
    """An application, or a group of commands within one."""
    return typer.Typer(help=help_, cls=Group, no_args_is_help=True, rich_markup_mode=None, **options)


def add(
    app: typer.Typer, function: Callable[..., None], *, name: str | None = None, group: str | None = None
) -> Callable[..., None]:
    """Add ``function`` as a command that also takes ``--json``, and that ends with one line when it is interrupted."""
    signature = inspect.signature(function, eval_str=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    own = [parameter.replace(kind=kind) for parameter in signature.parameters.values()]
    shared = [
        inspect.Parameter("json", kind, annotation=_Json, default=False),
        inspect.Parameter("table", kind, annotation=_Table, default=False),
    ]

    @functools.wraps(function)
    def command(*, json: bool = False, table: bool = False, **given: Any) -> None:  # noqa: ANN401 - the options
        output.choose_form(json=json, table=table)
        try:
            function(**given)
        except KeyboardInterrupt:
            sys.stderr.write("stopped; nothing more is done\n")
            raise typer.Exit(INTERRUPTED) from None

    setattr(command, "__signature__", signature.replace(parameters=[*own, *shared]))  # noqa: B010 - read by typer
    app.command(name=name or function.__name__.rstrip("_"), cls=Command, rich_help_panel=group)(command)
    return function


def limits(option: str) -> dict[str, Any]:
    """The range of a numeric option of a run, as Typer takes it; it is written once, in the schema."""
    found: dict[str, Any] = {}
    for rule in RunConfig.model_fields[option].metadata:
        found |= {"min": rule.ge} if hasattr(rule, "ge") else {}
        found |= {"max": rule.le} if hasattr(rule, "le") else {}
    return found


def _place_of(heading: str) -> int:
    order = (ASK, MANY, RESULTS, DATA, SYSTEM)
    return order.index(heading) if heading in order else len(order)
