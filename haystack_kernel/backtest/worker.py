"""A process that prepares or compares some pairs of a back-test, so that several work at the same time.

In: one JSON object on stdin: settings, plan, step, numbers of pairs. Out: the files of the pairs; on stdout the number
of each pair when it is done. It starts no job and spends nothing.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Literal

from haystack_kernel.backtest.folder import CampaignFolder, campaign_id
from haystack_kernel.backtest.judge import judge_pair
from haystack_kernel.backtest.prepare import Sources, prepare_pair
from haystack_kernel.backtest.tasks import pair_tasks
from haystack_kernel.config.connect import connect
from haystack_kernel.schema import BacktestPlan, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from haystack_kernel.ports import Ports

Step = Literal["prepare", "judge"]


def do_step(
    step: Step, numbers: Sequence[int], plan: BacktestPlan, *, ports: Ports, tell: Callable[[int], object]
) -> None:
    """Prepare or compare pairs, one after the other; ``tell`` is called with the number of each."""
    folder = CampaignFolder(ports.settings, campaign_id(plan), clock=ports.clock)
    sources = Sources.open(plan, ports) if step == "prepare" and numbers else None
    for number in numbers:
        if sources is not None:
            prepare_pair(number, plan, sources=sources, folder=folder)
        else:
            judge_pair(number, plan, tasks=pair_tasks(number, plan, folder=folder), folder=folder)
        tell(number)


def main() -> None:
    """Do what stdin says."""
    asked = json.loads(sys.stdin.read())
    plan = BacktestPlan.model_validate(asked["plan"])

    def tell(number: int) -> None:
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()

    ports = connect(Settings.model_validate(asked["settings"]))
    do_step(asked["step"], asked["numbers"], plan, ports=ports, tell=tell)


if __name__ == "__main__":
    main()
