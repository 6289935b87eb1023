"""What a screen does to each of its questions, in this process and in those of its pool.

In: a plan. Out: the files of the questions; see :mod:`haystack_kernel.batches.pool`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.batches.kind import Kind, Step
from haystack_kernel.schema import ScreenPlan
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.ports import Ports


def _preparing(plan: ScreenPlan, ports: Ports, folder: CampaignFolder) -> Callable[[int], object]:
    from haystack_kernel.campaign.prepare import prepare_question
    from haystack_kernel.campaign.sources import Sources

    sources = Sources.open(plan.config, ports)
    return lambda number: prepare_question(number, plan, sources=sources, folder=folder)


def _judging(plan: ScreenPlan, ports: Ports, folder: CampaignFolder) -> Callable[[int], object]:
    from haystack_kernel.campaign.judge import judge_question

    return lambda number: judge_question(number, plan, ports=ports, folder=folder)


PREPARE = Step("prepare", layout.PREPARED, "choosing the cells of each question", _preparing)
JUDGE = Step("judge", layout.JUDGED, "scoring the predictions", _judging)
SCREEN = Kind(
    name="screen",
    item="question",
    place="haystack_kernel.campaign.steps:SCREEN",
    modules=("haystack_kernel.campaign.prepare", "haystack_kernel.campaign.judge", "duckdb", "pyarrow.parquet"),
    plan=ScreenPlan,
    folder_of=layout.question_folder,
    steps={step.name: step for step in (PREPARE, JUDGE)},
)
