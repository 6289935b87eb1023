from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from inference.manifest import Manifest, Task, dump_manifest, parse_result
from inference.run_inference import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_batch(monkeypatch):
    monkeypatch.delenv("BATCH_TASK_INDEX", raising=False)
    monkeypatch.delenv("BATCH_TASK_COUNT", raising=False)


def _flags(roles, tmp_path, *more):
    names = {f"--{role}-gcs": str(path) for role, path in roles.items()}
    return [item for pair in names.items() for item in pair] + ["--output-gcs", str(tmp_path / "out.h5ad"), *more]


def _manifest(roles, tmp_path, engines=("none", "shift", "weighted"), **changes):
    """A manifest file of one task per engine, outputs in out/."""
    tasks = []
    for engine in engines:
        fields = {role: str(path) for role, path in roles.items()} | {"engine": engine, "seed": 1}
        fields |= {"id": f"task-{engine}", "output": str(tmp_path / "out" / f"{engine}.h5ad")} | changes.get(engine, {})
        tasks.append(Task(**fields))
    path = tmp_path / "manifest.json"
    path.write_text(dump_manifest(Manifest(tasks=tuple(tasks))))
    return path


def _run(capsys, *arguments):
    code = main([str(item) for item in arguments])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return code, json.loads(lines[0])


@pytest.mark.slow
def test_seed_page_command_line_works_in_a_process_of_its_own(roles, tmp_path):
    seed = ["--model-gcs", "m.pt", "--genelist-gcs", "genes.json", "--diffusion-steps", "5", "--batch-size", "32"]
    command = [sys.executable, "-m", "inference.run_inference", *_flags(roles, tmp_path, *seed, "--engine", "weighted")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["done"] == ["predictions"]
    assert "task predictions: 20 cells x 40 genes" in result.stderr


def test_output_keeps_obs_and_var_and_tells_how_it_was_made(roles, tmp_path, capsys):
    code, _ = _run(capsys, *_flags(roles, tmp_path))
    assert code == 0
    query, out = ad.read_h5ad(roles["query"]), ad.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(out.obs, query.obs)
    pd.testing.assert_frame_equal(out.var.drop(columns="padded"), query.var)
    assert not out.var["padded"].any()
    assert out.X.dtype == np.float32
    assert out.X.format == "csr"
    assert np.array_equal(out.X.data, np.rint(out.X.data))
    record = json.loads(out.uns["haystack_inference"])
    assert record["engine"] == "weighted"  # the default while no model is given
    assert sum(record["weights"].values()) == pytest.approx(1)
    assert record["inputs"]["query"] == hashlib.sha256(roles["query"].read_bytes()).hexdigest()
    assert {"frac_genes_found", "notes", "program", "seed", "versions"} <= set(record)
    result = parse_result((tmp_path / "out.h5ad.result.json").read_text())
    assert result.sha256 == hashlib.sha256((tmp_path / "out.h5ad").read_bytes()).hexdigest()
    assert (result.n_cells, result.n_genes, result.frac_genes_found) == (20, 40, 1.0)


def test_same_command_gives_the_same_bytes(roles, tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _run(capsys, *_flags(roles, tmp_path / name, "--seed", 7))
    assert (tmp_path / "one" / "out.h5ad").read_bytes() == (tmp_path / "two" / "out.h5ad").read_bytes()


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (
            ["--model-gcs", "gs://bucket/model.pt"],
            "needs 'genelist'.*choose another engine: none, mean, shift, weighted",
        ),
        (["--engine", "stack"], "needs 'model' and 'genelist'"),
        (["--engine", "best"], "'best' is unknown; possible: none, mean, shift, weighted, additive, stack"),
        (["--context-ratio", "0.8"], "between 0 and 1"),
        (["--device", "tpu"], "possible: auto, cpu, cuda"),
    ],
)
def test_flags_that_name_no_way_to_predict_are_refused_as_usage(roles, tmp_path, capsys, flags, match):
    code, summary = _run(capsys, *_flags(roles, tmp_path, *flags))
    assert code == 2
    assert re.search(match, summary["failed"]["start"]["message"])


@pytest.mark.parametrize(
    "arguments", [[], ["--prompt-gcs", "a"], ["--manifest", "m", "--seed", "3"], ["--batch-size", "0"], ["--nope"]]
)
def test_wrong_flags_are_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_bad_input_in_flags_is_exit_2_with_an_error_file(roles, tmp_path, capsys):
    roles["prompt"].write_bytes(roles["prompt"].read_bytes()[:5000])
    code, summary = _run(capsys, *_flags(roles, tmp_path))
    assert code == 2
    assert summary["failed"]["predictions"]["class"] == "InputError"
    assert not (tmp_path / "out.h5ad").exists()
    assert "not a readable h5ad" in json.loads((tmp_path / "out.h5ad.error.json").read_text())["message"]


