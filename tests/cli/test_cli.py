"""The face of the command line: what it imports, how it exits, where it writes."""

import json
import subprocess
import sys

import pytest

from haystack_kernel import errors
from haystack_kernel.cli import exit_code
from haystack_kernel.cli.output import print_json, print_rows

HEAVY = (
    *("pandas", "numpy", "matplotlib", "anndata", "scanpy", "scipy", "sklearn", "umap", "duckdb", "pyarrow", "h5py"),
    *("nbformat", "nbconvert", "papermill", "IPython", "torch", "dynaconf", "fsspec", "gcsfs", "rich", "jinja2"),
)


@pytest.mark.parametrize("arguments", [["--help"], ["atlas", "--help"], ["run", "--help"], ["model", "--help"]])
def test_help_lists_the_commands_and_imports_nothing_heavy(arguments):
    code = (
        f"import sys; sys.argv = ['haystack', *{arguments!r}]\n"
        "from haystack_kernel.cli import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        f"sys.stderr.write(str([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "[]"
    if arguments == ["--help"]:
        wanted = ["run", "resume", "attach", "status", "cancel", "list", "report", "resolve", "demo", "atlas", "model"]
        assert not [name for name in wanted if f"\n  {name} " not in done.stdout]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InvalidInputError, 2),
        (errors.MissingKeyError, 2),
        (errors.MissingExtraError, 2),
        (errors.NotFoundError, 2),
        (errors.NoCandidateError, 2),
        (errors.ServiceError, 3),
        (errors.StorageError, 1),
        (errors.ConflictError, 1),
        (errors.JobFailedError, 1),
        (errors.ContractError, 1),
        (errors.HaystackError, 1),
    ],
)
def test_every_error_has_its_exit_code(kind, code):
    assert exit_code(kind("m")) == code


def test_no_error_is_without_an_exit_code():
    named = {getattr(errors, name) for name in errors.__all__}
    assert {exit_code(kind("m")) for kind in named} == {1, 2, 3}


def test_print_json_is_one_line_in_utf8_with_null_for_nan(capsys):
    print_json({"a": float("nan"), "b": [float("inf"), 1.5, "β\n"], 3: (None, True)})
    out = capsys.readouterr().out
    assert out == '{"a": null, "b": [null, 1.5, "β\\n"], "3": [null, true]}\n'


def test_print_rows_as_json_or_aligned(capsys):
    rows = [{"name": "a", "score": 1.0, "note": None}, {"name": "long name", "score": None, "note": "x" * 80}]
    print_rows(rows, table=False)
    assert json.loads(capsys.readouterr().out)[1]["name"] == "long name"
    print_rows(rows, table=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "name       score  note"
    assert lines[1] == "a          1.00"
    assert lines[2].endswith("x...")
    print_rows([], table=True)
    assert capsys.readouterr().out == "(none)\n"


def test_wrong_usage_exits_with_2_and_leaves_stdout_empty(call):
    for arguments in (["nonsense"], ["run"], ["run", "q", "--engine", "magic"], ["status"], ["atlas", "build", "x"]):
        said = call(*arguments)
        assert (said.code, said.out) == (2, ""), arguments
        assert said.err


def test_python_dash_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "haystack_kernel", "resolve", "lung fibroblasts and TGF-beta"],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["perturbation"]["name"].startswith("TGF-beta")
