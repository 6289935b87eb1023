"""The model in a process of its own, which loads torch while this process reads the cells.

In: a job's manifest, then predictions asked for. Out: what the model generates, or the error that it raised.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, BinaryIO, cast

from inference.errors import EngineError
from inference.imports import load_modules, wait_passively
from inference.memory import peak_memory_gib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from inference.baselines import Prediction
    from inference.manifest import Manifest
    from inference.stack.asked import Asked, Generated

_START = "import sys; sys.path[:] = sys.argv[1:]; from inference.apart import serve; serve()"


@dataclass(frozen=True)
class Order:
    """What the model's process must know before its first prediction."""

    manifest: Manifest
    files: dict[str, tuple[Path, str]]  # role -> local file of the model, and its digest
    folder: Path  # local scratch space
    is_told: bool  # whether each step is reported on the standard error stream


@dataclass(frozen=True)
class _Answer:
    """What the model's process sends back."""

    made: Generated | Prediction | Exception
    peak_gib: float  # the most memory that it has used


class Apart:
    """The process; see :func:`start_apart`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._given, self._answers = (cast("BinaryIO", pipe) for pipe in (self._process.stdin, self._process.stdout))
        self._is_told = False
        self.peak_gib = 0.0  # memory of the process when it last answered

    def generate(self, asked: Asked, *, order: Order) -> Generated:
        """Generate with the model of the ``order``, which is that of the first call; raises as :meth:`predict` does."""
        return cast("Generated", self._ask("generate", asked, order))

    def predict(self, asked: Asked, *, order: Order) -> Prediction:
        """Generate as :meth:`generate` does, with the expectations of a prediction.

        Raises
        ------
        InputError, ModelError, EngineError
            As the model raises them; an EngineError also where its process was ended.
        """
        return cast("Prediction", self._ask("predict", asked, order))

    def _ask(self, verb: str, asked: Asked, order: Order) -> Generated | Prediction:
        try:
            for message in ((verb, asked),) if self._is_told else (order, (verb, asked)):
                pickle.dump(message, self._given, protocol=pickle.HIGHEST_PROTOCOL)
            self._given.flush()
            self._is_told = True
            answer: _Answer = pickle.load(self._answers)  # noqa: S301 - from our own process
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            why = f"by signal {-code}, as happens when memory runs out" if code < 0 else f"with exit code {code}"
            msg = f"the model's process ended {why}; give fewer cells, or run on a machine with more memory"
            raise EngineError(msg) from error
        self.peak_gib = answer.peak_gib
        if isinstance(answer.made, Exception):
            raise answer.made
        return answer.made

    def close(self) -> None:
        """Tell the process to end, which it does while this one goes on."""
        with suppress(OSError):
            self._given.close()

    def end(self) -> None:
        """End the process, whatever it does."""
        self.close()
        self._process.kill()
        self._process.wait()
        self._answers.close()


@contextmanager
def start_apart() -> Iterator[Apart | None]:
    """Start a process that loads torch at once, and ends with the block or when this process ends, whatever ends it.

    Yields
    ------
    The process; None where torch is loaded in this one already.
    """
    if "torch" in sys.modules:
        yield None
        return
    apart = Apart()
    try:
        yield apart
    finally:
        apart.end()


def serve() -> None:
    """Be the process of :class:`Apart`."""
    wait_passively()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both, and the other one decides
    messages: SimpleQueue[Order | tuple[str, Asked]] = SimpleQueue()
    threading.Thread(target=_read, args=(os.fdopen(os.dup(0), "rb"), messages), name="read", daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    fault = _load()
    from inference.engines import Engines

    engines = None
    made: Generated | Prediction | Exception
    while True:
        message = messages.get()
        if isinstance(message, Order):
            progress = _say if message.is_told else None
            engines = Engines(message.manifest, folder=message.folder, progress=progress, files=message.files)
            continue
        try:
            if fault is not None or engines is None:
                raise fault or RuntimeError("asked before it was told of a model")
            verb, asked = message
            made = engines.generate(asked) if verb == "generate" else engines.predict([asked])[0]()
        except Exception as error:  # noqa: BLE001 - raised again by the process that asked
            made = _to_send(error)
        pickle.dump(_Answer(made, peak_memory_gib()), answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _load() -> Exception | None:
    """Load what the model needs; returns why that failed."""
    from inference.engines import require_packages

    try:
        require_packages()
        load_modules(["inference.stack.engine"], for_good=True)
    except Exception as error:  # noqa: BLE001 - the reason stands in the first answer
        return error
    return None


def _read(given: BinaryIO, messages: SimpleQueue[Order | tuple[str, Asked]]) -> None:
    """Pass messages on; where they end, nobody waits for this process any more."""
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            messages.put(pickle.load(given))  # noqa: S301 - from the process that started this one
    os._exit(0)


def _to_send(error: Exception) -> Exception:
    """The error itself, with its place in this process; in other words where it cannot be sent."""
    text = "".join(traceback.format_exception(error))
    error.add_note(f"in the model's process:\n{text}")
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - what was just written
    except Exception:  # noqa: BLE001 - whatever keeps an object from being copied
        return RuntimeError(text)
    return error


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
