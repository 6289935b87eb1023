"""Sealing: a prediction is fixed by digests and dated before it is measured, and checked against them afterwards.

In: a run or a screen in its storage. Out: a :class:`haystack_kernel.schema.Seal`, kept in ``<storage>/seals/<id>``.

A seal holds no prediction, only digests of its tables in a canonical form and of the files that say how it was made, so
that it can be given away alone. The date is that of this machine; what makes it provable is that somebody else holds
the seal, or its digest, from that day on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from haystack_kernel import keys
from haystack_kernel.atlas import calibrations
from haystack_kernel.batches.folder import CampaignFolder
from haystack_kernel.campaign.screening import SCREEN, open_screen
from haystack_kernel.campaign.sealed_screen import check_finished, file_digests, read_effects, sealed_predictions
from haystack_kernel.config.connect import connect, software_versions
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import HaystackError, InvalidInputError, NotFoundError
from haystack_kernel.grounding.confidence.backtested import FEATURES, prompt_features, quote_calibration
from haystack_kernel.grounding.de.table import MEAN_CONTROL
from haystack_kernel.rounds import query_of
from haystack_kernel.schema import EVIDENCE_WORDS, OWN_ATLAS, Seal, SealedPrediction, SealedTable, is_run_id
from haystack_kernel.store import layout, parse_csv, read_h5ad, to_csv
from haystack_kernel.store.buckets import open_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import BackTested, Round, RunRecord, Settings

# columns of the effects that are sealed: what is predicted, with its intervals; others may be added by later versions
SEALED_COLUMNS = (
    keys.GENE,
    keys.DELTA,
    keys.LOG2FC,
    keys.IS_TESTED,
    keys.PADDED,
    keys.EFFECT,
    keys.EFFECT_SD,
    keys.EFFECT_LOW,
    keys.EFFECT_HIGH,
    keys.LFSR,
    keys.PROB_DE,
    keys.IS_DE,
    MEAN_CONTROL,
)
SEAL_ID = "seal-"
_N_DIGITS = 12


@dataclass(frozen=True)
class SealLine:
    """One check of a seal: whether it passed (None: it could not be made), and what was found."""

    check: str
    ok: bool | None
    found: str


@dataclass(frozen=True)
class SealCheck:
    """What the checks of a seal found.

    Attributes
    ----------
    seal
        The seal.
    lines
        One per check, in a fixed order.
    """

    seal: Seal
    lines: tuple[SealLine, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not any(line.ok is False for line in self.lines)

    def __repr__(self) -> str:
        words = {True: "ok", False: "WRONG", None: "not checked"}
        lines = [f"  {line.check}: {words[line.ok]}: {line.found}" for line in self.lines]
        return "\n".join([f"{self.seal.id}, {self.seal.of}, sealed {self.seal.sealed_at:%Y-%m-%d %H:%M} UTC", *lines])


def seal(target: Any, *, storage: str | None = None, settings: Settings | None = None) -> Seal:  # noqa: ANN401 - below
    """Seal a finished prediction: fix it by digests with the date, before it is measured.

    Parameters
    ----------
    target
        A run or a screen, or the id of one.
    storage
        Where its folder lies; None takes the settings'.
    settings
        None reads them from the layers and the environment.

    Returns
    -------
    The seal, kept in the storage. What was sealed before keeps its first date.

    Raises
    ------
    NotFoundError
        There is no such run or screen.
    InvalidInputError
        It is not finished, or its files are not those that it made.

    Examples
    --------
    >>> sealed = haystack.campaign.seal("run-20260102t030405-abcdef")  # doctest: +SKIP
    >>> sealed.digest  # doctest: +SKIP
    '5f1d…'
    """
    name = str(getattr(target, "run_id", None) or getattr(target, "id", None) or target)
    ports = connect(settings_in(settings, storage))
    if not is_run_id(name):
        msg = f"{name!r} is the id of no run or screen; `haystack list` shows the runs of a storage"
        raise InvalidInputError(msg, given=name)
    made = _seal_of_screen(name, ports) if is_screen(name) else _seal_of_run(ports.store.load(name), ports)
    # the same prediction sealed again is the same seal, whatever was learned about it meanwhile
    what = [made.kind, made.of, *([one.number, one.table.sha256] for one in made.predictions)]
    made = made.model_copy(update={"id": SEAL_ID + hashlib.sha256(canonical(what)).hexdigest()[:_N_DIGITS]})
    raw = json.loads(made.model_dump_json())  # as it is written: NaN is null
    made = made.model_copy(update={"digest": digest_of(raw)})
    files, place = open_files(seal_address(made.id, ports.settings))
    files.create(f"{place}/{layout.SEAL}", made.model_dump_json(indent=1).encode())
    return open_seal(made.id, settings=ports.settings)


def open_seal(given: Seal | str | Path, *, storage: str | None = None, settings: Settings | None = None) -> Seal:
    """Read a seal.

    Parameters
    ----------
    given
        Its id, or the path or address of its file.
    storage
        Where an id is looked for; None takes the settings'.
    settings
        None reads them from the layers and the environment.

    Returns
    -------
    The seal, whose content agrees with its own digest.

    Raises
    ------
    NotFoundError
        There is no such seal.
    InvalidInputError
        The file is no seal, or was changed after it was sealed.

    Examples
    --------
    >>> open_seal("seal-0f3a5c1d2e4b").sealed_at  # doctest: +SKIP
    """
    if isinstance(given, Seal):
        return given
    text = str(given)
    known = settings_in(settings, storage)
    is_id = text.startswith(SEAL_ID) and "/" not in text and not text.endswith(".json")
    address = f"{seal_address(text, known)}/{layout.SEAL}" if is_id else text
    files, place = open_files(address)
    try:
        data = files.read(place)
    except (FileNotFoundError, IsADirectoryError) as error:
        there = ", ".join(list_seals(known)[:5]) or "none"
        msg = f"there is no seal {text}; the storage {known.storage} has {there}. Give the id of a seal, or its file"
        raise NotFoundError(msg, given=text) from error
    try:
        raw = json.loads(data)
        found = Seal.model_validate(raw)
    except (ValueError, ValidationError) as error:
        msg = f"{text} is no seal of HAYSTACK that this version can read; `haystack seal RUN_ID` makes one"
        raise InvalidInputError(msg, given=text) from error
    if digest_of(raw) != found.digest:
        msg = (
            f"{text} was changed after it was sealed: its content has the digest {digest_of(raw)[:12]}…, and it says "
            f"{found.digest[:12]}…. Use the file as it was given away"
        )
        raise InvalidInputError(msg, given=text, digest=found.digest)
    return found


def check_seal(given: Seal | str | Path, *, storage: str | None = None, settings: Settings | None = None) -> SealCheck:
    """Check a seal, and whether the prediction in the storage is still what was sealed.

    Parameters
    ----------
    given
        A seal, its id, or its file.
    storage
        Where the run or screen lies; None takes the settings'.
    settings
        None reads them from the layers and the environment.

    Returns
    -------
    Lines for ``seal`` (its content has its own digest), each file that says how it was predicted, and ``predictions``.

    Raises
    ------
    NotFoundError, InvalidInputError
        As :func:`open_seal`.

    Examples
    --------
    >>> check_seal("seal-0f3a5c1d2e4b").ok  # doctest: +SKIP
    True
    """
    ports = connect(settings_in(settings, storage))
    found = open_seal(given, settings=ports.settings)
    when = f"sealed {found.sealed_at:%Y-%m-%d %H:%M} UTC by the clock of that machine"
    lines = [SealLine("seal", ok=True, found=f"its content has the digest {found.digest}; {when}")]
    lines += [_check_file(path, digest, found, ports) for path, digest in found.files.items()]
    changed, missing = [], []
    for one in found.predictions:
        table = read_table(one, found, ports)
        if table is None:
            missing.append(one)
        elif not is_as_sealed(table, one.table):
            changed.append(one)
    lines.append(_told(found, changed=changed, missing=missing))
    return SealCheck(found, tuple(lines))


def list_seals(settings: Settings) -> list[str]:
    """Ids of the seals of a storage, sorted."""
    files, place = open_files(f"{settings.storage}/{layout.SEALS}")
    return sorted(name.rstrip("/") for name in files.names(place) if name.startswith(SEAL_ID))


def seal_address(seal_id: str, settings: Settings) -> str:
    """Address of the folder of a seal."""
    return f"{settings.storage}/{layout.SEALS}/{seal_id}"


# --- canonical forms ----------------------------------------------------------------------------------------------


def canonical(value: Any) -> bytes:  # noqa: ANN401 - JSON values
    """JSON with sorted keys and no spaces, so that equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(raw: dict[str, Any]) -> str:
    """Digest of the content of a seal, read from its file: of all fields but the digest itself."""
    return hashlib.sha256(canonical({name: value for name, value in raw.items() if name != "digest"})).hexdigest()


