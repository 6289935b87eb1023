"""Outcomes: a sealed prediction held against what was measured afterwards, and counted in the calibration.

In: a seal and a measurement, as cells or as a table of effects. Out: :class:`Recorded`; the outcome lies beside the
seal and, where it counts, with the atlas that the prediction was made from.

The metrics are those of back-tests. A prediction that was changed since its seal is refused. Cells that the prediction
had as query or prompt cells are no test of it and are left out of the measurement, told by their counts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.atlas import calibrations
from haystack_kernel.backtest.calibrate import calibrate_with
from haystack_kernel.backtest.metrics import CLEAR_Z, compare_changes
from haystack_kernel.batches.folder import CampaignFolder
from haystack_kernel.campaign.effect_table import EffectTable, MeasuredEffects, on_scale, read_effect_table
from haystack_kernel.campaign.sealing import is_as_sealed, open_seal, read_table, seal_address, settings_in
from haystack_kernel.config.connect import connect
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.grounding.de.profiles import log_normalise
from haystack_kernel.grounding.de.table import MEAN_CONTROL
from haystack_kernel.grounding.uncertainty.transfer import INTERVAL
from haystack_kernel.knowledge import load_knowledge, resolve
from haystack_kernel.retrieval import check_cells, read_truth
from haystack_kernel.retrieval.names import nearest
from haystack_kernel.retrieval.similarity.cell_types import subtypes
from haystack_kernel.retrieval.type_labels import sure_meanings
from haystack_kernel.retrieval.view import canonical_name
from haystack_kernel.schema import OWN_ATLAS, Calibration, Outcome
from haystack_kernel.store import IN_MEMORY, is_cells, layout, read_h5ad, to_csv
from haystack_kernel.store.buckets import open_files
from inference.effects import Effect, measure_effect, summarise_arm

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray
    from scipy import sparse

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Ports
    from haystack_kernel.retrieval import Response
    from haystack_kernel.schema import Seal, SealedPrediction, Settings, StructuredQuery

    Floats = NDArray[np.float64]

MIN_GENES = 100  # with fewer nothing is compared
MIN_CELLS = 10  # of an arm of the measurement
MIN_DETECTION = 0.02  # share of cells of an arm that show a gene which is compared
_MIN_SEEN = 20  # genes of a cell without which equal counts do not prove that it is the same cell
_N_DIGITS = 12


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a measurement said of sealed predictions.

    Attributes
    ----------
    outcomes
        One per prediction that was measured.
    unmatched
        Predictions that the measurement does not hold, and what of it was not used.
    calibrations
        Those that were fitted again.
    notes
        Why a calibration was not.
    """

    outcomes: tuple[Outcome, ...]
    unmatched: tuple[str, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> pd.DataFrame:
        """One row per outcome: what was predicted, how near it came, and whether the sealed intervals held."""
        rows = []
        for one in self.outcomes:
            what, own = one.prediction, one.prediction.back_tested
            row = {"number": what.number, "perturbation": what.perturbation, "cell_type": what.cell_type}
            row |= {"engine": what.engine, "evidence": what.evidence or ""}
            row |= {name: getattr(one, name) for name in _FIGURES}
            row |= {"expected_r": own.r if own else np.nan, "expected_low": own.low if own else np.nan}
            row |= {"expected_high": own.high if own else np.nan, "inside": one.inside}
            rows.append({**row, "counted": not one.not_counted, "reason": one.reason or one.not_counted})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        lines = [one.words for one in self.outcomes]
        lines += [f"  not counted: {one.not_counted}" for one in self.outcomes if one.not_counted]
        lines += [f"  not matched: {one}" for one in self.unmatched]
        lines += [f"  {one}" for one in self.notes]
        return "\n".join(lines)


_FIGURES = (
    "n_genes",
    "pearson",
    "clean",
    "overlap",
    "direction",
    "n_clear",
    "coverage",
    "n_called",
    "called_right",
    "coverage_called",
)


def record_outcome(
    seal: Seal | str | Path,
    measured: ad.AnnData | pd.DataFrame | str | Path,
    *,
    number: int | None = None,
    storage: str | None = None,
    settings: Settings | None = None,
) -> Recorded:
    """Hold sealed predictions against what was measured afterwards, and count the outcome in the calibration.

    Parameters
    ----------
    seal
        A seal, its id, or its file.
    measured
        Treated and untreated cells that their labels tell apart (AnnData or h5ad, raw counts), or a table of effects (a
        data frame, CSV or TSV) with genes and ``log2fc`` or ``delta``; standard errors or p values, treatments and cell
        types are used where there are any.
    number
        Question of a screen; None takes all that the measurement holds.
    storage
        Where the prediction lies; None takes the settings'.
    settings
        None reads them from the layers and the environment.

    Returns
    -------
    The outcomes, kept beside the seal. Each counts once in the calibration of the atlas and engine, however often it is
    recorded.

    Raises
    ------
    InvalidInputError
        The prediction was changed since it was sealed, or the measurement holds no response that was predicted.
    NotFoundError
        There is no such seal, or the prediction is not in this storage.

    Examples
    --------
    >>> found = haystack.campaign.record_outcome("seal-0f3a5c1d2e4b", "measured.h5ad")  # doctest: +SKIP
    >>> found.table[["perturbation", "pearson", "coverage", "inside"]]  # doctest: +SKIP
    """
    ports = connect(settings_in(settings, storage))
    sealed = open_seal(seal, settings=ports.settings)
    asked = _asked(sealed, number)
    source = _read(measured)
    if len(asked) > 1 and isinstance(source.cells, str):  # read once for all questions
        source = replace(source, cells=check_cells(source.cells).adata)
    knowledge = load_knowledge(ports.settings.knowledge)
    outcomes: list[Outcome] = []
    missing: list[str] = []
    for one in asked:
        table = _predicted(one, sealed, ports)
        try:
            found, unmatched = _measured(one, source, sealed=sealed, table=table, ports=ports, knowledge=knowledge)
        except InvalidInputError as error:
            if len(asked) == 1:
                raise
            missing.append(f"{one.perturbation} in {one.cell_type}: {error}")
            continue
        outcome = _compare(one, table, found, unmatched=unmatched, sealed=sealed, ports=ports, source=source)
        outcomes.append(_keep(outcome, ports))
    if not outcomes:
        msg = f"the measurement holds none of the {len(asked)} responses of {sealed.id}; the first: {missing[0]}"
        raise InvalidInputError(msg, seal=sealed.id)
    counted = [_count(group, ports) for group in _by_engine(outcomes)]
    made = tuple(one for one in counted if isinstance(one, Calibration))
    return Recorded(tuple(outcomes), tuple(missing), made, tuple(one for one in counted if isinstance(one, str)))


def list_outcomes(seal: Seal | str | Path, *, storage: str | None = None, settings: Settings | None = None) -> Recorded:
    """Return the outcomes that were recorded of a seal, oldest first.

    Parameters
    ----------
    seal
        A seal, its id, or its file.
    storage
        Where they lie; None takes the settings'.
    settings
        None reads them from the layers and the environment.

    Returns
    -------
    The outcomes; none where nothing was measured yet.

    Examples
    --------
    >>> list_outcomes("seal-0f3a5c1d2e4b").table  # doctest: +SKIP
    """
    known = settings_in(settings, storage)
    sealed = open_seal(seal, settings=known)
    files, place = open_files(f"{seal_address(sealed.id, known)}/{layout.OUTCOMES}")
    found = [Outcome.model_validate_json(files.read(f"{place}/{name}")) for name in sorted(files.names(place))]
    return Recorded(tuple(sorted(found, key=lambda one: (one.recorded_at, one.prediction.number))))


# --- the two sides ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Source:
    """The measurement: cells, or a table whose columns were found."""

    name: str
    cells: ad.AnnData | str | None = None
    table: EffectTable | None = None


def _asked(sealed: Seal, number: int | None) -> tuple[SealedPrediction, ...]:
    if number is None:
        return sealed.predictions
    one = sealed.prediction(number)
    if one is None:
        held = ", ".join(str(each.number) for each in sealed.predictions[:10])
        msg = f"{sealed.id} holds no prediction number {number}; it holds {held}"
        raise InvalidInputError(msg, number=number)
    return (one,)


def _read(measured: Any) -> _Source:  # noqa: ANN401 - what a person gives
    if is_cells(measured):
        return _Source(IN_MEMORY, cells=measured)
    if isinstance(measured, pd.DataFrame):
        return _Source("data frame", table=read_effect_table(measured, name="the data frame"))
    text = str(measured)
    name = Path(text).name
    if Path(text).suffix.lower() in (".csv", ".tsv", ".txt"):
        files, place = open_files(text)
        try:
            data = files.read(place)
        except FileNotFoundError as error:
            msg = f"there is no measurement at {text}; give the path or address of an h5ad, CSV or TSV"
            raise NotFoundError(msg, path=text) from error
        return _Source(name, table=read_effect_table(data, name=name))
    return _Source(name, cells=text)


def _predicted(one: SealedPrediction, sealed: Seal, ports: Ports) -> pd.DataFrame:
    """The sealed effects, by gene; refused where they are not what was sealed."""
    table = read_table(one, sealed, ports)
    if table is None:
        msg = f"the prediction of {sealed.id} ({sealed.of}) is not in {ports.settings.storage}; check --storage"
        raise NotFoundError(msg, of=sealed.of)
    if not is_as_sealed(table, one.table):
        msg = (
            f"{one.table.path} of {sealed.of} was changed after it was sealed on {sealed.sealed_at:%Y-%m-%d}: an "
            "outcome of it would be of another prediction. Put the sealed file back; `haystack seal check` says what "
            "differs"
        )
        raise InvalidInputError(msg, seal=sealed.id, path=one.table.path)
    return table.drop_duplicates(keys.GENE).set_index(keys.GENE)


def _measured(
    one: SealedPrediction,
    source: _Source,
    *,
    sealed: Seal,
    table: pd.DataFrame,
    ports: Ports,
    knowledge: Knowledge,
) -> tuple[MeasuredEffects, list[str]]:
    if source.table is not None:
        rows, notes = _rows_of(one, source.table, name=source.name, knowledge=knowledge)
        found = on_scale(source.table, rows, mean_control=table[MEAN_CONTROL])
        return found, [*found.notes, *notes]
    response = read_truth(source.cells or "", query=_query_of(one), knowledge=knowledge)
    return _effects_of(response, used=_cells_used(sealed, one, ports))


def _query_of(one: SealedPrediction) -> StructuredQuery:
    """What was asked, as far as cells of a measurement are chosen by it."""
    from haystack_kernel.schema import Perturbation, StructuredQuery

    asked = Perturbation(text=one.perturbation, name=one.perturbation) if one.perturbation else None
    return StructuredQuery(
        question=one.question,
        task_type="perturbation_novel_cell_types",
        cell_type_text=one.cell_type or None,
        cell_type_id=one.cell_type_id or None,
        cell_type_name=one.cell_type or None,
        perturbation=asked,
    )


def _rows_of(
    one: SealedPrediction, found: EffectTable, *, name: str, knowledge: Knowledge
) -> tuple[pd.DataFrame, list[str]]:
    """Rows of a table about the treatment and cell type that were predicted, by its labels where it has some."""
    rows, notes = found.table, []
    checks = {
        "perturbation": (one.perturbation, lambda label: _is_treatment(label, one.perturbation, knowledge=knowledge)),
        "cell_type": (one.cell_type, lambda label: _is_type(label, one, knowledge=knowledge)),
    }
    for column, (wanted, fits) in checks.items():
        what = column.replace("_", " ")
        if column not in found.labels:
            notes.append(f"{name} does not say of which {what} it is: taken as {wanted}")
            continue
        labels = [str(label) for label in rows[column].unique()]
        chosen = [label for label in labels if fits(label)]
        if not chosen:
            msg = f"{name} holds no {what} {wanted!r}; it holds {nearest(wanted, labels) or 'none'}"
            raise InvalidInputError(msg, asked=wanted, held=labels)
        if others := [label for label in labels if label not in chosen]:
            shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
            notes.append(f"rows of other {what}s were left out: {shown}")
        rows = rows[rows[column].isin(chosen)]
    return rows, notes


def _is_treatment(label: str, wanted: str, *, knowledge: Knowledge) -> bool:
    return wanted.casefold() in (label.casefold(), canonical_name(label, knowledge=knowledge).casefold())


def _is_type(label: str, one: SealedPrediction, *, knowledge: Knowledge) -> bool:
    if label.casefold() == one.cell_type.casefold():
        return True
    own = {one.cell_type_id} | subtypes(one.cell_type_id, knowledge=knowledge) if one.cell_type_id else set()
    meant = sure_meanings(resolve(label, kind="cell_type", knowledge=knowledge))
    return bool(meant) and meant <= own


# --- cells --------------------------------------------------------------------------------------------------------


def _cells_used(sealed: Seal, one: SealedPrediction, ports: Ports) -> dict[str, ad.AnnData]:
    """Query and prompt cells of a prediction; without those that were removed since."""
    if sealed.kind == "screen":
        folder = CampaignFolder(ports.settings, sealed.of, clock=ports.clock)
        place = layout.question_folder(one.number)
        held = {role: folder.read_cells(layout.cells_file(place, role)) for role in layout.ROLES}
        return {role: cells for role, cells in held.items() if cells is not None}
    best = ports.store.load(sealed.of).best_round or 1
    found = {}
    for role in (keys.PROMPT, keys.CONTROL, keys.QUERY):
        try:
            path = layout.cells_file(layout.round_folder(best), role)
            found[role] = read_h5ad(ports.store, sealed.of, path, labels=())
        except NotFoundError:
            continue
    return found


def _effects_of(response: Response, *, used: dict[str, ad.AnnData]) -> tuple[MeasuredEffects, list[str]]:
    """Effects of measured cells, without cells that the prediction was made from."""
    notes = list(response.notes)
    treated = _without(response.treated, used, (keys.PROMPT,), what="treated", notes=notes)
    control = _without(response.control, used, (keys.QUERY, keys.CONTROL), what="control", notes=notes)
    if lacking := [role for role in (keys.PROMPT, keys.QUERY) if role not in used]:
        notes.append(
            f"whether measured cells were {' or '.join(lacking)} cells could not be checked: they were removed"
        )
    if min(treated.n_obs, control.n_obs) < MIN_CELLS:
        left = f"{treated.n_obs} treated and {control.n_obs} control cells are left"
        msg = f"{left}; {MIN_CELLS} of each are needed ({'; '.join(notes)})"
        raise InvalidInputError(msg, n_treated=treated.n_obs, n_control=control.n_obs)
    genes = pd.Index(treated.var_names)
    arms = [treated.X.tocsr(), control[:, genes].X.tocsr()]
    effect = measure_effect(*(summarise_arm(log_normalise(arm)) for arm in arms))
    detected = np.max([np.asarray((arm > 0).mean(axis=0)).ravel() for arm in arms], axis=0)
    found = MeasuredEffects(
        genes, effect.delta, effect.se, "cells", detected, n_treated=treated.n_obs, n_control=control.n_obs
    )
    return found, notes


def _without(
    cells: ad.AnnData, used: dict[str, ad.AnnData], roles: tuple[str, ...], *, what: str, notes: list[str]
) -> ad.AnnData:
    """The cells without those that have the counts of a cell which the prediction was made from."""
    keep = np.ones(cells.n_obs, bool)
    for role in roles:
        if role in used:
            same = same_cells(cells, used[role]) & keep
            if same.any():
                notes.append(f"{int(same.sum()):,} {what} cells of the measurement were {role} cells: left out")
            keep &= ~same
    return cells if keep.all() else cells[keep].copy()


def same_cells(cells: ad.AnnData, others: ad.AnnData) -> NDArray[np.bool_]:
    """Which cells have the very counts of one of the others, over the genes of both.

    Parameters
    ----------
    cells, others
        Raw counts.
    """
    genes = cells.var_names[cells.var_names.isin(others.var_names)]
    own, theirs = (_row_keys(one[:, genes].X.tocsr()) for one in (cells, others))
    known = {key for key in theirs if key}
    return np.array([key in known for key in own], dtype=bool)


def _row_keys(counts: sparse.csr_matrix) -> list[bytes]:
    counts = counts.astype(np.float32)
    counts.eliminate_zeros()
    counts.sort_indices()
    found = []
    for start, stop in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
        where = counts.indices[start:stop].astype(np.int64)
        is_telling = stop - start >= _MIN_SEEN
        found.append(where.tobytes() + counts.data[start:stop].tobytes() if is_telling else b"")
    return found


# --- compared -----------------------------------------------------------------------------------------------------


def _compare(
    one: SealedPrediction,
    table: pd.DataFrame,
    found: MeasuredEffects,
    *,
    unmatched: list[str],
    sealed: Seal,
    ports: Ports,
    source: _Source,
) -> Outcome:
    shared = table.index[table.index.isin(found.genes)]
    own = table.loc[shared]
    places = found.genes.get_indexer(shared)
    delta, se = found.delta[places], found.se[places]
    is_seen = own[keys.IS_TESTED].to_numpy(bool) | (np.nan_to_num(found.detected[places]) >= MIN_DETECTION)
    tested = is_seen & ~own[keys.PADDED].to_numpy(bool) & np.isfinite(delta) & own[keys.DELTA].notna().to_numpy()
    base: dict[str, Any] = {
        "seal": sealed.id,
        "seal_digest": sealed.digest,
        "sealed_at": sealed.sealed_at,
        "recorded_at": ports.clock.now(),
        "prediction": one,
        "source": source.name,
        "scale": found.scale,
        "measured": _digest(found),
        "n_treated": found.n_treated,
        "n_control": found.n_control,
        "n_genes": int(tested.sum()),
    }
    n_unmeasured = int((table[keys.IS_TESTED].astype(bool) & ~table.index.isin(found.genes)).sum())
    n_unknown = int((~found.genes.isin(table.index)).sum())
    for n, words in (
        (n_unmeasured, "tested genes were not measured"),
        (n_unknown, "measured genes were not predicted"),
    ):
        unmatched = [*unmatched, f"{n:,} {words}"] if n else unmatched
    base["unmatched"] = tuple(unmatched)
    text = f"{sealed.digest} {one.number} {base['measured']}"
    base["id"] = f"outcome-{hashlib.sha256(text.encode()).hexdigest()[:_N_DIGITS]}"
    if base["n_genes"] < MIN_GENES:
        reason = f"{base['n_genes']} tested genes were measured; {MIN_GENES} are needed"
        return Outcome(**base, reason=reason, not_counted=reason)
    figures = _figures(own[tested], delta[tested], se[tested])
    base |= figures | _held(one, figures)
    return Outcome(**base, not_counted=_why_not(one, figures["pearson"]))


def _figures(own: pd.DataFrame, delta: Floats, se: Floats) -> dict[str, Any]:
    """Metrics over the genes that are compared."""
    known = np.isfinite(se)
    truth = Effect(delta, np.where(known, se, np.inf), 0, 0)
    told = own[keys.DELTA].to_numpy(float)
    near = compare_changes(told, truth, tested=np.ones(len(delta), bool))
    reliability = clean = np.nan
    if known.mean() > 0.5 and delta[known].var() > 0:
        reliability = max(0.05, 1 - float(np.mean(se[known] ** 2)) / float(delta[known].var(ddof=1)))
        clean = float(np.clip(near.pearson / np.sqrt(reliability), -1, 1))
    mean, sd = own[keys.EFFECT].to_numpy(float), own[keys.EFFECT_SD].to_numpy(float)
    can_tell = known & np.isfinite(mean) & np.isfinite(sd)
    held = np.abs(delta - mean) <= INTERVAL * np.hypot(sd, np.where(known, se, 0.0))
    called = own[keys.IS_DE].to_numpy(bool) & np.isfinite(mean)
    return {
        "pearson": near.pearson,
        "cosine": near.cosine,
        "rmse": near.rmse,
        "overlap": near.overlap,
        "direction": near.direction,
        "n_clear": int((np.abs(delta[known]) > CLEAR_Z * se[known]).sum()),
        "reliability": reliability,
        "clean": clean,
        "n_called": int(called.sum()),
        "called_right": _share(np.sign(mean) == np.sign(delta), called),
        "coverage": _share(held, can_tell),
        "coverage_called": _share(held, can_tell & called),
    }


def _share(what: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return float(what[among].mean()) if among.any() else float("nan")


def _held(one: SealedPrediction, figures: dict[str, Any]) -> dict[str, bool | None]:
    """Whether the accuracy that was sealed as expected was reached."""

    def within(value: float, low: float, high: float) -> bool | None:
        return None if np.isnan([value, low, high]).any() else bool(low <= value <= high)

    tested, own = one.back_tested, one.expected
    return {
        "inside": within(figures["pearson"], tested.low, tested.high) if tested else None,
        "inside_clean": within(figures["clean"], own.low, own.high) if own else None,
    }


def _why_not(one: SealedPrediction, r: float) -> str:
    """Why an outcome says nothing about later predictions; empty where it does."""
    if np.isnan(r):
        return "the prediction or the measurement is the same for every gene, so that there is no correlation"
    if one.atlas in ("", OWN_ATLAS):
        return "its prompt cells are no atlas's, which alone has calibrations"
    if not one.stamp or one.evidence is None:
        return f"atlas {one.atlas} had changed when the prediction was sealed"
    return ""


def _digest(found: MeasuredEffects) -> str:
    """Of the measured effects, whatever the order of cells or rows."""
    table = pd.DataFrame({keys.GENE: found.genes, keys.DELTA: [f"{value:.6g}" for value in found.delta]})
    return hashlib.sha256(to_csv(table.sort_values(keys.GENE, kind="stable"))).hexdigest()


# --- kept and counted ---------------------------------------------------------------------------------------------


def _keep(outcome: Outcome, ports: Ports) -> Outcome:
    """The outcome beside its seal; what was recorded before stays as it was."""
    files, place = open_files(f"{seal_address(outcome.seal, ports.settings)}/{layout.outcome_file(outcome.id)}")
    if files.create(place, outcome.model_dump_json(indent=1).encode()):
        return outcome
    return Outcome.model_validate_json(files.read(place))


def _by_engine(outcomes: list[Outcome]) -> list[list[Outcome]]:
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for one in outcomes:
        if not one.not_counted:
            what = one.prediction
            groups.setdefault((what.atlas, what.stamp, what.engine, what.model), []).append(one)
    return list(groups.values())


def _count(group: list[Outcome], ports: Ports) -> Calibration | str:
    """Fit the calibration of an atlas and engine again; a sentence where it cannot be."""
    what, settings = group[0].prediction, ports.settings
    for one in group:
        calibrations.save_outcome(one, root=settings.atlas_root)
    found = calibrations.find(what.atlas, what.engine, model=what.model, root=settings.atlas_root, cache=settings.cache)
    now = ports.clock.now()
    if found is None:
        found = Calibration(
            atlas=what.atlas,
            digest=what.stamp,
            engine=what.engine,
            model=what.model,
            backtest="",
            made_at=now,
            n_pairs=0,
            n_perturbations=0,
        )
    if found.digest != what.stamp:
        return f"atlas {what.atlas} has changed since the prediction: its calibrations do not count the outcome"
    if found.n_pairs and not found.pairs:
        return (
            f"the calibration of {what.engine} on atlas {what.atlas} was made before its pairs were kept; `haystack "
            f"backtest {what.atlas}` makes one that counts the outcome"
        )
    made = calibrate_with(found, calibrations.outcomes_for(found, root=settings.atlas_root), made_at=now)
    calibrations.save(made, root=settings.atlas_root)
    return made
