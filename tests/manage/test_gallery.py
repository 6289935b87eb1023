"""All runs of a storage on one page: offline, searchable, links to the reports, hostile questions inert."""

from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from haystack_kernel.manage import write_gallery
from haystack_kernel.manage.gallery import gallery_table
from haystack_kernel.schema import RunSummary
from haystack_kernel.store import RunStore, layout

NASTY = "</table><script>alert(1)</script><img src=x onerror=alert(1)>"


def summary(n, **changes):
    fields = {
        "run_id": f"run-2026010{n % 9 + 1}t000000-{n:06x}",
        "status": "done",
        "score": 7.25,
        "question": f"How would B cells respond to IFN-beta ({n})?",
        "engine": "weighted",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return RunSummary(**{**fields, **changes})


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_a_thousand_runs_are_rows_with_links_to_their_reports():
    page = gallery_table([summary(n) for n in range(1000)])
    assert page.count("<tr>") == 1001
    assert page.count("/report.html") == 1000
    assert len(page) < 1_000_000


def test_unfinished_runs_have_no_link_and_hostile_questions_stay_text():
    page = gallery_table([summary(1, status="failed", score=float("nan"), question=NASTY, treatment=NASTY)])
    tags = [tag for tag, _ in Elements(page).found]
    assert not {"a", "script", "img"} & set(tags)
    assert "&lt;script&gt;" in page


def test_an_empty_storage_says_how_to_ask():
    assert "haystack run" in gallery_table([])


@pytest.mark.parametrize("to", [None, "pages/all.html"])
def test_links_of_the_page_lead_to_the_reports(record, tmp_path, to):
    storage = tmp_path / "store"
    done = RunStore(str(storage)).create(record.model_copy(update={"status": "done"}))
    target = None if to is None else tmp_path / to
    if target is not None:
        target.parent.mkdir()
    made = write_gallery(storage=str(storage), to=target and str(target))
    path = Path(made.address)
    assert (made.n_runs, made.n_reports) == (1, 1)
    assert path == (target or storage / layout.GALLERY)
    elements = Elements(path.read_text()).found
    (link,) = [attributes["href"] for tag, attributes in elements if tag == "a"]
    assert (path.parent / unquote(link)).resolve() == storage / layout.RUNS / done.run_id / layout.REPORT
    policy = [attributes["content"] for _, attributes in elements if attributes.get("http-equiv")]
    assert policy[0].startswith("default-src 'none'")