def table_digest(table: pd.DataFrame, columns: Sequence[str]) -> str:
    """Digest of a table in its canonical form, which neither the order of its rows nor further columns change."""
    ordered = table[list(columns)].sort_values(columns[0], kind="stable")
    return hashlib.sha256(to_csv(ordered)).hexdigest()


def seal_table(table: pd.DataFrame, path: str) -> SealedTable:
    """The digest of a table of effects, with what it was made from."""
    columns = tuple(name for name in SEALED_COLUMNS if name in table.columns)
    return SealedTable(path=path, columns=columns, n_rows=len(table), sha256=table_digest(table, columns))


def is_as_sealed(table: pd.DataFrame, sealed: SealedTable) -> bool:
    """Whether a table is still what was sealed."""
    has_all = set(sealed.columns) <= set(table.columns)
    return has_all and len(table) == sealed.n_rows and table_digest(table, sealed.columns) == sealed.sha256


def read_table(one: SealedPrediction, found: Seal, ports: Ports) -> pd.DataFrame | None:
    """The effects of a sealed prediction as the storage holds them now; None where they are gone."""
    if found.kind == "screen":
        folder = CampaignFolder(ports.settings, found.of, clock=ports.clock)
        return read_effects(one.number, folder, max_lfsr=ports.settings.grounding.max_lfsr)
    try:
        return parse_csv(ports.store.read(found.of, one.table.path), texts=(keys.GENE,))
    except NotFoundError:
        return None


