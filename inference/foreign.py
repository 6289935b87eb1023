"""Runs an engine of another package in a process of its own, and checks what it answers.

In: the engine's name, cells by role. Out: a :class:`inference.baselines.Prediction`, or an EngineError that says what
was wrong and what is expected.

The process has its own memory and a time limit, so an engine that crashes, hangs or exits ends its own task only. It
answers in arrays of numbers and text; nothing is unpickled.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from scipy import sparse

from inference.baselines import Cells, Prediction
from inference.draw import MAX_LOG, draw_counts, log_normalise
from inference.errors import EngineError
from inference.installed import Installed, find_installed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from inference.additive import Others

LIMIT_S = 900.0  # of one prediction, where the manifest sets no other
MOST_COUNTS = 2.0**24  # whole numbers that float32 holds exactly
_ANSWER, _FAULT, _STATED, _LOG = "answer.npz", "fault.json", "stated.json", "log.txt"
_ROLES = ("prompt", "control", "query", "others")
_FAULT_EXIT = 3
_TAIL = 800  # characters of a log that a message quotes
_EXPECTED = (
    "expected: an AnnData with the query's cells in their order and raw counts of the query's genes in X, or a pandas "
    "Series with the change of mean log1p(CP10k) by gene; genes that are left out stay as they are"
)


def predict(
    engine: Installed,
    *,
    prompt: Cells,
    control: Cells | None,
    query: Cells,
    seed: int,
    others: Others | None = None,
    limit_s: float | None = None,
) -> Prediction:
    """Have an engine of another package predict, and check its answer.

    Parameters
    ----------
    engine
        The engine.
    prompt, control, query, others
        Cells by role; ``others`` are cells of other treatments with their control cells.
    seed
        Random seed.
    limit_s
        Seconds after which the engine is ended.

    Returns
    -------
    The prediction, whose record states package, version, licence and citation of the engine.

    Raises
    ------
    EngineError
        The engine failed, took too long, or answered what is no prediction of these cells.
    """
    cells: dict[str, Cells | None] = {"prompt": prompt, "control": control, "query": query}
    with tempfile.TemporaryDirectory(prefix="haystack-engine-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for role, one in cells.items():
            if one is not None:
                to_anndata(one).write_h5ad(folder / f"{role}.h5ad")
        if others is not None:
            labels = {"perturbation": others.treatment, "is_control": others.is_control}
            to_anndata(others.cells, **labels).write_h5ad(folder / "others.h5ad")
        _run(engine, folder, seed=seed, limit_s=limit_s or LIMIT_S)
        answer = _read_answer(folder / _ANSWER, engine.name)
        stated = _read_json(folder / _STATED)
    if faults := find_faults(answer, query):
        msg = f"engine {engine.name!r} gave no valid answer: {'; '.join(faults)}. {_EXPECTED}"
        raise EngineError(msg)
    return _to_prediction(answer, query, seed=seed, record={"model": _card(engine, stated)})


def find_faults(answer: Mapping[str, Any], query: Cells) -> list[str]:
    """Say everything that is wrong with an answer: arrays ``genes``, ``values`` and, of counts, their places."""
    genes = [str(name).upper() for name in answer["genes"]]
    asked = {name.upper() for name in query.genes}
    faults = [] if genes else ["it holds no gene"]
    if unknown := [name for name in genes if name not in asked]:
        shown = ", ".join(unknown[:3])
        faults.append(f"{len(unknown)} of its {len(genes)} genes are not among the query's, such as {shown}")
    if n_again := len(genes) - len(set(genes)):
        faults.append(f"{n_again} genes are there more than once")
    values = answer["values"]
    if values.dtype.kind not in "fiub":
        return [*faults, f"its values are of type {values.dtype}, which are no numbers"]
    if n_bad := int((~np.isfinite(values.astype(float))).sum()):
        faults.append(f"{n_bad} of its {values.size} values are NaN or infinite")
    finite = values[np.isfinite(values.astype(float))]
    of_kind = _faults_of_change if answer["kind"] == "change" else _faults_of_counts
    return [*faults, *of_kind(answer, query, finite)]


def _faults_of_change(answer: Mapping[str, Any], _query: Cells, finite: np.ndarray[Any, Any]) -> list[str]:
    faults = []
    if answer["values"].shape != (len(answer["genes"]),):
        faults.append(f"it has {answer['values'].size} values for {len(answer['genes'])} genes")
    if n_far := int((np.abs(finite) > MAX_LOG).sum()):
        faults.append(f"{n_far} changes are beyond {MAX_LOG:.1f}, the largest possible one of log1p(CP10k)")
    return faults


def _faults_of_counts(answer: Mapping[str, Any], query: Cells, finite: np.ndarray[Any, Any]) -> list[str]:
    faults, shape, wanted = [], tuple(int(n) for n in answer["shape"]), query.counts.shape[0]
    if shape != (wanted, len(answer["genes"])):
        faults.append(f"X is {shape[0]} x {shape[1]}: {wanted} query cells x {len(answer['genes'])} genes are needed")
    elif answer["cells"].tolist() != _names(wanted):
        faults.append("its cells are not the query cells in their order (compare obs_names)")
    if n_bad := int((finite < 0).sum()):
        faults.append(f"{n_bad} counts are negative")
    if n_bad := int((finite != np.floor(finite)).sum()):
        faults.append(f"{n_bad} values of X are not whole numbers, as raw counts are")
    if finite.size and finite.max() >= MOST_COUNTS:
        faults.append(f"a count is {finite.max():.3g}; {MOST_COUNTS:.0f} and more cannot be stored exactly")
    if not faults and not finite.any():
        faults.append("all counts are 0")
    return faults


def _to_prediction(answer: Mapping[str, Any], query: Cells, *, seed: int, record: dict[str, Any]) -> Prediction:
    place = {name.upper(): number for number, name in reversed(list(enumerate(query.genes)))}
    columns = np.array([place[str(name).upper()] for name in answer["genes"]], dtype=np.int64)
    changeable = np.zeros(len(query.genes), dtype=bool)
    changeable[columns] = True
    notes: tuple[str, ...] = ()
    if n_left := int((~changeable).sum()):
        notes = (f"the engine gave no answer for {n_left} of {len(query.genes)} genes, which stay as they are",)
    base = np.asarray(log_normalise(query.counts).mean(axis=0)).ravel()
    if answer["kind"] == "change":
        target = base.copy()
        target[columns] = np.clip(base[columns] + answer["values"].astype(float), 0.0, MAX_LOG)
        counts = draw_counts(query.counts, target=target, genes=query.genes, seed=seed)
        return Prediction(counts, target, changeable, {}, notes, record=record)
    parts = (answer["values"].astype(np.float32), answer["indices"], answer["indptr"])
    whole = query.counts.astype(np.float32).tocsc()
    given = sparse.csr_matrix(parts, shape=(query.counts.shape[0], len(columns))).tocsc()
    keep = sparse.diags_array((~changeable).astype(np.float32))
    spread = sparse.csc_matrix(
        (np.ones(len(columns), np.float32), (np.arange(len(columns)), columns)), shape=(len(columns), len(query.genes))
    )
    counts = sparse.csr_matrix(whole @ keep + given @ spread)
    counts.eliminate_zeros()
    target = np.asarray(log_normalise(counts).mean(axis=0)).ravel()
    return Prediction(counts.astype(np.float32), target, changeable, {}, notes, record=record)


def _card(engine: Installed, stated: dict[str, Any]) -> dict[str, str]:
    """What the record keeps of the engine's source and terms."""
    return {
        "name": f"{engine.package} {engine.version}",
        "sha256": engine.digest,
        "licence": str(stated.get("licence") or engine.licence)[:300],
        "citation": str(stated.get("citation") or f"{engine.package} {engine.version}, which states no citation")[:500],
    }


