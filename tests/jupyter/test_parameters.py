"""Parameters of the run notebook: none is ignored, none is misread, and without a question none is answered."""

import subprocess
import sys

import nbformat
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from haystack_kernel.config.options import build_config, changed_options, read_typed
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.jupyter.execute import notebook_path
from haystack_kernel.jupyter.parameters import RUN_PARAMETERS, assigned_names, check_parameters, withhold_consent
from haystack_kernel.run import open_run
from haystack_kernel.schema import Settings

pytestmark = pytest.mark.slow

QUESTION = "How would B cells respond to IFN-beta?"


def cell_of(tag):
    nb = nbformat.read(notebook_path("haystack"), as_version=4)
    return next(cell.source for cell in nb.cells if tag in cell.metadata.get("tags", []))


@pytest.fixture
def shell(tiny_env):
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    made = InteractiveShell.instance(config=config)  # the one that get_ipython() finds
    made.run_cell(cell_of("parameters"), store_history=True)
    yield made
    InteractiveShell.clear_instance()


READ = """
import haystack_kernel as haystack
from haystack_kernel.jupyter.parameters import read_parameters
given = read_parameters()
"""


def refused(shell):
    error = shell.run_cell(READ).error_in_exec
    assert isinstance(error, InvalidInputError)
    return str(error)


def test_the_notebook_and_the_check_know_the_same_parameters():
    assert set(assigned_names(cell_of("parameters"))) == set(RUN_PARAMETERS)
    assert assigned_names("a = 1\nb: int = 2\nc, d = 3, 4\nprint(a)") == ["a", "b"]
    assert assigned_names("not Python") == []
    check_parameters(["anything"], [])


def test_parameters_are_read_from_the_notebook_and_own_variables_are_none(shell):
    shell.run_cell("# Parameters\nquestion = 'q'\nseed = 4\n", store_history=True)
    shell.run_cell("import numpy as np\nresults = []\nrun = None\nmy_cells = 4")
    assert shell.run_cell(READ).success
    given = shell.user_ns["given"]
    assert (given["question"], given["seed"], given["engine"]) == ("q", 4, None)
    assert set(given) == set(RUN_PARAMETERS)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("# Parameters\nquestoin = 'q'\n", "'questoin' is not a parameter of this notebook; did you mean 'question'?"),
        ("# Parameters\ntemperature = 3\n", "'temperature' is not a parameter"),
        ("max_round = 3", "did you mean 'max_rounds'?"),  # in a cell of the reader's own
    ],
)
def test_a_misspelt_parameter_is_refused_whoever_put_it_in(shell, source, says):
    shell.run_cell(source, store_history=True)
    assert says in refused(shell)


def test_a_question_that_a_scheduler_wrote_without_quotes_is_not_answered_by_another(shell):
    """IPython reads the line as a request for help, so the question is still None."""
    assert shell.run_cell("question = How would B cells respond to IFN-beta?\nmax_rounds = 1").success
    assert shell.user_ns["question"] is None
    assert shell.run_cell(READ).success
    error = shell.run_cell("haystack.open_run(**given)").error_in_exec
    assert isinstance(error, InvalidInputError)
    assert "a new run needs a question, in quotes" in str(error)
    assert "papermill -p question" in str(error)


@pytest.mark.parametrize("engine", ["haystack", "nbclient"])
def test_papermill_without_a_question_or_with_a_misspelt_one_stops(tiny_env, tmp_path, engine):
    refusal, says = (InvalidInputError, "did you mean 'question'") if engine == "haystack" else (Exception, "questoin")
    for parameters, kind, text in (({}, Exception, "needs a question"), ({"questoin": QUESTION}, refusal, says)):
        with pytest.raises(kind, match=text):
            papermill.execute_notebook(
                str(notebook_path("haystack")),
                str(tmp_path / "out.ipynb"),
                parameters=parameters,
                engine_name=engine,
                progress_bar=False,
            )
    assert not tiny_env.exists()


@pytest.mark.slow
def test_papermills_command_line_shows_the_refusal_as_one_line(tmp_path):
    command = [sys.executable, "-m", "papermill", "--engine", "haystack", "--no-progress-bar"]
    command += [str(notebook_path("haystack")), str(tmp_path / "out.ipynb"), "-p", "questoin", QUESTION]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Error: 'questoin' is not a parameter of this notebook; did you mean 'question'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.ipynb").exists()


def test_text_is_read_as_what_it_says():
    """Schedulers and ``papermill -r`` pass every value as text."""
    typed = {
        "seed": "7",
        "threshold": "6.5",
        "literature": "False",
        "atlases": '["kang", "demo"]',
        "pin": "('a', 'b')",
        "ban": "dataset=kang",
        "engine": "None",
        "model": "",
        "max_rounds": None,
    }
    config = build_config(Settings(), **typed)
    assert (config.seed, config.threshold, config.literature) == (7, 6.5, False)
    assert (config.atlases, config.pin, config.ban) == (("kang", "demo"), ("a", "b"), ("dataset=kang",))
    assert config == build_config(
        Settings(),
        seed=7,
        threshold=6.5,
        literature=False,
        atlases=["kang", "demo"],
        pin=["a", "b"],
        ban=["dataset=kang"],
    )
    assert changed_options(config, Settings(), **typed) == ""
    assert changed_options(config, Settings(), seed="8") == "seed is 7, not 8"
    assert read_typed({"engine": "none"}) == {"engine": "none"}  # an engine
    for wrong in ({"seed": "many"}, {"literature": "perhaps"}, {"atlases": '["kang"'}):
        with pytest.raises(InvalidInputError, match=next(iter(wrong))):
            build_config(Settings(), **wrong)


def test_a_cell_of_parameters_ends_without_consent_whatever_gave_it(subtests):
    kept = ("approve = None  # True: jobs may start", "approve = False", "max_cost = 5", "approved = True", "")
    changed = (
        "approve = True",
        "approve: bool = True  # yes",
        "é = 1\napprove = (\n    True\n)\nmax_cost = 5",
        "approve = True; max_cost = 5",
        "approve, max_cost = True, 5",
        "other = approve = 1",
        "if max_cost := 5:\n    approve = True",
        "approve = None\napprove = 'yes'",
    )
    for source in (*kept, *changed):
        with subtests.test(source):
            cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["injected-parameters"]})
            untagged = nbformat.v4.new_code_cell("approve = True")
            nb = nbformat.v4.new_notebook(cells=[untagged, cell])
            assert withhold_consent(nb) == ({1: source} if source in changed else {})
            assert withhold_consent(nb) == {}
            found = {}
            exec(cell.source, found)
            assert not found.get("approve")
            assert found.get("max_cost", 5) == 5
            assert untagged.source == "approve = True"
    magic = nbformat.v4.new_code_cell("%time approve = True", metadata={"tags": ["parameters"]})
    withhold_consent(nbformat.v4.new_notebook(cells=[magic]))
    assert magic.source.splitlines()[-1].startswith("approve = None")


def test_open_run_reads_text_too_but_takes_none_for_consent(tiny_env):
    run = open_run(QUESTION, run_id="None", storage="None", seed="3")
    assert run.record.config.seed == 3
    assert str(tiny_env) in run.folder
    for spending in ({"approve": "True"}, {"approve": "False"}, {"max_cost": "0.5"}):
        with pytest.raises(InvalidInputError, match=next(iter(spending))):
            open_run(QUESTION, **spending)
    assert len(list((tiny_env / "runs").iterdir())) == 1
