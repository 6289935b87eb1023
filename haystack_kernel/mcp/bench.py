"""What the tools do: read a question, look for cells, estimate, start, watch, and read results; all in plain values.

Each method calls public verbs and makes of what they return a small JSON value in which nothing is an instruction, see
:mod:`haystack_kernel.mcp.shown`. Looking never starts or spends anything. :meth:`Bench.begin` starts a run, and only
with an :class:`Approved` that the person gave to this very call.

In: arguments of tools. Out: dictionaries.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack_kernel.config.connect import connect
from haystack_kernel.errors import ApprovalNeededError, HaystackError, InvalidInputError, NotFoundError
from haystack_kernel.jobs import in_usd
from haystack_kernel.manage.comparison import compare
from haystack_kernel.manage.previews import Preview, preview, quick_answer
from haystack_kernel.manage.submission import submit
from haystack_kernel.manage.watching import Watch, usual_times
from haystack_kernel.mcp import results
from haystack_kernel.mcp.holdings import Wanted, find_conditions
from haystack_kernel.mcp.shown import Labels, Sentences, labels_in, together
from haystack_kernel.ports import Consent
from haystack_kernel.run import Run
from haystack_kernel.schema import Citations
from haystack_kernel.store import check_run_id, layout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from haystack_kernel.mcp.shown import LabelKind
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunRecord, Settings

_KEPT = 64  # questions that were looked at
_KEPT_S = 1800.0  # then a question is looked at anew, since an atlas may have changed
_N_EFFECTS = 10
_LONGEST_WAIT_S = 50.0  # of one call; clients give up soon after


@dataclass(frozen=True)
class Approved:
    """The person's approval of one run, and the most that it may cost in dollars."""

    max_usd: float = 0.0


@dataclass
class Looked:
    """A question that was looked at: what the person would approve is exactly this."""

    question: str
    options: dict[str, Any]
    seen: Preview
    seen_at: float
    quick: dict[str, Any] | None = None
    has_candidates: bool = False

    @property
    def run_id(self) -> str:
        """Id of the run that it becomes; a repeated start finds that run."""
        return self.seen.record.run_id

    @property
    def is_free(self) -> bool:
        """Whether the run costs nothing."""
        return self.seen.high_usd == 0

    @property
    def needed_usd(self) -> float:
        """The least that must be approved: the run's own job and its first round, each up to its time limit."""
        both = (self.seen.of_round, self.seen.of_orchestrator)
        return sum((item.high_usd for item in both if item is not None), start=0.0)


