"""A screen from its plan to its table: many questions predicted as one batch of tasks and scored as runs are.

In: treatments, cell types and options. Out: a :class:`Screen`. Every step leaves whole files and skips what is there:
a killed screen goes on where it stopped when the same call is made again, and nothing is predicted or paid twice.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel.batches.folder import CampaignFolder
from haystack_kernel.batches.live import in_words
from haystack_kernel.batches.pool import Pool
from haystack_kernel.batches.predict import expected_spec, predict
from haystack_kernel.campaign.enrich import CLASSES, classes_of, enrich_genes, enrich_treatments
from haystack_kernel.campaign.live import Matrix, watch_in_notebook
from haystack_kernel.campaign.plan import Asked, evidence_counts, make_screen_plan, refusals
from haystack_kernel.campaign.prepare import question_tasks, read_prepared
from haystack_kernel.campaign.rank import BIN_RULES, LEVEL, find_in_families, rank_questions, words_of
from haystack_kernel.campaign.result import (
    FAILED,
    PREDICTED,
    REFUSED,
    TEXTS,
    WAITING,
    effects_of,
    read_judged,
    tabulate,
)
from haystack_kernel.campaign.steps import JUDGE, PREPARE, SCREEN
from haystack_kernel.config.connect import connect
from haystack_kernel.config.options import build_config
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.jobs import describe, estimate_cost
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.knowledge.genesets import read_gene_sets
from haystack_kernel.knowledge.readers import read_bounded
from haystack_kernel.ports import Consent, ProgressEvent
from haystack_kernel.progress import notebook_progress
from haystack_kernel.schema import EVIDENCE_WORDS, ScreenPlan
from haystack_kernel.store import layout, parse_csv, to_csv
from inference.manifest import BASELINES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import anndata as ad
    import pandas as pd

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Ports, Progress
    from haystack_kernel.schema import CostEstimate, Settings


_QUESTION_S = (1.0, 5.0)  # of one processor: cells chosen, a simple prediction, the score
_MODEL_S = (1.0, 60.0)  # of each prediction by a model, without a GPU


class Screen:
    """A screen, finished or not.

    Parameters
    ----------
    plan
        What it asks.
    folder
        Its files.

    Examples
    --------
    >>> found = haystack.campaign.screen(["IFN-beta", "TNF-alpha"], ["B cell"], workers=2)  # doctest: +SKIP
    >>> found.table[["perturbation", "cell_type", "size", "p_donors"]]  # doctest: +SKIP
    """

    def __init__(self, plan: ScreenPlan, *, folder: CampaignFolder) -> None:
        self.plan = plan
        self._folder = folder

    @property
    def id(self) -> str:
        """Name of its folder under ``<storage>/campaigns``; it follows from the plan."""
        return SCREEN.id_of(self.plan)

    @property
    def folder(self) -> str:
        """Address of its files."""
        return self._folder.root

    @property
    def files(self) -> CampaignFolder:
        """Its files."""
        return self._folder

    @property
    def is_finished(self) -> bool:
        """Whether every question is predicted, refused or failed."""
        return not (self.table["status"] == WAITING).any()

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a question, none dropped; see :func:`haystack_kernel.campaign.result.tabulate`."""
        done = self._folder.read(layout.RESULTS)
        return tabulate(self.plan, *self._read) if done is None else parse_csv(done, texts=TEXTS)

    @cached_property
    def effects(self) -> ad.AnnData:
        """Expected true effects of the predicted questions by genes; see :func:`.result.effects_of`."""
        import anndata

        done = self._folder.read(layout.EFFECTS)
        if done is None:
            return effects_of(self.plan, self.table, self._read[1], name=self.id)
        found = anndata.read_h5ad(io.BytesIO(done))
        return found

    def toward(self, state: Any, **options: Any) -> pd.DataFrame:  # noqa: ANN401 - as read_state takes them
        """Say how far each predicted question moves cells toward a state.

        Parameters
        ----------
        state
            As :func:`haystack_kernel.campaign.states.read_state` takes it: cells, a GMT file, genes.
        **options
            ``against``, ``gene_set`` and ``start``, as there.

        Returns
        -------
        The table with the columns of :func:`haystack_kernel.campaign.toward.compute_toward`; NaN where nothing is
        predicted. To search measured responses as well: :func:`haystack_kernel.campaign.seek`.

        Examples
        --------
        >>> found.toward({"ISG15": 1, "MX1": 1, "CXCL8": -1})[["perturbation", "toward", "p_toward"]]  # doctest: +SKIP
        """
        from haystack_kernel.campaign.states import read_state
        from haystack_kernel.campaign.toward import compute_toward
        from haystack_kernel.knowledge import load_knowledge

        target = read_state(state, knowledge=load_knowledge(load_settings().knowledge), **options)
        effects = self.effects
        found = compute_toward(effects, target, seed=self.plan.config.seed)
        numbers = [int(name) for name in effects.obs_names]
        return self.table.merge(found.assign(number=numbers), on="number", how="left", validate="one_to_one")

    @property
    def refused(self) -> pd.DataFrame:
        """Questions without a prediction, with the reason."""
        without = self.table["status"].isin([REFUSED, FAILED])
        return self.table.loc[without, ["number", "perturbation", "cell_type", "donor", "status", "reason"]]

    def ranked(self, *, level: float = LEVEL, test: str = "response") -> pd.DataFrame:
        """The table in order of how sure each row is; see :func:`haystack_kernel.campaign.rank.rank_questions`.

        Parameters
        ----------
        level
            Expected share of false rows among those with ``q`` up to it.
        test
            ``response``, or ``toward`` where a target state was given.

        Returns
        -------
        All rows, with ``rank``, ``p``, ``q``, ``bin`` and ``why``.

        Examples
        --------
        >>> screen.ranked().head(20)  # doctest: +SKIP
        """
        return rank_questions(self.table, level=level, test=test)

    def families(
        self, by: str | Mapping[str, Collection[str]] = "cell_type", *, level: float = LEVEL, test: str = "response"
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Find families first, then questions in them; see :func:`haystack_kernel.campaign.rank.find_in_families`.

        Parameters
        ----------
        by
            A column; ``target``, ``family`` or ``pathway`` of the treatments; or your own families: name -> treatments.
        level, test
            As of :meth:`ranked`.

        Returns
        -------
        The families, and the questions of each with their ``q`` within it.

        Examples
        --------
        >>> families, members = screen.families("target")  # doctest: +SKIP
        """
        ranked = self.ranked(level=level, test=test)
        return find_in_families(ranked, self._classes(by) if by in CLASSES else by, level=level)

    def enriched(
        self, classes: str | Mapping[str, Collection[str]] = "target", *, level: float = LEVEL, test: str = "response"
    ) -> pd.DataFrame:
        """Classes of treatments with more findings than chance; see :func:`.enrich.enrich_treatments`.

        Parameters
        ----------
        classes
            ``target``, ``family``, ``pathway``, or your own: name -> treatments.
        level, test
            As of :meth:`ranked`.

        Returns
        -------
        One row a class; those with fewer than two tested treatments say so.

        Examples
        --------
        >>> screen.enriched({"my compounds": ["ruxolitinib", "tofacitinib"]})  # doctest: +SKIP
        """
        named = self._classes(classes) if isinstance(classes, str) else classes
        return enrich_treatments(self.ranked(level=level, test=test), named, level=level, seed=self.plan.config.seed)

    def enriched_genes(
        self,
        sets: Mapping[str, Collection[str]] | str | Path | None = None,
        *,
        level: float = LEVEL,
        test: str = "response",
    ) -> pd.DataFrame:
        """Gene sets that move in each question; see :func:`.enrich.enrich_genes`.

        Parameters
        ----------
        sets
            Name -> genes, or the path of a GMT file; None takes the pathways of the tables.
        level, test
            Questions whose ``q`` is above the level tell how the genes of a set correlate without a response.

        Returns
        -------
        One row a question and set.

        Examples
        --------
        >>> screen.enriched_genes({"mine": ["ISG15", "IFI6", "MX1", "OAS1", "IFIT1"]})  # doctest: +SKIP
        """
        if sets is None:
            sets = {name: list(one.genes) for name, one in self._knowledge().pathways.items()}
        elif isinstance(sets, str | Path):
            raw, _ = read_bounded(Path(sets))
            sets = {one.name: list(one.genes) for one in read_gene_sets(raw, path=Path(sets)).rows}
        ranked = self.ranked(level=level, test=test)
        return enrich_genes(self.effects, sets, silent=ranked.loc[ranked["q"] > level, "number"].astype(int))

    def _classes(self, kind: object) -> dict[str, tuple[str, ...]]:
        names = sorted(set(self.table["perturbation"]) - {""})
        return classes_of(names, kind=str(kind), knowledge=self._knowledge())

    def _knowledge(self) -> Knowledge:
        return load_knowledge(self._folder.settings.knowledge)

    def _repr_html_(self) -> str:
        from haystack_kernel.report import screen_card

        facts = {"engines": ", ".join(self.plan.engines), "folder": self.folder}
        facts["not understood"] = "; ".join(self.plan.not_understood)
        if not self.is_finished:
            matrix = Matrix(self.plan, self._folder).look()
            facts["so far"] = matrix.words
        ranked = self.ranked()
        return screen_card(ranked, name=self.id, found=words_of(ranked), facts=facts, rules=BIN_RULES)._repr_html_()

    @cached_property
    def _read(self) -> Any:  # noqa: ANN401 - prepared and judged questions
        return read_judged(self.plan, folder=self._folder)

    def __repr__(self) -> str:
        counts = self.table["status"].value_counts()
        said = ", ".join(f"{counts[one]} {one}" for one in (PREDICTED, REFUSED, FAILED, WAITING) if one in counts)
        bins = self.ranked()["bin"].value_counts()
        said += "; " + ", ".join(f"{bins.get(one, 0)} {one}" for one in BIN_RULES)
        return f"Screen({self.id}: {len(self.table)} questions, {said}; {', '.join(self.plan.engines)})"


@dataclass(frozen=True)
class Preview:
    """What a screen would do, before it does anything.

    Attributes
    ----------
    plan
        Every question.
    n_tasks
        Number of predictions.
    cost
        What they may cost; of this machine nothing.
    folder
        Where its files will be; files of an earlier call are used again.
    n_done
        Questions that an earlier call scored.
    time_s
        Shortest and longest time that it may take, in seconds.
    """

    plan: ScreenPlan
    n_tasks: int
    cost: CostEstimate
    folder: str
    n_done: int
    time_s: tuple[float, float]

    @property
    def id(self) -> str:
        """Id of the screen."""
        return SCREEN.id_of(self.plan)

    @property
    def n_predicted(self) -> int:
        """Questions that can be predicted."""
        return sum(not one.refusal for one in self.plan.questions)

    @property
    def n_left(self) -> int:
        """Questions that are still to be predicted and scored."""
        return self.n_predicted - self.n_done

    @property
    def lines(self) -> tuple[str, ...]:
        """The plan in sentences."""
        n = len(self.plan.questions)
        engines = f" by {', '.join(self.plan.engines)}" if self.plan.engines else ""
        said = [f"{n} questions: {self.n_predicted} can be predicted{engines}, {n - self.n_predicted} are refused."]
        said += [*_evidence_in_words(self.plan), *_refusals_in_words(self.plan)]
        said += [f"note: {one}" for one in self.plan.not_understood]
        if self.n_done:
            said.append(f"{self.n_done} questions were finished by an earlier call and are not done again")
        if self.n_left:
            cost = describe(self.cost) if self.plan.executor == "batch" else "nothing: this machine makes them"
            low, high = (in_words(one) for one in self.time_s)
            said.append(f"{self.n_tasks} predictions, which cost {cost}; about {low} to {high} in all")
        return tuple(said)


def _evidence_in_words(plan: ScreenPlan) -> list[str]:
    counts = evidence_counts(plan.questions)
    said = [f"{counts[one]} from {EVIDENCE_WORDS[one]}" for one in EVIDENCE_WORDS if one in counts]
    measured = sum(one.measured for one in plan.questions)
    return [*said, f"{measured} are measured in the atlas already"] if measured else said


def _refusals_in_words(plan: ScreenPlan) -> list[str]:
    said = []
    for reason, some in refusals(plan.questions).items():
        names = [f"{one.perturbation or '?'} in {one.cell_type or '?'}" for one in some[:3]]
        more = f" and {len(some) - 3} more" if len(some) > 3 else ""
        said.append(f"refused: {', '.join(names)}{more}: {reason}")
    return said


def screen(  # noqa: PLR0913 - what is asked, where, and what it may spend
    perturbations: Sequence[str] = (),
    cell_types: Sequence[str] = (),
    *,
    workers: int = 1,
    settings: Settings | None = None,
    ports: Ports | None = None,
    approve: bool | None = None,
    max_cost: float | None = None,
    progress: Progress | None = None,
    **options: Any,  # noqa: ANN401 - fields of Asked and RunConfig, and ``storage``
) -> Screen:
    """Predict many questions as one job, and score each as a run would.

    Parameters
    ----------
    perturbations, cell_types
        Names as people write them; every treatment is asked for in every cell type.
    workers
        Processes that work at the same time on this machine.
    settings, ports
        None reads the settings and builds the ports from them.
    approve, max_cost
        Consent to spending and its cap in dollars for the whole screen, where the predictions run in the cloud.
    progress
        Listener of progress events.
    **options
        What is asked besides: ``donors``, ``table``, ``data_set``, ``kind``, ``target``, ``pathway``; see
        :class:`haystack_kernel.campaign.plan.Asked`. How: ``baselines`` (also predict with the simple engines),
        ``resamples`` (predictions from resampled prompts), ``storage``, and fields of
        :class:`haystack_kernel.schema.RunConfig` such as ``atlases``, ``engine``, ``query_h5ad``, ``executor``.

    Returns
    -------
    The screen; the same call again reads it, or goes on where it stopped.

    Raises
    ------
    InvalidInputError
        Nothing is asked for, or an option is refused.
    ApprovalNeededError
        The predictions cost money and this call does not consent to it; nothing was started.
    JobFailedError
        The predictions could not be made; the same call goes on where it stopped.

    Examples
    --------
    >>> found = haystack.campaign.screen(data_set="demo_drug_pbmc", cell_types=["B cell"])  # doctest: +SKIP
    >>> found.table.sort_values("size", ascending=False).head(20)  # doctest: +SKIP
    """
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        msg = f"workers is {workers!r}; give a whole number of at least 1"
        raise InvalidInputError(msg)
    storage, in_notebook = options.pop("storage", None), False
    if ports is None:
        settings = settings or load_settings(storage=storage)
        heard = progress or notebook_progress()
        in_notebook = progress is None and heard is not None
        ports = connect(settings, progress=heard, consent=Consent.given(approve, max_cost))
    plan = plan_screen(perturbations, cell_types, ports=ports, **options)
    if in_notebook:
        ports = replace(ports, progress=watch_in_notebook(matrix_of(plan, ports=ports), clock=ports.clock))
    return run_screen(plan, ports=ports, workers=workers)


def matrix_of(plan: ScreenPlan, *, ports: Ports) -> Matrix:
    """The state of every question, for who wants to see the matrix fill in.

    Parameters
    ----------
    plan
        From :func:`plan_screen`.
    ports
        Where the files are.
    """
    return Matrix(plan, CampaignFolder(ports.settings, SCREEN.id_of(plan), clock=ports.clock))


def plan_screen(
    perturbations: Sequence[str] = (),
    cell_types: Sequence[str] = (),
    *,
    ports: Ports,
    baselines: bool = False,
    resamples: int = 0,
    **options: Any,  # noqa: ANN401 - as of :func:`screen`
) -> ScreenPlan:
    """Make the plan of a screen; nothing is written."""
    asked = {name: options.pop(name) for name in Asked.__dataclass_fields__ if options.get(name) is not None}
    for name in ("donors",):
        asked[name] = _names(asked.get(name, ()), what=name)
    given = Asked(
        perturbations=_names(perturbations, what="perturbations"),
        cell_types=_names(cell_types, what="cell_types"),
        **asked,
    )
    options = {name: value for name, value in options.items() if value is not None}
    options.setdefault("planner", "offline")
    config = build_config(ports.settings, literature=False, max_rounds=1, **options)
    return make_screen_plan(given, config, ports=ports, baselines=baselines, resamples=resamples)


def preview(plan: ScreenPlan, *, ports: Ports, workers: int = 1) -> Preview:
    """What a plan would do and cost.

    Parameters
    ----------
    plan
        From :func:`plan_screen`.
    ports
        Where an earlier call may have left results.
    workers
        Processes of this machine that would work at the same time.
    """
    name = SCREEN.id_of(plan)
    folder = CampaignFolder(ports.settings, name, clock=ports.clock)
    tasks = []
    for number, one in enumerate(plan.questions, 1):
        if not one.refusal:
            facts = {"engine": one.engine, "control_strategy": plan.config.control_strategy, "n_control": 1}
            tasks += question_tasks(number, plan, {**facts, "has_others": False}, folder=folder)
    cost = estimate_cost(expected_spec(tasks, plan, ports=ports, name=name), ports.settings.batch)
    done = folder.names(layout.QUESTIONS) if folder.read(layout.PLAN) is not None else set()
    n_done = sum(layout.JUDGED in folder.names(f"{layout.QUESTIONS}/{one}") for one in done)
    n_left = sum(not one.refusal for one in plan.questions) - n_done
    n_of_model = sum(task.engine not in BASELINES for task in tasks)
    low, high = (
        n_left * each / workers + (0.0 if plan.executor == "batch" else n_of_model * of_model / workers)
        for each, of_model in zip(_QUESTION_S, _MODEL_S, strict=True)
    )
    if plan.executor == "batch":
        low, high = low + cost.low_s, high + cost.high_s
    return Preview(plan, len(tasks), cost, folder.root, n_done, (low, high))


def run_screen(plan: ScreenPlan, *, ports: Ports, workers: int = 1) -> Screen:
    """Do what a plan says, or what is left of it.

    Parameters
    ----------
    plan
        From :func:`plan_screen`.
    ports
        With the consent of this call.
    workers
        Processes that work at the same time on this machine.
    """
    name = SCREEN.id_of(plan)
    folder = CampaignFolder(ports.settings, name, clock=ports.clock)
    if folder.read(layout.RESULTS) is None:
        folder.write(layout.PLAN, plan.model_dump_json(indent=1).encode())
        numbers = [number for number, one in enumerate(plan.questions, 1) if not one.refusal]
        with Pool(SCREEN, ports=ports, workers=min(workers, max(len(numbers), 1))) as pool:
            pool.do(PREPARE, numbers, plan)
            found = {number: read_prepared(number, folder=folder) for number in numbers}
            prepared = {number: facts for number, facts in found.items() if facts is not None}
            tasks = [
                task
                for number, facts in prepared.items()
                for task in question_tasks(number, plan, facts, folder=folder)
            ]
            predict(tasks, plan, folder=folder, ports=ports, workers=workers, name=name)
            pool.do(JUDGE, [number for number, facts in prepared.items() if "error" not in facts], plan)
        prepared, judged = read_judged(plan, folder=folder)
        table = tabulate(plan, prepared, judged)
        folder.write_cells(layout.EFFECTS, effects_of(plan, table, judged, name=name))
        folder.write(layout.RESULTS, to_csv(table))
        words = f"{(table['status'] == PREDICTED).sum()} of {len(table)} questions predicted: {folder.root}"
        ports.progress(ProgressEvent(run_id=name, phase="done", message=words, fraction=1.0))
    return Screen(plan, folder=folder)


def open_screen(name: str, *, storage: str | None = None, settings: Settings | None = None) -> Screen:
    """Open a screen, finished or not; nothing is computed.

    Parameters
    ----------
    name
        Its id, such as ``screen-0123456789ab``, or the address of its folder.
    storage
        Folder or address that holds the run folders; None: as configured.
    settings
        None reads them.

    Returns
    -------
    The screen; of an unfinished one the finished rows are filled.

    Raises
    ------
    NotFoundError
        There is no such screen; the message lists those that there are.

    Examples
    --------
    >>> haystack.campaign.open_screen("screen-0123456789ab").table  # doctest: +SKIP
    """
    place, _, last = name.rstrip("/").rpartition("/")
    if place and storage is None:
        storage = place.removesuffix(f"/{layout.CAMPAIGNS}")
    settings = settings or load_settings(storage=storage)
    ports = connect(settings)
    folder = CampaignFolder(settings, last, clock=ports.clock)
    data = folder.read(layout.PLAN) if last.startswith(f"{SCREEN.name}-") else None
    if data is None:
        held = sorted(one for one in list_campaigns(settings, ports) if one.startswith(f"{SCREEN.name}-"))
        there = f"there are {', '.join(held)}" if held else "there is none yet; `haystack screen` makes one"
        msg = f"no screen {last!r} in {Path(folder.root).parent}; {there}"
        raise NotFoundError(msg, screen=last)
    return Screen(ScreenPlan.model_validate_json(data), folder=folder)


def list_campaigns(settings: Settings, ports: Ports) -> set[str]:
    """Ids of all campaigns of a storage."""
    return CampaignFolder(settings, "", clock=ports.clock).names("")


def _names(given: Sequence[str] | str, *, what: str) -> tuple[str, ...]:
    if isinstance(given, str):
        given = (given,)
    names = tuple(one.strip() for one in given if isinstance(one, str) and one.strip())
    if len(names) < len(given):
        msg = f"{what} {list(given)!r} holds something that is no name; give texts such as 'IFN-beta'"
        raise InvalidInputError(msg)
    return tuple(dict.fromkeys(names))