def test_output_under_a_file_is_exit_3(roles, tmp_path, capsys):
    code, summary = _run(capsys, *_flags(roles, tmp_path)[:-1], roles["query"] / "out.h5ad")
    assert code == 3
    assert summary["failed"]["predictions"]["class"] == "StorageError"


def test_output_over_an_input_is_refused(roles, tmp_path, capsys):
    before = roles["query"].read_bytes()
    code, _ = _run(capsys, *_flags(roles, tmp_path)[:-1], roles["query"])
    assert code == 2
    assert roles["query"].read_bytes() == before


def test_manifest_runs_every_task_and_a_rerun_skips_them(roles, tmp_path, capsys):
    path = _manifest(roles, tmp_path)
    code, summary = _run(capsys, "--manifest", path)
    assert (code, summary["done"]) == (0, ["task-none", "task-shift", "task-weighted"])
    stamps = {item: item.stat().st_mtime_ns for item in (tmp_path / "out").iterdir()}
    assert len(stamps) == 6
    code, summary = _run(capsys, "--manifest", path)
    assert (code, summary["done"], len(summary["skipped"])) == (0, [], 3)
    assert {item: item.stat().st_mtime_ns for item in (tmp_path / "out").iterdir()} == stamps


def test_rerun_does_again_what_is_damaged_or_has_new_inputs(roles, tmp_path, capsys, make_adata):
    path = _manifest(roles, tmp_path, engines=("none", "shift"))
    _run(capsys, "--manifest", path)
    with (tmp_path / "out" / "none.h5ad").open("ab") as sink:
        sink.write(b"x")
    assert _run(capsys, "--manifest", path)[1]["done"] == ["task-none"]
    (tmp_path / "out" / "shift.h5ad").unlink()
    assert _run(capsys, "--manifest", path)[1]["done"] == ["task-shift"]
    make_adata(9, n_each=21).write_h5ad(roles["query"])
    assert _run(capsys, "--manifest", path)[1]["done"] == ["task-none", "task-shift"]


def test_failing_task_does_not_stop_the_others_and_is_retried(roles, tmp_path, capsys):
    late = tmp_path / "late.h5ad"
    path = _manifest(roles, tmp_path, shift={"prompt": str(late)})
    code, summary = _run(capsys, "--manifest", path)
    assert (code, summary["done"]) == (1, ["task-none", "task-weighted"])
    error = json.loads((tmp_path / "out" / "shift.h5ad.error.json").read_text())
    assert (error["id"], error["class"]) == ("task-shift", "InputError")
    assert "no such file" in error["message"]
    late.write_bytes(roles["prompt"].read_bytes())
    code, summary = _run(capsys, "--manifest", path)
    assert (code, summary["done"]) == (0, ["task-shift"])
    assert not (tmp_path / "out" / "shift.h5ad.error.json").exists()


