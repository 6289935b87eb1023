"""The commands ``convert`` and ``info``, by the program that runs them."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import types
from dataclasses import asdict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open

from inference.model import main
from inference.stack.checkpoint import load_checkpoint, save_safetensors
from inference.stack.config import CITATION, LICENCE
from inference.stack.genes import digest_genes

GENES = [f"Gene{i}" for i in range(40)]


class _Runs:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def raw(small_config, make_tensors):
    """A training checkpoint, with the optimizer's state and what callbacks left."""
    state = {f"model.{name}": tensor for name, tensor in make_tensors(small_config).items()}
    return {
        "hyper_parameters": {"model_config": asdict(small_config), "lr": 0.1},
        "state_dict": {**state, "teacher.weight": torch.zeros(3)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(50)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [{"last_epoch": 3}],
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.5)}},
        "loops": {"fit_loop": {"state_dict": {}}},
    }


@pytest.fixture
def genelist(tmp_path):
    path = tmp_path / "genes.json"
    path.write_text(json.dumps(GENES))
    return path


def _run(capsys, *arguments):
    """Exit code, the facts printed (None for none), and what was said."""
    code = main([str(item) for item in arguments])
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == (code == 0)
    return code, json.loads(said.out) if said.out else None, said.err


def _save(path, raw, **changes):
    torch.save({**raw, **changes}, path)
    return path


