"""The program against a local Cloud Storage server, in a process of its own as in its container."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from inference.files import publish
from inference.manifest import Manifest, Task, dump_manifest

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "tests" / "servers" / "storage.py"
BUCKET = "haystack-inference-test"

pytest.importorskip("google.cloud.storage")


@pytest.fixture(scope="module")
def running():
    spec = importlib.util.spec_from_file_location("storage_server_for_inference", SERVER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.faulty_storage(BUCKET) as server:
        yield {**os.environ, "STORAGE_EMULATOR_HOST": server.address}, server


@pytest.fixture
def environment(running):
    return running[0]


def _python(environment, *arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def upload(running, monkeypatch):
    """Puts local files into the bucket."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", running[1].address)

    def put(paths):
        for path, uri in paths.items():
            publish(path, uri)

    return put


@pytest.mark.slow
def test_manifest_of_bucket_addresses_runs_once_and_is_skipped_after(environment, upload, roles, tmp_path):
    uris = {role: f"gs://{BUCKET}/runs/{role}.h5ad" for role in roles}
    task = Task("treated", uris["prompt"], uris["query"], f"gs://{BUCKET}/runs/out.h5ad", 1, "shift", uris["control"])
    (tmp_path / "manifest.json").write_text(dump_manifest(Manifest(tasks=(task,))))
    manifest = f"gs://{BUCKET}/runs/manifest.json"
    upload({path: uris[role] for role, path in roles.items()} | {tmp_path / "manifest.json": manifest})
    for kind in ("done", "skipped"):
        result = _python(environment, "-m", "inference.run_inference", "--manifest", manifest)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)[kind] == ["treated"]


@pytest.mark.slow
def test_a_service_that_fails_now_and_then_only_delays_the_program(environment, running, upload, roles):
    """An input cut short, an output whose answer is lost, a result file that is refused."""
    server = running[1]
    prompt, out = f"gs://{BUCKET}/faults/prompt.h5ad", f"gs://{BUCKET}/faults/out.h5ad"
    upload({roles["prompt"]: prompt})
    cut = server.fail("prompt.h5ad.*alt=media", kind="shorten")
    lost = server.fail("POST .*out.h5ad$", kind="lose")
    refused = server.fail("POST .*result.json$", status=429)
    cells = ["--prompt-gcs", prompt, "--query-gcs", roles["query"]]
    result = _python(environment, "-m", "inference.run_inference", *cells, "--output-gcs", out)
    assert (result.returncode, cut.n_seen, lost.n_seen, refused.n_seen) == (0, 1, 1, 1), result.stderr
    kept = server.objects.contents
    told = json.loads(kept[BUCKET, "faults/out.h5ad.result.json"])
    assert hashlib.sha256(kept[BUCKET, "faults/out.h5ad"]).hexdigest() == told["sha256"]


@pytest.mark.slow
def test_credentials_that_expired_name_the_login(environment, running, roles):
    expired = running[1].fail("POST", status=401, times=100)
    cells = ["--prompt-gcs", roles["prompt"], "--query-gcs", roles["query"]]
    out = ["--output-gcs", f"gs://{BUCKET}/expired/out.h5ad"]
    result = _python(environment, "-m", "inference.run_inference", *cells, *out)
    expired.times = 0
    assert result.returncode == 3
    assert "gcloud auth application-default login" in result.stderr


@pytest.mark.slow
def test_missing_object_is_exit_2_and_missing_bucket_to_write_is_exit_3(environment, roles):
    out = ["--output-gcs", "gs://no-such-bucket-here/out.h5ad"]
    local = ["--prompt-gcs", roles["prompt"], "--query-gcs", roles["query"]]
    missing = ["--prompt-gcs", f"gs://{BUCKET}/none.h5ad", "--query-gcs", roles["query"]]
    result = _python(environment, "-m", "inference.run_inference", *missing, "--output-gcs", f"gs://{BUCKET}/o.h5ad")
    assert (result.returncode, "no such file" in result.stderr) == (2, True), result.stderr
    result = _python(environment, "-m", "inference.run_inference", *local, *out)
    assert (result.returncode, "does not exist; create it first" in result.stderr) == (3, True), result.stderr


@pytest.mark.slow
def test_checkpoint_in_a_bucket_is_converted_there(environment, upload, tmp_path):
    torch = pytest.importorskip("torch")
    from inference.stack.config import StackConfig, tensor_shapes

    config = StackConfig(n_genes=12, n_hidden=2, token_dim=4, n_cells=8, n_layers=1, n_heads=2, mlp_ratio=1)
    state = {name: torch.ones(shape) for name, shape in tensor_shapes(config).items()}
    torch.save({"hyper_parameters": {"model_config": asdict(config)}, "state_dict": state}, tmp_path / "m.ckpt")
    (tmp_path / "genes.txt").write_text("\n".join(f"G{i}" for i in range(12)))
    uris = {name: f"gs://{BUCKET}/models/{name}" for name in ("m.ckpt", "genes.txt", "m.safetensors")}
    upload({tmp_path / name: uris[name] for name in ("m.ckpt", "genes.txt")})
    genes = ["--genelist", uris["genes.txt"]]
    result = _python(environment, "-m", "inference.model", "convert", uris["m.ckpt"], uris["m.safetensors"], *genes)
    assert result.returncode == 0, result.stderr
    result = _python(environment, "-m", "inference.model", "info", uris["m.safetensors"], *genes)
    assert json.loads(result.stdout)["genelist"]["fits"] is True
    assert json.loads(result.stdout)["file"] == uris["m.safetensors"]
