"""``jupyter nbconvert --to haystack-report run.ipynb``: the report from the executed notebook.

In: a notebook, and the run folder it lies in if it does. Out: the offline page. nbconvert loads this module to list its
exporters, so everything heavy is imported when a notebook is rendered.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbconvert.exporters import Exporter

from haystack_kernel.errors import HaystackError
from haystack_kernel.schema import is_run_id
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from nbformat import NotebookNode


class HaystackReportExporter(Exporter):
    """One HTML file: the run's report with the notebook folded, or the notebook alone when no record lies beside it."""

    export_from_notebook = "HAYSTACK report"
    output_mimetype = "text/html"

    def _file_extension_default(self) -> str:
        return ".html"

    def from_notebook_node(
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **kwargs: object
    ) -> tuple[str, dict[str, Any]]:
        """Render ``nb``; see :class:`nbconvert.exporters.Exporter`."""
        nb, resources = super().from_notebook_node(nb, resources, **kwargs)
        metadata = resources.get("metadata", {})
        folder = Path(metadata.get("path") or ".").resolve()  # it may be "..", or a link to the run folder
        from haystack_kernel.knowledge import load_knowledge
        from haystack_kernel.report import render_notebook, render_report
        from haystack_kernel.rounds.publishing import report_bundle
        from haystack_kernel.store import RunStore

        # by its first record: run.json is a copy, which a process that was killed may not have written
        is_named = folder.parent.name == layout.RUNS and is_run_id(folder.name)
        if is_named and (folder / layout.record_file(1)).exists():
            store = RunStore(str(folder.parents[1]))
            try:
                record, knowledge = store.load(folder.name), load_knowledge()
                return render_report(report_bundle(record, store, knowledge=knowledge, notebook=nb)), resources
            except HaystackError as error:  # the record, or a table, cannot be read
                self.log.warning("the notebook is rendered without its run: %s", error)
        else:
            self.log.warning("the notebook is rendered without its run: %s is no run folder", folder)
        return render_notebook(nb, title=metadata.get("name") or "notebook"), resources
