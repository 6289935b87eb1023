"""Back-tests: measured responses are hidden, predicted by every engine, and compared with what was measured.

Read ``work`` (the whole of it), ``pairs`` (which ones), ``split`` and ``wall`` (what is hidden, and how), ``prepare``
(cells by role), ``metrics`` and ``anchored`` (how near), ``judge`` (one pair), ``calibrate`` (what it says of later
runs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haystack_kernel.backtest.work import Backtest, run_backtest

__all__ = ["Backtest", "run_backtest"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a class and a function
    if name in __all__:
        from haystack_kernel.backtest import work

        return getattr(work, name)
    msg = f"haystack_kernel.backtest has no {name!r}; it offers {', '.join(__all__)}"
    raise AttributeError(msg)
