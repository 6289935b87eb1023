from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from inference import model, run_inference
from inference.engines import Engines
from inference.errors import EngineError, ModelError
from inference.flags import default_engine
from inference.manifest import BASELINES, ENGINES, Manifest


def test_baselines_are_found_and_read_nothing_else(tmp_path):
    engines = Engines(Manifest(tasks=()), folder=tmp_path)
    for name in BASELINES:
        assert callable(engines.find(name))
        assert (engines.digests(name), engines.versions(name)) == ({}, {})
    assert set(ENGINES) == {*BASELINES, "additive", "stack"}


def test_engine_that_is_not_here_is_refused_naming_the_others(tmp_path):
    with pytest.raises(EngineError, match="'best' is unknown; possible: none, mean, shift, weighted, additive, stack"):
        Engines(Manifest(tasks=()), folder=tmp_path).find("best")


@pytest.mark.parametrize(
    ("model", "match"), [(None, "needs a model"), ("/none/m.pt", "/none/m.pt: no such file.*model")]
)
def test_model_that_is_not_there_is_refused(tmp_path, model, match):
    engines = Engines(Manifest(tasks=(), model=model), folder=tmp_path)
    with pytest.raises(ModelError, match=match):
        engines.digests("stack")


def test_digests_change_with_what_changes_the_outcome(tmp_path):
    for name in ("m", "g"):
        (tmp_path / name).write_text(name)
    manifest = Manifest(tasks=(), model=str(tmp_path / "m"), genelist=str(tmp_path / "g"))

    def settings(**changes):
        return Engines(replace(manifest, **changes), folder=tmp_path).digests("stack")["settings"]

    assert settings(batch_size=3) == settings(threads=2) == settings(device="cpu") == settings()
    assert settings(output_mode="exact", batch_size=3) != settings(output_mode="exact")
    changes = (
        {"precision": "fp32"},
        {"diffusion_steps": 3},
        {"prompt_ratio": 0.3},
        {"context_ratio": 0.3},
        {"context_ratio_min": 0.1},
    )
    found = [settings(**item) for item in ({}, *changes, {"mode": "vanilla"}, {"output_mode": "expected"})]
    assert len(set(found)) == len(found)


def test_default_engine_is_weighted_while_no_model_is_given():
    assert (default_engine(None), default_engine("gs://b/m.pt")) == ("weighted", "stack")


def test_baselines_import_neither_the_kernel_nor_anndata():
    heavy = {"haystack_kernel", "anndata", "pandas", "fsspec"}
    code = f"import sys, inference.baselines; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(("chosen", "used"), [(None, "passive"), ("active", "active")])
@pytest.mark.parametrize("program", [model.main, run_inference.main])
def test_waiting_threads_of_each_program_sleep_unless_told_otherwise(monkeypatch, capsys, program, chosen, used):
    monkeypatch.setenv("OMP_WAIT_POLICY", str(chosen))
    if chosen is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit):
        program(["--help"])
    assert "usage" in capsys.readouterr().out
    assert os.environ["OMP_WAIT_POLICY"] == used


def test_model_engine_without_torch_says_what_to_install():
    code = """
import sys
sys.modules["torch"] = None
from inference.engines import Engines
from inference.manifest import Manifest
Engines(Manifest(tasks=()), folder=None).find("stack")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "EngineError: engine 'stack' needs the package torch" in result.stderr
    assert "pip install 'haystack-kernel[stack]'" in result.stderr


def test_digest_of_an_embedding_depends_on_no_setting_of_the_generation(tmp_path):
    for name in ("m", "g"):
        (tmp_path / name).write_text(name)
    manifest = Manifest(tasks=(), model=str(tmp_path / "m"), genelist=str(tmp_path / "g"))

    def settings(**changes):
        return Engines(replace(manifest, **changes), folder=tmp_path).digests("stack", kind="embed")["settings"]

    assert settings(diffusion_steps=3) == settings(output_mode="exact") == settings(batch_size=2) == settings()
    assert settings(precision="fp32") != settings()
    assert settings() != Engines(manifest, folder=tmp_path).digests("stack")["settings"]
