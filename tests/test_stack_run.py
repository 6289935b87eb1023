"""A whole run with engine stack: a small checkpoint of random weights, the tiny atlas, every step real."""

import json
import shutil
from pathlib import Path

import anndata as ad
import pytest

from haystack_kernel import flow
from haystack_kernel.config.options import build_config
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.manage import fork
from haystack_kernel.report.methods import methods_paragraph
from haystack_kernel.run import open_run, resume
from haystack_kernel.store import read_h5ad

QUESTION = "How would B cells respond to IFN-beta?"
TERMS = {"citation": "a model of random weights", "licence": "for tests only"}


def write_weights(path, *, n_genes, seed):
    torch = pytest.importorskip("torch")
    from inference.stack.checkpoint import save_safetensors
    from inference.stack.config import StackConfig, tensor_shapes

    config = StackConfig(n_genes=n_genes, n_hidden=8, token_dim=4, n_cells=16, n_layers=1, n_heads=2, mlp_ratio=2)
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, shape in tensor_shapes(config).items():
        values = torch.randn(shape, generator=generator) / max(shape[-1], 1) ** 0.5
        tensors[name] = 1.0 + 0.1 * values if "norm.weight" in name else values
    save_safetensors(path, config=config, tensors=tensors, metadata=TERMS)


@pytest.fixture(scope="module")
def model_files(tmp_path_factory, tiny_h5ad):
    """A checkpoint over the tiny atlas's genes, and its gene list."""
    genes = list(ad.read_h5ad(tiny_h5ad, backed="r").var_names)
    folder = tmp_path_factory.mktemp("model")
    write_weights(folder / "model.safetensors", n_genes=len(genes), seed=0)
    (folder / "genes.json").write_text(json.dumps(genes), encoding="utf-8")
    return {"model": str(folder / "model.safetensors"), "genelist": str(folder / "genes.json")}


@pytest.mark.slow
def test_a_run_with_stack_predicts_beside_every_baseline_and_carries_the_terms(ports, begin, model_files):
    record = flow.work(begin(engine="stack", diffusion_steps=2, **model_files), ports)
    assert record.status == "done"
    best = record.best
    assert set(best.task_seconds) == {
        "treated",
        "control",
        *(f"baseline-{n}" for n in ("none", "mean", "shift", "weighted")),
    }
    assert len(best.choice.candidate_keys) == 2  # pools the cell types that show the response
    assert (best.model.citation, best.model.licence) == (TERMS["citation"], TERMS["licence"])
    predictions = read_h5ad(ports.store, record.run_id, "predictions.h5ad")
    assert json.loads(predictions.uns["haystack"]["citation"]) == TERMS["citation"]
    assert predictions.obs["gen_logit"].notna().all()
    assert TERMS["licence"] in methods_paragraph(record)
    assert "weights were used" not in methods_paragraph(record)


@pytest.mark.slow
def test_a_model_or_gene_list_that_was_replaced_stops_resume_and_fork_and_its_prediction_is_not_reused(
    few_cells, model_files, tmp_path
):
    own = {name: Path(shutil.copy(path, tmp_path)) for name, path in model_files.items()}
    kept = {name: path.read_bytes() for name, path in own.items()}
    genes = json.loads(kept["genelist"])
    options = {name: str(path) for name, path in own.items()}
    run = open_run(QUESTION, engine="stack", diffusion_steps=2, max_rounds=1, **options).work(until="interpret")
    assert "predict 1" in fork(run.run_id, changes={"threshold": 9}).record.forked_from.reused

    write_weights(own["model"], n_genes=len(genes), seed=1)
    refused_unless_accepted(run, "model")
    own["model"].write_bytes(kept["model"])
    own["genelist"].write_text(json.dumps([*genes[1:], genes[0]]), encoding="utf-8")
    refused_unless_accepted(run, "genelist")
    with pytest.warns(UserWarning, match="genelist .* is another file than before"):
        accepted = resume(run.run_id, accept_changes=True).record
    assert accepted.inputs["model"] == run.record.inputs["model"]
    assert accepted.inputs["genelist"] != run.record.inputs["genelist"]


def refused_unless_accepted(run, option):
    says = rf"{option} .* is another file than before .*accept_changes=True \(--accept-changes\)"
    for again in (lambda: resume(run.run_id), lambda: fork(run.run_id, changes={"threshold": 9})):
        with pytest.raises(InvalidInputError, match=says):
            again()
    forked = fork(run.run_id, changes={"threshold": 9}, accept_changes=True).record
    assert forked.forked_from.reused == ("understand", "retrieve", "choose 1", "cells 1")


@pytest.mark.parametrize("missing", ["model", "genelist"])
def test_build_config_for_stack_without_its_files_says_what_to_give(tiny_settings, tmp_path, missing):
    files = {name: tmp_path / name for name in ("model", "genelist")}
    for path in files.values():
        path.touch()
    given = {name: str(path) for name, path in files.items() if name != missing}
    with pytest.raises(InvalidInputError, match=f"engine 'stack' needs a {missing}"):
        build_config(tiny_settings, engine="stack", **given)


def test_build_config_for_stack_with_a_file_that_is_not_there_names_it(tiny_settings, tmp_path):
    with pytest.raises(InvalidInputError, match="does not exist"):
        build_config(
            tiny_settings, engine="stack", model=str(tmp_path / "none.ckpt"), genelist="gs://bucket/genes.json"
        )
