"""Which engine predicts where none is asked for: the packaged model on the demo atlas, else what needs no model."""

import pytest

from haystack_kernel.config.options import build_config
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import Settings
from inference.manifest import DEMO_MODEL, DEMO_STEPS, Manifest, ManifestError, Task, check_manifest
from inference.models import packaged

SETTINGS = Settings()


def test_demo_atlas_is_answered_by_the_packaged_model():
    config = build_config(SETTINGS)
    assert (config.engine, config.model, config.diffusion_steps) == ("stack", DEMO_MODEL, DEMO_STEPS)
    assert build_config(SETTINGS, diffusion_steps=5).diffusion_steps == 5


def test_own_atlas_or_cells_without_a_model_are_answered_by_weighted(tmp_path):
    assert build_config(SETTINGS, atlases=("kang",)).engine == "weighted"
    assert build_config(SETTINGS, query_h5ad=str(tmp_path / "mine.h5ad")).engine == "weighted"
    with pytest.raises(InvalidInputError, match="needs a model"):
        build_config(SETTINGS, atlases=("kang",), engine="stack")


def test_engine_asked_for_wins():
    assert build_config(SETTINGS, engine="shift").engine == "shift"
    assert build_config(Settings(inference={"engine": "mean"})).engine == "mean"


def test_model_given_means_stack(tmp_path):
    files = {name: tmp_path / name for name in ("model", "genelist")}
    for path in files.values():
        path.write_bytes(b"")
    given = {name: str(path) for name, path in files.items()}
    assert build_config(SETTINGS, atlases=("kang",), **given).engine == "stack"


def test_packaged_model_is_named_in_place_of_an_address_and_is_small():
    model, genes = packaged(DEMO_MODEL)
    assert genes.is_file()
    assert model.stat().st_size <= 6_000_000
    assert packaged("./demo") is None
    task = Task(id="a", prompt="p.h5ad", query="q.h5ad", output="o.h5ad", seed=0, engine="stack")
    check_manifest(Manifest(tasks=(task,), model=DEMO_MODEL))
    with pytest.raises(ManifestError, match="genelist"):
        check_manifest(Manifest(tasks=(task,), model="./demo"))
