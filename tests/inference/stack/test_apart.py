"""The model in a process of its own: the same results and errors as in this one, and it never outlives its use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.apart import Apart, start_apart
from inference.baselines import Cells
from inference.engines import Engines
from inference.errors import EngineError, InputError
from inference.manifest import Manifest
from inference.model import main
from inference.stack.asked import Asked
from inference.stack.checkpoint import save_safetensors

pytestmark = pytest.mark.slow
PATIENCE_S = 600


@pytest.fixture
def model(tmp_path, small_config, make_tensors):
    save_safetensors(tmp_path / "m.safetensors", config=small_config, tensors=make_tensors(small_config))
    (tmp_path / "genes.json").write_text(json.dumps([f"GENE{i}" for i in range(40)]))
    return {"model": str(tmp_path / "m.safetensors"), "genelist": str(tmp_path / "genes.json")}


@pytest.fixture
def apart():
    process = Apart()
    yield process
    process.end()


def _cells(adata):
    unknown = np.full(adata.n_obs, "unknown")
    return Cells(adata.X.tocsr(), tuple(adata.var_names), unknown, unknown)


def test_the_other_process_gives_the_same_counts_the_same_errors_and_says_when_it_was_ended(
    apart, model, tmp_path, make_adata
):
    manifest = Manifest(tasks=(), diffusion_steps=2, threads=1, device="cpu", **model)
    prompt, query = (_cells(make_adata(seed, n_each=20)) for seed in (1, 3))
    other, here = (Engines(manifest, folder=tmp_path, apart=process) for process in (apart, None))
    found, want = (engines.generate(Asked(prompt, query, 5)) for engines in (other, here))
    assert (found.counts != want.counts).nnz == 0
    assert np.array_equal(found.logits, want.logits)
    assert (found.notes, found.record) == (want.notes, want.record)
    found, want = (engines.predict([Asked(prompt, query, 5)])[0]() for engines in (other, here))
    assert (found.counts != want.counts).nnz == 0
    assert np.array_equal(found.expected_log, want.expected_log)
    assert other.known_genes("stack", ["gene3", "other"]).tolist() == [True, False]
    assert other.peak_memory_gib > here.peak_memory_gib  # it counts both processes
    strange = Cells(prompt.counts, tuple(f"x{gene}" for gene in prompt.genes), prompt.cell_type, prompt.donor)
    for engines in (other, here):
        with pytest.raises(InputError, match="none of the prompt cells' 40 genes"):
            engines.generate(Asked(strange, query, 5))
    apart._process.send_signal(signal.SIGKILL)
    with pytest.raises(EngineError, match="ended by signal 9, as happens when memory runs out; give fewer"):
        other.generate(Asked(prompt, query, 5))


def test_it_ends_by_itself_when_nobody_can_ask_it_any_more(apart):
    apart.close()
    assert apart._process.wait(PATIENCE_S) == 0


def test_no_process_is_started_where_torch_is_loaded():
    with start_apart() as process:
        assert process is None


def test_the_program_writes_what_it_writes_with_the_model_in_its_own_process(model, tmp_path, make_adata, capsys):
    base = make_adata(1, is_treated=True, n_each=30)
    base.obs["drug"] = ["a", "b", "a"] * 10
    base.write_h5ad(tmp_path / "base.h5ad")
    make_adata(3, n_each=20).write_h5ad(tmp_path / "test.h5ad")
    named = {"checkpoint": model["model"], "genelist": model["genelist"], "split-column": "drug", "threads": 1}
    named |= {"base-adata": tmp_path / "base.h5ad", "test-adata": tmp_path / "test.h5ad", "num-steps": 1}
    words = [str(word) for name, value in named.items() for word in (f"--{name}", value)]
    assert main(["generate", *words, "--output-dir", str(tmp_path / "here")]) == 0
    want = json.loads(capsys.readouterr().out)
    command = [sys.executable, "-m", "inference.model", "generate", *words, "--output-dir", str(tmp_path / "there")]
    root = Path(__file__).resolve().parents[3]
    # libgomp says how it waits, if it is told to do so
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "verbose"}
    command.append("--show-progress")
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("GOMP_SPINCOUNT") == done.stderr.count("GOMP_SPINCOUNT = '0'")
    found = json.loads(done.stdout)
    assert found["settings"] == want["settings"]
    assert found["peak_memory_gib"] > 0.2  # torch alone takes as much
    assert "step 1 of 1: " in done.stderr
    for name in ("a", "b"):
        one, two = (ad.read_h5ad(tmp_path / folder / f"{name}.h5ad") for folder in ("here", "there"))
        assert np.array_equal(one.X.toarray(), two.X.toarray())
        assert one.obs.equals(two.obs)
        assert one.uns == two.uns
