"""The notebook of a run that no notebook made: what was asked, so that it can be asked again.

In: a run record. Out: a notebook without outputs, with the question and the options that differ from the defaults.
"""

from __future__ import annotations

import json
from pprint import pformat
from typing import TYPE_CHECKING

from haystack_kernel.schema import RunConfig

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from haystack_kernel.schema import RunRecord


def asked_notebook(record: RunRecord) -> NotebookNode:
    """Return a notebook that asks the question of a run again, as a new run.

    Parameters
    ----------
    record
        The run.

    Returns
    -------
    Cells that open a run with the same question and options, work it and show it; none has an output, because none was
    executed.
    """
    import nbformat

    node = nbformat.v4
    told = (
        f"# {json.dumps(record.question, ensure_ascii=False)}\n\nRun `{record.run_id}` was asked in an interactive "
        f"session on {record.created_at:%Y-%m-%d}, not by this notebook: no cell of it was executed for that run. "
        "Executed, it asks the same question with the same options as a new run."
    )
    given, default = record.config.model_dump(mode="json"), RunConfig().model_dump(mode="json")
    options = {name: value for name, value in given.items() if value != default[name] or name == "atlases"}
    parameters = f"question = {record.question!r}\noptions = {pformat(options, width=100, sort_dicts=False)}"
    work = "import haystack_kernel as haystack\n\nrun = haystack.open_run(question, **options)\nrun.work()"
    cells = [
        node.new_markdown_cell(told),
        node.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        node.new_code_cell(work),
        node.new_code_cell("run.report()"),
    ]
    for place, cell in enumerate(cells):
        cell["id"] = f"{record.run_id[-8:]}-{place}"  # the same run gives the same notebook
    return node.new_notebook(cells=cells, metadata={"kernelspec": _KERNEL})


_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
