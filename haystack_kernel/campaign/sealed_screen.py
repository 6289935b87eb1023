"""The predictions of a screen as tables that can be sealed: effects gene by gene, as the file of a run has them.

In: a finished screen and the files of its questions. Out: its sealed predictions, and each table as it is now.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.atlas import calibrations
from haystack_kernel.campaign.prepare import read_prepared
from haystack_kernel.campaign.result import PREDICTED
from haystack_kernel.errors import HaystackError, InvalidInputError
from haystack_kernel.grounding.confidence.backtested import FEATURES, prompt_features
from haystack_kernel.grounding.de.profiles import mean_profile
from haystack_kernel.grounding.de.table import MEAN_CONTROL, padded_genes
from haystack_kernel.jobs import CONTROL, TREATED
from haystack_kernel.schema import OWN_ATLAS, Candidate, SealedPrediction
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.campaign.screening import Screen
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import SealedTable


def check_finished(found: Screen) -> None:
    """Refuse a screen of which not every question is predicted or refused."""
    if not found.is_finished:
        n_waiting = int((found.table["status"] == "waiting").sum())
        msg = f"{found.id} is not finished ({n_waiting} questions wait); repeat the screen, then seal it"
        raise InvalidInputError(msg, screen=found.id)


def file_digests(folder: CampaignFolder) -> dict[str, str]:
    """Digests of the files that say how the screen was made."""
    held = {path: folder.read(path) for path in (layout.PLAN, layout.RESULTS)}
    return {path: hashlib.sha256(data).hexdigest() for path, data in held.items() if data is not None}


def read_effects(number: int, folder: CampaignFolder, *, max_lfsr: float) -> pd.DataFrame | None:
    """Effects of a question, with the columns of a run's table of differential expression; None where they are gone.

    Parameters
    ----------
    number
        Of the question.
    folder
        Of the screen.
    max_lfsr
        Local false sign rate below which a gene is called.
    """
    place = layout.question_folder(number)
    judged = folder.read_arrays(f"{place}/{layout.JUDGED}")
    treated = folder.read_cells(layout.output_file(place, TREATED))
    prepared, control = read_prepared(number, folder=folder), None
    if prepared is not None and prepared.get("control_strategy") != "query_as_control":
        control = folder.read_cells(layout.output_file(place, CONTROL))
    control = control if control is not None else folder.read_cells(layout.cells_file(place, keys.QUERY))
    if judged is None or treated is None or control is None or "genes" not in judged[0]:
        return None
    facts, arrays = judged
    base = mean_profile(control)
    table = pd.DataFrame({keys.GENE: facts["genes"], **arrays})
    told = pd.DataFrame({keys.DELTA: mean_profile(treated) - base, MEAN_CONTROL: base}, index=treated.var_names)
    table = table.join(told, on=keys.GENE)
    table[keys.IS_TESTED] = table[keys.EFFECT].notna()
    table[keys.PADDED] = pd.Series(padded_genes(treated), index=treated.var_names).reindex(table[keys.GENE]).to_numpy()
    table[keys.IS_DE] = table[keys.IS_TESTED] & (table[keys.LFSR] < max_lfsr)
    return table


def sealed_predictions(
    found: Screen, ports: Ports, *, seal_table: Callable[[pd.DataFrame, str], SealedTable]
) -> tuple[SealedPrediction, ...]:
    """Every prediction of a finished screen."""
    numbers = found.table.loc[found.table["status"] == PREDICTED, "number"]
    return tuple(_prediction(int(number), found, ports, seal_table=seal_table) for number in numbers)


def _prediction(
    number: int, found: Screen, ports: Ports, *, seal_table: Callable[[pd.DataFrame, str], SealedTable]
) -> SealedPrediction:
    folder = found.files
    place = layout.question_folder(number)
    table = read_effects(number, folder, max_lfsr=ports.settings.grounding.max_lfsr)
    prepared = read_prepared(number, folder=folder)
    judged = folder.read_arrays(f"{place}/{layout.JUDGED}")
    if table is None or prepared is None or judged is None:
        msg = f"files of question {number} of {found.id} are gone; repeat the screen, then seal it"
        raise InvalidInputError(msg, screen=found.id, number=number)
    chosen = [
        one for each in prepared["candidates"] if (one := Candidate.model_validate(each)).key in prepared["chosen"]
    ]
    atlas, card = chosen[0].prompt.atlas, judged[0].get("model")
    asked = found.plan.questions[number - 1]
    return SealedPrediction.model_validate(
        {
            "number": number,
            "question": asked.question,
            "cell_type": asked.cell_type,
            "cell_type_id": asked.cell_type_id,
            "perturbation": asked.perturbation,
            "donor": asked.donor,
            "engine": prepared["engine"],
            "model": card["sha256"] if card else "",
            "atlas": atlas,
            "stamp": "" if atlas == OWN_ATLAS else _stamp(atlas, found, ports),
            "evidence": prepared["evidence"],
            "features": _features(place, folder),
            "measured": asked.measured,
            "table": seal_table(table, f"{place}/{layout.JUDGED}"),
        }
    )


def _features(place: str, folder: CampaignFolder) -> dict[str, float]:
    labels = (keys.CELL_TYPE,)
    cells = {role: folder.read_cells(layout.cells_file(place, role), labels) for role in layout.ROLES}
    prompt, query = cells[keys.PROMPT], cells[keys.QUERY]
    if prompt is None or query is None:
        return {}
    return dict(zip(FEATURES, prompt_features(prompt, cells[keys.CONTROL], query), strict=True))


def _stamp(atlas: str, found: Screen, ports: Ports) -> str:
    """Content of the atlas that the screen read; empty where the atlas has changed since, or is gone."""
    settings = ports.settings
    for name in (f"atlas:{atlas}", atlas):
        if digest := found.plan.digests.get(name, ""):
            try:
                return calibrations.stamp_at(atlas, digest, root=settings.atlas_root, cache=settings.cache)
            except HaystackError:
                return ""
    return ""
