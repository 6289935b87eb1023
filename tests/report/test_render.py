import base64
import dataclasses
import hashlib
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from haystack_kernel import report
from haystack_kernel.report import ReportBundle, add_notebook, load_bundle, render_notebook, render_report
from haystack_kernel.report.files import files_of
from haystack_kernel.report.render import TEMPLATES, is_sealed, script_digest, script_sources, sealed
from haystack_kernel.schema import Composite, RunRecord, StepTime
from haystack_kernel.store import RunStore, to_csv, write_csv

pytestmark = pytest.mark.slow

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Elements of a page in order, with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def once():
    """Pages by name: rendering draws four figures, so tests that only read share one page."""
    return {}


@pytest.fixture
def page(bundle, make_notebook, picture, once):
    if "page" not in once:
        notebook = make_notebook(picture("a figure"), markdown="# Title\n\n## Part")
        once["page"] = render_report(
            ReportBundle(bundle.record, bundle.tables, notebook, files={"de.csv": to_csv(bundle.tables.de)})
        )
    return once["page"]


def record_of(page):
    found = re.search(r'<script type="application/json" id="haystack-record">(.*?)</script>', page, re.DOTALL)
    return found.group(1)


def test_page_refers_to_nothing_outside_itself(page):
    elements = Page(page)
    assert not elements.all("link", "iframe", "object", "embed", "video", "audio", "source", "base", "form")
    addresses = [a[name] for _, a in elements.elements for name in ("src", "href", "srcset") if name in a]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "url(" not in page
    assert "@import" not in page


