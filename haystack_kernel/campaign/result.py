"""What a screen found: one row a question, and the matrix of expected effects.

In: the plan and what was prepared and scored so far. Out: a table, an AnnData.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.campaign.judge import ARRAYS
from haystack_kernel.campaign.prepare import read_prepared
from haystack_kernel.store import layout

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.campaign.prepare import Prepared
    from haystack_kernel.schema import ScreenPlan, ScreenQuestion

PREDICTED, REFUSED, FAILED, WAITING = "predicted", "refused", "failed", "waiting"
TEXTS = (
    "perturbation",
    "cell_type",
    "cell_type_id",
    "donor",
    "question",
    "status",
    "reason",
    "evidence",
    "engine",
    "top_up",
    "top_down",
)
COUNTS = ("n_prompt", "n_control", "n_query", "n_donors", "n_tested", "n_up", "n_down", "n_called")
NUMBERS = (
    "size",
    "size_sd",
    "p_response",
    "p_signal",
    "p_donors",
    "p_specificity",
    "composite",
    "expected_r",
    "expected_low",
    "expected_high",
)
COLUMNS = (
    "number",
    *TEXTS[:8],
    "measured",
    "engine",
    *COUNTS,
    *NUMBERS,
    "calibrated",
    "top_up",
    "top_down",
)
LAYERS = ARRAYS[1:]

Judged = tuple[dict[str, Any], dict[str, "NDArray[np.float64]"]]


def read_judged(plan: ScreenPlan, *, folder: CampaignFolder) -> tuple[dict[int, Prepared], dict[int, Judged]]:
    """What was prepared and what was scored so far, by number of the question."""
    prepared, judged = {}, {}
    for number in range(1, len(plan.questions) + 1):
        if plan.questions[number - 1].refusal:
            continue
        if (facts := read_prepared(number, folder=folder)) is not None:
            prepared[number] = facts
            if (found := folder.read_arrays(f"{layout.question_folder(number)}/{layout.JUDGED}")) is not None:
                judged[number] = found
    return prepared, judged


def tabulate(plan: ScreenPlan, prepared: dict[int, Prepared], judged: dict[int, Judged]) -> pd.DataFrame:
    """One row a question, none dropped; what is not known is NaN, with a reason.

    Parameters
    ----------
    plan, prepared, judged
        The screen so far.

    Returns
    -------
    Columns ``COLUMNS``. ``status``: ``predicted``, ``refused``, ``failed``, or ``waiting`` while the screen works.
    """
    rows = [
        _row_of(number, one, prepared.get(number, {}), judged.get(number, ({}, {}))[0])
        for number, one in enumerate(plan.questions, 1)
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for name in TEXTS:
        table[name] = table[name].fillna("").astype(str)
    for name in (*COUNTS, *NUMBERS):
        table[name] = table[name].astype(float)
    return table


def _row_of(number: int, one: ScreenQuestion, facts: Prepared, found: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "number": number,
        "perturbation": one.perturbation,
        "cell_type": one.cell_type,
        "cell_type_id": one.cell_type_id,
        "donor": one.donor,
        "question": one.question,
        "evidence": one.evidence or "",
        "measured": one.measured,
        "engine": one.engine or "",
        "calibrated": False,
    }
    row |= {name: facts[name] for name in (*COUNTS[:4], "evidence") if name in facts}
    if one.refusal or "error" in facts:
        return row | {"status": REFUSED, "reason": one.refusal or facts["error"]}
    if "failure" in found:
        return row | {"status": FAILED, "reason": found["failure"]}
    if not found:
        return row | {"status": WAITING, "reason": "it is not predicted yet"}
    row |= {name: found.get(name) for name in (*COUNTS[4:], *NUMBERS, "calibrated", "reason")}
    return row | {"status": PREDICTED, **{name: ";".join(found[name]) for name in ("top_up", "top_down")}}


def effects_of(plan: ScreenPlan, table: pd.DataFrame, judged: dict[int, Judged], *, name: str) -> ad.AnnData:
    """The predicted questions by genes: expected true effects with their errors.

    Parameters
    ----------
    plan, table, judged
        The screen so far.
    name
        Id of the screen.

    Returns
    -------
    obs: the rows of ``table`` that are predicted, named ``0001`` and so on. var: every gene of any prediction. X:
    expected true effect, natural log1p(CP10k), NaN where it cannot be told or the prediction has no such gene. Layers:
    its standard deviation, P(DE), local false sign rate, log2 fold change. uns: the screen, its engines and the terms
    of the weights.
    """
    import anndata as ad

    numbers = [int(one) for one in table.loc[table["status"] == PREDICTED, "number"]]
    genes, filled = _matrices([judged[number] for number in numbers])
    obs = table[table["status"] == PREDICTED].copy()
    obs.index = pd.Index([f"{number:04d}" for number in numbers])
    cards = [judged[number][0].get("model") for number in numbers]
    terms = list({str(card): card for card in cards if card}.values())
    adata = ad.AnnData(filled[keys.EFFECT], obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=str)))
    for one in LAYERS:
        adata.layers[one] = filled[one]
    adata.uns[keys.UNS] = {
        "screen": name,
        "engines": list(plan.engines),
        "licence": [str(one.get("licence", "")) for one in terms],
        "citation": [str(one.get("citation", "")) for one in terms],
    }
    return adata


def _matrices(some: list[Judged]) -> tuple[list[str], dict[str, NDArray[np.float32]]]:
    """Every gene of the questions, and one matrix of questions by genes for each kind of value."""
    genes = list(dict.fromkeys(itertools.chain.from_iterable(facts["genes"] for facts, _ in some)))
    at = pd.Index(genes)
    filled = {one: np.full((len(some), len(genes)), np.nan, dtype=np.float32) for one in ARRAYS}
    for place, (facts, arrays) in enumerate(some):
        where = at.get_indexer(facts["genes"])
        for one, values in arrays.items():
            filled[one][place, where] = values
    return genes, filled
