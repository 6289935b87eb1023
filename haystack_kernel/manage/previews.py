"""Look at what a question would do before it is asked: how it reads, the candidates it would use, what it may cost.

In: a question and options. Out: :class:`Preview`, and what the simple engines predict at once; nothing is saved,
started or spent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack_kernel import flow, keys, rounds
from haystack_kernel.config.connect import connect
from haystack_kernel.config.options import build_config
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ApprovalNeededError, InvalidInputError
from haystack_kernel.jobs import estimate_cost, in_usd
from haystack_kernel.manage.submission import check_reachable, orchestrator_spec
from haystack_kernel.planners.claude import estimate_planner
from haystack_kernel.run import first_record
from haystack_kernel.store import new_run_id, take_along

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import CostEstimate, RunConfig, RunRecord, Settings
    from inference.baselines import Cells

QUICK_ENGINES = ("weighted", "mean", "shift")  # need no model, no job and no money
_N_QUICK_PROMPT, _N_QUICK_QUERY = 1000, 200  # cells that a quick answer reads at most


@dataclass(frozen=True)
class Preview:
    """What a question would do.

    ``record`` holds the query and, where they were asked for, the candidates. ``of_round`` is the cost of the job of
    one round and ``of_orchestrator`` that of the job that works on the run; both None where jobs run on this machine
    and cost nothing. ``of_planner`` is what a language model that plans the run may cost; None without one. With
    ``by_rules`` the question was read by rules for this look, which costs nothing, and a language model will read it
    when the run starts.
    """

    record: RunRecord
    of_round: CostEstimate | None = None
    of_orchestrator: CostEstimate | None = None
    of_planner: CostEstimate | None = None
    by_rules: bool = False

    @property
    def low_usd(self) -> float:
        """Lowest cost: one round."""
        parts = (self.of_round, self.of_orchestrator, self.of_planner)
        return sum((item.low_usd for item in parts if item is not None), start=0.0)

    @property
    def high_usd(self) -> float:
        """Highest cost: as many rounds as the options allow, each up to its time limit."""
        high = self.record.config.max_rounds * self.of_round.high_usd if self.of_round else 0.0
        others = (self.of_orchestrator, self.of_planner)
        return high + sum((item.high_usd for item in others if item is not None), start=0.0)


def preview(
    question: str,
    *,
    settings: Settings | None = None,
    ports: Ports | None = None,
    with_candidates: bool = True,
    run_id: str | None = None,
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
    run_id
        Id that the run will have; None makes one. What a language model was asked under it is not asked again.
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
    config = take_along(config, ports.settings)
    check_reachable(config, ports.settings)
    of_planner = estimate_planner(config, ports.settings.claude) if config.planner == "claude" else None
    by_rules = of_planner is not None and not ports.consent.approve
    run_id = run_id or new_run_id(ports.clock.now())
    record = _read(question, config, ports, run_id=run_id, of_planner=of_planner if by_rules else None)
    if with_candidates:
        record = rounds.search(record, ports)
    if config.executor == "local":
        return Preview(record, of_planner=of_planner, by_rules=by_rules)
    spec = orchestrator_spec(record, ports)
    return Preview(
        record,
        of_round=rounds.estimate_round(record, ports),
        of_orchestrator=estimate_cost(spec, ports.settings.batch),
        of_planner=of_planner,
        by_rules=by_rules,
    )


def _read(question: str, config: RunConfig, ports: Ports, *, run_id: str, of_planner: CostEstimate | None) -> RunRecord:
    """The first record of the question; with ``of_planner`` read by rules in place of a language model.

    Raises
    ------
    ApprovalNeededError
        The rules cannot read it, and a language model, which costs money, may.
    """
    if of_planner is None:
        return first_record(question, run_id=run_id, config=config, ports=ports)
    ports.planner_named(config.planner).check(config)
    by_rules = config.model_copy(update={"planner": "offline"})
    try:
        record = first_record(question, run_id=run_id, config=by_rules, ports=ports)
    except InvalidInputError as error:
        likely, high = in_usd(of_planner.likely_usd), in_usd(of_planner.high_usd)
        msg = (
            f"{error} The question was read by rules, which cost nothing. Claude may read it otherwise: approve that, "
            f"and planning the run costs about {likely}, at most {high}"
        )
        facts = {"likely_usd": round(of_planner.likely_usd, 4), "high_usd": round(of_planner.high_usd, 4)}
        raise ApprovalNeededError(msg, **facts) from error
    return record.model_copy(update={"config": config})


@dataclass(frozen=True, eq=False)
class QuickAnswer:
    """What the simple engines predict from the cells that the first round would use.

    ``effects`` has one row per gene that the engines could change, largest effect first: ``gene``, ``expected`` (+1,
    -1 or 0, by the question's known response), and one column per engine with the effect size, log2 of predicted over
    query cells (means of log1p(CP10k)). Where the asked response is measured already, ``measured`` is its effect size,
    log2 of treated over control cells (NaN: gene not measured there). No statistic is computed and no gene is called.
    """

    effects: pd.DataFrame
    candidates: tuple[str, ...]
    n_prompt: int
    n_control: int
    n_query: int
    notes: tuple[str, ...] = ()


def quick_answer(record: RunRecord, *, settings: Settings | None = None, ports: Ports | None = None) -> QuickAnswer:
    """Predict with the simple engines at once, from the prompt that the first round would choose.

    Parameters
    ----------
    record
        With its candidates, e.g. of a :class:`Preview`; it is not saved.
    settings
        None reads them from the settings files and the environment.
    ports
        None builds them from the settings.

    Returns
    -------
    Effect sizes by engine.

    Raises
    ------
    InvalidInputError
        The record has no candidates, or its question is not about a perturbation.
    NoCandidateError
        The chosen cells are not there.

    Examples
    --------
    >>> seen = preview("How would NK cells respond to IL-15?")  # doctest: +SKIP
    >>> quick_answer(seen.record).effects.head()  # doctest: +SKIP
    """
    import numpy as np
    import pandas as pd

    from inference.baselines import predict

    if not record.candidates:
        msg = "a quick answer needs candidates; call preview(question, with_candidates=True)"
        raise InvalidInputError(msg)
    ports = ports or connect(settings or load_settings())
    config = record.config
    chosen = _first_round(record, ports)
    cells, own = rounds.read_cells(chosen, ports)
    prompt, query = _baseline_cells(cells.prompt_cells), _baseline_cells(cells.query_cells)
    control = _baseline_cells(cells.control_cells) if cells.control_cells is not None else None
    expected = rounds.query_of(record).expected_targets
    base = predict("none", prompt=prompt, control=control, query=query, seed=config.seed)
    table = {"gene": list(query.genes), "expected": [expected.get(gene, 0) for gene in query.genes]}
    notes = [*((own.choice.source, *own.choice.open) if own else ()), *cells.notes]
    for engine in QUICK_ENGINES:
        made = predict(engine, prompt=prompt, control=control, query=query, seed=config.seed)
        table[engine] = (made.expected_log - base.expected_log) / np.log(2)
        notes += [note for note in made.notes if note not in notes]
    table |= _measured_effect(record, ports, genes=list(query.genes))
    notes += filter(None, [record.measured_words])
    effects = pd.DataFrame(table)[base.changeable]
    # largest effect of any engine first
    order = effects[list(QUICK_ENGINES)].abs().max(axis=1).sort_values(ascending=False, kind="stable").index
    return QuickAnswer(
        effects=effects.loc[order].reset_index(drop=True),
        candidates=tuple(item.key for item in chosen.rounds[-1].candidates),
        n_prompt=cells.prompt_cells.n_obs,
        n_control=control.counts.shape[0] if control else 0,
        n_query=cells.query_cells.n_obs,
        notes=tuple(notes),
    )


def _measured_effect(record: RunRecord, ports: Ports, *, genes: list[str]) -> dict[str, NDArray[np.float64]]:
    """Column ``measured``: the largest measured response to the question itself; nothing where there is none."""
    import numpy as np

    from haystack_kernel.grounding.de.profiles import compute_profile, normalise_cp10k
    from haystack_kernel.retrieval import fetch_response, open_cells

    with_control = [one for one in record.measured if one.control is not None]
    if not with_control:
        return {}
    atlas = open_cells(record.config, ports, query=rounds.query_of(record), run_id=record.run_id)
    found = fetch_response(with_control[0], atlas=atlas, config=record.config)
    arms = [compute_profile(normalise_cp10k(adata.X)).mean_log for adata in (found.treated, found.control)]
    where = found.treated.var_names.get_indexer(genes)
    effect = np.full(len(genes), np.nan)
    effect[where >= 0] = (arms[0] - arms[1])[where[where >= 0]] / np.log(2)
    return {"measured": effect}


def _baseline_cells(adata: ad.AnnData) -> Cells:
    """Cells as the baselines read them."""
    from inference.baselines import Cells

    labels = [adata.obs[name].astype(str).to_numpy() for name in (keys.CELL_TYPE, keys.DONOR)]
    return Cells(adata.X.tocsr(), tuple(map(str, adata.var_names)), labels[0], labels[1])


def _first_round(record: RunRecord, ports: Ports) -> RunRecord:
    """The record with the choice of its first round, and with so few cells that they are read at once."""
    config = record.config
    few = {
        "n_prompt": min(config.n_prompt, _N_QUICK_PROMPT),
        "n_query": min(config.n_query, _N_QUICK_QUERY),
        "planner": "offline",  # a first answer asks no language model
    }
    chosen = flow.choose(record.model_copy(update={"config": config.model_copy(update=few), "rounds": ()}), ports).value
    if not chosen.rounds:
        msg = "no candidate can be used as the prompt of a first round; look at the candidates and lift a ban"
        raise InvalidInputError(msg)
    return chosen
