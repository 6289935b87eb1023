"""``%ask`` in a real IPython shell: question marks, assignment, help, loading twice, unloading."""

import re
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.io import capture_output
from traitlets.config import Config

import haystack_kernel as haystack
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.jupyter.magic import protect_question_mark
from haystack_kernel.run import Run

pytestmark = pytest.mark.slow

SHORT = "How are you?"  # refused before anything is made: enough to see what reached the magic


@pytest.fixture
def shell(tiny_env):
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    made = InteractiveShell(config=config)
    made.run_line_magic("load_ext", "haystack_kernel")
    yield made
    made.run_line_magic("unload_ext", "haystack_kernel")


def refused(shell, source):
    """The message with which the question of ``source`` was refused."""
    with capture_output():
        result = shell.run_cell(source)
    assert isinstance(result.error_in_exec, InvalidInputError), result
    return str(result.error_in_exec)


@pytest.mark.parametrize(
    "source",
    [
        f"%ask {SHORT}",
        f"%ask   {SHORT}  \n",
        f"  %ask {SHORT}",
        f"run = %ask {SHORT}",
        f"x = 1\nrun = %ask {SHORT}\n",
        f"%%ask\n{SHORT}",
        f"%%ask\n\n{SHORT}\n",
        "%%ask How are\nyou?",
        f"if True:\n    %ask {SHORT}",
        f"%ask {SHORT}?",
        f"get_ipython().run_line_magic('ask', {SHORT!r})",
        f"runs = {{}}\nruns['a'] = %ask {SHORT}",
        f"class Box: pass\nbox = Box()\nbox.run = %ask {SHORT}",
        f"a, b = %ask {SHORT}",
        f"answer: object = %ask {SHORT}",
        f"run = (%ask {SHORT})",
        f"run = (\n    %ask {SHORT}\n)",
        f"runs = [%ask {SHORT}, %ask {SHORT}]",
        f"found = dict(a=%ask {SHORT})",
        f"%time %ask {SHORT}",
        f"%time run = %ask {SHORT}",
        f"%%time\nrun = %ask {SHORT}",
        "run = %ask How are \\\n    you?",
        f"for number in range(2):\n    run = %ask {SHORT}",
        f"def one():\n    return %ask {SHORT}\none()",
        f"%ask '{SHORT}'",
        f"%ask {SHORT};",
        f"%ask {SHORT}  # to see",
        f"ask {SHORT}",
        f"run = ask {SHORT}",
        f"text = '''\n%ask no\n'''\nrun = %ask {SHORT}",
    ],
)
def test_ask_gets_the_whole_question_with_its_question_mark(shell, source):
    assert "'How are you?" in refused(shell, source)


def test_where_it_cannot_be_asked_an_error_says_what_to_write(shell):
    for source in (f"x = 5 %ask {SHORT}", f"print %ask {SHORT}"):
        with capture_output():
            result = shell.run_cell(source)
        error = result.error_in_exec or result.error_before_exec
        assert "write `run = %ask" in str(error)
    for source in ("%ask {question}", "%ask $question", "run = %ask {question}"):
        assert "fills in no variables" in refused(shell, source)
    assert "needs a question" in refused(shell, "%ask")


def test_ask_without_a_question_mark_is_the_same(shell):
    assert "'How are we today'" in refused(shell, "%ask How are we today")


def test_quotes_braces_and_dollars_are_not_evaluated(shell):
    assert refused(shell, '%ask What\'s "this" {1+1}?').startswith("'What\\'s \"this\"")


@pytest.mark.parametrize("source", ["%ask?", "?%ask", "ask?", "%%ask?"])
def test_a_lone_question_mark_still_shows_help(shell, source):
    with capture_output() as shown:
        result = shell.run_cell(source)
    assert result.success
    if source != "ask?":  # there is no object of that name
        assert "Ask HAYSTACK a question" in shown.stdout


