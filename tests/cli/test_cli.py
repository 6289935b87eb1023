"""The face of the command line: what it imports, how it exits, where it writes."""

import io
import json
import os
import re
import subprocess
import sys

import pytest

import haystack_kernel
from haystack_kernel import errors
from haystack_kernel.cli import exit_code
from haystack_kernel.cli.output import format_fields, format_rows, print_json

pytestmark = pytest.mark.slow

HEAVY = (
    *("pandas", "numpy", "matplotlib", "anndata", "scanpy", "scipy", "sklearn", "duckdb", "pyarrow", "h5py"),
    *("fastumap", "nbformat", "nbconvert", "papermill", "IPython"),
    *("torch", "dynaconf", "fsspec", "gcsfs", "rich", "jinja2"),
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
        headings = [line for line in done.stdout.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)]
        groups = ["Ask and follow:", "Many questions:", "Runs and results:", "Data and models:", "Installation:"]
        assert headings == ["Options:", *groups]
        assert "..." not in done.stdout.partition("Options:")[2]  # no summary is too long for 80 columns


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


def test_print_json_in_another_encoding_is_still_json(monkeypatch):
    """An escape such as \\xe9, which an encoder would put in, is none of JSON's."""
    for encoding in ("ascii", "latin-1"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        print_json({"é": "β"})
        stream.flush()
        assert json.loads(stream.buffer.getvalue()) == {"é": "β"}


def test_rows_and_fields_are_aligned():
    rows = [{"name": "a", "score": 1.0, "note": None}, {"name": "long name", "score": None, "note": "x"}]
    assert format_rows(rows).splitlines() == ["name       score  note", "a           1.00", "long name         x"]
    assert format_rows([]) == "(none)"
    fields = [("run", "r"), ("question", "q"), ("empty", None), ("notes", "a\nb"), ("is so", True)]
    assert format_fields(fields).splitlines() == [
        "run       r",
        "question  q",
        "notes     a",
        "          b",
        "is so     yes",
    ]


def test_wrong_usage_exits_with_2_and_leaves_stdout_empty(call):
    for arguments in (["nonsense"], ["run"], ["run", "q", "--engine", "magic"], ["status"], ["atlas", "build", "x"]):
        said = call(*arguments)
        assert (said.code, said.out) == (2, ""), arguments
        assert said.err


def test_every_number_has_its_range_in_the_help_and_in_the_error(call):
    """The ranges of a run's options are those of its schema."""
    options = {"--threshold": "1 10", "--max-rounds": "1 20", "--n-query": "1 20000", "--n-prompt": "1 20000"}
    options |= {"--diffusion-steps": "1 100", "--seed": "0", "--max-cost": "0"}
    help_ = " ".join(call("run", "--help").out.split())
    for option, text in options.items():
        low, _, high = text.partition(" ")
        shown, told = (f"{low}<=x<={high}", f"between {low} and {high}") if high else (f"x>={low}", f"at least {low}")
        assert f"[{shown}]" in help_.partition(f" {option} ")[2].partition(" --")[0]
        for value in ("-1", "many"):
            said = call("run", "How would B cells respond to IFN-beta?", option, value)
            assert (said.code, said.out) == (2, "")
            assert option in said.err
            assert told in said.err
    for arguments in (["list", "--limit", "0"], ["gc", "--keep", "-1"], ["gc", "--older-than", "-1"]):
        said = call(*arguments)
        assert (said.code, said.out) == (2, "")
        assert "at least" in said.err


def test_version(call):
    assert call("--version").out == f"haystack {haystack_kernel.__version__}\n"


def test_completion_knows_commands_and_options():
    environment = {**os.environ, "_HAYSTACK_COMPLETE": "complete_bash"}
    for words, wanted in [("haystack res", {"resume", "resolve"}), ("haystack run --thr", {"--threshold"})]:
        code = "import sys; sys.argv = ['haystack']; from haystack_kernel.cli import main; main()"
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        done = subprocess.run(
            [sys.executable, "-c", code], env={**environment, **asked}, capture_output=True, text=True, check=False
        )
        assert set(done.stdout.split()) == wanted, done.stderr


def test_text_that_begins_with_a_dash_is_text(call):
    said = call("resolve", "- lung fibroblasts", "--json")
    assert json.loads(said.out)["cell_type_name"] == "fibroblast of lung"
    assert call("resolve", "--json", "--", "-- lung fibroblasts").code == 0


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_pipe_of_another_encoding_gets_every_character(settings):
    environment = {**os.environ, "PYTHONCOERCECLOCALE": "0", **settings}
    command = [sys.executable, "-m", "haystack_kernel", "resolve", "TGF-β and lung fibroblasts"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if settings.get("LC_ALL"):  # the words themselves cannot be read in such a locale
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"no text in this locale" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.decode("ascii"))["perturbation"]["text"] == "TGF-β"
    table = subprocess.run([*command[:-1], "TGF-beta", "--table"], env=environment, capture_output=True, check=False)
    assert table.returncode == 0, table.stderr


def test_python_dash_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "haystack_kernel", "resolve", "lung fibroblasts and TGF-beta"],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["perturbation"]["name"].startswith("TGF-beta")