class Bench:
    """The runs of a storage as an assistant may use them.

    Parameters
    ----------
    settings
        Of the installation. ``mcp.max_usd`` caps what all runs that are started here may cost together, whatever a
        client says that the person approved; ``mcp.runs_at_once`` caps how many work at the same time.
    open_ports
        Makes the ports of a call from its consent to spending; None connects as the settings say.
    storage
        As it was given to the command line, for the commands that the person may type.

    Examples
    --------
    >>> Bench(load_settings()).reading("How would NK cells respond to IL-15?")["cell_type"]  # doctest: +SKIP
    'natural killer cell'
    """

    def __init__(
        self,
        settings: Settings,
        *,
        open_ports: Callable[[Consent], Ports] | None = None,
        storage: str | None = None,
    ) -> None:
        self.settings = settings
        self._where = f" --storage {shlex.quote(storage)}" if storage else ""
        self._open_ports = open_ports or (lambda consent: connect(settings, consent=consent))
        self._ports = self._open_ports(Consent())
        self._labels = Labels()
        self._looked: dict[str, Looked] = {}
        self._candidates: dict[str, str] = {}  # shown id -> key
        self._given: dict[str, float] = {}  # run that was approved here -> the most that it may cost
        self._lock = threading.RLock()

    # --- questions ---

    def reading(self, question: str, options: dict[str, Any]) -> dict[str, Any]:
        """How a question is understood; a question that cannot be answered is an error that says what is possible."""
        looked = self._look(question, options, with_candidates=False)
        return results.reading(looked.seen.record, labels=self._labels, say=self._sentences(looked.seen.record))

    def candidates(self, question: str, options: dict[str, Any], *, most: int) -> dict[str, Any]:
        """The sets of measured cells that could show the effect, best first."""
        looked = self._look(question, options, with_candidates=True)
        record = looked.seen.record
        return {
            "taken_as": results.taken_as(record, self._labels),
            **results.candidates(
                record, labels=self._labels, say=self._sentences(record), most=most, ids=self._ids(record)
            ),
        }

    def estimate(self, question: str, options: dict[str, Any]) -> dict[str, Any]:
        """What the run would cost and how long it would take."""
        return self._estimate(self._look(question, options, with_candidates=False))

    def ask(self, question: str, options: dict[str, Any], *, most: int) -> dict[str, Any]:
        """Reading, candidates, a first answer of the simple engines, and the estimate, in one."""
        looked = self._look(question, options, with_candidates=True)
        record = looked.seen.record
        say = self._sentences(record)
        found = results.reading(record, labels=self._labels, say=say)
        found |= results.candidates(record, labels=self._labels, say=say, most=most, ids=self._ids(record))
        if looked.quick is None:
            looked.quick = self._quick(record, say=say)
        return {**found, "first_answer": looked.quick, "estimate": self._estimate(looked)}

    def _quick(self, record: RunRecord, *, say: Sentences) -> dict[str, Any]:
        try:
            quick = quick_answer(record, ports=self._ports)
        except HaystackError as error:  # a first answer is no condition of asking
            return {"unavailable": say.say(str(error))}
        return results.quick(quick, most=_N_EFFECTS)

    def _look(self, question: str, options: dict[str, Any], *, with_candidates: bool) -> Looked:
        """The question as it was looked at, searched for candidates where that is wanted and was not done."""
        keys: dict[str, Any] = {
            name: [self._key(one) for one in options[name]] for name in ("pin", "ban") if name in options
        }
        options = options | keys | {"planner": "offline"}
        mark = json.dumps([question, options], sort_keys=True)
        with self._lock:
            known = self._looked.get(mark)
            now = self._ports.clock.monotonic()
            is_old = known is not None and now - known.seen_at > _KEPT_S and known.run_id not in self._given
            if known is None or is_old:
                seen = preview(question, ports=self._ports, with_candidates=with_candidates, **options)
                known = Looked(question, options, seen, now, has_candidates=with_candidates)
                self._looked[mark] = known
                while len(self._looked) > _KEPT:
                    self._looked.pop(next(iter(self._looked)))
            elif with_candidates and not known.has_candidates:
                again = preview(question, ports=self._ports, **options)
                record = again.record.model_copy(update={"run_id": known.run_id})
                known.seen = Preview(record, of_round=again.of_round, of_orchestrator=again.of_orchestrator)
                known.has_candidates = True
            for item in known.seen.record.candidates:
                self._candidates[candidate_id(item.key)] = item.key
            return known

    def _key(self, shown: str) -> str:
        if shown not in self._candidates:
            msg = f"no candidate {shown[:40]!r} was shown yet; call `candidates` first and give an id that it returns"
            raise InvalidInputError(msg, given=shown[:40])
        return self._candidates[shown]

    def _ids(self, record: RunRecord) -> dict[str, str]:
        return {item.key: candidate_id(item.key) for item in record.candidates}

    def _estimate(self, looked: Looked) -> dict[str, Any]:
        usual = usual_times(looked.seen.record.config, self._ports)
        return results.estimate(looked.seen, usual, left_usd=self.left_usd())

    # --- starting ---

    def plan(self, question: str, options: dict[str, Any]) -> Looked:
        """The question as it would be started; it was looked at, and stays the same until it is started."""
        return self._look(question, options, with_candidates=False)

    def started(self, looked: Looked) -> str | None:
        """Status of the run where this server has started it and it is at work or done; None where it may start."""
        if not self._ports.store.has(looked.run_id):
            return None
        status: str = self._run(looked.run_id).status()["status"]
        return status if status in ("running", "done") else None

    def left_usd(self) -> float:
        """Dollars that runs which are started here may still cost together."""
        return max(self.settings.mcp.max_usd - sum(self._committed().values()), 0.0)

    def obstacle(self, looked: Looked) -> str:
        """Why the run may not be started whoever approves it; empty where nothing stands in the way."""
        most = self.settings.mcp.runs_at_once
        running = [run_id for run_id in self._given if self._is_running(run_id)]
        if looked.run_id not in running and len(running) >= most:
            return f"{len(running)} runs that were started here are still at work, and at most {most} may be"
        if looked.is_free:
            return ""
        left, cap, standing = self.left_usd(), self.settings.mcp.max_usd, self.settings.cost.max_usd
        if cap == 0:
            return (
                "this run costs money, and this server may spend none: whoever starts it sets the most that its runs "
                "may cost together with `haystack mcp --max-cost USD`"
            )
        if standing is not None and looked.needed_usd > standing:
            return (
                f"its first round may cost {in_usd(looked.needed_usd)}, and no run may cost more than "
                f"{in_usd(standing)} by the setting cost.max_usd"
            )
        if looked.needed_usd > left:
            return (
                f"its first round may cost {in_usd(looked.needed_usd)}, and of the {in_usd(cap)} that runs of this "
                f"server may cost together {in_usd(left)} are left"
            )
        return ""

    def begin(self, looked: Looked, approved: Approved) -> dict[str, Any]:
        """Start the run in a process of its own or as a job of the cloud; it goes on without this server.

        Raises
        ------
        ApprovalNeededError
            The approval does not cover the run. Nothing was started.
        """
        with self._lock:
            if why := self.obstacle(looked):
                msg = f"{why}. Nothing was started"
                raise ApprovalNeededError(msg, run_id=looked.run_id)
            if not looked.is_free and not looked.needed_usd <= approved.max_usd <= self.left_usd():
                msg = (
                    f"a cap of {in_usd(approved.max_usd)} was approved; it must cover the first round, which may cost "
                    f"{in_usd(looked.needed_usd)}, and be at most the {in_usd(self.left_usd())} that runs of this "
                    "server may still cost. Nothing was started"
                )
                raise ApprovalNeededError(msg, run_id=looked.run_id)
            consent = Consent() if looked.is_free else Consent(approve=True, max_usd=approved.max_usd)
            self._given[looked.run_id] = 0.0 if looked.is_free else approved.max_usd
            try:
                run = submit(looked.question, run_id=looked.run_id, ports=self._open_ports(consent), **looked.options)
            except HaystackError:
                if not self._ports.store.has(looked.run_id):
                    del self._given[looked.run_id]  # nothing of it is there, so it costs nothing
                raise
        return self.status(run.run_id)

    def _committed(self) -> dict[str, float]:
        """What each run that was started here has cost, or may cost while it is at work."""
        found = {}
        for run_id, most in self._given.items():
            found[run_id] = most
            if most and self._ports.store.has(run_id) and not self._is_running(run_id):
                found[run_id] = self._ports.store.load(run_id).cost_usd
        return found

    def _is_running(self, run_id: str) -> bool:
        if not self._ports.store.has(run_id):
            return False
        return bool(self._run(run_id).status()["status"] == "running")

    # --- runs ---

    def status(self, run_id: str, *, wait_s: float = 0.0) -> dict[str, Any]:
        """Where a run stands; ``wait_s`` waits until it is over, or for so long."""
        watch = Watch(run_id, ports=self._ports)
        until = self._ports.clock.monotonic() + min(wait_s, _LONGEST_WAIT_S)
        look = watch.look()
        while not look.is_over and (left := until - self._ports.clock.monotonic()) > 0:
            self._ports.clock.sleep(min(watch.poll_s, left))
            look = watch.look()
        say = self._sentences(look.record)
        if look.state["failure"] or look.state["detail"]:  # which may name what an atlas holds
            say = self._labels.sentences(
                together(self._labels.of(look.record), self._held(look.record.config.atlas_names))
            )
        return results.status(look, labels=self._labels, say=say, where=self._where)

    def result(self, run_id: str, *, n_genes: int, genes: list[str]) -> dict[str, Any]:
        """The answer of a run: genes, pathways, score, limits, and where its report lies."""
        run = self._run(run_id)
        state = run.status()
        return results.answer(
            run,
            state=state,
            citations=self._citations(run.record),
            labels=self._labels,
            say=self._sentences(run.record),
            n_genes=n_genes,
            genes=genes,
        )

    def _citations(self, record: RunRecord) -> Citations | None:
        if record.best_round is None:
            return None
        path = layout.round_file(record.best_round, layout.CITATIONS)
        if not self._ports.store.exists(record.run_id, path):
            return None
        return Citations.model_validate_json(self._ports.store.read(record.run_id, path))

    def explain_score(self, run_id: str) -> dict[str, Any]:
        """What the score of a run is made of, and how far to trust it."""
        run = self._run(run_id)
        return results.score(run.record, labels=self._labels, say=self._sentences(run.record))

    def compare(self, run_a: str, run_b: str) -> dict[str, Any]:
        """How two runs differ in what was asked and in what was predicted."""
        records = [self._run(run_id).record for run_id in (run_a, run_b)]
        found = compare(run_a, run_b, settings=self.settings)
        say = self._labels.sentences(together(*map(self._labels.of, records)))
        return results.comparison(found, records=records, labels=self._labels, say=say)

    def list_runs(self, *, most: int) -> dict[str, Any]:
        """The newest runs, a line each."""
        try:
            ids = self._ports.store.list_runs()
        except NotFoundError as error:  # before the first run
            return {"n_runs": 0, "runs": [], "why": self._labels.sentences({}).say(str(error))}
        return {
            "n_runs": len(ids),
            "runs": [results.line(self._ports.store.summary(run_id), labels=self._labels) for run_id in ids[:most]],
        }

    def search_atlases(self, *, cell_type: str, treatment: str, atlas: str, most: int) -> dict[str, Any]:
        """What was measured: atlases, and the conditions of one that fit."""
        wanted = Wanted(cell_type=cell_type, treatment=treatment, atlas=atlas)
        return find_conditions(wanted, ports=self._ports, labels=self._labels, most=most)

    def _run(self, run_id: str) -> Run:
        return Run(self._ports.store.load(check_run_id(run_id)), ports=self._ports)

    def _sentences(self, record: RunRecord) -> Sentences:
        return self._labels.sentences(self._labels.of(record))

    def explain(self, error: HaystackError, options: dict[str, Any] | None = None) -> str:
        """The message of an error, with keys in place of labels of the atlases that it may name."""
        names = (options or {}).get("atlases") or self.settings.atlases
        also = [query_atlas] if (query_atlas := (options or {}).get("query_atlas")) else []
        return self._labels.sentences(self._held([*names, *also])).say(str(error), most=1500)

    def _held(self, names: Sequence[str]) -> dict[LabelKind, set[str]]:
        """Labels of atlases, one by one, since the name of one may be what is wrong."""
        found: dict[LabelKind, set[str]] = {}
        for name in names:
            with suppress(HaystackError):
                found = together(found, labels_in(self._ports.open_atlas([name]).conditions()))
        return found


def candidate_id(key: str) -> str:
    """A short id of a candidate, whose key holds labels of the atlas."""
    return f"c-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
