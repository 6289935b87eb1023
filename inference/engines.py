"""The one place that knows which engines this program has.

In: an engine's name. Out: the function that predicts with it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from inference.baselines import BASELINES, predict
from inference.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.baselines import Prediction

DEFAULT_ENGINE = "weighted"  # while no model is given
MODEL_ENGINE = "stack"  # what a model address asks for

ENGINES: dict[str, Callable[..., Prediction]] = {name: partial(predict, name) for name in BASELINES}


def find_engine(name: str) -> Callable[..., Prediction]:
    """Return ``predict(*, prompt, control, query, seed)`` of an engine.

    Raises
    ------
    EngineError
        No such engine here.
    """
    if name in ENGINES:
        return ENGINES[name]
    why = "needs the model runtime, which this version does not have" if name == MODEL_ENGINE else "is unknown"
    msg = f"engine {name!r} {why}; possible: {', '.join(ENGINES)} (choose one with --engine or in the manifest)"
    raise EngineError(msg)


def default_engine(model: str | None) -> str:
    """Engine meant by a command line that names none."""
    return MODEL_ENGINE if model else DEFAULT_ENGINE