# --- a run --------------------------------------------------------------------------------------------------------


def _seal_of_run(record: RunRecord, ports: Ports) -> Seal:
    best = record.best
    if record.status != "done" or best is None:
        msg = (
            f"run {record.run_id} has no result yet ({record.status}); finish it with `haystack resume "
            f"{record.run_id}`, then seal it"
        )
        raise InvalidInputError(msg, run_id=record.run_id)
    path = layout.record_file(record.serial)
    stored = {path: ports.store.read(record.run_id, path)}
    for item in record.files:
        data = ports.store.read(record.run_id, item.path)
        if hashlib.sha256(data).hexdigest() != item.sha256:
            msg = (
                f"{item.path} of run {record.run_id} is not the file that the run made; fork the run, and seal the fork"
            )
            raise InvalidInputError(msg, run_id=record.run_id, path=item.path)
        stored[item.path] = data
    table = parse_csv(stored[layout.DE], texts=(keys.GENE,))
    prediction = _prediction_of(record, best, ports, table=seal_table(table, layout.DE))
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in stored.items() if name != layout.DE}
    return Seal(
        id="",
        kind="run",
        of=record.run_id,
        sealed_at=ports.clock.now(),
        files=digests,
        predictions=(prediction,),
        versions=record.versions,
    )


def _prediction_of(record: RunRecord, best: Round, ports: Ports, *, table: SealedTable) -> SealedPrediction:
    query = query_of(record)
    atlas = best.candidates[0].prompt.atlas
    order = list(EVIDENCE_WORDS)
    base = SealedPrediction(
        question=record.question,
        cell_type=query.cell_type_name or query.cell_type_text or "",
        cell_type_id=query.cell_type_id or "",
        perturbation=query.perturbation.name if query.perturbation else "",
        donor=query.donor_id or "",
        engine=record.config.engine,
        model=best.model.sha256 if best.model else "",
        atlas=atlas,
        stamp="" if atlas == OWN_ATLAS else _stamp(atlas, record, ports),
        evidence=order[min(order.index(one.evidence_distance) for one in best.candidates)],
        features=_features(record, best, ports),
        expected=best.confidence.expected if best.confidence else None,
        measured=bool(record.measured),
        table=table,
    )
    return base.model_copy(update={"back_tested": quoted(base, ports)})