def _names(n: int) -> list[str]:
    """Names of the cells as an engine sees them: those of the file may repeat."""
    return [f"cell{number}" for number in range(n)]


def to_anndata(cells: Cells, **labels: Any) -> AnnData:  # noqa: ANN401 - columns of obs
    """Cells as an engine is given them: counts as float32, obs with ``cell_type``, ``donor`` and any further labels."""
    import anndata as ad
    import pandas as pd

    obs = pd.DataFrame(
        {"cell_type": cells.cell_type.astype(object), "donor": cells.donor.astype(object)},
        index=_names(cells.counts.shape[0]),
    )
    for name, values in labels.items():
        obs[name] = values if values.dtype == bool else values.astype(object)
    return ad.AnnData(X=cells.counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=list(cells.genes)))


# --- the process --------------------------------------------------------------------------------------------------


def _run(engine: Installed, folder: Path, *, seed: int, limit_s: float) -> None:
    """Run the engine's process to its end; whatever it started ends with it."""
    command = [sys.executable, "-P", "-m", "inference.foreign", engine.name, str(folder), str(seed)]
    with (folder / _LOG).open("wb") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = child.wait(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            msg = (
                f"engine {engine.name!r} did not answer within {limit_s:g} s and was ended; give it fewer cells "
                f"(--n-prompt, --n-query), or raise jobs.timeout_s, half of which one prediction may take"
            )
            raise EngineError(msg) from error
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if code == 0 and (folder / _ANSWER).is_file():
        return
    if code == _FAULT_EXIT and (said := _read_json(folder / _FAULT)):
        msg = f"engine {engine.name!r} ({engine.package} {engine.version}) failed: {said.get('message', '')}"
        raise EngineError(msg)
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code} and without an answer"
    tail = (folder / _LOG).read_text(encoding="utf-8", errors="replace").strip()[-_TAIL:]
    msg = f"the process of engine {engine.name!r} ({engine.package} {engine.version}) {how}" + (
        f"; its last words: {tail}" if tail else ""
    )
    raise EngineError(msg)


