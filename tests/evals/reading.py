"""The evaluation as a task of inspect-ai: sixty questions and twelve papers, each three times, read for real.

It spends money, and only with a cap that is given with the command. From an environment of its own (requirements.txt):

    ANTHROPIC_API_KEY=... python -m tests.evals.reading max_usd=2
    python -m tests.evals.reading planner=offline epochs=1

The second asks the planner of rules, which costs nothing. ``inspect eval tests/evals/reading.py --model none
-T max_usd=2`` does the same and leaves the table out; ``inspect view`` shows every answer.
"""

import asyncio
import sys
import tempfile
from dataclasses import fields

from inspect_ai import Epochs, Task, task
from inspect_ai import eval as run
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, mean, scorer
from inspect_ai.solver import solver

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.ports import Consent
from tests.evals import quotes, scoring

N_EPOCHS = 3


@task
def reading(planner="claude", max_usd=0.0, epochs=N_EPOCHS, limit=None):
    """Readings of the questions, and quotes of the papers.

    Parameters
    ----------
    planner
        claude or offline.
    max_usd
        Dollars that the whole evaluation may cost; 0 spends nothing.
    epochs
        How often each question is asked.
    limit
        Ask only the first so many questions.
    """
    samples = [
        Sample(input=row["question"], target=row["treatment"] or "none", metadata=row)
        for row in scoring.rows()[: limit and int(limit)]
    ]
    samples += [
        Sample(input=case["abstract"], target="; ".join(case["says"]), metadata={**case, "group": "paper"})
        for case in quotes.papers()
        if planner == "claude"
    ]
    return Task(
        dataset=MemoryDataset(samples),
        solver=_asked(planner, Bank(float(max_usd))),
        scorer=_judged(),
        epochs=Epochs(int(epochs)),
    )


class Bank:
    """Dollars of the whole evaluation; each question may use what the others left."""

    def __init__(self, max_usd):
        self.max_usd, self.spent = max_usd, 0.0
        self.lock = asyncio.Lock()

    @property
    def left(self):
        return max(0.0, self.max_usd - self.spent)


@solver
def _asked(planner, bank):
    knowledge = load_knowledge()
    folder = tempfile.mkdtemp(prefix="haystack-evals-")
    settings = load_settings(storage=f"{folder}/runs", cache=f"{folder}/cache", atlas_root=f"{folder}/atlases")

    async def solve(state, generate):
        row = state.metadata
        async with bank.lock:  # one after the other, so that the cap is kept
            ports = connect(settings, consent=Consent(approve=bank.left > 0, max_usd=bank.left))
            if row["group"] == "paper":
                proven = await asyncio.to_thread(quotes.ask, ports, row)
                usd, told = (
                    proven.usd,
                    {"unproven": proven.n_unproven, "quotes": proven.n_quotes, "right": proven.right},
                )
            else:
                given = await asyncio.to_thread(scoring.ask, ports, state.input_text, planner=planner)
                verdict = scoring.judge(row, given, knowledge=knowledge)
                usd, told = given.usd, {**verdict.__dict__, "words": given.words}
            bank.spent += usd
        state.store.set("told", {**told, "group": row["group"], "usd": usd})
        state.output.completion = str(told.get("words", told))
        return state

    return solve


@scorer(metrics=[mean()])
def _judged():
    async def score(state, target):
        told = state.store.get("told")
        is_good = told["trap_kept"] if told["group"] == "trap" else told["right"]
        return Score(value=float(bool(is_good)), answer=str(told.get("words", "")), metadata=told)

    return score


def table(log):
    """The shares and the median cost over all answers of a log, as lines."""
    told = [score.metadata for sample in log.samples or () for score in (sample.scores or {}).values()]
    names = [field.name for field in fields(scoring.Verdict)]
    read = [scoring.Verdict(**{name: one.get(name) for name in names}) for one in told if one["group"] != "paper"]
    papers = [one for one in told if one["group"] == "paper"]
    quoted = (sum(one["unproven"] for one in papers), sum(one["quotes"] for one in papers)) if papers else None
    right = scoring.share(one["right"] for one in papers)
    return [*scoring.summary(read, quotes=quoted), f"{'papers read rightly':<38} {right}"]


if __name__ == "__main__":
    options = dict(text.split("=", 1) for text in sys.argv[1:])  # planner=claude max_usd=2 epochs=3 limit=10
    folder = options.pop("log_dir", "logs")
    (ended,) = run(reading(**options), model="none", display="plain", log_dir=folder)
    print("\n".join(table(ended)))  # noqa: T201 - what the evaluation is run for
