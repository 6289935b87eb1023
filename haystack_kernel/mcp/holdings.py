"""What the atlases of an installation hold, for an assistant that looks for measured cells.

In: a cell type, a treatment, an atlas, each optional. Out: rows of atlases or of conditions, without raw labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.atlas import atlas_info, list_atlases, local_root
from haystack_kernel.errors import NotFoundError
from haystack_kernel.knowledge import descendants, load_knowledge, resolve
from haystack_kernel.mcp.shown import without_nothing
from haystack_kernel.schema import DEMO_ATLAS

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.mcp.shown import Labels
    from haystack_kernel.ports import Ports

_ROW = [keys.ATLAS, keys.DATASET, keys.CELL_TYPE_ID, keys.CELL_TYPE, keys.PERTURBATION, keys.IS_CONTROL]


@dataclass(frozen=True)
class Wanted:
    """What is looked for; empty text means any."""

    cell_type: str = ""
    treatment: str = ""
    atlas: str = ""


def find_conditions(wanted: Wanted, *, ports: Ports, labels: Labels, most: int) -> dict[str, Any]:
    """List the atlases, or the conditions that fit: cells of a type and its subtypes under a treatment.

    Raises
    ------
    NotFoundError
        There is no such atlas; the message names those there are.
    """
    root = local_root(ports.settings.atlas_root, cache=ports.settings.cache)
    there = list_atlases(root)
    names = list(dict.fromkeys((*there, DEMO_ATLAS)))
    if wanted.atlas and wanted.atlas not in names:
        msg = f"there is no atlas {wanted.atlas[:80]!r}; possible: {', '.join(names)}"
        raise NotFoundError(msg, given=wanted.atlas[:80], possible=names)
    if not (wanted.cell_type or wanted.treatment or wanted.atlas):
        return {"atlases": [_atlas(name, root) if name in there else {"atlas": name, "made": False} for name in names]}
    searched = [wanted.atlas] if wanted.atlas else list(dict.fromkeys((*there, *ports.settings.atlases)))
    held = ports.open_atlas(searched).conditions()
    chosen, read_as = _fitting(held, wanted, ports=ports, labels=labels)
    rows = _rows(chosen, labels=labels)
    return without_nothing(
        {
            "searched": searched,
            "read_as": read_as,
            "n_conditions": len(rows),
            "n_cells": int(chosen["n_cells"].sum()),
            "conditions": rows[:most],
            "nothing_found": not rows,
        }
    )


def _atlas(name: str, root: str) -> dict[str, Any]:
    found = atlas_info(name, root)
    return {
        "atlas": name,
        "n_cells": found["n_cells"],
        "n_control_cells": found["n_control"],
        "n_datasets": len(found["datasets"]),
        "n_cell_types": len(found["cell_types"]),
        "n_treatments": len(found["perturbations"]),
        "n_donors": len(found["donors"]),
    }


def _fitting(
    held: pd.DataFrame, wanted: Wanted, *, ports: Ports, labels: Labels
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The conditions that fit, and how the words were read; a key that was shown before finds its label again."""
    knowledge = load_knowledge(ports.settings.knowledge)
    read_as = {}
    if wanted.cell_type:
        match = resolve(wanted.cell_type, kind="cell_type", knowledge=knowledge).match
        ids = {match.id, *descendants(match.id, knowledge=knowledge)} if match else set()
        read_as["cell_type"] = f"{match.name} and its subtypes" if match else "a label of an atlas"
        same = {
            name for name in held[keys.CELL_TYPE].unique() if _is_label(name, wanted.cell_type, "cell_type", labels)
        }
        held = held[held[keys.CELL_TYPE_ID].isin(ids - {""}) | held[keys.CELL_TYPE].isin(same)]
    if wanted.treatment:
        match = resolve(wanted.treatment, kind="perturbation", knowledge=knowledge).match
        read_as["treatment"] = match.name if match else "a label of an atlas"
        same = {
            name
            for name in held[keys.PERTURBATION].unique()
            if (match and name == match.name) or _is_label(name, wanted.treatment, "perturbation", labels)
        }
        held = held[held[keys.PERTURBATION].isin(same) & ~held[keys.IS_CONTROL]]
    return held, read_as


def _is_label(name: str, given: str, kind: Any, labels: Labels) -> bool:  # noqa: ANN401 - a LabelKind
    given = given.casefold()
    return bool(name) and given in (name.casefold(), labels.name(name, kind=kind).casefold())


def _rows(held: pd.DataFrame, *, labels: Labels) -> list[dict[str, Any]]:
    if held.empty:
        return []
    grouped = held.groupby(_ROW, sort=False, dropna=False).agg(
        n_cells=("n_cells", "sum"), n_donors=(keys.DONOR, "nunique")
    )
    found = grouped.sort_values("n_cells", ascending=False, kind="stable").reset_index()
    return [
        without_nothing(
            {
                "atlas": row[keys.ATLAS],
                "dataset": labels.name(row[keys.DATASET], kind="dataset"),
                "cell_type": labels.name(row[keys.CELL_TYPE], kind="cell_type"),
                "cell_type_id": row[keys.CELL_TYPE_ID],
                "treatment": "control"
                if row[keys.IS_CONTROL]
                else labels.name(row[keys.PERTURBATION], kind="perturbation"),
                "n_cells": int(row["n_cells"]),
                "n_donors": int(row["n_donors"]),
            }
        )
        for row in found.to_dict(orient="records")
    ]
