from __future__ import annotations

import argparse
import os
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from inference.errors import InputError, ModelError
from inference.stack.checkpoint import check_genes, load_checkpoint, read_weights, save_safetensors
from inference.stack.config import CITATION, LICENCE
from inference.stack.genes import digest_genes
from inference.stack.model import StackModel


class _Runs:
    """Touches a file when a careless unpickler builds it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def raw(small_config, make_tensors):
    """A training checkpoint as a dictionary."""
    state = {f"model.{name}": tensor for name, tensor in make_tensors(small_config).items()}
    return {"hyper_parameters": {"model_config": asdict(small_config), "lr": 0.1}, "state_dict": state, "loops": {}}


def _counts(config):
    return torch.arange(config.n_cells * config.n_genes, dtype=torch.float32).view(1, config.n_cells, -1) % 7


def _forward(model):
    return model.forward(_counts(model.config), n_ctx=9, n_keep=4, first_row=9).mean


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", ["m.ckpt", "m.pt"])
def test_torch_files_give_the_model_they_hold(tmp_path, raw, small_model, is_zip, name):
    torch.save(raw, tmp_path / name, _use_new_zipfile_serialization=is_zip)
    found = load_checkpoint(tmp_path / name, name=name)
    assert torch.equal(_forward(found.model), _forward(small_model))
    assert (found.citation, found.licence, found.notes) == (CITATION, LICENCE, ())


def test_safetensors_carries_sizes_and_what_is_to_be_cited(tmp_path, small_config, small_model, make_tensors):
    path = tmp_path / "m.safetensors"
    save_safetensors(
        path, config=small_config, tensors=make_tensors(small_config), metadata={"citation": "Us", "licence": "Ours"}
    )
    found = load_checkpoint(path, name="m")
    assert torch.equal(_forward(found.model), _forward(small_model))
    assert (found.citation, found.licence) == ("Us", "Ours")


def test_names_without_prefix_and_tensors_of_others_are_accepted(tmp_path, raw, small_model):
    state = {name.removeprefix("model."): tensor for name, tensor in raw["state_dict"].items()}
    torch.save({**raw, "state_dict": {**state, "teacher.x": torch.zeros(2)}}, tmp_path / "m.pt")
    found = load_checkpoint(tmp_path / "m.pt", name="m")
    assert torch.equal(_forward(found.model), _forward(small_model))
    assert found.notes == ("the checkpoint holds 1 tensors the model does not use (teacher.x)",)


def test_half_precision_weights_are_widened(tmp_path, raw, small_model):
    raw["state_dict"] = {name: tensor.bfloat16() for name, tensor in raw["state_dict"].items()}
    torch.save(raw, tmp_path / "m.pt")
    found = _forward(load_checkpoint(tmp_path / "m.pt", name="m").model)
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), _forward(small_model).flatten()]))[0, 1] > 0.99


def test_converted_bf16_weights_are_used_where_they_lie(tmp_path, small_config, make_tensors):
    """In bf16 the model holds no copy of a large layer, and computes what it computes from the whole weights."""
    whole = make_tensors(small_config)
    path = tmp_path / "m.safetensors"
    save_safetensors(path, config=small_config, tensors={key: one.bfloat16() for key, one in whole.items()})
    loaded = load_checkpoint(path, name="m", choose_precision=lambda _sizes: "bf16").model
    moved = loaded.to(torch.device("cpu"), precision="bf16")
    name = "layers.0.gene_attn.qkv.weight"
    assert moved._tensors[name].data_ptr() == loaded._tensors[name].data_ptr()
    rounded = StackModel(small_config, {key: one.bfloat16().float() for key, one in whole.items()})
    assert torch.equal(_forward(moved), _forward(rounded.to(torch.device("cpu"), precision="bf16")))


@pytest.mark.parametrize("is_zip", [True, False])
def test_checkpoint_that_runs_code_is_refused_and_runs_nothing(tmp_path, raw, is_zip):
    sentinel = tmp_path / "sentinel"
    torch.save({**raw, "callbacks": _Runs(sentinel)}, tmp_path / "m.ckpt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ModelError, match=f"{os.system.__module__}.system.*refused.*--trust-pickle"):
        load_checkpoint(tmp_path / "m.ckpt", name="m.ckpt")
    assert not sentinel.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_bare_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path, protocol):
    sentinel = tmp_path / "sentinel"
    for name in ("m.ckpt", "m.pt", "m.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(_Runs(sentinel), protocol=protocol))
        with pytest.raises(ModelError, match=name):
            load_checkpoint(tmp_path / name, name=name)
    assert not sentinel.exists()


def test_class_beyond_tensors_is_named_with_the_remedy(tmp_path, raw):
    torch.save({**raw, "hyper_parameters": argparse.Namespace(a=1)}, tmp_path / "m.ckpt")
    with pytest.raises(ModelError, match=r"argparse\.Namespace.*haystack model convert --trust-pickle"):
        load_checkpoint(tmp_path / "m.ckpt", name="m.ckpt")


@pytest.mark.parametrize("size", [0, 100, 20_000, -10])
@pytest.mark.parametrize("name", ["m.ckpt", "legacy.pt", "m.safetensors"])
def test_file_cut_short_is_said_to_be(tmp_path, raw, small_config, make_tensors, size, name):
    path = tmp_path / name
    if name == "m.safetensors":
        save_safetensors(path, config=small_config, tensors=make_tensors(small_config))
    else:
        torch.save(raw, path, _use_new_zipfile_serialization=name != "legacy.pt")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match=f"^{name}: not a readable checkpoint.*cut short"):
        load_checkpoint(path, name=name)


def test_missing_misshapen_and_foreign_tensors_are_named(tmp_path, raw):
    def refused(match, **changes):
        torch.save({**raw, **changes}, tmp_path / "m.pt")
        with pytest.raises(ModelError, match=match) as caught:
            load_checkpoint(tmp_path / "m.pt", name="m.pt")
        assert isinstance(caught.value, InputError)

    state = raw["state_dict"]
    config = raw["hyper_parameters"]["model_config"]
    refused(
        r"1 of the 44 tensors.*\(cls.2.bias\)", state_dict={k: v for k, v in state.items() if "cls.2.bias" not in k}
    )
    refused("44 of the 44.*found encoder.weight", state_dict={"encoder.weight": torch.zeros(2)})
    refused(r"cls.0.bias is \(3,\), needed \(6,\)", state_dict={**state, "model.cls.0.bias": torch.zeros(3)})
    refused("config and weights are of different", hyper_parameters={"model_config": {**config, "n_genes": 41}})
    refused("lacks hyper_parameters", hyper_parameters={})
    refused("lacks state_dict", state_dict=3)


_STORED = {
    "is sparse (sparse_coo)": torch.Tensor.to_sparse,
    "is sparse (sparse_csr)": torch.Tensor.to_sparse_csr,
    "has a shape but no values (device meta)": lambda weight: weight.to("meta"),
    "is nested": lambda weight: torch.nested.nested_tensor([weight, weight]),
    "is of type complex64": lambda weight: weight.to(torch.complex64),
    "is of type int8": lambda weight: weight.to(torch.int8),
    "is of type bool": lambda weight: weight > 0,
    "is of type float8_e4m3fn": lambda weight: weight.to(torch.float8_e4m3fn),
    "is of type qint8": lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")  # of torch, about layouts and quantised tensors
@pytest.mark.parametrize("fault", _STORED)
def test_tensor_that_is_no_table_of_floating_numbers_is_named_with_the_remedy(tmp_path, raw, fault):
    raw["state_dict"]["model.cls.0.weight"] = _STORED[fault](raw["state_dict"]["model.cls.0.weight"])
    torch.save(raw, tmp_path / "m.pt")
    with pytest.raises(ModelError) as caught:
        load_checkpoint(tmp_path / "m.pt", name="m.pt")
    assert f"1 tensors cannot be used as they are stored (cls.0.weight {fault}); save the model with" in str(
        caught.value
    )


@pytest.mark.parametrize(
    "stored",
    [
        lambda weight: weight.t().contiguous().t(),
        lambda weight: torch.cat([weight, weight])[len(weight) :],
        torch.Tensor.double,
        torch.nn.Parameter,
    ],
)
def test_views_and_other_floating_types_give_the_same_model(tmp_path, raw, small_model, stored):
    raw["state_dict"]["model.cls.0.weight"] = stored(raw["state_dict"]["model.cls.0.weight"])
    torch.save(raw, tmp_path / "m.pt")
    assert torch.equal(_forward(load_checkpoint(tmp_path / "m.pt", name="m").model), _forward(small_model))


def test_tensors_that_share_memory_are_written_one_by_one(tmp_path, small_config, make_tensors):
    tensors = make_tensors(small_config)
    tensors["cls.2.weight"] = tensors["cls.0.bias"].view(1, -1)
    save_safetensors(tmp_path / "m.safetensors", config=small_config, tensors=tensors)
    found = read_weights(tmp_path / "m.safetensors", name="m").tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_bare_state_dict_and_other_objects_are_refused(tmp_path, raw):
    for value, match in ((raw["state_dict"], "lacks state_dict.*cannot be guessed"), ([1], "holds a list")):
        torch.save(value, tmp_path / "m.pt")
        with pytest.raises(ModelError, match=match):
            load_checkpoint(tmp_path / "m.pt", name="m.pt")


def test_gene_list_is_checked_by_number_and_where_noted_by_names():
    def check(genes, noted):
        check_genes(genes, n_genes=2, genes_sha256=noted, name="g.json", model="m")

    check(["A", "b"], None)
    check(["a", "B"], digest_genes(["A", "B"]))
    with pytest.raises(ModelError, match=r"g.json names 3 genes, the model m has 2: they do not belong together"):
        check(["A", "B", "C"], None)
    with pytest.raises(
        ModelError, match=r"g.json names 2 genes as the model m has, but other ones or in another order"
    ):
        check(["B", "A"], digest_genes(["A", "B"]))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells resident memory on Linux only")
def test_training_state_beside_the_weights_is_not_read(tmp_path, raw, small_model):
    """64 MiB of an optimizer's state lie in the file; reading the model takes far less memory than that."""
    state = {"exp_avg": torch.ones(2**24)}
    extra = {"optimizer_states": [{"state": {0: state}}], "callbacks": {"Stopper": {"best": torch.tensor(1.0)}}}
    torch.save({**raw, **extra, "loops": {"fit_loop": {"state_dict": {}}}, "epoch": 3}, tmp_path / "m.ckpt")
    load_checkpoint(tmp_path / "m.ckpt", name="m")  # what is only loaded once is loaded now
    before = _resident_mib()
    found = load_checkpoint(tmp_path / "m.ckpt", name="m")
    assert torch.equal(_forward(found.model), _forward(small_model))
    assert _resident_mib() - before < 32
    assert found.notes == ()


def _resident_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024