def test_policy_allows_exactly_our_script(page):
    policy = next(a["content"] for a in Page(page).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; ")


def test_scripts_that_pages_were_written_with_stay_known():
    """A changed script is added to the list, or the pages written until then lose their buttons in a service."""
    known = (TEMPLATES / "scripts.txt").read_text(encoding="utf-8").split()
    assert known[-1] == script_digest()
    assert script_sources().split() == [f"'sha256-{one}'" for one in (known[-1], *known[:-1])]


def test_embedded_record_reads_back_as_the_record(make_run, tables):
    record = make_run(NASTY, composite=Composite(value=math.nan, weight_computed=0.0, reason="none"))
    page = render_report(ReportBundle(record, tables))
    back = RunRecord.model_validate_json(record_of(page))
    assert back.model_dump_json() == record.model_dump_json()
    assert back.question == record.question
    assert math.isnan(back.score)


def test_page_escapes_markup_in_every_text(make_run, tables, make_notebook):
    nasty_tables = type(tables)(
        de=tables.de.assign(gene=NASTY),
        pathways=tables.pathways.assign(pathway=[f"{NASTY}{n}" for n in range(4)]),
        prompts=tables.prompts.assign(cell_type_name=NASTY),
        embedding=tables.embedding,
    )
    page = render_report(ReportBundle(make_run(NASTY), nasty_tables, make_notebook(markdown=NASTY)))
    elements = Page(page)
    assert len(elements.all("script")) == 2
    assert not [a for _, a in elements.elements if any(name.startswith("on") for name in a)]
    assert "&lt;/script&gt;&lt;script&gt;" in page


def test_page_is_accessible_at_the_bottom_line(page):
    elements = Page(page)
    assert elements.all("html") == [{"lang": "en"}]
    assert all(a.get("alt") for a in elements.all("img"))
    assert len(elements.all("img")) == 5
    tables = elements.all("table")
    assert len(elements.all("caption")) == len(tables) > 5
    assert all(a.get("scope") in ("col", "row") for a in elements.all("th"))
    assert len(elements.all("main")) == 1
    ids = [a["id"] for _, a in elements.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for a in elements.all("a") if a.get("href", "").startswith("#")]
    assert set(links) <= set(ids)
    assert {"genes", "pathways", "score", "roles", "methods", "notebook", "files"} <= set(links)


def test_headings_begin_at_one_and_skip_no_level(page):
    levels = [int(tag[1]) for tag, _ in Page(page).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_reader_meets_question_score_and_limits_before_details(page):
    order = [
        "How would B cell respond",
        "Headline of B cell",
        "7.3 of at most 7.3; 1 is chance",
        "A limit",
        'id="summary"',
        'id="genes"',
    ]
    order += ['id="score"', 'id="literature"', 'id="question"', 'id="methods"', 'id="notebook"']
    places = [page.index(text) for text in order]
    assert places == sorted(places)


def test_alternative_texts_state_the_numbers_drawn(page):
    alts = [a["alt"] for a in Page(page).all("img")]
    assert any("7 tested genes: 2 rise and 2 fall" in alt for alt in alts)
    assert any("type I interferon response +1.50" in alt for alt in alts)


def test_page_of_simulated_cells_says_so_at_the_top(make_run, tables):
    page = render_report(ReportBundle(make_run(atlas="demo"), tables))
    assert "HAYSTACK run record (simulated cells)" in page
    assert page.index("Simulated data") < page.index("Headline of B cell")


def test_failed_run_renders_as_far_as_it_came(failed_run, make_notebook):
    page = render_report(ReportBundle(failed_run, notebook=make_notebook()))
    assert "failed at step &#39;retrieve&#39;" in page or "failed at step &#x27;retrieve&#x27;" in page
    assert "No round has been started yet" in page
    assert "first()" in page
    assert json.loads(record_of(page))["status"] == "failed"


def test_unscored_run_renders_with_its_reason(make_run, tables):
    unscored = make_run(composite=Composite(value=math.nan, weight_computed=0.2, reason="too few genes were tested"))
    page = render_report(ReportBundle(unscored, tables))
    assert "not scored" in page
    assert "too few genes were tested" in page


def test_notebook_alone_renders_open_and_without_record(make_notebook):
    page = render_notebook(make_notebook(), title="my <run>")
    assert "<h1>my &lt;run&gt;</h1>" in page
    assert "<details><summary><h2>" not in page
    assert "first()" in page
    assert record_of(page) == "{}"


def test_rendering_twice_gives_the_same_page(bundle):
    assert render_report(bundle) == render_report(bundle)


def test_a_notebook_put_into_a_report_gives_the_page_that_holds_it(make_run, tables, make_notebook):
    before, notebook = make_run(steps=()), make_notebook()
    step = StepTime(step="publish", finished_at=before.created_at, seconds=1.0)
    after = make_run(steps=(step,), serial=9)
    written = sealed(render_report(ReportBundle(before, tables)))
    whole = render_report(ReportBundle(after, tables, notebook))
    assert add_notebook(written, after, notebook) == whole
    assert add_notebook(whole, after, notebook) is None  # which holds one already
    assert add_notebook(written, make_run(steps=(step,), status="cancelled"), notebook) is None
    assert add_notebook("<html></html>", after, notebook) is None


def test_seal_tells_whether_any_byte_was_changed(bundle):
    page = render_report(bundle)
    assert is_sealed(page) is None
    written = sealed(page)
    assert is_sealed(written) is True
    assert is_sealed(written.replace("A limit", "No limit")) is False


def test_files_in_the_page_are_those_of_the_run_folder(tmp_path, make_run, tables):
    store = RunStore(str(tmp_path))
    record = store.create(make_run())
    large = pd.concat([tables.prompts] * 2000)
    for name, table in {"de": tables.de, "pathways": tables.pathways, "prompts": large}.items():
        write_csv(store, record.run_id, f"rounds/1/{name}.csv", table)
    held = files_of(render_report(load_bundle(record, store)))
    assert set(held) == {"de.csv", "pathways.csv", "prompts.csv", "candidates.csv"}
    assert all(held[name] == store.read(record.run_id, f"rounds/1/{name}") for name in held if name != "candidates.csv")


def test_files_too_large_for_the_page_are_named(bundle):
    noise = np.random.default_rng(0).integers(0, 256, 2_000_000, dtype=np.uint8).tobytes()
    page = render_report(dataclasses.replace(bundle, files={"de.csv": noise, "pathways.csv": b"pathway\n"}))
    assert "Too large for this page: de.csv" in page
    assert set(files_of(page)) == {"pathways.csv"}


def test_rendering_leaves_no_figure_open(bundle):
    from matplotlib import pyplot as plt

    before = plt.get_fignums()
    render_report(bundle)
    assert plt.get_fignums() == before


@pytest.mark.slow
def test_page_stays_small_whatever_the_notebook_holds(bundle, make_notebook, picture):
    big = picture()
    big.data["image/png"] = "A" * 2_000_000
    page = render_report(ReportBundle(bundle.record, bundle.tables, make_notebook(*[big] * 6)))
    assert len(page.encode()) < 5_000_000
    assert "was omitted" in page


def test_bundle_is_read_from_the_best_round(tmp_path, make_run, tables):
    store = RunStore(str(tmp_path))
    record = store.create(make_run())
    for name in ("de", "pathways", "prompts", "embedding"):
        write_csv(store, record.run_id, f"rounds/1/{name}.csv", getattr(tables, name))
    bundle = load_bundle(record, store)
    assert bundle.tables.de["gene"].tolist() == tables.de["gene"].tolist()
    assert bundle.notebook is None


def test_run_that_stopped_before_publishing_renders_without_the_map(tmp_path, make_run, tables):
    store = RunStore(str(tmp_path))
    record = store.create(make_run(status="cancelled"))
    for name in ("de", "pathways", "prompts"):
        write_csv(store, record.run_id, f"rounds/1/{name}.csv", getattr(tables, name))
    page = render_report(load_bundle(record, store))
    assert "Map of" not in page
    assert 'id="genes"' in page
    assert "was cancelled" in page


def test_bundle_of_a_run_without_rounds_has_no_tables(tmp_path, failed_run):
    assert load_bundle(failed_run, RunStore(str(tmp_path))).tables is None


def test_face_names_what_it_has():
    assert all(getattr(report, name) is not None for name in report.__all__)
    with pytest.raises(AttributeError, match="has no 'nonsense'"):
        _ = report.nonsense


def luminance(colour):
    values = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_of_text_reach_the_contrast_of_wcag(scheme):
    css = (Path(report.__file__).parent / "template" / "page.css").read_text(encoding="utf-8")
    palette = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", re.findall(r":root \{([^}]*)\}", css)[scheme]))
    for ink, least in (("ink", 4.5), ("soft", 4.5), ("link", 4.5), ("fill", 3.0)):
        for ground in ("paper", "panel"):
            low, high = sorted([luminance(palette[ink]), luminance(palette[ground])])
            assert (high + 0.05) / (low + 0.05) >= least, (ink, ground)
