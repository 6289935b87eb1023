"""An executed notebook as an HTML fragment: code folded, outputs sanitised, nothing loaded from elsewhere.

In: a NotebookNode. Out: HTML of its cells, without page, scripts or styles. Only the kinds of output named here are
shown, each in its safest form; widgets and scripts of outputs are omitted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from haystack_kernel.report.html import escape
from haystack_kernel.report.sanitise import sanitise

if TYPE_CHECKING:
    from nbformat import NotebookNode

MAX_TEXT = 20_000  # letters of one text output
MAX_BYTES = 3_000_000  # of all outputs together, so that the report stays below 5 MB
_SHIFT = 2  # the notebook stands under a heading of level 2
_PICTURES = ("image/png", "image/jpeg", "image/gif")
_FOLLOWS_THEME = '<div class="haystack-figure">'  # a figure of ours, see pl/figure.py
_SCROLL = '<div class="scroll" role="group" tabindex="0" aria-label="Figure">'
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TAGS = {"parameters": "default parameters", "injected-parameters": "parameters of this run"}
_LEFT_OUT = (
    '<p class="small">An output of {kib:,.0f} KiB was omitted to keep this page small; it is in the notebook.</p>'
)


def notebook_fragment(notebook: NotebookNode) -> str:
    """Render the cells of ``notebook`` as HTML.

    Parameters
    ----------
    notebook
        Any notebook of format 4; it is not changed.
    """
    view, cells = _View(), []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cells.append(view.markdown(cell.source))
        elif cell.cell_type == "code" and (cell.source.strip() or cell.outputs):
            cells.append(view.code(cell))
    return "\n".join(cells)


class _View:
    """Goes through the cells in order; remembers the last heading and the number of bytes shown."""

    def __init__(self) -> None:
        self._heading = ""
        self._n_bytes = 0

    def markdown(self, source: str) -> str:
        from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

        headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", source, flags=re.MULTILINE)
        self._heading = headings[-1] if headings else self._heading
        rendered = MarkdownWithMath(renderer=IPythonRenderer(escape=False, exclude_anchor_links=True)).render(source)
        return f'<div class="markdown">{sanitise(rendered, heading_shift=_SHIFT, alt="Picture of the notebook")}</div>'

    def code(self, cell: NotebookNode) -> str:
        tags = [text for tag, text in _TAGS.items() if tag in cell.metadata.get("tags", [])]
        lines = [line.strip() for line in cell.source.splitlines() if line.strip()] or [""]
        first = lines[0] if len(lines) == 1 else f"{lines[0]} …"
        summary = f"code: {tags[0] if tags else first}"
        shown = f"<details><summary>{escape(summary)}</summary><pre>{escape(cell.source)}</pre></details>"
        outputs = ""
        for item in cell.outputs:
            output = self._output(item)
            n_bytes = len(output.encode())
            # An output beyond the budget is omitted without using it up: smaller ones that follow are still shown.
            if self._n_bytes + n_bytes > MAX_BYTES:
                output = _LEFT_OUT.format(kib=n_bytes / 1024)
            else:
                self._n_bytes += n_bytes
            outputs += output
        return f'<div class="cell">{shown}{outputs}</div>'

    def _output(self, item: NotebookNode) -> str:
        if item.output_type == "stream":
            return _text(item.text, kind="stream")
        if item.output_type == "error":
            return _text("\n".join(item.traceback) or f"{item.ename}: {item.evalue}", kind="error")
        data, metadata = item.data, item.metadata
        if _FOLLOWS_THEME in (page := _joined(data.get("text/html", ""))):
            return f"<figure>{_SCROLL}{sanitise(page, alt=self._alt())}</div></figure>"
        for kind in _PICTURES:
            if kind in data:
                about = {**metadata, **metadata.get(kind, {})}
                alt = escape(about.get("alt") or self._alt())
                image = f'<img alt="{alt}" src="data:{kind};base64,{escape(_joined(data[kind]))}">'
                return f"<figure>{_SCROLL}{image}</div></figure>"
        if "text/html" in data:
            return f'<div class="output">{sanitise(_joined(data["text/html"]), alt=self._alt())}</div>'
        if "text/markdown" in data:
            return self.markdown(_joined(data["text/markdown"]))
        return _text(_joined(data.get("text/plain", "")), kind="plain")

    def _alt(self) -> str:
        return f"Figure of the notebook, under the heading '{self._heading}'" if self._heading else "Figure"


def _joined(value: Any) -> str:  # noqa: ANN401 - the format allows a text or a list of lines
    return value if isinstance(value, str) else "".join(value)


def _text(value: Any, *, kind: str) -> str:  # noqa: ANN401
    text = _ESCAPES.sub("", _joined(value))
    if not text.strip():
        return ""
    rest = f"\n… {len(text) - MAX_TEXT:,} more characters are in the notebook" if len(text) > MAX_TEXT else ""
    return f'<pre class="{kind}" tabindex="0">{escape(text[:MAX_TEXT] + rest)}</pre>'