def test_training_checkpoint_becomes_a_small_file_that_holds_the_model_alone(tmp_path, raw, genelist, capsys):
    source, target = _save(tmp_path / "m.ckpt", raw), tmp_path / "deep" / "m.safetensors"
    code, facts, said = _run(capsys, "convert", source, target, "--genelist", genelist)
    assert code == 0
    assert "may run code" not in said
    with safe_open(target, "pt") as file:
        assert {f"model.{name}" for name in file.keys()} == set(raw["state_dict"]) - {"teacher.weight"}  # noqa: SIM118
        for name in file.keys():  # noqa: SIM118
            assert torch.equal(file.get_tensor(name), raw["state_dict"][f"model.{name}"])
        metadata = file.metadata()
    assert json.loads(metadata["model_config"]) == raw["hyper_parameters"]["model_config"]
    assert (metadata["licence"], metadata["citation"]) == (LICENCE, CITATION)
    assert metadata["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (metadata["source"], metadata["precision"]) == ("m.ckpt", "fp32")
    assert metadata["genes_sha256"] == digest_genes(GENES)
    assert facts["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert (facts["n_parameters"], facts["max_rounding"]) == (
        sum(tensor.numel() for name, tensor in raw["state_dict"].items() if name != "teacher.weight"),
        0.0,
    )
    assert facts["notes"] == ["the checkpoint holds 1 tensors the model does not use (teacher.weight)"]
    assert [path.name for path in target.parent.iterdir()] == ["m.safetensors"]


def test_converting_gives_the_same_bytes_each_time_and_from_its_own_output_too(tmp_path, raw, capsys):
    source = _save(tmp_path / "m.ckpt", raw)
    for name in ("one", "two"):
        _run(capsys, "convert", source, tmp_path / f"{name}.safetensors", "--licence", "Ours", "--citation", "Us")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert _run(capsys, "convert", tmp_path / "one.safetensors", tmp_path / "three.safetensors")[0] == 0
    found = load_checkpoint(tmp_path / "three.safetensors", name="three")
    assert (found.licence, found.citation) == ("Ours", "Us")


@pytest.mark.parametrize(("precision", "kind", "bound"), [("fp16", "float16", 2**-11), ("bf16", "bfloat16", 2**-8)])
def test_half_precision_halves_the_file_and_tells_its_rounding(tmp_path, raw, capsys, precision, kind, bound):
    source = _save(tmp_path / "m.ckpt", raw)
    _, whole, _ = _run(capsys, "convert", source, tmp_path / "whole.safetensors")
    code, facts, _ = _run(capsys, "convert", source, tmp_path / "half.safetensors", "--precision", precision)
    assert code == 0
    assert facts["stored_as"] == {kind: 44}
    largest = max(float(tensor.abs().max()) for tensor in raw["state_dict"].values())
    assert 0 < facts["max_rounding"] <= largest * bound
    n_bytes = 2 * facts["n_parameters"]
    assert whole["bytes"] - facts["bytes"] == pytest.approx(n_bytes, abs=200)


def test_weights_beyond_half_precision_are_refused(tmp_path, raw, capsys):
    raw["state_dict"]["model.cls.2.bias"] = torch.tensor([1e5])
    source = _save(tmp_path / "m.ckpt", raw)
    code, _, said = _run(capsys, "convert", source, tmp_path / "m.safetensors", "--precision", "fp16")
    assert (code, (tmp_path / "m.safetensors").exists()) == (2, False)
    assert "cls.2.bias holds values up to 1e+05, beyond fp16; convert with --precision bf16 or fp32" in said


def test_damaged_weights_are_refused(tmp_path, raw, capsys):
    raw["state_dict"]["model.cls.2.bias"] = torch.tensor([float("nan")])
    code, _, said = _run(capsys, "convert", _save(tmp_path / "m.ckpt", raw), tmp_path / "m.safetensors")
    assert code == 2
    assert "cls.2.bias holds values that are not finite; the checkpoint is damaged" in said


def test_code_in_a_checkpoint_runs_only_with_trust_and_a_warning(tmp_path, raw, capsys):
    sentinel = tmp_path / "sentinel"
    source = _save(tmp_path / "m.ckpt", raw, callbacks=_Runs(sentinel))
    code, _, said = _run(capsys, "convert", source, tmp_path / "m.safetensors")
    assert (code, sentinel.exists(), (tmp_path / "m.safetensors").exists()) == (2, False, False)
    assert f"{source}: wants to build {os.system.__module__}.system, which is no tensor and may run code" in said
    assert "haystack model convert --trust-pickle" in said
    code, facts, said = _run(capsys, "convert", source, tmp_path / "m.safetensors", "--trust-pickle")
    assert (code, sentinel.exists()) == (0, True)
    assert said.startswith("warning: with --trust-pickle, ")
    assert f"read as a trusted file: it builds {os.system.__module__}.system" in facts["notes"][0]
    assert load_checkpoint(tmp_path / "m.safetensors", name="m").model.config.n_genes == 40


def test_trust_is_not_used_where_it_is_not_needed(tmp_path, raw, capsys):
    _, facts, _ = _run(capsys, "convert", _save(tmp_path / "m.ckpt", raw), tmp_path / "m.safetensors", "--trust-pickle")
    assert not any("trusted" in note for note in facts["notes"])


@pytest.mark.parametrize("is_zip", [True, False])
def test_trusted_checkpoint_with_classes_of_absent_packages_is_read_without_them(
    tmp_path, raw, capsys, monkeypatch, is_zip
):
    module = types.ModuleType("trainer_package")
    for base, name in ((object, "Timer"), (dict, "Table"), (list, "History")):
        setattr(module, name, type(name, (base,), {"__module__": "trainer_package"}))
    monkeypatch.setitem(sys.modules, "trainer_package", module)
    timer, table, history = module.Timer(), module.Table(a=1), module.History([1, 2])
    timer.seconds = 3.0
    hyper = argparse.Namespace(
        model_config={key: np.int64(value) for key, value in raw["hyper_parameters"]["model_config"].items()}
    )
    changes = {"callbacks": {timer: 1}, "loops": [table, history], "hyper_parameters": hyper}
    torch.save({**raw, **changes}, tmp_path / "m.ckpt", _use_new_zipfile_serialization=is_zip)
    monkeypatch.delitem(sys.modules, "trainer_package")
    code, facts, _ = _run(capsys, "convert", tmp_path / "m.ckpt", tmp_path / "m.safetensors", "--trust-pickle")
    assert code == 0
    absent = "trainer_package.History, trainer_package.Table, trainer_package.Timer"
    assert f"left out, their packages are not installed: {absent}" in facts["notes"]
    assert facts["config"] == raw["hyper_parameters"]["model_config"]


@pytest.mark.parametrize(
    ("target", "match"),
    [("m.pt", "must be called <name>.safetensors"), ("m.safetensors", "both what to convert and what to write")],
)
def test_target_that_will_not_do_is_refused(tmp_path, small_config, make_tensors, capsys, target, match):
    save_safetensors(tmp_path / "m.safetensors", config=small_config, tensors=make_tensors(small_config))
    before = (tmp_path / "m.safetensors").read_bytes()
    code, _, said = _run(capsys, "convert", tmp_path / "m.safetensors", tmp_path / target)
    assert code == 2
    assert match in said
    assert (tmp_path / "m.safetensors").read_bytes() == before


def test_failed_conversion_leaves_the_file_that_was_there(tmp_path, raw, capsys):
    target = tmp_path / "m.safetensors"
    target.write_bytes(b"older")
    source = _save(tmp_path / "m.ckpt", raw)
    source.write_bytes(source.read_bytes()[:5000])
    assert _run(capsys, "convert", source, target)[0] == 2
    assert target.read_bytes() == b"older"


def test_folder_that_cannot_be_written_is_exit_3(tmp_path, raw, capsys):
    source = _save(tmp_path / "m.ckpt", raw)
    assert _run(capsys, "convert", source, source / "m.safetensors")[0] == 3


def test_missing_file_is_exit_2(tmp_path, capsys):
    code, _, said = _run(capsys, "info", tmp_path / "none.ckpt")
    assert code == 2
    assert "none.ckpt: no such file" in said


def test_info_tells_sizes_licence_and_digest_of_any_checkpoint(tmp_path, raw, capsys):
    source = _save(tmp_path / "m.ckpt", raw)
    code, facts, _ = _run(capsys, "info", source)
    assert code == 0
    assert facts["config"] == raw["hyper_parameters"]["model_config"]
    assert (facts["window_cells"], facts["stored_as"], facts["genelist"]) == (16, {"float32": 44}, None)
    assert (facts["licence"], facts["citation"]) == (LICENCE, CITATION)
    assert (facts["bytes"], facts["sha256"]) == (
        source.stat().st_size,
        hashlib.sha256(source.read_bytes()).hexdigest(),
    )


def test_info_tells_whether_a_gene_list_fits(tmp_path, raw, genelist, capsys):
    source, target = _save(tmp_path / "m.ckpt", raw), tmp_path / "m.safetensors"
    _run(capsys, "convert", source, target, "--genelist", genelist)

    def fits(model, genes):
        (tmp_path / "asked.txt").write_text("\n".join(genes))
        found = _run(capsys, "info", model, "--genelist", tmp_path / "asked.txt")[1]["genelist"]
        return found["fits"], found["reason"]

    assert fits(target, [gene.upper() for gene in GENES])[0]
    assert fits(source, GENES) == (True, "the number of names matches; the file has no digest")
    assert "names 39 genes, the model" in fits(source, GENES[1:])[1]
    is_fit, reason = fits(target, GENES[::-1])
    assert not is_fit
    assert "other ones or in another order" in reason


def test_gene_list_of_another_model_is_refused_on_converting(tmp_path, raw, genelist, capsys):
    genelist.write_text(json.dumps(GENES[:-1]))
    code, _, said = _run(
        capsys, "convert", _save(tmp_path / "m.ckpt", raw), tmp_path / "m.safetensors", "--genelist", genelist
    )
    assert code == 2
    assert "names 39 genes, the model" in said
    assert not (tmp_path / "m.safetensors").exists()
