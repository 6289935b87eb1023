"""Reads the input files of a manifest's tasks, each file once even where several tasks share it.

In: tasks. Out: digests and checked cells of their files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.additive import Others
from inference.baselines import Cells
from inference.checks import Checked, read_cells
from inference.errors import InputError
from inference.files import check_uri, local_copy, sha256_of
from inference.outputs import store_obs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import h5py

    from inference.manifest import Task

CELL_TYPE_COLUMNS = ("cell_type_name", "cell_type")  # the first one that exists is read
DONOR_COLUMNS = ("donor_id", "donor")
TREATMENT_COLUMNS, CONTROL_COLUMN = ("perturbation_name", "perturbation"), "is_control"  # of other treatments' cells
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Loaded:
    """One input file, read and checked."""

    cells: Cells
    checked: Checked
    obs: Any  # pandas DataFrame, as in the file
    notes: tuple[str, ...]

    @cached_property
    def stored_obs(self) -> h5py.File:
        """Obs as outputs store it: encoded once for all outputs of the same cells."""
        return store_obs(self.obs)

    def as_others(self) -> Others:
        """The cells as those of other treatments and their control cells; raises :class:`InputError`."""
        column = next((name for name in TREATMENT_COLUMNS if name in self.obs.columns), None)
        if column is None or CONTROL_COLUMN not in self.obs.columns:
            needed = f"{' or '.join(TREATMENT_COLUMNS)}, and {CONTROL_COLUMN}"
            has = ", ".join(map(str, self.obs.columns)) or "none"
            msg = f"cells of other treatments need in obs the columns {needed}; they have {has}"
            raise InputError(msg)
        is_control = self.obs[CONTROL_COLUMN]
        if is_control.dtype != bool:
            kind = is_control.dtype
            msg = f"obs[{CONTROL_COLUMN!r}] of the cells of other treatments must be true or false, not {kind}"
            raise InputError(msg)
        treatment = self.obs[column].astype(object).fillna("").astype(str)
        return Others(self.cells, treatment.to_numpy(dtype=str), is_control.to_numpy())


class Inputs:
    """Reads each input file once, and drops it after the last task that needs it.

    One thread may read files for a later task while another thread releases an earlier task. A file that the later task
    needs is still counted, so it is never dropped while it is read.
    """

    def __init__(self, tasks: Sequence[Task], *, folder: Path) -> None:
        self._folder = folder
        self._uses = Counter(uri for task in tasks for uri in input_uris(task).values())
        self._digests: dict[str, str] = {}
        self._paths: dict[str, Path] = {}
        self._loaded: dict[str, Loaded] = {}

    def digest(self, uri: str) -> str:
        """Sha256 of a file."""
        if uri not in self._digests:
            self._digests[uri] = sha256_of(self._path(uri))
        return self._digests[uri]

    def cells(self, uri: str) -> Loaded:
        """Cells of a file."""
        if uri not in self._loaded:
            self._loaded[uri] = load_cells(self._path(uri), uri)
        return self._loaded[uri]

    def release(self, task: Task) -> None:
        """Drop the inputs of ``task`` that no later task needs."""
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
    """Role -> address of each file that the task reads."""
    roles = {"prompt": task.prompt, "control": task.control, "query": task.query, "others": task.others}
    return {role: check_uri(uri) for role, uri in roles.items() if uri is not None}


def load_cells(path: Path, uri: str) -> Loaded:
    """Read a local file, which messages and notes call ``uri``; raises :class:`InputError`."""
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
