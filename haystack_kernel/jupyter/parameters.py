"""Parameters of the run notebook: which there are, which were given, and what was probably meant.

In: a notebook, or the namespace of the notebook that calls. Out: the parameters, or an error that names the nearest.
"""

from __future__ import annotations

import ast
import difflib
import re
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nbformat import NotebookNode

RUN_PARAMETERS = ("question", "storage", "run_id", "approve", "max_cost", *OPTIONS)
TAG, INJECTED_TAG = "parameters", "injected-parameters"  # papermill's tags of cells
_CONSENT = "approve"
_WITHHELD = f"{_CONSENT} = None  # consent is not stored: it holds for one execution"
_HARMLESS = (f"{_CONSENT} = None", f"{_CONSENT} = False")
_INJECTED = "# Parameters"  # how a cell begins that papermill has put in
_SIMILAR = 0.8  # names of one's own that are less similar to a parameter are nothing to object to


def read_parameters() -> dict[str, Any]:
    """Read the parameters of a run from the notebook that calls.

    Returns
    -------
    The parameters for :func:`haystack_kernel.open_run` that the notebook defines, also those that are None.

    Raises
    ------
    InvalidInputError
        A parameter that papermill passed does not exist, or a variable is a misspelt parameter: the run would ignore
        it and answer something else. The message names the nearest parameter.

    Examples
    --------
    >>> run = haystack.open_run(**read_parameters())  # doctest: +SKIP
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        msg = "read_parameters reads the variables of a notebook; elsewhere pass options to open_run by name"
        raise InvalidInputError(msg)
    variables = shell.user_ns
    for source in variables.get("In", ()):
        if source.startswith(_INJECTED):
            check_parameters(assigned_names(source), RUN_PARAMETERS)
    own = [name for name in variables if not name.startswith("_") and name not in shell.user_ns_hidden]
    check_parameters([name for name in own if _nearest(name, RUN_PARAMETERS)], RUN_PARAMETERS)
    return {name: variables[name] for name in RUN_PARAMETERS if name in variables}


def check_notebook(nb: NotebookNode) -> None:
    """Refuse parameters that papermill was given and that the notebook does not have, before anything runs.

    Raises
    ------
    InvalidInputError
        Names the parameter and the nearest one there is.
    """
    given = nb.metadata.get("papermill", {}).get("parameters", {})
    tagged = [cell.source for cell in nb.cells if TAG in cell.metadata.get("tags", [])]
    if given and tagged:
        check_parameters(given, assigned_names(tagged[0]))


def withhold_consent(nb: NotebookNode) -> dict[int, str]:
    """Remove consent to spend from the parameters of a notebook, so that executing a saved copy again approves nothing.

    Returns
    -------
    The sources of the changed cells as they were, by the place of the cell, for the execution that was approved.
    """
    papermill = nb.metadata.get("papermill", {})
    given = papermill.get("parameters", {})
    if given.get(_CONSENT):
        papermill["parameters"] = {**given, _CONSENT: None}  # a copy, because the caller may use its own again
    sources = {}
    for place, cell in enumerate(nb.cells):
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and (TAG in tags or INJECTED_TAG in tags):
            without = _without_consent(cell.source)
            if without != cell.source:
                sources[place], cell.source = cell.source, without
    return sources


def _without_consent(source: str) -> str:
    """Rewrite a cell of parameters so that it ends with no consent, whatever assigns it."""
    lines = source.splitlines()
    try:
        body = ast.parse(source).body
        is_overruled = False
    except SyntaxError:  # a magic of IPython, or no Python: which of its lines assigns consent is unknown
        body = []
        is_overruled = re.search(rf"\b{_CONSENT}\b", source) is not None
    for node in body:
        names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        if _CONSENT not in names or ast.unparse(node) in _HARMLESS:
            continue
        # A statement with a line of its own is replaced; one beside others is overruled at the end of the cell.
        line = lines[node.lineno - 1]
        if names == {_CONSENT} and ast.get_source_segment(source, node) == line.split("#")[0].rstrip():
            lines[node.lineno - 1] = _WITHHELD
        else:
            is_overruled = True
    if is_overruled and lines[-1] != _WITHHELD:
        lines.append(_WITHHELD)
    return "\n".join(lines)


def check_parameters(given: Iterable[str], possible: Iterable[str]) -> None:
    """Refuse names that are not in ``possible``; nothing is refused where ``possible`` is empty.

    Raises
    ------
    InvalidInputError
        Names them, the nearest that exist, and all that exist.
    """
    possible = list(possible)
    unknown = [name for name in given if possible and name not in possible]
    if not unknown:
        return
    lines = []
    for name in unknown:
        near = _nearest(name, possible, similarity=0.6)
        lines.append(f"{name!r} is not a parameter of this notebook{f'; did you mean {near!r}?' if near else ''}")
    msg = f"{'; '.join(lines)} (possible: {', '.join(possible)})"
    raise InvalidInputError(msg, given=unknown, possible=possible)


def assigned_names(source: str) -> list[str]:
    """Names that a cell assigns to; empty where it is not Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    targets: list[ast.expr] = []
    for node in tree.body:
        targets += node.targets if isinstance(node, ast.Assign) else []
        targets += [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _nearest(name: str, possible: Iterable[str], *, similarity: float = _SIMILAR) -> str:
    """The parameter that ``name`` is probably meant to be; empty where it is one, or is like none."""
    near = difflib.get_close_matches(name, [other for other in possible if other != name], n=1, cutoff=similarity)
    return near[0] if near and name not in possible else ""
