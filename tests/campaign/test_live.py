"""The matrix that fills in: one glyph a question, read from the folder whoever works; one line of a terminal."""

import io
from types import SimpleNamespace

import pytest

from haystack_kernel.campaign.live import GLYPHS, READY, REFUSED, Matrix, watch_in_notebook, watch_in_terminal
from haystack_kernel.ports import ProgressEvent
from haystack_kernel.schema import ScreenQuestion
from haystack_kernel.store import layout

NO = GLYPHS[REFUSED]


class Folder:
    """Names of files, as a campaign's folder has them."""

    def __init__(self):
        self.held = {}
        self.asked = 0

    def put(self, path):
        folder, _, name = path.rpartition("/")
        self.held.setdefault(folder, set()).add(name)
        if folder:
            self.put(folder)

    def names(self, folder):
        self.asked += 1
        return self.held.get(folder, set())


class Time:
    now_s = 100.0

    def monotonic(self):
        return self.now_s


@pytest.fixture
def plan():
    """Two treatments in two cell types; the last question is refused."""
    asked = [("IFN-beta", "B cell"), ("IFN-beta", "T <cell>"), ("IL-6", "B cell"), ("IL-6", "T <cell>")]
    questions = [
        ScreenQuestion(perturbation=name, cell_type=kind, question="", refusal="no prompt" * (place == 3))
        for place, (name, kind) in enumerate(asked)
    ]
    return SimpleNamespace(questions=tuple(questions))


@pytest.fixture
def half(plan):
    """One question scored, one predicted, one whose cells are there."""
    folder = Folder()
    for number in (1, 2, 3):
        folder.put(f"{layout.question_folder(number)}/{layout.PREPARED}")
    folder.put(layout.output_file(layout.question_folder(1), "treated"))
    folder.put(f"{layout.question_folder(1)}/{layout.JUDGED}")
    folder.put(layout.output_file(layout.question_folder(2), "treated"))
    return Matrix(plan, folder), folder


def event(phase, fraction=None, message="question 1"):
    return ProgressEvent(run_id="screen-0123456789ab", phase=phase, message=message, fraction=fraction)


def test_the_matrix_is_what_the_folder_holds(half):
    matrix, folder = half
    assert matrix.lines == ["B cell   ··", f"T <cell> ·{NO}"]
    assert matrix.look().lines == ["B cell   ●○", f"T <cell> ◐{NO}"]
    assert matrix.words == "1 of 4 scored, 1 predicted, 1 cells chosen, 1 refused"
    assert matrix.legend == f"● scored, ◐ predicted, ○ cells chosen, {NO} refused"
    assert f"T &lt;cell&gt; ◐{NO}" in matrix.html("judge: <b>")
    assert "judge: &lt;b&gt;" in matrix.html("judge: <b>")
    before = folder.asked
    matrix.look()
    assert folder.asked - before == 1 + 2 * 2  # what came to its end is not looked at again


def test_many_treatments_fold_into_lines_of_sixty(plan):
    questions = tuple(plan.questions[0].model_copy(update={"perturbation": f"drug {n}"}) for n in range(147))
    matrix = Matrix(SimpleNamespace(questions=questions), Folder())
    assert [len(line) for line in matrix.lines] == [67, 67, 34]
    assert matrix.lines[1].startswith("       ·")


def test_a_terminal_has_one_line_that_changes_and_the_matrix_at_the_end(half):
    matrix, _ = half
    stream, clock = io.StringIO(), Time()
    stream.isatty = lambda: True
    hear = watch_in_terminal(matrix, stream, clock=clock)
    hear(event("prepare", 0.25))
    hear(event("prepare", 0.5))  # at once after the first: not shown
    clock.now_s += 3
    hear(event("judge", 0.75))
    hear(event("done", 1.0, "3 of 4 questions predicted"))
    first, second, last = stream.getvalue().split("\r")[1:]
    assert first.startswith(" 25% prepare: 1 of 4 scored, 1 predicted")
    assert second.startswith(" 75% judge: ")
    assert last.splitlines()[0].rstrip() == "done: 3 of 4 questions predicted"
    assert last.splitlines()[1:3] == matrix.lines


def test_a_log_gets_one_line_for_each_tenth_of_a_phase(half):
    stream = io.StringIO()
    hear = watch_in_terminal(half[0], stream, clock=Time())
    hear(event("prepare", None, "300 of 300 to do"))
    for n in range(1, 301):
        hear(event("prepare", n / 300, f"question {n}"))
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["prepare: 300 of 300 to do", "prepare: question 1"]
    assert lines[-1] == "prepare: question 300"
    assert len(lines) == 12


def test_a_notebook_has_one_display_whose_last_state_is_static(half):
    matrix, _ = half
    shown = []

    def display(bundle, **how):
        shown.append(bundle)
        assert how == {"raw": True, "display_id": True}
        return SimpleNamespace(update=lambda bundle, raw: shown.append(bundle))

    clock = Time()
    hear = watch_in_notebook(matrix, clock=clock, display=display)
    hear(event("prepare", 0.1))
    hear(event("done", 1.0, "3 of 4 questions predicted"))
    assert len(shown) == 2
    assert shown[-1]["text/plain"].splitlines()[:2] == ["done: 3 of 4 questions predicted", "B cell   ●○"]
    assert "<script" not in shown[-1]["text/html"]
    assert GLYPHS[READY] in shown[-1]["text/html"]
