"""Runs one task of a manifest: read its cells, predict, publish the output, then the result that vouches for it.

In: a task. Out: an h5ad at its output address and ``<output>.result.json``, or nothing.
"""

from __future__ import annotations

import json
import platform
import resource
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

import inference
from inference.baselines import Cells
from inference.checks import Checked, read_cells
from inference.errors import InputError
from inference.files import (
    check_uri,
    clear_disk_errors,
    exists,
    local_copy,
    publish,
    read_bytes,
    remove,
    sha256_of,
    write_text,
)
from inference.manifest import (
    ERROR_SUFFIX,
    OUTPUT_UNS,
    RESULT_SUFFIX,
    ManifestError,
    TaskResult,
    dump_result,
    parse_result,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import FrameType

    from inference.baselines import Prediction
    from inference.engines import Engines
    from inference.manifest import Task

PADDED = "padded"
GEN_LOGIT = "gen_logit"  # obs: the model's last logit of each cell
EXPECTED = "expected"  # layer: the mean each count was drawn from, where the engine has one
CELL_TYPE_COLUMNS = ("cell_type_name", "cell_type")  # the first one present is read
DONOR_COLUMNS = ("donor_id", "donor")
UNKNOWN = "unknown"


class StoppedError(BaseException):
    """The program was asked to end; not an ``Exception``, so that no task reports it as its own failure."""


class Stop:
    """Remembers a request to end, and lets a publication in hand finish first."""

    def __init__(self) -> None:
        self.is_asked = False
        self._is_writing = False

    def handle(self, _signum: int, _frame: FrameType | None) -> None:
        """Signal handler: raise at once, or at the end of the publication in hand."""
        is_first, self.is_asked = not self.is_asked, True
        if is_first and not self._is_writing:
            raise StoppedError

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Hold a stop back until the block is done."""
        self._is_writing = True
        try:
            yield
        finally:
            self._is_writing = False
        if self.is_asked:
            raise StoppedError


@dataclass(frozen=True)
class Loaded:
    """One input file, read and checked."""

    cells: Cells
    checked: Checked
    obs: Any  # pandas DataFrame, as in the file
    notes: tuple[str, ...]


class Inputs:
    """Reads each input file once, however many tasks share it, and forgets it after the last."""

    def __init__(self, tasks: Sequence[Task], *, folder: Path) -> None:
        self._folder = folder
        self._uses = Counter(uri for task in tasks for uri in input_uris(task).values())
        self._digests: dict[str, str] = {}
        self._paths: dict[str, Path] = {}
        self._loaded: dict[str, Loaded] = {}

    def digest(self, uri: str) -> str:
        """Sha256 of the file; raises :class:`InputError` where it is missing."""
        if uri not in self._digests:
            self._digests[uri] = sha256_of(self._path(uri))
        return self._digests[uri]

    def cells(self, uri: str) -> Loaded:
        """Read and check the file's cells."""
        if uri not in self._loaded:
            self._loaded[uri] = _load(self._path(uri), uri)
        return self._loaded[uri]

    def release(self, task: Task) -> None:
        """Say that ``task`` needs its inputs no more."""
        for uri in input_uris(task).values():
            self._uses[uri] -= 1
            if self._uses[uri] <= 0:
                self._loaded.pop(uri, None)
                path = self._paths.pop(uri, None)
                if path is not None and path.parent == self._folder:
                    path.unlink(missing_ok=True)

    def _path(self, uri: str) -> Path:
        if uri not in self._paths:
            try:
                self._paths[uri] = local_copy(uri, folder=self._folder)
            except FileNotFoundError as error:
                msg = f"{uri}: no such file; give the path or gs:// address of an h5ad file"
                raise InputError(msg) from error
        return self._paths[uri]


def input_uris(task: Task) -> dict[str, str]:
    """Role -> address of each file the task reads."""
    roles = {"prompt": task.prompt, "control": task.control, "query": task.query}
    return {role: check_uri(uri) for role, uri in roles.items() if uri is not None}


def run_task(task: Task, *, engines: Engines, inputs: Inputs, folder: Path, stop: Stop) -> TaskResult | None:
    """Run one task and publish what it predicts.

    Parameters
    ----------
    task
        What to predict and where to put it.
    engines
        The job's engines.
    inputs
        The job's input files.
    folder
        Local scratch space.
    stop
        Holds a request to end back while output and result are published.

    Returns
    -------
    The published result; None if the output is already there, made from these very inputs.

    Raises
    ------
    InputError, ModelError, EngineError, UriError, StorageError
        See there; nothing is published then.
    """
    start = time.monotonic()
    digests = {role: inputs.digest(uri) for role, uri in input_uris(task).items()} | engines.digests(task.engine)
    if is_done(task, digests=digests, folder=folder):
        return None
    loaded = {role: inputs.cells(uri) for role, uri in input_uris(task).items()}
    control = loaded.get("control")
    prediction = engines.find(task.engine)(
        prompt=loaded["prompt"].cells,
        control=control.cells if control else None,
        query=loaded["query"].cells,
        seed=task.seed,
    )
    notes = tuple(dict.fromkeys([note for item in loaded.values() for note in item.notes] + list(prediction.notes)))
    versions = _versions() | engines.versions(task.engine)
    record = {
        **prediction.record,
        "engine": task.engine,
        "frac_genes_found": float(np.mean(prediction.changeable)),
        "inputs": digests,
        "notes": notes,
        "program": inference.__version__,
        "seed": task.seed,
        "source": {role: item.checked.source for role, item in loaded.items()},
        "versions": versions,
        "weights": prediction.weights,
    }
    path = folder / "output.h5ad"
    with clear_disk_errors(path):
        _write(prediction, loaded["query"], record=json.dumps(record, sort_keys=True), path=path)
    result = TaskResult(
        id=task.id,
        engine=task.engine,
        output=task.output,
        sha256=sha256_of(path),
        n_cells=prediction.counts.shape[0],
        n_genes=prediction.counts.shape[1],
        seconds=round(time.monotonic() - start, 3),
        frac_genes_found=float(np.mean(prediction.changeable)),
        peak_memory_gib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        seed=task.seed,
        versions=versions,
        inputs=digests,
        notes=notes,
    )
    with stop.finishing():
        remove(task.output + RESULT_SUFFIX)  # an older result must not vouch for the new output
        publish(path, task.output)
        write_text(dump_result(result), task.output + RESULT_SUFFIX, folder=folder)
        remove(task.output + ERROR_SUFFIX)
    return result


def is_done(task: Task, *, digests: dict[str, str], folder: Path) -> bool:
    """Whether the output is there, whole, and made by this task from these inputs."""
    try:
        result = parse_result(read_bytes(task.output + RESULT_SUFFIX))
    except (FileNotFoundError, ManifestError):
        return False
    asked = (task.id, task.engine, task.seed, digests)
    if (result.id, result.engine, result.seed, result.inputs) != asked or not exists(task.output):
        return False
    path = local_copy(task.output, folder=folder)
    is_same = sha256_of(path) == result.sha256
    if path.parent == folder:
        path.unlink()
    return is_same


def _load(path: Path, uri: str) -> Loaded:
    adata, checked = read_cells(path, name=uri)
    notes = list(checked.notes)
    labels = []
    for kind, columns in (("cell type", CELL_TYPE_COLUMNS), ("donor", DONOR_COLUMNS)):
        column = next((name for name in columns if name in adata.obs.columns), None)
        if column is None:
            notes.append(f"{uri}: obs has no {kind} ({' or '.join(columns)}): all cells count as one")
            labels.append(np.full(adata.n_obs, UNKNOWN))
            continue
        values = adata.obs[column]
        labels.append(np.where(values.isna().to_numpy(), UNKNOWN, values.astype(str).to_numpy(dtype=str)))
    cells = Cells(checked.counts, checked.genes, *labels)
    return Loaded(cells, checked, adata.obs, tuple(notes))


def _write(prediction: Prediction, query: Loaded, *, record: str, path: Path) -> None:
    import anndata as ad

    var = query.checked.var.copy()
    var[PADDED] = ~prediction.changeable
    obs = query.obs.copy()
    if prediction.logits is not None:
        obs[GEN_LOGIT] = prediction.logits
    layers = {} if prediction.expected is None else {EXPECTED: prediction.expected}
    with warnings.catch_warnings(), ad.settings.override(allow_write_nullable_strings=True):
        warnings.simplefilter("ignore")  # repeated cell names are the query's own
        adata = ad.AnnData(X=prediction.counts, obs=obs, var=var, uns={OUTPUT_UNS: record}, layers=layers)
        adata.write_h5ad(path, convert_strings_to_categoricals=False, compression="gzip", compression_opts=1)


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in ("anndata", "h5py", "numpy", "scipy")}
    return {**found, "inference": inference.__version__, "python": platform.python_version()}
