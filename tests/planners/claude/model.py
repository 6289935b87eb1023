"""An honest model for the tiny atlas: it answers from what it is shown, as a careful one would."""

import json

from tests.evals.answers import NOTHING_SAID
from tests.servers import messages

READING = {
    **NOTHING_SAID,
    "task_type": "perturbation_novel_cell_types",
    "cells": {"words": "the cells that make antibodies", "name": "plasma cell"},
    "treatment": {"words": "IFN-beta", "name": "IFN-beta"},
}
B_CELLS = {**READING, "cells": {"words": "B cells", "name": "B cell"}}


def data_in(body):
    """The data of the first user turn."""
    return json.loads(messages.shown_strings(body)[0].split("<data>\n")[1].split("\n</data>")[0])


def reads(body):
    """The reading of "How would B cells respond to IFN-beta?"."""
    return messages.says(B_CELLS)


def chooses(body):
    """Compare two candidates of the treatment asked for, then submit those, or what was not tried yet."""
    data, results = data_in(body), messages.tool_results(body)
    wanted = [row for row in data["candidates"] if row["treatment"] == data["query"]["treatment"]]
    rows = wanted or data["candidates"]
    first = rows[0]
    rows = [row for row in rows if row["dataset"] == first["dataset"]]
    tried = [set(past["keys"]) for past in data["rounds_so_far"]]
    sets = [[row["key"] for row in rows], *([row["key"]] for row in rows)]
    keys = next((keys for keys in sets if set(keys) not in tried), [data["candidates"][-1]["key"]])
    if len(rows) > 1 and "contrast" not in results:
        return messages.uses(("contrast", {"first": rows[0]["key"], "second": rows[1]["key"]}))
    reason = f"The sets {' and '.join(keys)} show the treatment itself; what they share is the best guide."
    return messages.uses(("submit", {"keys": keys, "reason": reason}))


def writes(body):
    """Two paragraphs about the first rising gene, the score and the control, and one experiment."""
    data = data_in(body)
    facts = data["facts"]
    gene = next(key for key, one in facts.items() if one["what"].startswith("log2") and one["value"].startswith("+"))
    score = next((key for key, one in facts.items() if one["about"] == "score"), None)
    name = facts[gene]["about"]
    is_called = facts[gene]["what"].endswith("control")
    state = "among the genes that are called" if is_called else "and is not called"
    paragraphs = [f"{name} rises, {state} ([[{gene}]])."]
    if score:
        paragraphs[0] += f" The score is [[{score}]], which is consistent with known biology."
    for key, said in data["statements_of_papers"].items():
        paragraphs.append(f"A paper that was found names {said['gene']} under the treatment [[{key}]].")
        break
    experiments = [f"Measure {name} in B cells under IFN-beta by flow cytometry."]
    return messages.says({"paragraphs": paragraphs, "next_experiments": experiments})


def honest(body):
    """The step is told from what is asked for."""
    if body.get("tools"):
        return chooses(body)
    fields = (messages.schema_asked(body) or {}).get("properties", {})
    if "statements" in fields:
        return messages.says({"statements": []})
    return writes(body) if "paragraphs" in fields else reads(body)
