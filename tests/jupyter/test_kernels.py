"""The kernel that the command line starts early."""

from __future__ import annotations

import contextlib
import json
import sys

import psutil

from haystack_kernel.jupyter.kernels import early_kernel, kernel_transport


def test_an_early_kernel_is_of_this_python_and_ends_with_the_command_that_refuses_the_question(tmp_path, monkeypatch):
    foreign = tmp_path / "kernels" / "python3"  # as another installation's: its Python has no haystack_kernel
    foreign.mkdir(parents=True)
    spec = {"argv": ["false", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    with contextlib.suppress(ValueError), early_kernel() as manager:
        kernel = psutil.Process(manager.provisioner.pid)
        assert manager.kernel_spec.argv[0] == sys.executable
        raise ValueError
    assert not kernel.is_running()


def test_kernel_transport_falls_back_where_the_path_is_too_long_for_a_socket():
    assert kernel_transport("/tmp/haystack-kernel-x") == {"transport": "ipc", "ip": "/tmp/haystack-kernel-x/k"}
    assert kernel_transport("/tmp/" + "x" * 120) == {}
