"""What a back-test does to each of its pairs, in this process and in those of its pool.

In: a plan. Out: the files of the pairs; see :mod:`haystack_kernel.batches.pool`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.backtest.judge import judge_pair
from haystack_kernel.backtest.prepare import Sources, prepare_pair
from haystack_kernel.backtest.tasks import pair_tasks
from haystack_kernel.batches.kind import Kind, Step
from haystack_kernel.schema import BacktestPlan
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.ports import Ports


def _preparing(plan: BacktestPlan, ports: Ports, folder: CampaignFolder) -> Callable[[int], object]:
    sources = Sources.open(plan, ports)
    return lambda number: prepare_pair(number, plan, sources=sources, folder=folder)


def _judging(plan: BacktestPlan, _: Ports, folder: CampaignFolder) -> Callable[[int], object]:
    return lambda number: judge_pair(number, plan, tasks=pair_tasks(number, plan, folder=folder), folder=folder)


PREPARE = Step("prepare", layout.PREPARED, "hiding pairs and choosing their prompts", _preparing)
JUDGE = Step("judge", layout.JUDGED, "comparing with the measured response", _judging)
BACKTEST = Kind(
    name="backtest",
    item="pair",
    place="haystack_kernel.backtest.worker:BACKTEST",
    modules=("anndata", "duckdb", "h5py", "pyarrow.parquet"),
    plan=BacktestPlan,
    folder_of=layout.pair_folder,
    steps={step.name: step for step in (PREPARE, JUDGE)},
)
