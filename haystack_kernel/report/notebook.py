"""An executed notebook as an HTML fragment: code folded, outputs sanitised, nothing loaded from elsewhere.

In: a NotebookNode. Out: HTML of its cells, without page, scripts or styles.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

TEMPLATE = Path(__file__).parent / "template" / "notebook.html.j2"


def notebook_fragment(notebook: NotebookNode) -> str:
    """Render the cells of ``notebook``; widget state is dropped, scripts and handlers in outputs are removed."""
    from nbconvert.exporters import HTMLExporter

    copy = deepcopy(notebook)
    copy.metadata.pop("widgets", None)
    exporter = HTMLExporter(
        template_file=str(TEMPLATE), extra_template_basedirs=[str(TEMPLATE.parent)], sanitize_html=True
    )
    body: str = exporter.from_notebook_node(copy)[0]
    return body
