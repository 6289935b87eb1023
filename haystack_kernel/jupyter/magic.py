"""``%ask How would lung fibroblasts respond to TGF-beta?`` in any notebook.

In: a line or a cell. Out: a :class:`haystack_kernel.run.Run`, worked to its end in this kernel.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haystack_kernel.run import Run

# IPython takes a line that ends in "?" for a request for help; "%ask?" alone still is one.
_ASK = re.compile(r"^(?P<indent>\s*)(?P<target>[A-Za-z_]\w*\s*=\s*)?%ask\s+(?P<text>[^\s?].*\?)\s*$")


def ask(line: str, cell: str | None = None) -> Run:
    """Ask HAYSTACK a question.

    Usage, after ``%load_ext haystack_kernel`` in an earlier cell: ``%ask How would lung fibroblasts respond to
    TGF-beta?`` or ``%%ask`` with the question in the cell's body;
    ``run = %ask …`` keeps the run. Settings come from haystack.toml and HAYSTACK_* variables.
    """
    from haystack_kernel.run import open_run

    return open_run(" ".join(f"{line} {cell or ''}".split())).work()


def protect_question_mark(lines: list[str]) -> list[str]:
    """Rewrite ``%ask text?`` so that IPython does not take the question mark for its help.

    All other lines, and the bodies of cell magics, are returned as they are.
    """
    first = next((line for line in lines if line.strip()), "")
    return lines if first.lstrip().startswith("%%") else [_rewrite(line) for line in lines]


def load(shell: Any) -> None:  # noqa: ANN401 - IPython's shell is untyped
    """Register the magic; called by ``%load_ext haystack_kernel``."""
    from IPython.core.magic import no_var_expand

    shell.register_magic_function(no_var_expand(ask), magic_kind="line_cell", magic_name="ask")  # {x} stays text
    if protect_question_mark not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(protect_question_mark)


def unload(shell: Any) -> None:  # noqa: ANN401 - IPython's shell is untyped
    """Take the magic out again."""
    if protect_question_mark in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(protect_question_mark)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("ask", None)


def _rewrite(line: str) -> str:
    match = _ASK.match(line)
    if match is None:
        return line
    end = "\n" if line.endswith("\n") else ""
    return f"{match['indent']}{match['target'] or ''}get_ipython().run_line_magic('ask', {match['text']!r}){end}"
