"""Reads a pickle as its author meant it, code included; only for files the reader has been told to trust.

In: a torch file, through ``torch.load``. Out: its object; classes of packages that are not installed are stood in for.
"""

from __future__ import annotations

import pickle
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class StandIn(dict[str, Any]):
    """Takes whatever a pickle does to an object whose class is not installed, and does nothing with it."""

    def __init__(self, *_args: object, **_named: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.update(state)

    def __hash__(self) -> int:  # type: ignore[override]  # it may have been the key of a mapping
        return id(self)

    def append(self, _item: object) -> None:
        """Take an item of what was a list."""

    def extend(self, _items: object) -> None:
        """Take items of what was a list."""


class Lenient:
    """A pickle module for ``torch.load``, and what it could not build."""

    def __init__(self) -> None:
        absent = self.absent = set[str]()

        class Unpickler(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - what pickle asks for
                try:
                    return super().find_class(module, name)
                except (ImportError, AttributeError):
                    absent.add(f"{module}.{name}")
                    return StandIn

        def load(file: Any, **options: Any) -> Any:  # noqa: ANN401 - as pickle.load
            return Unpickler(file, **options).load()

        self.module = ModuleType("lenient_pickle")
        self.module.__dict__.update(Unpickler=Unpickler, load=load)


def as_mapping(value: object) -> Mapping[str, Any] | None:
    """Return a mapping as it is, an object's attributes as one, None of anything else; sizes become plain numbers."""
    if isinstance(value, dict):
        items = value
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        items = vars(value)
    else:
        return None
    return {key: item.item() if _is_numpy_scalar(item) else item for key, item in items.items()}


def _is_numpy_scalar(item: object) -> bool:
    return type(item).__module__ == "numpy" and getattr(item, "shape", None) == ()
