"""Ask a question of single cells, get a prediction grounded in known biology."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_VERBS = {  # name: module; imported when first used, so that importing haystack_kernel costs nothing
    "open_run": "run",
    "attach": "run",
    "resume": "run",
    "last": "run",
    "list_runs": "run",
    "Run": "run",
    "read_parameters": "jupyter.parameters",
    "submit": "manage",
    "fork": "manage",
    "compare": "manage",
    "load_settings": "config.settings",
    "check_query_h5ad": "retrieval",
}
_MODULES = (
    "planners",
    "atlas",
    "retrieval",
    "jobs",
    "grounding",
    "pl",
    "report",
    "flow",
    "knowledge",
    "store",
    "manage",
    "widgets",
)
__all__ = [*_VERBS, *_MODULES]  # noqa: PLE0604 - all are strings


def __getattr__(name: str) -> Any:  # noqa: ANN401 - functions, classes and modules
    if name in _VERBS:
        return getattr(import_module(f"{__name__}.{_VERBS[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    msg = f"haystack_kernel has no {name!r}; it has {', '.join(__all__)}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def load_ipython_extension(shell: Any) -> None:  # noqa: ANN401 - IPython's shell is untyped
    """``%load_ext haystack_kernel`` adds the magic ``%ask``."""
    import_module(f"{__name__}.jupyter.magic").load(shell)


def unload_ipython_extension(shell: Any) -> None:  # noqa: ANN401 - IPython's shell is untyped
    """``%unload_ext haystack_kernel`` takes it out."""
    import_module(f"{__name__}.jupyter.magic").unload(shell)
