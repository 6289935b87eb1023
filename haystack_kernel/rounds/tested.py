"""The best round against the measured responses that the run hid from its search: the test of a prediction.

In: the record with its best round, the ports. Out: one ``Truth`` per hidden response; no score depends on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.errors import HaystackError
from haystack_kernel.rounds.record import query_of
from haystack_kernel.schema import Truth
from haystack_kernel.store import layout, locate, read_csv

if TYPE_CHECKING:
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import HiddenCells, RunRecord

MAX_RESPONSES = 5


def compare_with_hidden(record: RunRecord, ports: Ports) -> tuple[Truth, ...]:
    """Compare the prediction of the best round with each hidden response, the largest first.

    Only responses to the asked treatment, or patients with the asked disease, count; cells that were query cells are
    left out of the control cells.
    """
    from haystack_kernel.grounding.tested import compare_with_truth
    from haystack_kernel.retrieval import fetch_hidden, open_cells

    query, best = query_of(record), record.best
    name = query.perturbation.name if query.perturbation else query.disease_name if query.compared_disease else None
    if name is None or best is None:
        return ()
    # pairs of another treatment were hidden for another reason
    asked = [one for one in record.hidden if one.n_cells and one.pair.endswith(f" : {name}")]
    hidden = sorted(asked, key=lambda one: -one.n_cells)
    if not hidden:
        return ()
    folder, config = layout.round_folder(best.number), locate(record.config, ports, run_id=record.run_id)
    de = read_csv(ports.store, record.run_id, f"{folder}/{layout.DE}")
    cells = read_csv(ports.store, record.run_id, f"{folder}/{layout.PROMPTS}")
    used = set(cells.loc[cells[keys.ROLE] == keys.QUERY, keys.CELL_ID].astype(str))
    found = []
    for one in hidden[:MAX_RESPONSES]:
        try:
            atlas = open_cells(config, ports, query=query, run_id=record.run_id)
            response = fetch_hidden(one, atlas=atlas, config=config, without=used)
        except HaystackError as error:  # the answer is whole without this test
            reason = f"its cells could not be read: {error}"
            found.append(Truth(**_named(one), n_treated=one.n_cells, reason=reason))
            continue
        if response is None:
            reason = (
                f"all its control cells were query cells; --n-query {max(best.n_query // 2, 1)} leaves some of them"
            )
            found.append(Truth(**_named(one), n_treated=one.n_cells, reason=reason))
            continue
        found.append(compare_with_truth(response.treated, response.control, de=de, **_named(one)))
    return tuple(found)


def _named(one: HiddenCells) -> dict[str, Any]:
    """The fields of a test that say what was measured."""
    from haystack_kernel.retrieval import hidden_label

    sides = ("treated", "control") if one.cells is None else ("patients'", "healthy donors'")
    return {"label": hidden_label(one), "pair": one.pair, "sides": sides}
