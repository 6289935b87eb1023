"""Has an engine predict small made-up cells: whether it answers what a run would accept.

In: the name of an engine, seconds. Out: one JSON object on stdout: ``ok``, and what was predicted or ``fault``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from scipy import sparse

from inference.additive import Others
from inference.baselines import Cells
from inference.engines import require_installed
from inference.errors import EngineError
from inference.foreign import predict

N_GENES, N_CELLS, TYPES, N_TREATMENTS = 200, 25, ("B cell", "NK cell"), 6
ASKED = "monocyte"


def check(name: str, *, limit_s: float) -> dict[str, Any]:
    """Predict with an installed engine, with and without control cells.

    Parameters
    ----------
    name
        Of the engine.
    limit_s
        Seconds that it has for each prediction.

    Returns
    -------
    ``ok``; then ``package``, ``licence``, ``citation``, ``genes_changed`` and ``notes``, or ``fault``.
    """
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.6, 4.0, N_GENES) + 0.05
    treated = rates * np.where(np.arange(N_GENES) < 20, 4.0, 1.0)
    prompt, control, query = (
        _draw(means, types, rng) for means, types in ((treated, TYPES), (rates, TYPES), (rates, (ASKED,)))
    )
    try:
        engine = require_installed(name)
        made = predict(
            engine, prompt=prompt, control=control, query=query, others=_others(rates, rng), seed=0, limit_s=limit_s
        )
        predict(engine, prompt=prompt, control=None, query=query, seed=0, limit_s=limit_s)
    except EngineError as error:
        return {"ok": False, "fault": str(error)}
    card = made.record["model"]
    changed = np.asarray((made.counts != query.counts.astype(np.float32)).sum(axis=0)).ravel() > 0
    return {
        "ok": True,
        "engine": name,
        "package": card["name"],
        "licence": card["licence"],
        "citation": card["citation"],
        "genes_changed": f"{int(changed.sum())} of {N_GENES}",
        "notes": list(made.notes),
    }


def _draw(rates: np.ndarray[Any, Any], types: tuple[str, ...], rng: np.random.Generator) -> Cells:
    n = N_CELLS * len(types)
    counts = sparse.csr_matrix(rng.poisson(rates * rng.uniform(0.5, 1.5, (n, 1))))
    donors = np.array([f"donor {number % 3}" for number in range(n)])
    return Cells(counts, tuple(f"GENE{number}" for number in range(N_GENES)), np.repeat(types, N_CELLS), donors)


def _others(rates: np.ndarray[Any, Any], rng: np.random.Generator) -> Others:
    """Cells of six other treatments in every type, with control cells."""
    parts, treatments = [], []
    for number in range(N_TREATMENTS + 1):
        place = 30 * number
        factor = np.where((np.arange(N_GENES) >= place) & (np.arange(N_GENES) < place + 10), 3.0, 1.0)
        parts.append(_draw(rates * factor if number else rates, (*TYPES, ASKED), rng))
        treatments += [f"treatment {number}" if number else ""] * parts[-1].counts.shape[0]
    cells = Cells(
        sparse.vstack([one.counts for one in parts], format="csr"),
        parts[0].genes,
        np.concatenate([one.cell_type for one in parts]),
        np.concatenate([one.donor for one in parts]),
    )
    names = np.array(treatments)
    return Others(cells, names, names == "")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(check(sys.argv[1], limit_s=float(sys.argv[2]))) + "\n")
