"""The command line called in this process."""

import sys
from dataclasses import dataclass

import pytest

from haystack_kernel.cli import main


@dataclass(frozen=True)
class Said:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(tiny_env, monkeypatch, capsys):
    """``call("status", run_id)`` runs one command with the settings of the tiny atlas."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["haystack", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Said(ended.value.code or 0, said.out, said.err)

    return run
