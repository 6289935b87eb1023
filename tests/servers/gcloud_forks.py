"""The real ``gcloud``, loaded once: each command runs in a fork of it, a tenth of a second after it is asked.

In: ``serve LIB SOCKET``, run by gcloud's own Python with its folder ``lib``, and ``call SOCKET WORD…`` in place of the
command. Out: what gcloud prints, and its exit status. Standard library alone, because both run without packages.
"""

import array
import contextlib
import importlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import traceback
from pathlib import Path

MAX_BYTES = 1 << 20


@contextlib.contextmanager
def fast_gcloud(folder):
    """Yield a folder for the front of PATH in which ``gcloud`` is fast; None where it is installed in another way."""
    found = shutil.which("gcloud")
    root = Path(found).resolve().parents[1] if found else Path("/")
    if not (root / "lib" / "gcloud.py").is_file():
        yield None
        return
    bundled = root / "platform" / "bundledpythonunix" / "bin" / "python3"
    python = str(bundled) if bundled.is_file() else sys.executable
    at = folder / "socket"
    command = folder / "gcloud"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{__file__}" call "{at}" "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    words = [python, "-S", __file__, "serve", str(root / "lib"), str(at)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout.readline() == "ready\n", "gcloud could not be loaded"
        yield folder
    finally:
        server.communicate(timeout=120)  # its input ends, and with it the server


def serve(lib, at):
    """Answer one command after the other until the standard input ends."""
    sys.path[:0] = [f"{lib}/third_party", lib]
    from googlecloudsdk import gcloud_main

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(at)
    listener.listen()
    os.write(1, b"ready\n")
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        asked, files = _receive(connection)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _work(gcloud_main, asked, files, writer)
        for file in (writer, *files):
            os.close(file)
        with os.fdopen(reader, "rb") as answer:
            text = answer.read()
        os.waitpid(child, 0)
        status, modules = json.loads(text or "[1, []]")
        connection.sendall(str(status).encode())
        connection.close()
        for name in modules:  # so that the next command finds them loaded
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _receive(connection):
    """What a caller sends: words, folder and environment, and its three open files."""
    data, ancillary, _, _ = connection.recvmsg(MAX_BYTES, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    files = array.array("i")
    for _, _, found in ancillary:
        files.frombytes(found)
    while not data.endswith(b"\n"):
        data += connection.recv(MAX_BYTES)
    return json.loads(data), list(files)


def _work(gcloud_main, asked, files, writer):
    """Be gcloud, in the fork; does not return."""
    status, known = 1, set(sys.modules)
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["gcloud", *asked["words"]]
        status = int(gcloud_main.main() or 0)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:  # noqa: BLE001 - a fork must not go on as the server
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        new = [name for name in sys.modules if name not in known]
        os.write(writer, json.dumps([status, new]).encode())
        os._exit(0)


def call(at, *words):
    """Have a command run, and return its exit status."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(at)
    asked = {"words": words, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    data = json.dumps(asked).encode() + b"\n"
    files = array.array("i", [0, 1, 2])
    n_sent = connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    connection.sendall(data[n_sent:])
    return int(connection.recv(16) or b"1")


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    sys.exit({"serve": serve, "call": call}[verb](*rest))