def quoted(one: SealedPrediction, ports: Ports) -> BackTested | None:
    """What the back-test of the atlas says of a prediction now; None where there is none of its atlas and engine."""
    if not one.stamp or one.evidence is None:
        return None
    settings = ports.settings
    found = calibrations.find(one.atlas, one.engine, model=one.model, root=settings.atlas_root, cache=settings.cache)
    if found is None or found.digest != one.stamp:
        return None
    features = [one.features.get(name, float("nan")) for name in FEATURES]
    return quote_calibration(found, engine=one.engine, evidence=(one.evidence,), features=features)


def _features(record: RunRecord, best: Round, ports: Ports) -> dict[str, float]:
    """Features of the prompt, measured on the cells of the round; none where they were removed."""
    folder, store = layout.round_folder(best.number), ports.store
    roles = (keys.PROMPT, keys.CONTROL, keys.QUERY) if best.n_control else (keys.PROMPT, keys.QUERY)
    try:
        cells = {role: read_h5ad(store, record.run_id, layout.cells_file(folder, role)) for role in roles}
    except NotFoundError:
        return {}
    values = prompt_features(cells[keys.PROMPT], cells.get(keys.CONTROL), cells[keys.QUERY])
    return dict(zip(FEATURES, values, strict=True))


def _stamp(atlas: str, record: RunRecord, ports: Ports) -> str:
    """Content of the atlas that the run read; empty where the atlas has changed since, or is gone."""
    settings = ports.settings
    try:
        return calibrations.stamp_at(
            atlas, record.digests.get(f"atlas:{atlas}", ""), root=settings.atlas_root, cache=settings.cache
        )
    except HaystackError:
        return ""


# --- a screen -----------------------------------------------------------------------------------------------------


def is_screen(name: str) -> bool:
    """Whether an id is that of a screen."""
    return name.startswith(f"{SCREEN.name}-")


def _seal_of_screen(name: str, ports: Ports) -> Seal:
    found = open_screen(name, settings=ports.settings)
    check_finished(found)
    predictions = sealed_predictions(found, ports, seal_table=seal_table)
    if not predictions:
        msg = f"no question of {name} was predicted, so there is nothing to seal"
        raise InvalidInputError(msg, screen=name)
    return Seal(
        id="",
        kind="screen",
        of=name,
        sealed_at=ports.clock.now(),
        files=file_digests(found.files),
        predictions=tuple(one.model_copy(update={"back_tested": quoted(one, ports)}) for one in predictions),
        versions=software_versions(),
    )


def _file_of(path: str, found: Seal, ports: Ports) -> bytes | None:
    if found.kind == "screen":
        return CampaignFolder(ports.settings, found.of, clock=ports.clock).read(path)
    try:
        return ports.store.read(found.of, path)
    except NotFoundError:
        return None


def _check_file(path: str, digest: str, found: Seal, ports: Ports) -> SealLine:
    data = _file_of(path, found, ports)
    if data is None:
        return SealLine(path, ok=None, found=f"{found.of} is not in this storage, or the file was removed")
    same = hashlib.sha256(data).hexdigest() == digest
    return SealLine(path, ok=same, found="as sealed" if same else "changed since it was sealed")


def _told(found: Seal, *, changed: list[SealedPrediction], missing: list[SealedPrediction]) -> SealLine:
    n = len(found.predictions)
    if changed:
        which = ", ".join(f"{one.perturbation} in {one.cell_type}" for one in changed[:5])
        return SealLine("predictions", ok=False, found=f"{len(changed)} of {n} changed since they were sealed: {which}")
    if missing:
        where = f"{len(missing)} of {n} are not in this storage (--storage says where {found.of} is)"
        return SealLine("predictions", ok=None, found=where)
    return SealLine("predictions", ok=True, found=f"{n} as sealed, gene by gene")


def settings_in(settings: Settings | None, storage: str | None) -> Settings:
    """The settings given or read, with ``storage`` over them."""
    if settings is None:
        return load_settings(storage=storage)
    return settings if storage is None else settings.model_copy(update={"storage": storage})
