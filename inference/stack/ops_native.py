"""The interchangeable parts of the model in compiled code for the processor, where it was built.

In: tokens and weights in float32 on the processor. Out: tensors there; None where the extension is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference.stack.ops import Ops


def load_native() -> Ops | None:
    """Return the compiled backend, or None where the extension was not built."""
    return None
