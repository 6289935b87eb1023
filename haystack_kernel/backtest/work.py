"""A back-test from its plan to its calibrations: hide, predict as one batch of tasks, compare, calibrate.

In: an atlas and options. Out: a :class:`Backtest`. Every step leaves whole files and skips what is there, so a killed
back-test goes on where it stopped when the same call is made again, and no finished prediction is paid for twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from haystack_kernel.atlas import calibrations
from haystack_kernel.backtest.calibrate import CalibrationPairs, calibrate, calibrate_with
from haystack_kernel.backtest.judge import REPLICATE
from haystack_kernel.backtest.pairs import choose_pairs, list_pairs
from haystack_kernel.backtest.prepare import POOLING_ENGINE
from haystack_kernel.backtest.split import canonical_of
from haystack_kernel.backtest.table import TEXTS, calibration_pairs, pairs_by_number, summarise, tabulate
from haystack_kernel.backtest.tasks import build_tasks, read_prepared
from haystack_kernel.backtest.worker import BACKTEST, JUDGE, PREPARE
from haystack_kernel.batches.folder import CampaignFolder
from haystack_kernel.batches.live import in_words
from haystack_kernel.batches.pool import Pool
from haystack_kernel.batches.predict import predict
from haystack_kernel.config.connect import connect
from haystack_kernel.config.engines import check_engine
from haystack_kernel.config.options import build_config
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.grounding.confidence.backtested import FEATURES, back_tested_aspect, expect_everywhere
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.ports import Consent, ProgressEvent
from haystack_kernel.retrieval import build_view
from haystack_kernel.schema import BacktestPlan, Calibration, Held, RunConfig
from haystack_kernel.store import layout, parse_csv, to_csv
from inference.manifest import BASELINES, DEMO_MODEL, MODEL_ENGINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from haystack_kernel.ports import Ports, Progress
    from haystack_kernel.schema import MeasuredPair, Settings

HELD: tuple[Held, ...] = get_args(Held)
AVERAGE = "an average prompt"
# processor seconds, with few genes and with many
_PAIR_S = (0.9, 3.0)  # of a pair
_SIMPLE_S = (0.15, 0.8)  # of each simple prediction
_MODEL_S = 60.0  # at most, of each prediction by a model of published size, without a GPU


@dataclass(frozen=True, eq=False)
class Backtest:
    """A finished back-test.

    Attributes
    ----------
    id
        Name of its folder under ``<storage>/campaigns``; it follows from the plan.
    plan
        What was hidden and predicted.
    folder
        Address of its files.
    table
        One row for each pair and engine.
    calibrations
        By engine, what the back-test says of later predictions.
    """

    id: str
    plan: BacktestPlan
    folder: str
    table: pd.DataFrame
    calibrations: dict[str, Calibration]

    @property
    def summary(self) -> pd.DataFrame:
        """One row for each evidence distance and engine; see :func:`haystack_kernel.backtest.table.summarise`."""
        return summarise(self.table)

    @property
    def failures(self) -> pd.DataFrame:
        """Pairs and engines without a figure, with the reason."""
        return self.table.loc[self.table["reason"] != "", ["perturbation", "cell_type", "held", "engine", "reason"]]

    @property
    def words(self) -> tuple[str, ...]:
        """One sentence for each engine and evidence distance: what a later prediction can be expected to reach."""
        return tuple(
            f"{engine}: {back_tested_aspect(found, prompt=AVERAGE).words}"
            for engine, calibration in self.calibrations.items()
            if engine in self.plan.engines
            for found in expect_everywhere(calibration)
            if found.is_known
        )

    def __repr__(self) -> str:
        n = self.table["pair"].nunique()
        return f"Backtest({self.id}: {n} pairs of atlas {self.plan.atlas}, engines {', '.join(self.plan.engines)})"


def run_backtest(  # noqa: PLR0913 - what is tested, where, and what it may spend
    atlas: str = "demo",
    *,
    n_pairs: int = 150,
    held: Sequence[str] = HELD,
    engines: Sequence[str] | None = None,
    decoy: bool = True,
    workers: int = 1,
    settings: Settings | None = None,
    ports: Ports | None = None,
    approve: bool | None = None,
    max_cost: float | None = None,
    progress: Progress | None = None,
    pairs: Sequence[MeasuredPair] | None = None,
    **options: Any,  # noqa: ANN401 - fields of RunConfig and ``storage``
) -> Backtest:
    """Hide measured pairs of an atlas, predict them with every engine, and compare with what was measured.

    Parameters
    ----------
    atlas
        Name of the atlas.
    n_pairs
        Number of pairs of cell type and treatment, evenly over what is held out.
    held
        What is held out: ``donor``, ``cell_type``, ``perturbation``; those that the atlas does not allow are left out.
    engines
        Names of engines; None takes every simple engine, and the one that a run on this atlas would take.
    decoy
        Also predict each pair from the prompt of another treatment: what an engine that knows nothing would reach.
    workers
        Processes that work at the same time on this machine.
    settings, ports
        None reads the settings and builds the ports from them.
    approve, max_cost
        Consent to spending and its cap in dollars, where the predictions run in the cloud.
    progress
        Listener of progress events.
    pairs
        Those of another back-test of the atlas, to compare further engines on the same; None chooses ``n_pairs``.
    **options
        ``storage``, and fields of :class:`haystack_kernel.schema.RunConfig`: ``model``, ``genelist``, ``executor``,
        ``n_prompt``, ``n_query``, ``seed``.

    Returns
    -------
    The result; its calibrations are kept with the atlas, and reports of later runs quote them.

    Raises
    ------
    InvalidInputError
        An option is refused, or the atlas has no pair that could be hidden.
    ApprovalNeededError
        The predictions cost money and this call does not consent to it; nothing was started.
    JobFailedError
        The predictions could not be made; the same call goes on where it stopped.

    Examples
    --------
    >>> tested = run_backtest("demo", n_pairs=30, workers=2)  # doctest: +SKIP
    >>> tested.summary[["evidence", "engine", "n", "pearson"]]  # doctest: +SKIP
    """
    storage = options.pop("storage", None)
    if ports is None:
        settings = settings or load_settings(storage=storage)
        ports = connect(settings, progress=progress, consent=Consent.given(approve, max_cost))
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        msg = f"workers is {workers!r}; give a whole number of at least 1"
        raise InvalidInputError(msg)
    with Pool(BACKTEST, ports=ports, workers=max(min(workers, n_pairs), 1)) as pool:
        plan = make_plan(
            atlas, n_pairs=n_pairs, held=held, engines=engines, decoy=decoy, ports=ports, pairs=pairs, **options
        )
        name = BACKTEST.id_of(plan)
        folder = CampaignFolder(ports.settings, name, clock=ports.clock)
        done = folder.read(layout.RESULTS)
        if done is None:
            said = plan_in_words(plan, workers=workers)
            ports.progress(ProgressEvent(run_id=name, phase="plan", message=said))
            folder.write(layout.PLAN, plan.model_dump_json(indent=1).encode())
            done = to_csv(_work(plan, pool, folder=folder, ports=ports, workers=workers))
            folder.write(layout.RESULTS, done)
    table = parse_csv(done, texts=TEXTS)
    made = {engine: _calibrate(engine, table, plan, name=name, ports=ports) for engine in _engines_of(table)}
    for one in made.values():
        data = one.model_dump_json(indent=1).encode()
        folder.write(layout.calibration_file(one.engine, one.model), data)
        calibrations.save(one, root=ports.settings.atlas_root)
    return Backtest(name, plan, folder.root, table, made)


def plan_in_words(plan: BacktestPlan, *, workers: int) -> str:
    """What a back-test does, where, and how long it may take, in one sentence.

    Parameters
    ----------
    plan
        From :func:`make_plan`.
    workers
        Processes that work at the same time.
    """
    n = len(plan.pairs)
    low, high = (n * (of_pair + len(plan.engines) * each) for of_pair, each in zip(_PAIR_S, _SIMPLE_S, strict=True))
    if MODEL_ENGINE in plan.engines and plan.model != DEMO_MODEL and plan.executor != "batch":
        high += n * _MODEL_S
    time = f"about {in_words(low / workers)} to {in_words(high / workers)}"
    where = f"on this machine, which costs nothing, in {time}"
    if plan.executor == "batch":
        where = f"in the cloud, besides which this machine works {time}"
    beside = f" by {workers} processes" if workers > 1 else ""
    return (
        f"{n} pairs of atlas {plan.atlas} are hidden and predicted with {', '.join(plan.engines)} {where}{beside}; it "
        "may be stopped at any time, and the same call goes on"
    )


def _work(
    plan: BacktestPlan, pool: Pool[BacktestPlan], *, folder: CampaignFolder, ports: Ports, workers: int
) -> pd.DataFrame:
    """Do what the plan says, or what is left of it; returns the table."""
    numbers = list(range(1, len(plan.pairs) + 1))
    pool.do(PREPARE, numbers, plan)
    prepared = read_prepared(plan, folder=folder)
    tasks = build_tasks(plan, prepared, folder=folder)
    predict(tasks, plan, folder=folder, ports=ports, workers=workers, name=BACKTEST.id_of(plan))
    usable = [number for number in numbers if "error" not in prepared.get(number, {"error": ""})]
    pool.do(JUDGE, usable, plan)
    return read_table(plan, prepared, folder=folder, ports=ports)


def make_plan(
    atlas: str,
    *,
    n_pairs: int,
    held: Sequence[str],
    engines: Sequence[str] | None,
    decoy: bool,
    ports: Ports,
    pairs: Sequence[MeasuredPair] | None = None,
    **options: Any,  # noqa: ANN401 - fields of RunConfig
) -> BacktestPlan:
    """Choose the pairs and check the options of a back-test; nothing is written."""
    _check_names(held, possible=HELD, what="what is held out is")
    for one in engines or ():
        check_engine(one, settings=ports.settings, executor=options.get("executor", ports.settings.jobs.executor))
    if engines:
        options["engine"] = MODEL_ENGINE if MODEL_ENGINE in engines else POOLING_ENGINE
    config = build_config(ports.settings, atlases=[atlas], literature=False, **options)
    asked = tuple(dict.fromkeys(engines)) if engines else tuple(dict.fromkeys((*BASELINES, config.engine)))
    has_model = MODEL_ENGINE in asked
    if pairs is None:
        kinds = [one for one in HELD if one in held]
        opened = ports.open_atlas([atlas])
        knowledge = load_knowledge(ports.settings.knowledge)
        whole = RunConfig(atlases=(atlas,))
        view = build_view(opened, knowledge=knowledge, settings=ports.settings.retrieval, config=whole)
        pairs = choose_pairs(list_pairs(view.conditions, held=kinds, seed=config.seed), n=n_pairs, seed=config.seed)
    return BacktestPlan(
        atlas=atlas,
        digest=calibrations.stamp_of(atlas, root=ports.settings.atlas_root, cache=ports.settings.cache),
        pairs=tuple(pairs),
        engines=asked,
        decoy=decoy,
        model=config.model if has_model else None,
        genelist=config.genelist if has_model else None,
        diffusion_steps=config.diffusion_steps,
        executor=config.executor,
        n_prompt=config.n_prompt,
        n_query=config.n_query,
        seed=config.seed,
    )


def _check_names(given: Sequence[str], *, possible: Sequence[str], what: str) -> None:
    if unknown := [str(one) for one in given if one not in possible]:
        msg = f"{what} {unknown[0]!r}; possible: {', '.join(possible)}"
        raise InvalidInputError(msg, given=unknown)


def read_table(
    plan: BacktestPlan, prepared: dict[int, dict[str, Any]], *, folder: CampaignFolder, ports: Ports
) -> pd.DataFrame:
    """The table of what was compared so far."""
    knowledge = load_knowledge(ports.settings.knowledge)
    judged = {}
    for number in prepared:
        found = folder.read_arrays(f"{layout.pair_folder(number)}/{layout.JUDGED}")
        if found is not None:
            judged[number] = found
    pairs = pairs_by_number(plan.pairs)
    names = {number: canonical_of(pair, knowledge=knowledge) for number, pair in pairs.items()}
    return tabulate(pairs, prepared, judged, names=names)


# --- one step each ------------------------------------------------------------------------------------------------


def _engines_of(table: pd.DataFrame) -> list[str]:
    """Engines with at least one correlation, which a prediction of no change has not; the replicate is no engine."""
    good = table.loc[(table["reason"] == "") & table["pearson"].notna(), "engine"]
    return [str(one) for one in good.unique() if one not in (REPLICATE, "")]


def _calibrate(engine: str, table: pd.DataFrame, plan: BacktestPlan, *, name: str, ports: Ports) -> Calibration:
    some = table[(table["engine"] == engine) & (table["reason"] == "")]
    models = [one for one in some["model"].unique() if one]
    tested, now = calibration_pairs(table, engine), ports.clock.now()
    found = calibrate(
        CalibrationPairs.of(tested, names=FEATURES),
        atlas=plan.atlas,
        digest=plan.digest,
        engine=engine,
        backtest=name,
        made_at=now,
        model=models[0] if models else "",
    )
    outcomes = calibrations.outcomes_for(found, root=ports.settings.atlas_root)
    return calibrate_with(found, outcomes, made_at=now) if outcomes else found
