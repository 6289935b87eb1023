"""The kernel that the command line starts early."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import psutil
import pytest
from nbclient.util import run_sync

from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.jupyter.kernels import early_kernel, kernel_transport, needs_model

LIMIT_S = 300


def test_an_early_kernel_is_of_this_python_and_ends_with_the_command_that_refuses_the_question(tmp_path, monkeypatch):
    foreign = tmp_path / "kernels" / "python3"  # as another installation's: its Python has no haystack_kernel
    foreign.mkdir(parents=True)
    spec = {"argv": ["false", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    with contextlib.suppress(ValueError), early_kernel() as started:
        kernel = psutil.Process(started.process.pid)
        assert kernel.exe() == psutil.Process().exe()
        raise ValueError
    assert not kernel.is_running()
    assert not Path(started.connection).exists()


@pytest.mark.slow
def test_the_manager_of_an_early_kernel_talks_to_it_interrupts_it_and_ends_it(tmp_path, monkeypatch):
    # too long a path for sockets; every other test that runs the command talks through them
    (tmp_path / ("k" * 90)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("k" * 90)))
    with early_kernel() as started:
        manager = started.manager()
        client = manager.client()
        client.start_channels()
        try:
            run_sync(client.wait_for_ready)(timeout=LIMIT_S)
            asked = client.execute("import time\nprint('sleeping')\ntime.sleep(600)")
            while run_sync(client.get_iopub_msg)(timeout=LIMIT_S)["msg_type"] != "stream":
                pass
            run_sync(manager.interrupt_kernel)()
            reply = {"parent_header": {}}
            while reply["parent_header"].get("msg_id") != asked:
                reply = run_sync(client.get_shell_msg)(timeout=LIMIT_S)
            assert reply["content"]["ename"] == "KeyboardInterrupt"
        finally:
            client.stop_channels()
        assert run_sync(manager.is_alive)()
        run_sync(manager.shutdown_kernel)(now=True)
        assert not run_sync(manager.is_alive)()
        assert started.process.poll() is not None


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        (None, False),
        ({"engine": "stack"}, True),
        ({"engine": "weighted"}, False),
        ({"engine": "stack", "executor": "batch"}, False),
    ],
)
def test_the_jobs_process_starts_with_the_kernel_of_a_new_run_that_needs_a_model_here(tmp_path, options, needed):
    (tmp_path / "given.json").write_text(json.dumps({"storage": None, "options": options}), encoding="utf-8")
    assert needs_model(str(tmp_path / "given.json")) is needed


def test_settings_that_will_be_refused_start_no_job(tmp_path, monkeypatch):
    monkeypatch.setenv("HAYSTACK_JOBS__TIMEOUT_S", "-1")
    (tmp_path / "given.json").write_text(json.dumps({"storage": None, "options": {}}), encoding="utf-8")
    with pytest.raises(InvalidInputError):
        load_settings()
    assert needs_model(str(tmp_path / "given.json")) is False


def test_kernel_transport_falls_back_where_the_path_is_too_long_for_a_socket():
    assert kernel_transport("/tmp/haystack-kernel-x") == {"transport": "ipc", "ip": "/tmp/haystack-kernel-x/k"}
    assert kernel_transport("/tmp/" + "x" * 120) == {}