def _read_answer(path: Path, name: str) -> dict[str, Any]:
    """The arrays of an answer; never objects, which could run code when they are read."""
    wanted = {"change": ("genes", "values"), "counts": ("genes", "values", "indices", "indptr", "shape", "cells")}
    try:
        with np.load(path, allow_pickle=False) as archive:
            kind = str(archive["kind"])
            answer: dict[str, Any] = {"kind": kind} | {key: archive[key] for key in wanted[kind]}
        if kind == "counts":  # refuses places that do not belong to the shape
            shape = tuple(int(n) for n in answer["shape"])
            sparse.csr_matrix((answer["values"], answer["indices"], answer["indptr"]), shape=shape).check_format()
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        msg = f"engine {name!r} left an answer that cannot be read ({error}). {_EXPECTED}"
        raise EngineError(msg) from error
    return answer


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main(argv: list[str]) -> int:
    """Run one engine on the files of a folder: what the process of its own does."""
    name, folder, seed = argv[0], Path(argv[1]), int(argv[2])
    try:
        with redirect_stdout(sys.stderr):
            engine = load(name)
            stated = {key: str(getattr(engine, key, "") or "") for key in ("licence", "citation")}
            (folder / _STATED).write_text(json.dumps(stated), encoding="utf-8")
            import anndata as ad

            paths = {role: folder / f"{role}.h5ad" for role in _ROLES}
            cells = {role: ad.read_h5ad(path) if path.is_file() else None for role, path in paths.items()}
            arrays = arrays_of(engine.predict(**cells, seed=seed))
        np.savez(folder / _ANSWER, allow_pickle=False, **arrays)
    except Exception as error:  # noqa: BLE001 - whatever foreign code raises is told in its words
        traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"
        (folder / _FAULT).write_text(json.dumps({"message": message[:2000]}), encoding="utf-8")
        return _FAULT_EXIT
    return 0


def load(name: str) -> Any:  # noqa: ANN401 - whatever the entry point names
    """Import an engine: this runs code of the package that declares it.

    Raises
    ------
    EngineError
        No installed package declares it, or what it declares is no engine.
    """
    found = find_installed(name)
    if found is None:
        msg = f"no installed package declares an engine {name!r}"
        raise EngineError(msg)
    module, _, path = found.target.partition(":")
    thing: Any = importlib.import_module(module)
    for part in path.split("."):
        thing = getattr(thing, part)
    engine = thing() if isinstance(thing, type) else thing
    if not callable(getattr(engine, "predict", None)):
        msg = f"{found.target} has no method predict(prompt, control, query, others, seed)"
        raise EngineError(msg)
    return engine


def arrays_of(answer: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever an engine returns
    """An answer as arrays; raises TypeError for what is none."""
    import anndata as ad
    import pandas as pd

    if isinstance(answer, pd.Series):
        genes = np.array([str(name) for name in answer.index], dtype=str)
        return {"kind": np.array("change"), "genes": genes, "values": np.asarray(answer.to_numpy(float))}
    if not isinstance(answer, ad.AnnData):
        msg = f"predict returned {type(answer).__name__}; {_EXPECTED}"
        raise TypeError(msg)
    if answer.X is None:
        msg = f"the AnnData that predict returned has no X; {_EXPECTED}"
        raise TypeError(msg)
    counts = sparse.csr_matrix(answer.X)
    return {
        "kind": np.array("counts"),
        "genes": np.array([str(name) for name in answer.var_names], dtype=str),
        "cells": np.array([str(name) for name in answer.obs_names], dtype=str),
        "values": counts.data,
        "indices": counts.indices,
        "indptr": counts.indptr,
        "shape": np.array(counts.shape),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