def test_help_for_other_objects_still_works(shell):
    with capture_output() as shown:
        assert shell.run_cell("len?").success
    assert "number of items" in shown.stdout


def test_loading_twice_changes_nothing(shell):
    before = list(shell.input_transformers_cleanup)
    with capture_output() as shown:
        shell.run_cell("%load_ext haystack_kernel")
    assert "already loaded" in shown.stdout
    with capture_output():
        assert shell.run_cell("%reload_ext haystack_kernel").success
    assert shell.input_transformers_cleanup == before
    assert before.count(protect_question_mark) == 1


def test_unloading_takes_everything_out_and_loading_again_brings_it_back(shell):
    shell.run_line_magic("unload_ext", "haystack_kernel")
    assert protect_question_mark not in shell.input_transformers_cleanup
    with capture_output() as shown:
        shell.run_cell("%ask something that goes nowhere")
    assert "`%ask` not found" in shown.stderr + shown.stdout
    shell.run_line_magic("load_ext", "haystack_kernel")
    assert "'How are you?" in refused(shell, f"%ask {SHORT}")


@pytest.mark.parametrize(
    "lines",
    [
        ["print('%ask How?')\n"],
        ["# %ask How?\n"],
        ["%%markdown\n", "%ask How would it?\n"],
        ["\n", "%%bash\n", "%ask How would it?\n"],
        ["%asking How?\n"],
        ["%ask?\n"],
        ["%ask ?\n"],
        ["!echo %ask How would it?\n"],
        ["'''\n", "%ask How would it?\n", "'''\n"],
        ["x = 1 %ask\n"],
    ],
)
def test_lines_that_do_not_ask_are_left_alone(lines):
    assert protect_question_mark(list(lines)) == lines


def test_a_rewritten_line_keeps_its_place_and_its_target():
    lines = ["a = 1\n", "  run = %ask Is it 'so'?  \n", "b = 2\n"]
    assert protect_question_mark(lines) == [
        "a = 1\n",
        "  run = get_ipython().run_line_magic('ask', \"Is it 'so'?\")\n",
        "b = 2\n",
    ]


def test_run_names_the_run_before_it_works_but_no_value_of_the_users_is_replaced(shell):
    """Interrupted or failed, ``run`` alone would else start the magic %run."""
    question = "How would B cells respond to IFN-beta?"
    with capture_output():
        result = shell.run_cell(f"answer = %ask {question.replace('IFN-beta', 'IL-6')}")  # no atlas has it: fails
    assert result.error_in_exec is not None
    assert "answer" not in shell.user_ns
    first = shell.user_ns["run"]
    assert first is haystack.last()
    assert isinstance(first, Run)
    shell.user_ns["run"] = "mine"
    with capture_output():
        shell.run_cell(f"%ask {question.replace('IFN-beta', 'IL-6')}")
    assert shell.user_ns["run"] == "mine"
    assert haystack.last().run_id != first.run_id


@pytest.mark.slow
def test_ask_works_the_question_to_its_end_and_returns_the_run(shell, few_cells):
    with capture_output() as shown:
        result = shell.run_cell("run = %ask How would B cells respond to IFN-beta?")
    assert result.success
    run = shell.user_ns["run"]
    free = "which costs nothing. How long it takes is not known"
    told = ["taken as", run.record.candidates[0].key, free, "Interpretation"]
    places = [shown.stdout.find(text) for text in told]
    assert -1 < places[0] < places[1] < places[2] < places[3]
    assert isinstance(run, Run)
    assert run.record.status == "done"
    assert (few_cells / "runs" / run.run_id / "report.html").exists()


def test_the_cells_of_the_readme_run_as_they_stand_there(shell):
    shell.run_line_magic("unload_ext", "haystack_kernel")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    load, ask = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    with capture_output():
        assert shell.run_cell(load).success
    question = re.search(r"%ask (.*\?)", ask).group(1)
    assert refused(shell, ask.replace(question, SHORT)).startswith(f"'{SHORT.removesuffix('?')}")
