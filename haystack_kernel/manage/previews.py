"""Look at what a question would do before it is asked: how it reads, the candidates it would use, what it may cost.

In: a question and options. Out: :class:`Preview`; nothing is saved, started or spent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack_kernel import rounds
from haystack_kernel.config.connect import connect
from haystack_kernel.config.options import build_config
from haystack_kernel.config.settings import load_settings
from haystack_kernel.jobs import estimate_cost
from haystack_kernel.manage.submission import check_reachable, orchestrator_spec
from haystack_kernel.run import first_record
from haystack_kernel.store import new_run_id

if TYPE_CHECKING:
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import CostEstimate, RunRecord, Settings


@dataclass(frozen=True)
class Preview:
    """What a question would do.

    ``record`` holds the query and, where they were asked for, the candidates. ``of_round`` is the cost of the job of
    one round and ``of_orchestrator`` that of the job that works on the run; both None where jobs run on this machine
    and cost nothing.
    """

    record: RunRecord
    of_round: CostEstimate | None = None
    of_orchestrator: CostEstimate | None = None

    @property
    def low_usd(self) -> float:
        """Lowest cost: one round."""
        both = (self.of_round, self.of_orchestrator)
        return sum((item.low_usd for item in both if item is not None), start=0.0)

    @property
    def high_usd(self) -> float:
        """Highest cost: as many rounds as the options allow, each up to its time limit."""
        high = self.record.config.max_rounds * self.of_round.high_usd if self.of_round else 0.0
        return high + (self.of_orchestrator.high_usd if self.of_orchestrator else 0.0)


def preview(
    question: str,
    *,
    settings: Settings | None = None,
    ports: Ports | None = None,
    with_candidates: bool = True,
    **options: Any,  # noqa: ANN401 - fields of RunConfig
) -> Preview:
    """Parse a question, search the atlases for it and estimate what it may cost; nothing is saved or spent.

    Parameters
    ----------
    question
        What would be asked.
    settings
        None reads them from the settings files and the environment.
    ports
        None builds them from the settings.
    with_candidates
        Search the atlases, which takes seconds; without it the query and the cost are told at once.
    **options
        Fields of :class:`haystack_kernel.schema.RunConfig`.

    Returns
    -------
    The preview.

    Raises
    ------
    InvalidInputError, NotFoundError
        The question, an option or a file is refused, as it would be if the question were asked.
    NoCandidateError
        The atlases hold no cells for it.

    Examples
    --------
    >>> preview("How would NK cells respond to IL-15?").record.query.cell_type_name  # doctest: +SKIP
    'natural killer cell'
    """
    if ports is None:
        ports = connect(settings or load_settings())
    config = build_config(ports.settings, **options)
    check_reachable(config, ports.settings)
    record = first_record(question, run_id=new_run_id(ports.clock.now()), config=config, ports=ports)
    if with_candidates:
        record = rounds.search(record, ports)
    if config.executor == "local":
        return Preview(record)
    spec = orchestrator_spec(record, ports)
    return Preview(
        record,
        of_round=rounds.estimate_round(record, ports),
        of_orchestrator=estimate_cost(spec, ports.settings.batch),
    )
