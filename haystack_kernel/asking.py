"""Ask, predict and score with cells in memory: an AnnData goes in, a run or an AnnData comes out.

In: a question or a treatment, and cells as AnnData or paths. Out: a :class:`Run`, the predicted cells, or a
:class:`Score`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from haystack_kernel import keys
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.planners.offline import OfflinePlanner
from haystack_kernel.run import open_run
from haystack_kernel.store import require_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

    from haystack_kernel.grounding import Grounded
    from haystack_kernel.run import Run
    from haystack_kernel.schema import Settings, StructuredQuery

    Cells: TypeAlias = ad.AnnData | str | Path

_MOST_CELLS = 20_000  # of one prediction, as the option n_query allows


def ask(
    question: str,
    *,
    query: Cells | None = None,
    prompt: Cells | None = None,
    control: Cells | None = None,
    atlas: str | Sequence[str] | None = None,
    **options: Any,  # noqa: ANN401 - those of open_run
) -> Run:
    """Ask a question, work it to the end and return the run.

    Parameters
    ----------
    question
        In English, 10 to 2,000 characters.
    query
        Your own cells to be transformed: an AnnData of raw counts, or the path of an h5ad file. Of them, the untreated
        cells of the type asked for are taken, by their own labels, or those that ``query_cells`` names. None takes them
        from the atlases.
    prompt
        Your own cells that show the effect; without ``atlas`` no other cells are searched. An AnnData is written once
        into the run folder, and never changed.
    control
        Untreated cells that match the prompt. None takes those that the labels of the prompt call untreated.
    atlas
        Name of the atlas to search, or several names; None takes the settings', or none where ``prompt`` is given.
    **options
        As in :func:`haystack_kernel.open_run`: ``engine``, ``max_rounds``, ``seed``, ``storage``, ``approve`` and more.

    Returns
    -------
    The finished run.

    Raises
    ------
    InvalidInputError
        The question, an option or the cells are refused; the message says what is possible. Nothing was made.
    HaystackError
        A step failed; ``haystack.last()`` is the run, and ``haystack.resume`` goes on with it.

    Examples
    --------
    >>> run = haystack.ask("How would B cells respond to IFN-beta?", query=adata, atlas="kang")  # doctest: +SKIP
    >>> run.score  # doctest: +SKIP
    8.5
    """
    return open_run(question, **_options(options, query=query, prompt=prompt, control=control, atlas=atlas)).work()


def predict(
    adata: Cells,
    perturbation: str,
    *,
    cell_type: str | None = None,
    prompt: Cells | None = None,
    control: Cells | None = None,
    atlas: str | Sequence[str] | None = None,
    **options: Any,  # noqa: ANN401 - those of open_run
) -> ad.AnnData:
    """Predict how cells would respond to a treatment; the run behind it is kept.

    Parameters
    ----------
    adata
        The cells to be transformed, as raw counts: an AnnData, which is not changed, or the path of an h5ad file.
    perturbation
        The treatment, such as ``"IFN-beta"`` or ``"STAT1 knock-out"``.
    cell_type
        Their cell type; None reads it from the labels of the cells, which must then be of one type.
    prompt, control, atlas
        Cells that show the effect, as in :func:`ask`.
    **options
        As in :func:`haystack_kernel.open_run`. ``n_query`` is the number of cells given, unless it is given.

    Returns
    -------
    AnnData
        Predicted counts in ``X``; ``layers["control_pred"]`` (predicted from control cells, where there are any) and
        ``layers["query"]`` (as given). ``uns["rank_genes_groups"]`` in scanpy's form, the map in ``obsm["X_umap"]``,
        and ``uns["haystack"]`` with run id, engine, licence and citation as JSON texts. Cells are in the order given.

    Raises
    ------
    InvalidInputError
        The cells are of several types or of none that their labels tell, or are refused otherwise.

    Examples
    --------
    >>> predicted = haystack.predict(adata, "IFN-beta", atlas="kang")  # doctest: +SKIP
    >>> haystack.get.de(predicted).query("is_de")  # doctest: +SKIP
    """
    require_cells(adata)
    if cell_type is None:
        cell_type = _one_type(adata, settings=options.get("settings"))
    options.setdefault("n_query", min(_n_cells(adata), _MOST_CELLS))
    question = _question(cell_type, perturbation)
    return to_anndata(ask(question, query=adata, prompt=prompt, control=control, atlas=atlas, **options), like=adata)


def to_anndata(run: Run, *, like: object = None) -> ad.AnnData:
    """Return the predictions of a run with its final record and the map of its cells, apart from the run folder.

    Parameters
    ----------
    run
        A run with a scored round.
    like
        An AnnData whose order the cells get, as far as they are in it.

    Returns
    -------
    As :func:`predict`.

    Examples
    --------
    >>> to_anndata(haystack.attach("run-20260102t030405-abcdef"))  # doctest: +SKIP
    """
    found = run.predictions.copy()
    if hasattr(like, "obs_names"):
        wanted = [name for name in map(str, like.obs_names) if name in found.obs_names]
        found = found[wanted].copy() if len(wanted) == found.n_obs else found
    texts = {"record": run.record.model_dump(mode="json"), "engine": run.record.config.engine}
    try:
        cells = run.embedding
    except LookupError:  # the map is made last
        cells = None
    if cells is not None:
        texts["cells"] = {str(name): cells[name].tolist() for name in cells}
        mapped = cells[cells[keys.ROLE] == keys.PREDICTED].set_index(keys.CELL_ID)
        mapped = mapped[~mapped.index.duplicated()].reindex(found.obs_names)
        found.obsm["X_umap"] = mapped.iloc[:, -2:].to_numpy(float)
    found.uns[keys.UNS] = {**found.uns[keys.UNS], **{name: json.dumps(value) for name, value in texts.items()}}
    return found


@dataclass(frozen=True, eq=False)
class Score:
    """How far a response agrees with known biology.

    Attributes
    ----------
    query
        What was asked of the knowledge tables: cell type, treatment, and what is expected of it.
    grounded
        Effects, pathways, components with both nulls, composite and confidence.
    notes
        What was left out of the cells.
    """

    query: StructuredQuery
    grounded: Grounded
    notes: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """Unrounded composite, 1 to 10; NaN where it could not be computed."""
        return self.grounded.composite.value

    @property
    def de(self) -> pd.DataFrame:
        """Differential expression, one row per gene."""
        return self.grounded.de

    @property
    def pathways(self) -> pd.DataFrame:
        """Pathway statistics, one row per pathway."""
        return self.grounded.pathways

    @property
    def components(self) -> pd.DataFrame:
        """One row per component: score, weight, p values, and why it is NaN or limited."""
        import pandas as pd

        columns = ["name", "score", "weight", "statistic", "p_signal", "p_donors", "p_specificity", "n_genes", "reason"]
        rows = [[getattr(one, name) for name in columns] for one in self.grounded.components]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        composite = self.grounded.composite
        head = f"{self.query.reading}: " + (
            f"not scored: {composite.reason}" if composite.value != composite.value else composite.shown
        )
        lines = [f"  {one.name.replace('_', ' ')}: {_shown(one.score, one.reason)}" for one in self.grounded.components]
        return "\n".join([head, *lines, *(f"  note: {note}" for note in (*self.notes, *self.grounded.notes))])

    def _repr_html_(self) -> str:
        from haystack_kernel.report.html import Html, paragraph, table

        rows = [
            (
                one.name.replace("_", " "),
                one.score,
                one.p_signal,
                one.p_donors,
                one.p_specificity,
                one.n_genes,
                one.reason,
            )
            for one in self.grounded.components
        ]
        columns = ("component", "score", "p, self-contained", "p, donors", "p, competitive", "genes", "note")
        notes = "".join(paragraph(note, kind="small") for note in (*self.notes, *self.grounded.notes))
        return Html(
            paragraph(repr(self).splitlines()[0]) + table(columns, rows, caption="Score components") + notes
        )._repr_html_()


def score(
    adata: Cells,
    *,
    perturbation: str | None = None,
    control: Cells | None = None,
    cell_type: str | None = None,
    generated: bool | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> Score:
    """Score a response against known biology: a measured one, or a prediction of HAYSTACK or of another program.

    Parameters
    ----------
    adata
        The treated cells as raw counts; or treated and untreated ones, which its labels tell apart; or predictions of
        HAYSTACK, which hold their control. An AnnData, which is not changed, or a path.
    perturbation
        The treatment; None for predictions of HAYSTACK, which say it.
    control
        Untreated cells to compare with; None takes those that the labels of ``adata`` call untreated.
    cell_type
        The cell type; None reads it from the labels.
    generated
        Whether a program made the treated cells. They are then no replicates: the self-contained null, which permutes
        labels of measured cells, is not computed, and every component says that it rests on the competitive null
        alone. None: True for predictions of HAYSTACK, else False.
    seed
        Random seed of the nulls.
    settings
        None reads them from the layers and the environment.

    Returns
    -------
    Score
        ``value`` (1 to 10), ``components``, ``de``, ``pathways``.

    Raises
    ------
    InvalidInputError
        There are no treated or no control cells, the treatment is not known, or the cells are refused.

    Examples
    --------
    >>> haystack.score(adata, perturbation="IFN-beta")  # doctest: +SKIP
    IFN-beta | B cell: 8.2 of at most 8.2
    """
    from haystack_kernel.grounding import GroundingCells, GroundingContext, score_prediction
    from haystack_kernel.retrieval import split_response

    require_cells(adata)
    settings = settings or load_settings()
    knowledge = load_knowledge(settings.knowledge)
    own = _own_story(adata)
    if perturbation is None:
        if own is None:
            msg = "name the treatment whose response is scored: haystack.score(adata, perturbation='IFN-beta')"
            raise InvalidInputError(msg)
        perturbation = own["query"]["perturbation"]["name"]
        cell_type = cell_type or own["query"]["cell_type_name"]
    is_generated = own is not None if generated is None else generated
    found = split_response(adata, control=control, knowledge=knowledge)
    # labels of generated cells may not be permuted: without control cells of the prompt there is no such null
    cells = GroundingCells(
        treated=found.treated,
        control_pred=found.control_pred,
        query=found.control,
        prompt=found.treated,
        prompt_control=None if is_generated else found.control,
    )
    question = _question(cell_type or _one_type(adata, settings=settings), perturbation)
    query, _ = OfflinePlanner(knowledge).understand(question)  # a sentence of fixed form, which needs no model
    context = GroundingContext(
        seed=seed,
        engine="prediction" if is_generated else "measured",
        control_strategy="query_as_control" if found.control_pred is None else "synthetic_control",
    )
    grounded = score_prediction(cells, query=query, knowledge=knowledge, settings=settings.grounding, context=context)
    if not is_generated:
        grounded = replace(
            grounded,
            notes=(f"p values of genes rest on {found.treated.n_obs} treated and {found.control.n_obs} control cells",),
        )
    return Score(query, grounded, notes=found.notes)


def _options(options: dict[str, Any], *, atlas: str | Sequence[str] | None, **cells: Cells | None) -> dict[str, Any]:
    """Options of ``open_run``: cells by role under the names that the configuration has for them."""
    given: dict[str, Any] = {f"{role}_h5ad": one for role, one in cells.items() if one is not None}
    if twice := sorted(set(given) & set(options)):
        roles = ", ".join(name.removesuffix("_h5ad") for name in twice)
        msg = f"{', '.join(twice)} was given twice; give cells as {roles}"
        raise InvalidInputError(msg, options=twice)
    if atlas is not None:
        given["atlases"] = [atlas] if isinstance(atlas, str) else list(atlas)
    return {**options, **given}


def _question(cell_type: str, perturbation: str) -> str:
    from haystack_kernel.retrieval import cells_of

    return f"How would {cells_of(cell_type)} respond to {perturbation}?"


def _one_type(adata: Cells, *, settings: Settings | None) -> str:
    """The one cell type that the labels of the cells name."""
    from haystack_kernel.retrieval import held_types

    knowledge = load_knowledge((settings or load_settings()).knowledge)
    held = held_types(adata, knowledge=knowledge)
    if len(held) == 1:
        return next(iter(held))
    listed = ", ".join(f"{name} ({n:,})" for name, n in held.items())
    msg = (
        f"the cells are of several types: {listed}. A run works on one: give cell_type, e.g. "
        f"cell_type={next(iter(held))!r}, once for each"
        if held
        else "no label of the cells surely names a cell type; give it: cell_type='B cell'"
    )
    raise InvalidInputError(msg, held=list(held))


def _n_cells(adata: Cells) -> int:
    from haystack_kernel.retrieval import check_cells

    return check_cells(adata).preflight.n_cells if isinstance(adata, (str, Path)) else int(adata.n_obs)


def _own_story(adata: Cells) -> dict[str, Any] | None:
    """What predictions of HAYSTACK say of their run; None for other cells."""
    texts = None if isinstance(adata, (str, Path)) else adata.uns.get(keys.UNS)
    return None if not texts else {name: json.loads(texts[name]) for name in ("run_id", "query")}


def _shown(value: float, reason: str) -> str:
    return f"not computed: {reason}" if math.isnan(value) else f"{value:.1f}{f' ({reason})' if reason else ''}"
