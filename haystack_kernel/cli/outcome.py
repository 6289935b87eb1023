"""The command outcome: sealed predictions held against what was measured afterwards.

In: arguments. Out: a readable answer or one JSON line; see the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.output import format_fields, format_rows, show, wrap
from haystack_kernel.cli.runs import Storage
from haystack_kernel.cli.seal import SealArgument

if TYPE_CHECKING:
    from haystack_kernel.campaign.outcome import Recorded
    from haystack_kernel.schema import Outcome

_N_SHOWN = 30
_LEGEND = (
    "r: correlation with the measured response; clean r: without its noise; top 50: overlap of the genes that change "
    "most; direction: of clearly changed genes; in 80 %: share of genes inside their own interval."
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    commands.add(app, outcome, group=commands.MANY)


def outcome(
    seal: SealArgument,
    measured: Annotated[
        str | None,
        typer.Argument(
            metavar="MEASURED",
            help="Treated and untreated cells (h5ad, raw counts), or a table of effects (CSV, TSV) with genes and "
            "log2fc or delta. Without it the outcomes so far are listed.",
            show_default=False,
        ),
    ] = None,
    number: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Question of the screen (default: all that were measured).")
    ] = None,
    storage: Storage = None,
    atlas_root: Annotated[
        str | None,
        typer.Option("--atlas-root", metavar="FOLDER", help="Folder of the atlases (default: as configured)."),
    ] = None,
) -> None:
    """Score a sealed prediction against what was measured later.

    The outcome counts in the calibration that later reports quote, apart from back-tests. A prediction that was changed
    since its seal is refused.
    """
    from haystack_kernel.campaign import list_outcomes, record_outcome
    from haystack_kernel.config.settings import load_settings

    settings = load_settings(storage=storage, atlas_root=atlas_root)
    if measured is None:
        found = list_outcomes(seal, settings=settings)
    else:
        found = record_outcome(seal, measured, number=number, settings=settings)
    value = {
        "seal": found.outcomes[0].seal if found.outcomes else seal,
        "outcomes": [one.model_dump(mode="json") for one in found.outcomes],
        "unmatched": list(found.unmatched),
        "notes": list(found.notes),
        "calibrations": [one.model_dump(mode="json", exclude={"pairs"}) for one in found.calibrations],
    }
    show(value, lambda: _readable(found))


def _readable(found: Recorded) -> str:
    if not found.outcomes:
        return "No outcome was recorded of this seal yet."
    if len(found.outcomes) == 1:
        parts = [_one(found.outcomes[0])]
    else:
        rows = [_row(one) for one in found.outcomes[:_N_SHOWN]]
        parts = [format_rows(rows)]
        if (more := len(found.outcomes) - _N_SHOWN) > 0:
            parts.append(f"and {more} more (--json lists all)")
    parts.append(wrap(_LEGEND))
    parts += [wrap(f"not matched: {one}") for one in found.unmatched[:_N_SHOWN]]
    parts += [wrap(one) for one in found.notes]
    for one in found.calibrations:
        told = f"calibration of {one.engine} on atlas {one.atlas}: {one.n_pairs} pairs, {one.n_sealed} of them sealed"
        parts.append(wrap(told))
    return "\n\n".join(parts)


def _row(one: Outcome) -> dict[str, object]:
    return {
        "perturbation": one.prediction.perturbation,
        "cell type": one.prediction.cell_type,
        "r": one.pearson,
        "clean r": one.clean,
        "top 50": one.overlap,
        "direction": one.direction,
        "in 80 %": one.coverage,
        "as sealed": "" if one.inside is None else "inside" if one.inside else "outside",
        "why not": one.reason or one.not_counted,
    }


def _one(one: Outcome) -> str:
    what, tested, own = one.prediction, one.prediction.back_tested, one.prediction.expected
    sealed = ""
    if tested is not None and tested.is_known:
        sealed = f"{tested.r:.2f}, 80 % {tested.low:.2f} to {tested.high:.2f} (back-test): {_held(one.inside)}"
    hoped = ""
    if own is not None and own.value == own.value:
        hoped = f"{own.value:.2f}, 80 % {own.low:.2f} to {own.high:.2f} (own prompt): {_held(one.inside_clean)}"
    fields = [
        ("outcome", one.id),
        ("of", f"{what.perturbation} in {what.cell_type}, by {what.engine}, sealed {one.sealed_at:%Y-%m-%d %H:%M} UTC"),
        (
            "measured",
            one.source + (f": {one.n_treated} treated, {one.n_control} control cells" if one.n_treated else ""),
        ),
        ("genes", f"{one.n_genes:,} compared, {one.n_clear:,} clearly changed, {one.n_called:,} called"),
        ("r", one.pearson),
        ("sealed as", sealed),
        ("clean r", one.clean),
        ("expected", hoped),
        ("top 50", one.overlap),
        ("direction", one.direction),
        ("in 80 %", one.coverage),
        ("called right", one.called_right),
        ("not compared", one.reason),
        ("not counted", "" if one.reason else one.not_counted),
        ("not matched", "\n".join(one.unmatched)),
    ]
    return format_fields(fields)


def _held(inside: bool | None) -> str:
    return "cannot be compared" if inside is None else "inside" if inside else "outside"
