"""The tables of a run inside its report, as links that save them; they are also what the report can be checked with.

In: the bytes of the files. Out: links, and the bytes back from a page.
"""

from __future__ import annotations

import base64
import gzip
import re
from typing import TYPE_CHECKING

from haystack_kernel.errors import ContractError
from haystack_kernel.report.html import Html, escape, paragraph
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from collections.abc import Mapping

TELLS = {
    layout.DE: "differential expression, one row per gene",
    layout.PATHWAYS: "pathway statistics",
    layout.CANDIDATES: "ranked prompt candidates",
    layout.PROMPTS: "the cells used, with their ids",
    layout.EMBEDDING: "places on the map of the cells",
    layout.CITATIONS: "papers with the sentences quoted",
    layout.READINGS: "what a language model read in the papers",
    layout.TRANSCRIPT: "requests to the language model with its answers, for planner replay",
}
MAX_BYTES = 1_500_000  # of all links together, so that the report stays below 5 MB
_PLAIN = 60_000  # bytes; larger files are compressed, which R and pandas read as they are
_LINK = re.compile(r'download="([a-z.]+?)(\.gz)?" href="data:[a-z/]+;base64,([A-Za-z0-9+/=]*)"')


def file_links(files: Mapping[str, bytes]) -> Html:
    """Return the files as links that hold them, smallest first within the budget; the rest is named."""
    shown, left_out, used = {}, [], 0
    for name, data in sorted(files.items(), key=lambda item: len(item[1])):
        packed = gzip.compress(data, mtime=0) if len(data) > _PLAIN else data
        text = base64.b64encode(packed).decode()
        if used + len(text) > MAX_BYTES:
            left_out.append(name)
            continue
        used += len(text)
        kind = "application/gzip" if packed is not data else "application/json" if name.endswith("json") else "text/csv"
        saved = f"{name}.gz" if packed is not data else name
        link = f'<a download="{escape(saved)}" href="data:{kind};base64,{text}">{escape(saved)}</a>'
        shown[name] = f"<li>{link} ({max(len(packed) // 1000, 1):,} kB): {escape(TELLS.get(name, ''))}</li>"
    listed = "".join(shown[name] for name in TELLS if name in shown)
    rest = paragraph(f"Too large for this page: {', '.join(left_out)}; see the run folder.") if left_out else ""
    note = paragraph("Each is the file of the run folder, byte for byte; .gz files are compressed.", kind="small")
    return Html(f"<ul>{listed}</ul>{rest}{note}" if shown or left_out else paragraph("There are no tables yet."))


def files_of(page: str) -> dict[str, bytes]:
    """Read the files back that the links of a page hold.

    Raises
    ------
    ContractError
        A link was damaged.
    """
    found = {}
    for name, packed, text in _LINK.findall(page):
        try:
            data = base64.b64decode(text, validate=True)
            found[name] = gzip.decompress(data) if packed else data
        except (ValueError, OSError, EOFError) as error:
            msg = f"the file {name} inside the report is damaged ({error}); render it again with `haystack report`"
            raise ContractError(msg, path=name) from error
    return found
