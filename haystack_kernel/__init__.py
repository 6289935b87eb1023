"""Ask a question of single cells, get a prediction grounded in known biology."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__version__ = "0.1.0"

_VERBS = {  # name: module and name there; imported when first used, so that importing haystack_kernel costs nothing
    "ask": ("asking", "ask"),
    "predict": ("asking", "predict"),
    "score": ("asking", "score"),
    "open_run": ("run", "open_run"),
    "attach": ("widgets.verbs", "attach"),
    "resume": ("run", "resume"),
    "last": ("run", "last"),
    "list_runs": ("run", "list_runs"),
    "submit": ("manage", "submit"),
    "fork": ("manage", "fork"),
    "compare": ("manage", "compare"),
    "check": ("retrieval", "check_cells"),
}
_MODULES = ("atlas", "campaign", "export", "get", "pl", "widgets")
__all__ = [*_VERBS, *_MODULES]  # noqa: PLE0604 - all are strings


def __getattr__(name: str) -> Any:  # noqa: ANN401 - functions and modules
    if name in _VERBS:
        module, verb = _VERBS[name]
        return getattr(import_module(f"{__name__}.{module}"), verb)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    near = get_close_matches(name, __all__, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    msg = f"haystack_kernel has no {name!r}{hint} It offers {', '.join(sorted(__all__))}"
    if find_spec(f"{__name__}.{name}") is not None:
        msg = f"{msg}; the module {__name__}.{name} is imported by its full name"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: Any) -> None:  # noqa: ANN401 - IPython's shell is untyped
    """``%load_ext haystack_kernel`` adds the magic ``%ask``."""
    import_module(f"{__name__}.jupyter.magic").load(shell)


def unload_ipython_extension(shell: Any) -> None:  # noqa: ANN401 - IPython's shell is untyped
    """``%unload_ext haystack_kernel`` takes it out."""
    import_module(f"{__name__}.jupyter.magic").unload(shell)


def _show_as_cards() -> None:
    """Where this is imported in a notebook, its values are shown as cards; elsewhere nothing is loaded for that."""
    find = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = find() if find is not None else None
    if shell is not None:
        import_module(f"{__name__}.report.displays").register(shell.display_formatter.formatters)


_show_as_cards()
