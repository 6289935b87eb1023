"""Parts that lead to one another, the list of runs, the form of a fork, and their views in a notebook."""

import sys

import pytest

import haystack_kernel
from haystack_kernel import widgets
from haystack_kernel.errors import HaystackError, MissingExtraError, NotFoundError
from haystack_kernel.widgets.desk import Desk
from haystack_kernel.widgets.listing import ForkForm, RunList
from haystack_kernel.widgets.watching import Monitor


@pytest.fixture
def desk(looked, settings, open_ports):
    made = Desk(looked, settings=settings, open_ports=open_ports)
    yield made
    made.close()


def test_a_started_question_is_watched_below_it(desk, jobs):
    with pytest.raises(NotFoundError, match="no run was started"):
        _ = desk.run
    assert desk.wait() is None
    desk.start()
    assert [type(part).__name__ for part in desk.parts] == ["Ask", "Monitor"]
    assert desk.run.run_id == desk.first.run.run_id
    assert len(jobs.submitted) == 1
    assert desk.run.run_id in repr(desk)


def test_a_refused_question_is_an_error_where_nobody_sees_the_form(ask, settings, open_ports):
    made = Desk(ask("How would glorps respond to IFN-beta?"), settings=settings, open_ports=open_ports)
    with pytest.raises(HaystackError, match="glorps"):
        made.start()


@pytest.fixture
def of_finished(finished):
    ports, _ = finished
    return {"settings": ports.settings, "open_ports": lambda consent: ports}


def test_the_list_finds_shows_and_compares_runs(of_finished, finished, do):
    record = finished[1]
    listed = RunList(settings=of_finished["settings"])
    desk = Desk(listed, **of_finished)
    assert record.run_id in listed.picture(live=True)
    do(listed, "find", text="no such question", status="")
    assert "No run fits" in listed.picture(live=True)
    do(listed, "find", text="ifn", status="done")
    do(listed, "open", record.run_id)
    assert [type(part).__name__ for part in desk.parts] == ["RunList", "Monitor", "Explore", "ForkForm"]
    explore = desk.parts[2]
    assert ("Explore</button>" in explore.picture(live=True), explore.picture(live=False)) == (True, "")
    do(explore, "open")
    explore.explorer.gene = "MX1"
    assert (explore.problem, "MX1" in explore.picture(live=False)) == ("", True)
    do(listed, "pick", record.run_id)
    do(listed, "compare")
    assert "pick two" in listed.problem
    do(listed, "pick", record.run_id)
    assert listed.picked == []
    listed.picked = [record.run_id, record.run_id]
    do(listed, "compare")
    assert listed.comparison.pearson == pytest.approx(1.0)
    assert "Pearson" in listed.picture(live=False)
    desk.close()


def test_a_fork_changes_one_option_and_is_watched(desk, settings, open_ports, jobs, do):
    parent = desk.start().run
    form = ForkForm(parent.run_id, settings=settings, open_ports=open_ports)
    shown = Desk(form, settings=settings, open_ports=open_ports)
    do(form, "choose", "nonsense")
    assert "not an option" in form.problem
    do(form, "choose", "threshold")
    assert f"now {parent.record.config.threshold}" in form.picture(live=True)
    do(form, "fork", option="threshold", value="eleven")
    assert "threshold" in form.problem
    assert (form.run, form.picture(live=False), len(jobs.submitted)) == (None, "", 1)
    do(form, "fork", option="threshold", value="9.5")
    assert form.run.record.config.threshold == 9.5
    assert form.run.record.forked_from.run_id == parent.run_id
    assert "It took over: understand" in form.picture(live=False)
    assert [part.run.run_id for part in shown.parts] == [form.run.run_id] * 2
    shown.close()


def test_views_send_what_changed_and_hear_actions_alone(ask, settings, open_ports):
    pytest.importorskip("anywidget")
    from haystack_kernel.widgets.view import DeskView

    desk = Desk(ask(), settings=settings, open_ports=open_ports)
    view = DeskView(desk, hides=".mark{display:none}")
    (first,) = view.children
    assert "Look at it first" in first.html
    assert ".mark{display:none}" in first.css
    for content in (None, 7, {"do": 7}, {"do": "settle"}, {"do": "look", "values": "x" * 10, "arg": {}}):
        first._hear(first, content, None)
    desk.first.settle()
    assert desk.first.seen is not None
    assert "Look again" in first.html
    desk.start()
    assert len(view.children) == 2
    assert desk.run.run_id in view.children[1].html
    assert view.children[1].ticks["elapsed"]
    assert ">0 s<" not in view.children[1].html
    desk.close()


def test_the_verbs_make_desks_that_show_pictures_without_a_front_end(of_finished, finished):
    record, settings = finished[1], of_finished["settings"]
    for made in (
        widgets.monitor(record.run_id, settings=settings),
        widgets.runs(settings=settings),
        widgets.ask(settings=settings),
        widgets.fork(record.run_id, settings=settings),
    ):
        assert "<div" in made._repr_html_() or isinstance(made.first, ForkForm)
        made.close()
    assert isinstance(widgets.monitor(record.run_id, settings=settings).first, Monitor)
    with pytest.raises(NotFoundError):
        widgets.monitor("run-20200101t000000-abcdef", settings=settings)


def test_without_the_packages_for_widgets_pictures_are_shown_and_live_ones_say_what_to_install(
    desk, settings, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    desk._ipython_display_()
    assert "How would B cells respond" in capsys.readouterr().out
    with pytest.raises(MissingExtraError, match=r"haystack-kernel\[lab\]"):
        Desk(desk.first, settings=settings, live=True)._ipython_display_()


def test_an_attached_run_is_a_run_as_every_other_where_nobody_sits_at_the_notebook(finished, of_finished):
    found = haystack_kernel.attach(finished[1].run_id, settings=of_finished["settings"])
    assert (found.run_id, found.score) == (finished[1].run_id, finished[1].score)
    assert repr(found).startswith("Run(")
    with pytest.raises(NotImplementedError):  # so that IPython takes the usual card
        found._ipython_display_()
