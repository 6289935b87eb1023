"""The commands seal and seal check: fix a prediction before it is measured, and check that it was not changed.

In: arguments. Out: a readable answer or one JSON line; see the package.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.commands import Group, new_group
from haystack_kernel.cli.output import format_fields, format_rows, show, wrap
from haystack_kernel.cli.runs import Storage

if TYPE_CHECKING:
    from haystack_kernel.schema import Seal

_WRITE = "write"
SealArgument = Annotated[str, typer.Argument(metavar="SEAL", help="Id of a seal, or its file.", show_default=False)]


class _Seals(Group):
    """`haystack seal RUN_ID` is `haystack seal write RUN_ID`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - click, which typer hides
        parsed: list[str] = super().parse_args(ctx, self.named(args))
        return parsed

    def named(self, args: list[str]) -> list[str]:
        """The words with the command in front, where it was left out."""
        return args if not args or args[0] in (*self.commands, "--help") else [_WRITE, *args]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = new_group(
        "Fix a prediction before it is measured.",
        epilog="`haystack seal RUN_OR_SCREEN` is `haystack seal write RUN_OR_SCREEN`.",
    )
    commands.add(group, write, name=_WRITE)
    commands.add(group, check)
    app.add_typer(group, name="seal", cls=_Seals, rich_help_panel=commands.MANY)


def write(
    target: Annotated[
        str, typer.Argument(metavar="RUN_OR_SCREEN", help="Id of a finished run or screen.", show_default=False)
    ],
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Also write the seal to this file, to give it away.")
    ] = None,
    storage: Storage = None,
) -> None:
    """Fix a finished prediction by digests, with the date; `write` may be left out.

    The seal holds no prediction. Whoever has it, or its digest, can tell later that nothing was changed.
    """
    from haystack_kernel.campaign import seal

    made = seal(target, storage=storage)
    if out is not None:
        Path(out).expanduser().write_text(made.model_dump_json(indent=1), encoding="utf-8")
    show(made.model_dump(mode="json"), lambda: _readable(made, out))


def check(seal: SealArgument, storage: Storage = None) -> None:
    """Check that a prediction is still what was sealed, and that the seal itself was not changed."""
    from haystack_kernel.campaign import check_seal

    found = check_seal(seal, storage=storage)
    words = {True: "ok", False: "CHANGED", None: "not checked"}
    rows = [{"check": line.check, "result": words[line.ok], "found": line.found} for line in found.lines]
    value = {"seal": found.seal.id, "of": found.seal.of, "ok": found.ok, "checks": rows}
    show(value, lambda: format_rows(rows))
    if not found.ok:
        raise typer.Exit(1)


def _readable(made: Seal, out: str | None) -> str:
    n = len(made.predictions)
    known = sum(one.measured for one in made.predictions)
    fields = [
        ("seal", made.id),
        ("of", made.of),
        ("sealed at", f"{made.sealed_at:%Y-%m-%d %H:%M} UTC"),
        ("predictions", n),
        ("measured already", f"{known} of {n}: the atlas held the response when it was predicted" if known else ""),
        ("digest", made.digest),
        ("file", out or ""),
    ]
    advice = (
        "The date is that of this machine's clock. It becomes provable when somebody else has the digest or the file: "
        f"send it, or publish it. When the response is measured: haystack outcome {made.id} MEASURED.h5ad"
    )
    return f"{format_fields(fields)}\n\n{wrap(advice)}"