def test_a_gpu_that_is_not_there_ends_the_tasks_with_a_model_and_those_alone(roles, tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[stack]'")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    path = _manifest(roles, tmp_path, engines=("weighted", "stack"))
    path.write_text(path.read_text().replace('"model": null', '"model": "demo"'))
    code, found = _run(capsys, "--manifest", path, "--device", "cuda")
    assert (code, found["done"], list(found["failed"])) == (1, ["task-weighted"], ["task-stack"])
    assert "torch sees 0 GPUs" in found["failed"]["task-stack"]["message"]


def test_a_device_may_stand_beside_a_manifest_and_nothing_else(roles, tmp_path, capsys):
    path = _manifest(roles, tmp_path)
    code, found = _run(capsys, "--manifest", path, "--device", "cude")
    assert (code, "'cude'" in found["failed"]["start"]["message"]) == (2, True)
    with pytest.raises(SystemExit, match="2"):
        main(["--manifest", str(path), "--device", "cuda", "--seed", "1"])
    assert "leave out --seed" in capsys.readouterr().err


def test_shards_share_the_tasks_out(roles, tmp_path, capsys, monkeypatch):
    path = _manifest(roles, tmp_path)
    done = []
    monkeypatch.setenv("BATCH_TASK_COUNT", "2")
    for index in ("0", "1"):
        monkeypatch.setenv("BATCH_TASK_INDEX", index)
        done.append(_run(capsys, "--manifest", path)[1]["done"])
    assert done == [["task-none", "task-weighted"], ["task-shift"]]


@pytest.mark.parametrize("text", ["{", '{"version": 9, "tasks": []}'])
def test_bad_manifest_is_exit_2(tmp_path, capsys, text):
    (tmp_path / "manifest.json").write_text(text)
    assert _run(capsys, "--manifest", tmp_path / "manifest.json")[0] == 2


def test_missing_manifest_is_exit_2(tmp_path, capsys):
    assert _run(capsys, "--manifest", tmp_path / "none.json")[0] == 2


def test_path_trick_in_a_manifest_is_exit_2_before_anything_runs(roles, tmp_path, capsys):
    path = _manifest(roles, tmp_path, weighted={"output": f"{tmp_path}/../x.h5ad"})
    code, summary = _run(capsys, "--manifest", path)
    assert (code, summary["done"]) == (2, [])
    assert not (tmp_path / "out").exists()


def test_cells_without_labels_count_as_one_type_with_a_note(roles, tmp_path, capsys, make_adata):
    for seed, role in enumerate(("prompt", "control", "query")):
        adata = make_adata(seed, is_treated=role == "prompt")
        del adata.obs["cell_type"]
        adata.write_h5ad(roles[role])
    assert _run(capsys, *_flags(roles, tmp_path))[0] == 0
    record = json.loads(ad.read_h5ad(tmp_path / "out.h5ad").uns["haystack_inference"])
    assert record["weights"] == {"unknown": 1.0}
    assert any("no cell type" in note for note in record["notes"])


@pytest.mark.slow
def test_sigterm_leaves_whole_outputs_and_a_rerun_does_the_rest(roles, tmp_path, capsys):
    tasks = [
        Task(f"t{i}", str(roles["prompt"]), str(roles["query"]), str(tmp_path / "out" / f"{i}.h5ad"), i, "shift")
        for i in range(400)
    ]
    path = tmp_path / "manifest.json"
    path.write_text(dump_manifest(Manifest(tasks=tuple(tasks))))
    command = [sys.executable, "-m", "inference.run_inference", "--manifest", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("task t2:"):
                break
        os.kill(process.pid, signal.SIGTERM)
        out, _ = process.communicate(timeout=600)
    assert process.returncode == 143
    summary = json.loads(out)
    assert summary["stopped"]
    assert 3 <= len(summary["done"]) < 400
    for item in (tmp_path / "out").iterdir():
        if item.name.endswith(".result.json"):
            output = tmp_path / "out" / item.name.removesuffix(".result.json")
            assert parse_result(item.read_text()).sha256 == hashlib.sha256(output.read_bytes()).hexdigest()
        else:
            assert item.suffix == ".h5ad"  # no partial file is left
    path.write_text(dump_manifest(Manifest(tasks=tuple(tasks[: len(summary["done"]) + 2]))))
    code, again = _run(capsys, "--manifest", path)
    assert code == 0
    assert len(again["done"]) <= 2
    assert len(again["done"]) + len(again["skipped"]) == len(summary["done"]) + 2


@pytest.mark.slow
def test_sigterm_does_not_wait_for_the_next_tasks_download(roles, tmp_path):
    """The second task's prompt lies in a storage service that never answers; the first task is whole all the same."""
    pytest.importorskip("google.cloud.storage")
    out = str(tmp_path / "out")
    cells = {"query": str(roles["query"]), "seed": 1, "engine": "none"}
    tasks = (
        Task("here", str(roles["prompt"]), output=f"{out}/1.h5ad", **cells),
        Task("away", "gs://bucket/prompt.h5ad", output=f"{out}/2.h5ad", **cells),
    )
    path = tmp_path / "manifest.json"
    path.write_text(dump_manifest(Manifest(tasks=tasks)))
    command = [sys.executable, "-m", "inference.run_inference", "--manifest", str(path)]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(600)
        environment = {**os.environ, "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=ROOT, env=environment, **streams) as process:
            connection, _ = silent.accept()
            for line in process.stderr:
                if line.startswith("task here: 20 cells"):
                    break
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=600)
            connection.close()
    assert process.returncode == 143
    summary = json.loads(said)
    assert (summary["done"], summary["stopped"]) == (["here"], True)
    result = parse_result((tmp_path / "out" / "1.h5ad.result.json").read_text())
    assert result.sha256 == hashlib.sha256((tmp_path / "out" / "1.h5ad").read_bytes()).hexdigest()
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == ["1.h5ad", "1.h5ad.result.json"]


def test_fault_in_the_next_tasks_inputs_belongs_to_the_next_task(roles, tmp_path, capsys):
    bad = tmp_path / "bad.h5ad"
    bad.write_bytes(b"")
    path = _manifest(roles, tmp_path, shift={"prompt": str(bad)})
    code, summary = _run(capsys, "--manifest", path)
    assert (code, summary["done"], list(summary["failed"])) == (1, ["task-none", "task-weighted"], ["task-shift"])
    assert "not a readable h5ad file: it is empty (0 bytes" in summary["failed"]["task-shift"]["message"]
