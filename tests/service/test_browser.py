"""The pages in a real browser: live status, forms, keyboard, phones, both themes, accessibility by axe."""

import threading

import pytest

from haystack_kernel.schema import JobHandle, StepTime

ADA = "ada@example.org"
QUESTION = "How would B cells respond to IFN-beta?"

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(browser, settings, open_ports, live_app):
    """Open a page of the service as Ada: ``opened("/runs", width=390, scheme="dark")``."""
    contexts = []
    with live_app(settings, open_ports) as address:

        def go(path, *, width=1200, scheme="light", script=True):
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                extra_http_headers={"x-person": ADA},
                java_script_enabled=script,
            )
            contexts.append(context)
            page = context.new_page()
            page.set_default_timeout(30_000)
            page.wrong = []
            page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: page.wrong.append(str(error)))
            page.on("response", lambda found: page.wrong.append(found.url) if address not in found.url else None)
            page.goto(f"{address}{path}")
            return page

        yield go
        for context in contexts:
            context.close()


def test_pages_have_no_fault_that_axe_finds_and_fit_a_phone(opened, done, put):
    from axe_playwright_python.sync_playwright import Axe

    put(1, owner=ADA, status="failed")
    put(2, owner=ADA)
    pages = [
        (path, 1200, "light") for path in ("/runs", f"/runs/{done}/report", "/atlases/tiny", "/health", "/nothing")
    ]
    pages += [(path, 390, "dark") for path in ("/runs", f"/runs/{done}", "/ask")]
    for path, width, scheme in pages:
        page = opened(path, width=width, scheme=scheme)
        found = [
            (one["id"], [node["target"] for node in one["nodes"]][:3])
            for one in Axe().run(page, options={"iframes": False}).response["violations"]
        ]
        assert not found, (path, width, found)
        assert not page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"), path
        page.context.close()
        assert not [text for text in page.wrong if "404" not in text], (path, page.wrong)


def test_a_run_is_followed_live_and_the_page_turns_when_it_ends(opened, put, store, clock, jobs):
    run_id = put(3, owner=ADA)
    page = opened(f"/runs/{run_id}")
    page.locator(".badge", has_text="interrupted").wait_for()  # nobody works on it
    other = put(4, owner=ADA)
    jobs.state = "running"
    record = store.load(other)
    handle = JobHandle(
        job_id="haystack-job", kind="orchestrator", executor="local", spec_hash="x", submitted_at=clock.now()
    )
    record = store.save(record.model_copy(update={"orchestrator": handle}))
    page = opened(f"/runs/{other}")
    assert page.locator("#status").inner_text() == "running"
    assert "<b>no markup</b>" in page.locator("#log").inner_text()
    step = StepTime(step="understand", finished_at=clock.now(), seconds=3.0)
    record = store.save(record.model_copy(update={"steps": (step,)}))
    page.locator("#steps", has_text="reading the question 3 s").wait_for()
    threading.Timer(0.1, lambda: store.save(record.model_copy(update={"status": "done"}))).start()
    page.locator(".badge", has_text="done").wait_for()
    assert page.wrong == []


def test_a_page_says_that_the_service_is_gone_and_goes_on_when_it_is_back(
    browser, put, store, clock, settings, open_ports, live_app
):
    handle = JobHandle(
        job_id="haystack-job", kind="orchestrator", executor="local", spec_hash="x", submitted_at=clock.now()
    )
    record = store.load(put(6, owner=ADA))
    record = store.save(record.model_copy(update={"orchestrator": handle}))
    with browser.new_context(extra_http_headers={"x-person": ADA}) as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        with live_app(settings, open_ports) as address:
            with page.expect_response("**/events"):
                page.goto(f"{address}/runs/{record.run_id}")
            assert page.locator("#lost").is_hidden()
        page.locator("#lost", has_text="The service cannot be reached just now").wait_for()
        step = StepTime(step="understand", finished_at=clock.now(), seconds=3.0)
        record = store.save(record.model_copy(update={"steps": (step,)}))
        with live_app(settings, open_ports, port=int(address.rpartition(":")[2])):
            page.locator("#steps", has_text="reading the question 3 s").wait_for()
            page.locator("#lost").wait_for(state="hidden")
            store.save(record.model_copy(update={"status": "done"}))
            page.locator(".badge", has_text="done").wait_for()


@pytest.mark.parametrize("script", [True, False])
def test_a_question_is_looked_at_corrected_and_asked(opened, store, jobs, script):
    page = opened("/ask", script=script)
    page.fill("#question", "How would glorps respond to IFN-beta?")
    page.click("button[value=look]")
    assert "glorps" in page.locator(".problem").inner_text()
    page.fill("#question", QUESTION)
    page.click("button[value=look]")
    page.locator("h2", has_text="Start the run").wait_for()
    assert "B cell" in page.locator(".facts").first.inner_text()
    assert store._run_ids() == []
    page.click("button[value=ask]")
    page.wait_for_url("**/runs/run-*")
    assert page.locator("h1").inner_text() == QUESTION
    assert len(jobs.submitted) == 1


def test_everything_can_be_done_with_the_keyboard(opened, done):
    page = opened("/runs")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
    assert {"Runs", "Ask", "Filter", "text", "status", "run"} <= seen
    page.focus("tbody a")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{done}")


def test_two_marked_runs_are_compared(opened, done, put):
    put(5, owner=ADA)
    page = opened("/runs")
    marks = page.locator(".mark input")
    for place in range(2):
        marks.nth(place).check()
    page.click("text=Compare two marked runs")
    assert page.locator("h1").inner_text() == "Compare two runs"


def test_a_hostile_report_runs_nothing_and_asks_nobody(opened, done, store):
    store.write(
        done,
        "report.html",
        b"<h1>Report</h1><script>document.title='taken';parent.document.title='taken';fetch('/runs')</script>"
        b"<img src='https://evil.example/x.png' onerror=\"document.title='taken'\">",
    )
    page = opened(f"/runs/{done}/report")
    page.frame_locator("iframe").locator("h1").wait_for()
    assert "taken" not in page.title()
    alone = opened(f"/api/v1/runs/{done}/report")
    assert "taken" not in alone.title()
    assert not [text for text in (*page.wrong, *alone.wrong) if text.startswith("https://evil")]
