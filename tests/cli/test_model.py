"""``haystack model``: another program's commands, passed through."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkpoint(tmp_path):
    from inference.stack.config import StackConfig, tensor_shapes

    config = StackConfig(n_genes=12, n_hidden=2, token_dim=4, n_cells=8, n_layers=1, n_heads=2, mlp_ratio=1)
    state = {name: torch.zeros(shape) for name, shape in tensor_shapes(config).items()}
    torch.save({"hyper_parameters": {"model_config": asdict(config)}, "state_dict": state}, tmp_path / "m.ckpt")
    return tmp_path / "m.ckpt"


def _start(*arguments, cwd, **environment):
    program = [sys.executable, "-m", "haystack_kernel", "model", *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        program,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(*arguments, cwd):
    with _start(*arguments, cwd=cwd) as process:
        out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def test_json_line_progress_and_exit_code_pass_through(checkpoint, tmp_path):
    """Also from a folder that holds a package of the program's name."""
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "__init__.py").write_text("raise SystemExit('the wrong program')")
    code, out, err = _run("convert", "--json", "m.ckpt", "m.safetensors", cwd=tmp_path)
    assert (code, len(out.splitlines())) == (0, 1), err
    assert json.loads(out)["window_cells"] == 8
    assert "parameters read" in err
    assert (tmp_path / "m.safetensors").exists()


def test_help_is_the_programs_own(call):
    said = call("model", "generate", "--help")
    assert said.code == 0
    for flag in ("--checkpoint", "--base-adata", "--split-values", "--num-steps", "--output-mode", "--concatenate"):
        assert flag in said.out


def test_words_pass_through_as_they_were_typed(checkpoint, tmp_path, call, monkeypatch):
    """A file whose name begins with a dash comes after ``--``; ``--table`` is ours and not passed on."""
    checkpoint.rename(tmp_path / "-m.ckpt")
    monkeypatch.chdir(tmp_path)
    said = call("model", "info", "--table", "--", "-m.ckpt")
    assert (said.code, "{" in said.out) == (0, False)
    assert "window cells" in said.out


def test_wrong_usage_is_the_programs_own(call):
    said = call("model", "generate", "--checkpoint", "x")
    assert (said.code, said.out) == (2, "")


def test_request_to_end_reaches_the_program(tmp_path):
    """The program waits for a storage service that never answers; told to end, it says so with its own exit code."""
    pytest.importorskip("google.cloud.storage")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(600)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with _start("info", "gs://bucket/m.ckpt", cwd=tmp_path, STORAGE_EMULATOR_HOST=address) as process:
            connection, _ = silent.accept()
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=600)
            connection.close()
    assert (process.returncode, out) == (143, "")
    assert "stopped on request" in err
