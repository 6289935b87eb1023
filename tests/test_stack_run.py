"""A whole run with engine stack: a small checkpoint of random weights, the tiny atlas, every step real."""

import json

import anndata as ad
import pytest

from haystack_kernel import flow
from haystack_kernel.config.options import build_config
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.report.methods import methods_paragraph
from haystack_kernel.store import read_h5ad

TERMS = {"citation": "a model of random weights", "licence": "for tests only"}


@pytest.fixture(scope="module")
def model_files(tmp_path_factory, tiny_h5ad):
    """A checkpoint over the tiny atlas's genes, and its gene list."""
    torch = pytest.importorskip("torch")
    from inference.stack.checkpoint import save_safetensors
    from inference.stack.config import StackConfig, tensor_shapes

    genes = list(ad.read_h5ad(tiny_h5ad, backed="r").var_names)
    config = StackConfig(n_genes=len(genes), n_hidden=8, token_dim=4, n_cells=16, n_layers=1, n_heads=2, mlp_ratio=2)
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, shape in tensor_shapes(config).items():
        values = torch.randn(shape, generator=generator) / max(shape[-1], 1) ** 0.5
        tensors[name] = 1.0 + 0.1 * values if "norm.weight" in name else values
    folder = tmp_path_factory.mktemp("model")
    save_safetensors(folder / "model.safetensors", config=config, tensors=tensors, metadata=TERMS)
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
