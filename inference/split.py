"""Predicts the same query cells once for each value of a column of the prompt cells, with one output per value.

In: base cells with a column of conditions, test cells, a model. Out: one h5ad per condition, or one for all.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import inference
from inference.baselines import Cells
from inference.checks import find_counts
from inference.conditions import choose_values, output_names, split_labels
from inference.errors import InputError, UriError
from inference.files import check_uri, exists, local_copy, publish, sha256_of
from inference.inputs import UNKNOWN
from inference.manifest import MODEL_ENGINE, OUTPUT_UNS
from inference.outputs import GEN_LOGIT, PADDED, write_cells
from inference.stack.asked import Asked
from inference.stack.genes import align, coverage_warnings, read_names
from inference.stored import StoredCells

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from pandas import DataFrame
    from scipy import sparse

    from inference.checks import Checked, Found
    from inference.engines import Engines
    from inference.stack.asked import Generated
    from inference.stop import Stop

SPLIT_VALUE = "split_value"  # obs of a concatenated output: which prompt a cell was predicted with
CONCATENATED = "concatenated"


@dataclass(frozen=True)
class SplitRequest:
    """What to predict, and where to write it."""

    base: str  # address of the cells that serve as prompts
    test: str  # address of the cells to predict
    genelist: str
    output_dir: str
    column: str  # of the base cells' obs
    values: tuple[str, ...] | None = None  # of that column; None: all
    gene_column: str | None = None  # of var, holding the symbols; None: the index
    is_concatenated: bool = False
    seed: int = 0


@dataclass(frozen=True)
class _State:
    """Inputs that all values share."""

    labels: NDArray[np.str_]  # of the base cells; "" for none
    base: Found
    test: StoredCells
    test_checked: Checked
    inputs: dict[str, str]  # digests


@dataclass
class Outcome:
    """The outcome of each value."""

    done: dict[str, str] = field(default_factory=dict)  # value -> address of its output
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class SplitRun:
    """One request; base cells, test cells and the model are read once.

    Parameters
    ----------
    asked
        What to predict.
    engines
        Provides the model.
    folder
        Local scratch space.
    say
        Receives progress.
    stop
        Delays a request to end while an output is published.
    """

    def __init__(
        self, asked: SplitRequest, *, engines: Engines, folder: Path, say: Callable[[str], None], stop: Stop
    ) -> None:
        self.asked = asked
        self.outcome = Outcome()
        self._engines, self._folder, self._say, self._stop = engines, folder, say, stop
        self._names: tuple[str, ...] = ()  # of the model's genes, as in their file
        self._genes: dict[str, int] = {}  # upper-cased name -> the model's column

    def run(self) -> Outcome:
        """Predict and publish every value; one whose output exists, made from the same inputs, is skipped.

        Raises
        ------
        InputError, ModelError, EngineError, UriError, StorageError
            An input, the model, an address or the storage cannot be used; outputs already published stay.
        """
        self._names = read_names(self._fetch(self.asked.genelist), name=self.asked.genelist)
        self._genes = {name.upper(): column for column, name in enumerate(self._names)}
        base_path, base, base_found = self._find(self.asked.base)
        test_path, test, test_found = self._find(self.asked.test)
        test_checked = test_found.rows(np.arange(test.n_obs))
        for note in (*base_found.notes, *test_checked.notes):
            self._note(note)
        labels = split_labels(base, self.asked.column, name=self.asked.base)
        values, unknown = choose_values(labels, self.asked.values, column=self.asked.column, name=self.asked.base)
        if unknown:
            self._note(f"warning: {unknown}")
        outputs = self._outputs(labels, values)
        if n_unlabelled := int((labels == "").sum()):
            self._note(f"{n_unlabelled} base cells have no value in obs[{self.asked.column!r}] and serve in no prompt")
        inputs = {"base": sha256_of(base_path), "test": sha256_of(test_path), **self._engines.digests(MODEL_ENGINE)}
        if test_path.parent == self._folder and test_path != base_path:
            test_path.unlink()
        state = _State(labels, base_found, test, test_checked, inputs)
        if self.asked.is_concatenated:
            self._all_in_one(values, outputs[values[0]], state)
            return self.outcome
        for number, value in enumerate(values, start=1):
            self._say(f"split {number} of {len(values)}: {value!r}, {int((labels == value).sum())} prompt cells")
            uri, key = outputs[value], self._key(state, (value,))
            if self._is_done(uri, key):
                self.outcome.skipped[value] = uri
                self._say(f"{uri}: already done, skipped")
                continue
            prediction, record = self._predict(value, state)
            if number == len(values):
                self._engines.close()
            obs, var = state.test.obs.copy(), self._var(state, prediction)
            obs[GEN_LOGIT] = prediction.logits
            self._publish(prediction.counts, obs, var, record=record | {"key": key}, uri=uri)
            self.outcome.done[value] = uri
        return self.outcome

    def _outputs(self, labels: NDArray[np.str_], values: tuple[str, ...]) -> dict[str, str]:
        """Value -> address of its output; refuses an output that is an input."""
        folder = self.asked.output_dir.rstrip("/") or "/"
        if self.asked.is_concatenated:
            found = dict.fromkeys(values, check_uri(f"{folder}/{CONCATENATED}.h5ad"))
        else:
            # All values are named, so that a name does not depend on which values are asked for.
            names = output_names(labels)
            found = {value: check_uri(f"{folder}/{names[value]}.h5ad") for value in values}
        inputs = {check_uri(uri) for uri in (self.asked.base, self.asked.test, self.asked.genelist)}
        if clash := inputs.intersection(found.values()):
            msg = f"{sorted(clash)} is both an input and an output; give --output-dir a folder of its own"
            raise UriError(msg)
        return found

    def _all_in_one(self, values: tuple[str, ...], uri: str, state: _State) -> None:
        import pandas as pd
        from scipy import sparse

        key = self._key(state, values)
        if self._is_done(uri, key):
            self.outcome.skipped |= dict.fromkeys(values, uri)
            self._say(f"{uri}: already done, skipped")
            return
        counts, tables, records = [], [], {}
        for number, value in enumerate(values, start=1):
            self._say(f"split {number} of {len(values)}: {value!r}, {int((state.labels == value).sum())} prompt cells")
            prediction, records[value] = self._predict(value, state)
            counts.append(prediction.counts)
            tables.append(state.test.obs.assign(**{GEN_LOGIT: prediction.logits, SPLIT_VALUE: value}))
        self._engines.close()
        obs = pd.concat(tables)
        obs[SPLIT_VALUE] = pd.Categorical(obs[SPLIT_VALUE], categories=list(values))
        joined = sparse.vstack(counts, format="csr")
        record = records[values[0]] | {"key": key, "split_values": list(values)}
        self._publish(joined, obs, self._var(state, prediction), record=record, uri=uri)
        self.outcome.done |= dict.fromkeys(values, uri)

    def _predict(self, value: str, state: _State) -> tuple[Generated, dict[str, Any]]:
        """Predict the test cells over all of the model's genes, in the model's order."""
        test, genes = state.test_checked, self._genes
        base = state.base.rows(np.flatnonzero(state.labels == value))  # the cells of one value alone
        for note in base.notes:
            self._note(note)
        aligned = align(test.counts, test.genes, model_genes=genes, role="test")
        prediction = self._engines.generate(
            Asked(
                prompt=_cells(base.counts, base.genes),
                query=_cells(aligned.counts, tuple(genes)),
                seed=self.asked.seed,
            )
        )
        is_measured = np.zeros(len(genes), dtype=bool)
        is_measured[aligned.model] = True
        prediction = replace(prediction, changeable=prediction.changeable & is_measured)
        model = prediction.record["model"] | {"frac_model_genes_in_query": aligned.model.size / len(genes)}
        model |= {"frac_query_genes_in_model": aligned.own.size / len(test.genes)}
        record = {
            **prediction.record,
            "model": model,
            "engine": MODEL_ENGINE,
            "inputs": state.inputs,
            "program": inference.__version__,
            "seed": self.asked.seed,
            "split_column": self.asked.column,
            "split_values": [value],
            "versions": self._engines.versions(MODEL_ENGINE),
        }
        for note in coverage_warnings(record):
            self._note(note)
        return prediction, record

    def _var(self, state: _State, prediction: Generated) -> DataFrame:
        """The model's genes, under the names that the test cells' var has for its index and its column of symbols."""
        import pandas as pd

        test_var = state.test.var
        columns = {self.asked.gene_column: self._names} if self.asked.gene_column in test_var.columns else {}
        index = pd.Index(self._names, name=None if test_var.index.name == PADDED else test_var.index.name)
        return pd.DataFrame({**columns, PADDED: ~prediction.changeable}, index=index)

    def _publish(
        self, counts: sparse.csr_matrix, obs: DataFrame, var: DataFrame, *, record: dict[str, Any], uri: str
    ) -> None:
        path = self._folder / "output.h5ad"
        uns = {OUTPUT_UNS: json.dumps(record | {"notes": self.outcome.notes}, sort_keys=True)}
        write_cells(path, X=counts, obs=obs, var=var, uns=uns)
        with self._stop.finishing():
            publish(path, uri)
        self._say(f"{uri}: {counts.shape[0]} cells x {counts.shape[1]} genes")

    def _key(self, state: _State, values: tuple[str, ...]) -> str:
        """Digest of everything that determines an output."""
        asked = [self.asked.column, list(values), self.asked.gene_column, self.asked.seed, self.asked.is_concatenated]
        return hashlib.sha256(json.dumps([state.inputs, asked], sort_keys=True).encode()).hexdigest()

    def _is_done(self, uri: str, key: str) -> bool:
        """Whether ``uri`` is an output of this program with this digest; any other file there is no fault."""
        import h5py

        if not exists(uri):
            return False
        path = local_copy(uri, folder=self._folder)
        record = None
        with suppress(OSError, KeyError, ValueError, TypeError), h5py.File(path) as file:
            record = json.loads(file["uns"][OUTPUT_UNS][()])
        if path.parent == self._folder:
            path.unlink()
        return isinstance(record, dict) and record.get("key") == key

    def _find(self, uri: str) -> tuple[Path, StoredCells, Found]:
        path = self._fetch(uri)
        cells = StoredCells.read(path, name=uri)
        # Where raw holds as many of the model's genes as X, the reference takes raw.
        found = find_counts(cells, name=uri, symbols=self.asked.gene_column, model_genes=self._names, first="raw/X")
        return path, cells, found

    def _fetch(self, uri: str) -> Path:
        try:
            return local_copy(uri, folder=self._folder)
        except FileNotFoundError as error:
            msg = f"{uri}: no such file; give its path or gs:// address"
            raise InputError(msg) from error

    def _note(self, text: str) -> None:
        if text not in self.outcome.notes:
            self.outcome.notes.append(text)
            self._say(text)


def _cells(counts: sparse.csr_matrix, genes: tuple[str, ...]) -> Cells:
    unknown = np.full(counts.shape[0], UNKNOWN)
    return Cells(counts, genes, unknown, unknown)
