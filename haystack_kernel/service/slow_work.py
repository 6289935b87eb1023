"""Work that may wait for a slow atlas or a failing bucket: it holds no thread of the pages, and it has a deadline.

In: a function that reads much. Out: its result, or an honest error once somebody has waited long enough.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger("haystack.service")
_N_THREADS = 8
_N_OF_ONE = 3  # of one person, so that nobody's slow file keeps everybody waiting
_LOOK_S = 0.02


class SlowWork:
    """Runs functions in threads of their own.

    Parameters
    ----------
    seconds
        Who asked is answered after so long; what was begun goes on, and holds its place until it ends.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock, self._of = threading.Lock(), Counter[str]()  # what is being done, by person

    async def do(self, who: str, function: Callable[[], Any], *, late: str) -> Any:  # noqa: ANN401 - whatever it makes
        """Result of ``function``.

        Parameters
        ----------
        who
            Name of the person.
        function
            What to do; its errors are raised here.
        late
            What to say where it takes too long.

        Raises
        ------
        ServiceError
            There is no result in time.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        while not self._enter(who):
            if loop.time() > end:
                msg = f"other questions, yours or those of others, took all of {self._seconds:g} s. Nothing was begun"
                raise ServiceError(msg, service="haystack", retryable=True)
            await asyncio.sleep(_LOOK_S)
        answer: asyncio.Future[Any] = loop.create_future()

        def tell(result: Any, error: BaseException | None) -> None:  # noqa: ANN401
            if answer.done():
                LOG.info("an answer that nobody waits for: %s", type(error or result).__name__)
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        def work() -> None:
            result, error = None, None
            try:
                result = function()
            except BaseException as raised:  # noqa: BLE001 - it is raised where somebody waits
                error = raised
            finally:
                self._leave(who)
            with suppress(RuntimeError):  # the service has stopped meanwhile
                loop.call_soon_threadsafe(tell, result, error)

        threading.Thread(target=work, name="slow work", daemon=True).start()
        try:
            return await asyncio.wait_for(answer, timeout=max(end - loop.time(), 0.0))
        except TimeoutError:
            msg = f"no answer within {self._seconds:g} s: {late}"
            raise ServiceError(msg, service="haystack", retryable=True) from None

    def _enter(self, who: str) -> bool:
        with self._lock:
            is_free = self._of.total() < _N_THREADS and self._of[who] < _N_OF_ONE
            self._of[who] += is_free
        return is_free

    def _leave(self, who: str) -> None:
        with self._lock:
            self._of[who] -= 1
            self._of += Counter()  # forgets those who wait for nothing
