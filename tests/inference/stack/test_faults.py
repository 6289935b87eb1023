"""Bad input of every kind through the whole program: what it says, and that nothing is left behind or executed."""

from __future__ import annotations

import json
import os
import pickle

import anndata as ad
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.run_inference import main
from inference.stack.checkpoint import save_safetensors
from inference.stack.config import StackConfig

N_MORE = 160  # genes of the model that the designed cells lack


class _Runs:
    """Touches a file when a careless unpickler builds it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Case:
    """Files of one run, and the run."""

    def __init__(self, folder, capsys, roles, make_tensors):
        self.folder, self._capsys, self._make_tensors = folder, capsys, make_tensors
        self.paths = {"prompt": roles["prompt"], "query": roles["query"]}
        self.paths |= {"model": folder / "m.safetensors", "genelist": folder / "genes.json"}
        self.sentinel = folder / "sentinel"
        self.write_model(40, [f"GENE{i}" for i in range(40)])

    def write_model(self, n_genes, genes):
        config = StackConfig(n_genes=n_genes, n_hidden=6, token_dim=4, n_cells=16, n_layers=1, n_heads=4, mlp_ratio=2)
        self.tensors = self._make_tensors(config)
        self.config = config
        save_safetensors(self.folder / "m.safetensors", config=config, tensors=self.tensors)
        (self.folder / "genes.json").write_text(json.dumps(genes))

    def change_query(self, change):
        adata = ad.read_h5ad(self.paths["query"])
        change(adata)
        adata.write_h5ad(self.paths["query"])

    def run(self):
        output = self.folder / "out" / "o.h5ad"
        flags = [item for name, path in self.paths.items() for item in (f"--{name}-gcs", str(path))]
        code = main([*flags, "--output-gcs", str(output), "--diffusion-steps", "1"])
        summary = json.loads(self._capsys.readouterr().out)
        return code, summary, output


@pytest.fixture
def case(tmp_path, capsys, roles, make_tensors):
    return Case(tmp_path, capsys, roles, make_tensors)


def _pickled_model(case):
    case.paths["model"] = case.folder / "m.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {}, "callbacks": _Runs(case.sentinel)}, case.paths["model"])


def _bare_pickle(case):
    case.paths["model"] = case.folder / "m.pt"
    case.paths["model"].write_bytes(pickle.dumps(_Runs(case.sentinel)))


def _pickled_genes(case):
    case.paths["genelist"] = case.folder / "genes.pkl"
    case.paths["genelist"].write_bytes(pickle.dumps(["GENE0", _Runs(case.sentinel)]))


def _cut_checkpoint(case):
    case.paths["model"] = case.folder / "m.ckpt"
    torch.save({"state_dict": case.tensors, "hyper_parameters": {}}, case.paths["model"])
    case.paths["model"].write_bytes(case.paths["model"].read_bytes()[:9000])


def _cut_safetensors(case):
    case.paths["model"].write_bytes(case.paths["model"].read_bytes()[:-100])


def _other_architecture(case):
    case.paths["model"] = case.folder / "m.ckpt"
    hyper = {"model_config": {"hidden_size": 768, "n_layers": 12}}
    torch.save({"state_dict": {"bert.weight": torch.zeros(2)}, "hyper_parameters": hyper}, case.paths["model"])


def _other_weights(case):
    tensors = {f"encoder.{name}": tensor for name, tensor in case.tensors.items()}
    save_safetensors(case.paths["model"], config=case.config, tensors=tensors)


def _other_list(case):
    case.paths["genelist"].write_text(json.dumps([f"GENE{i}" for i in range(41)]))


def _no_coverage(case):
    case.write_model(40, [f"OTHER{i}" for i in range(40)])


def _empty_file(case):
    case.paths["query"].write_bytes(b"")


def _log_normalised(adata):
    adata.X.data = np.log1p(adata.X.data / 3)


def _negative(adata):
    adata.X.data[5] = -1


def _nan(adata):
    adata.X.data[5] = np.nan


def _mouse(adata):
    adata.var_names = [*(f"Gapdh{i}" for i in range(38)), "Actb", "Cd4"]


FAULTS = {
    "malicious checkpoint": (_pickled_model, "ModelError", f"wants to build {os.system.__module__}.system, which"),
    "malicious pickle as model": (
        _bare_pickle,
        "ModelError",
        "its pickle holds what no file of tensors needs, or is damaged",
    ),
    "malicious gene list": (_pickled_genes, "ModelError", f"wants to run {os.system.__module__}.system, which no gene"),
    "checkpoint cut short": (_cut_checkpoint, "ModelError", "m.ckpt: not a readable checkpoint (9000 bytes"),
    "safetensors cut short": (
        _cut_safetensors,
        "ModelError",
        "it may be cut short or of another format: copy it again",
    ),
    "sizes of another architecture": (_other_architecture, "ModelError", "model_config lacks n_genes, n_hidden"),
    "weights of another architecture": (_other_weights, "ModelError", "tensors of the STACK architecture are missing"),
    "gene list of another model": (_other_list, "ModelError", "names 41 genes, the model"),
    "no gene in common": (_no_coverage, "InputError", "0 % coverage; give human gene symbols, or the gene list"),
    "empty file": (_empty_file, "InputError", "query.h5ad: not a readable h5ad file: it is empty (0 bytes"),
    "log-normalised": (
        _log_normalised,
        "InputError",
        "so it looks log-normalised, not counts. Put non-negative whole numbers",
    ),
    "negative": (_negative, "InputError", "X holds negative values (down to -1)"),
    "NaN": (_nan, "InputError", "X holds 1 NaN or infinite values"),
    "mouse genes": (_mouse, "InputError", "written as mouse genes are (Gapdh0, Gapdh1, Gapdh2)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named_and_nothing_is_published_or_executed(case, fault):
    spoil, kind, says = FAULTS[fault]
    if kind == "InputError" and spoil in {_log_normalised, _negative, _nan, _mouse}:
        case.change_query(spoil)
    else:
        spoil(case)
    code, summary, output = case.run()
    failed = summary["failed"]["predictions"]
    assert (code, failed["class"]) == (2, kind)
    assert says in failed["message"]
    assert failed["message"] == json.loads((output.parent / "o.h5ad.error.json").read_text())["message"]
    assert [path.name for path in output.parent.iterdir()] == ["o.h5ad.error.json"]
    assert not case.sentinel.exists()


def test_same_case_without_a_fault_is_predicted(case):
    code, summary, output = case.run()
    assert (code, summary["done"]) == (0, ["predictions"])
    record = json.loads(ad.read_h5ad(output).uns["haystack_inference"])
    assert not [note for note in record["notes"] if note.startswith("warning")]


def test_low_coverage_is_predicted_with_a_warning(case, capsys):
    """The cells have 40 of the model's 200 genes."""
    case.write_model(40 + N_MORE, [*(f"GENE{i}" for i in range(40)), *(f"OTHER{i}" for i in range(N_MORE))])
    code, _, output = case.run()
    assert code == 0
    found = ad.read_h5ad(output)
    warnings = [n for n in json.loads(found.uns["haystack_inference"])["notes"] if n.startswith("warning: the ")]
    assert [text.split()[2:6] for text in warnings] == [
        ["query", "has", "only", "20%"],
        ["prompt", "has", "only", "20%"],
    ]
    assert warnings[0] in json.loads((output.parent / "o.h5ad.result.json").read_text())["notes"]
    assert found.var["model_gene"].all()


def test_precision_is_passed_on(case):
    output = case.folder / "out.h5ad"
    flags = [item for name, path in case.paths.items() for item in (f"--{name}-gcs", str(path))]
    assert main([*flags, "--output-gcs", str(output), "--diffusion-steps", "1", "--precision", "fp32"]) == 0
