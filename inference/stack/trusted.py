"""Reads a pickle with the code it contains; only for files that the user declared as trusted.

In: a torch file, through ``torch.load``. Out: its object, with stand-ins for classes that are not installed.
"""

from __future__ import annotations

import pickle
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class StandIn(dict[str, Any]):
    """Accepts everything that a pickle does to an object whose class is not installed, and ignores it."""

    def __init__(self, *_args: object, **_named: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.update(state)

    def __hash__(self) -> int:  # type: ignore[override]  # it may be the key of a mapping
        return id(self)

    def append(self, _item: object) -> None:
        """Ignore an item of a list."""

    def extend(self, _items: object) -> None:
        """Ignore items of a list."""


class Lenient:
    """A pickle module for ``torch.load``, with the names of what it could not build."""

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
    """Return a mapping, or the attributes of an object as one; None for other values. Numpy scalars become numbers."""
    if isinstance(value, dict):
        items = value
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        items = vars(value)
    else:
        return None
    plain = dict(items)
    for key, item in items.items():
        if type(item).__module__ == "numpy" and getattr(item, "shape", None) == ():
            plain[key] = item.item()
    return plain
