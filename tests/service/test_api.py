"""REST: lists and pages, one run, submit once, limits, consent, files, report, problems in words."""

import json

import fsspec
import pytest

from haystack_kernel.config.connect import connect

pytestmark = pytest.mark.slow

ADA, BEN, EVE = "ada@example.org", "ben@example.org", "eve@example.org"
QUESTION = "How would B cells respond to IFN-beta?"


def submit(client, *, person=ADA, key=None, **body):
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/api/v1/runs", person=person, json={"question": QUESTION, **body}, headers=headers)


# --- lists ------------------------------------------------------------------------------------------------------------


def test_pages_of_the_list_join_to_all_runs_newest_first(client, put):
    made = [put(number, owner=ADA) for number in range(1, 8)]
    seen, after = [], ""
    for _ in range(4):
        page = client.get("/api/v1/runs", person=ADA, params={"limit": 3, **({"after": after} if after else {})}).json()
        assert page["n_found"] == 7
        seen += [row["run_id"] for row in page["runs"]]
        after = page["following"]
        if after is None:
            break
    assert seen == made[::-1]


FILTERS = [
    ({"status": "done"}, [2]),
    ({"status": "failed"}, [3]),
    ({"text": "b CELLS"}, [3, 2, 1]),
    ({"text": "000003"}, [3]),
    ({"text": "%"}, []),
    ({"owner": "ben"}, [3]),
    ({"min_score": 2}, []),
    ({"since": "2026-01-03"}, []),
    ({"until": "2026-01-03"}, [3, 2, 1]),
    ({"cell_type": "nk"}, []),
]
NO_FILTERS = [
    ({"status": "lost"}, "status"),
    ({"since": "yesterday"}, "2026-01-31"),
    ({"after": "nonsense"}, "cursor"),
    ({"limit": 0}, "limit"),
    ({"limit": 1000}, "limit"),
    ({"colour": "red"}, "colour"),
    ({"min_score": "NaN"}, "min_score"),
]


def test_filters_leave_what_fits(client, put):
    put(1, owner=ADA, status="cancelled")
    put(2, owner=ADA, status="done")
    put(3, owner=BEN, status="failed")
    for filters, numbers in FILTERS:
        found = client.get("/api/v1/runs", person=EVE, params=filters)
        assert [int(row["run_id"][13:19]) for row in found.json()["runs"]] == numbers, filters


def test_a_filter_that_means_nothing_is_refused_by_name(client):
    for filters, word in NO_FILTERS:
        answer = client.get("/api/v1/runs", person=ADA, params=filters)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), filters
        assert word in answer.json()["detail"]


def test_a_list_that_has_not_changed_is_not_sent_again(client, put):
    put(1, owner=ADA, status="done")
    first = client.get("/api/v1/runs", person=ADA)
    again = client.get("/api/v1/runs", person=ADA, headers={"if-none-match": first.headers["etag"]})
    other = client.get("/api/v1/runs", person=BEN, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, other.status_code) == (304, b"", 200)


# --- asking -----------------------------------------------------------------------------------------------------------


def test_a_submitted_question_is_a_run_of_the_person_with_a_job(client, jobs, store):
    made = submit(client, options={"seed": 3})
    run_id = made.json()["run_id"]
    assert (made.status_code, made.headers["location"]) == (201, f"/api/v1/runs/{run_id}")
    assert (made.json()["owner"], made.json()["status"], made.json()["may_steer"]) == (ADA, "running", True)
    assert store.load(run_id).config.seed == 3
    assert [spec.owner.id for spec in jobs.submitted] == [run_id]
    assert [row["run_id"] for row in client.get("/api/v1/runs", person=ADA).json()["runs"]] == [run_id]


def test_the_same_idempotency_key_makes_one_run(client, jobs):
    first = submit(client, key="press-1")
    second = submit(client, key="press-1")
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["run_id"] == second.json()["run_id"]
    assert len(jobs.submitted) == 1
    other = submit(client, key="press-1", options={"seed": 9})
    assert (other.status_code, "another request" in other.json()["detail"]) == (409, True)
    assert submit(client, person=BEN, key="press-1").status_code == 201  # a key is one person's


def test_a_key_whose_request_was_refused_can_be_used_for_the_right_one(client):
    wrong = submit(client, key="press-2", options={"atlases": ["nowhere"]})
    assert wrong.status_code == 404
    assert submit(client, key="press-2").status_code == 201


def test_a_refused_question_leaves_nothing(client, store):
    refused = client.post("/api/v1/runs", person=ADA, json={"question": "How would glorps respond to IFN-beta?"})
    assert refused.status_code == 422
    assert "glorps" in refused.json()["detail"]
    assert store._run_ids() == []


NOT_SAID = [
    ({"options": {"colour": 1}}, "colour"),
    ({"options": {"max_rounds": 0}}, "max_rounds"),
    ({"options": {"storage": "/tmp/x"}}, "storage"),
    ({"options": {"run_id": "run-20260102t030405-abcdef"}}, "run_id"),
    ({"max_cost": -1}, "max_cost"),
    ({"max_cost": "NaN"}, "max_cost"),
    ({"question": "B?"}, "question"),
    ({"surprise": 1}, "surprise"),
    ({"options": {"query_h5ad": "/etc/passwd"}}, "query_h5ad"),
    ({"options": {"engine": "stack", "model": "/srv/evil.pt", "genelist": "/srv/evil.pkl"}}, "model"),
    ({"options": {"query_h5ad": "gs://somebody/else.h5ad"}}, "query_h5ad"),
]


def test_what_a_submit_may_not_say_is_refused_by_name(client, jobs):
    for body, word in NOT_SAID:
        answer = submit(client, **body)
        assert (answer.status_code, answer.json()["status"]) == (422, 422), body
        assert word in answer.json()["detail"]
    assert jobs.submitted == []


def test_the_id_of_a_run_is_no_question(client, put, jobs):
    theirs = put(1, owner=BEN, status="failed")
    answer = client.post("/api/v1/runs", person=ADA, json={"question": theirs})
    assert (answer.status_code, jobs.submitted) == (422, [])
    assert "not a question" in answer.json()["detail"]


def test_looking_at_a_question_saves_nothing(client, store):
    read = client.post("/api/v1/parse", person=ADA, json={"question": QUESTION}).json()
    assert (read["cell_type_name"], read["answerable"]) == ("B cell", True)
    found = client.post("/api/v1/candidates", person=ADA, json={"question": QUESTION}).json()
    assert {one["dataset"] for one in found["candidates"]} == {"tiny"}
    assert found["query"]["perturbation"]["name"] == "IFN-beta"
    cost = client.post("/api/v1/estimate", person=ADA, json={"question": QUESTION}).json()
    assert (cost["executor"], cost["high_usd"], cost["of_round"]) == ("local", 0.0, None)
    assert store._run_ids() == []


# --- money and limits -------------------------------------------------------------------------------------------------


def test_a_run_that_costs_money_needs_consent_and_a_cap_in_the_request(client_of, cloudy, jobs, store):
    client = client_of(*cloudy)
    cost = client.post("/api/v1/estimate", person=ADA, json={"question": QUESTION}).json()
    assert 0 < cost["low_usd"] < cost["high_usd"]
    for body in ({}, {"approve": True}, {"max_cost": 5}):
        answer = submit(client, **body)
        assert (answer.status_code, "Nothing was started" in answer.json()["detail"]) == (402, True)
    small = submit(client, approve=True, max_cost=0.01)
    assert small.status_code == 402  # by the gate of the executor
    assert jobs.submitted == []
    good = submit(client, approve=True, max_cost=19)
    assert good.status_code == 201, good.text
    assert len(jobs.submitted) == 1


def test_what_a_person_spends_a_day_is_reserved_before_it_is_spent(client_of, cloudy, jobs):
    client = client_of(*cloudy)
    assert submit(client, approve=True, max_cost=15).status_code == 201
    second = submit(client, approve=True, max_cost=15)
    assert (second.status_code, second.json()["limit"]) == (429, "usd_per_day")
    assert int(second.headers["retry-after"]) > 0
    assert client.get("/api/v1/me", person=ADA).json()["spent_today_usd"] == 15
    assert submit(client, person=BEN, approve=True, max_cost=15).status_code == 201
    assert len(jobs.submitted) == 2


def test_a_person_has_so_many_runs_at_once(client_of, settings, open_ports, jobs):
    few = settings.model_copy(update={"service": settings.service.model_copy(update={"runs_at_once": 2})})
    client = client_of(few, open_ports)
    made = [submit(client, options={"seed": seed}) for seed in range(3)]
    assert [answer.status_code for answer in made] == [201, 201, 429]
    assert made[2].json()["limit"] == "runs_at_once"
    assert submit(client, person=BEN).status_code == 201
    client.post(f"/api/v1/runs/{made[0].json()['run_id']}/cancel", person=ADA)
    assert submit(client, options={"seed": 4}).status_code == 201


# --- one run ----------------------------------------------------------------------------------------------------------


def test_a_run_is_described_with_its_steps_and_what_may_come_next(client, done):
    answer = client.get(f"/api/v1/runs/{done}", person=ADA)
    found = answer.json()
    assert (found["status"], found["next_step"], found["owner"]) == ("done", None, ADA)
    assert found["score"] == pytest.approx(7.0, abs=3.0)
    assert [step["step"] for step in found["steps"]][:2] == ["understand", "retrieve"]
    assert found["next_commands"][0] == f"haystack report {done}"
    again = client.get(f"/api/v1/runs/{done}", person=ADA, headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


def test_a_cancelled_run_is_resumed_by_a_new_attempt(client, jobs, store):
    run_id = submit(client).json()["run_id"]
    assert client.post(f"/api/v1/runs/{run_id}/cancel", person=ADA).json()["status"] == "cancelled"
    jobs.state = "queued"
    resumed = client.post(f"/api/v1/runs/{run_id}/resume", person=ADA, json={})
    assert (resumed.status_code, resumed.json()["status"]) == (200, "running")
    assert len(jobs.submitted) == 2


def test_files_are_listed_and_downloaded_but_not_who_may_read_or_who_works(client, done):
    listed = {one["path"]: one["n_bytes"] for one in client.get(f"/api/v1/runs/{done}/files", person=ADA).json()}
    assert "de.csv" in listed
    assert not [path for path in listed if path.startswith(("lease", "access"))]
    data = client.get(f"/api/v1/runs/{done}/files/de.csv", person=ADA)
    assert len(data.content) == listed["de.csv"]
    assert data.headers["content-disposition"].startswith('attachment; filename="de.csv"')
    assert data.headers["content-type"] == "application/octet-stream"
    for hidden in ("access.json", "lease/0001.json"):
        assert client.get(f"/api/v1/runs/{done}/files/{hidden}", person=ADA).status_code == 404


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=100-", (100, None)),
        ("bytes=-7", (-7, None)),
        ("bytes=5-5", (5, 6)),
        ("bytes=0-999999999", (0, None)),
        ("bytes=-999999999", (0, None)),
        ("bytes=1 - 4", (1, 5)),
    ],
)
def test_a_part_of_a_file_is_sent_alone(client, done, asked, part):
    path = f"/api/v1/runs/{done}/files/de.csv"
    whole = client.get(path, person=ADA)
    wanted = whole.content[slice(*part)]
    answer = client.get(path, person=ADA, headers={"range": asked})
    assert (answer.status_code, answer.content) == (206, wanted)
    first = len(whole.content) + part[0] if part[0] < 0 else part[0]
    last = first + len(wanted) - 1
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(whole.content)}"
    assert int(answer.headers["content-length"]) == len(wanted)
    assert answer.headers["etag"] == whole.headers["etag"]


@pytest.mark.parametrize("asked", ["bytes=9-5", "bytes=0-1,5-6", "lines=0-9", "bytes=-", "bytes=a-b", "nonsense", ""])
def test_what_is_not_one_part_is_answered_with_the_whole_file(client, done, asked):
    answer = client.get(f"/api/v1/runs/{done}/files/de.csv", person=ADA, headers={"range": asked})
    assert (answer.status_code, "content-range" in answer.headers) == (200, False)
    assert len(answer.content) == int(answer.headers["content-length"])


def test_a_reader_who_has_a_file_is_not_sent_it_again_and_parts_of_two_versions_are_never_mixed(client, done, store):
    path = f"/api/v1/runs/{done}/files/de.csv"
    first = client.ask("HEAD", path, person=ADA)
    n_bytes, etag = int(first.headers["content-length"]), first.headers["etag"]
    assert (first.status_code, first.content, first.headers["accept-ranges"]) == (200, b"", "bytes")
    assert client.get(path, person=ADA, headers={"if-none-match": f'"other", W/{etag}'}).status_code == 304
    outside = client.get(path, person=ADA, headers={"range": f"bytes={n_bytes}-"})
    assert (outside.status_code, outside.headers["content-range"]) == (416, f"bytes */{n_bytes}")
    store.write(done, "de.csv", b"another table")
    part = {"range": "bytes=0-6", "if-range": etag}
    assert client.get(path, person=ADA, headers=part).content == b"another table"  # the whole new version
    changed = client.get(path, person=ADA, headers={"if-none-match": etag})
    assert (changed.status_code, changed.headers["etag"] == etag) == (200, False)
    assert client.ask("HEAD", f"/api/v1/runs/{done}/report", person=ADA).headers["content-type"].startswith("text/html")
    assert client.ask("HEAD", path, person=BEN).status_code == 404


def test_a_report_comes_in_a_box_where_no_script_but_ours_runs(client, done):
    from haystack_kernel.report.render import script_digest

    answer = client.get(f"/api/v1/runs/{done}/report", person=ADA)
    policy = answer.headers["content-security-policy"]
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    box = next(one.split()[1:] for one in policy.split("; ") if one.startswith("sandbox "))
    assert "allow-scripts" in box
    assert not {"allow-same-origin", "allow-forms", "allow-top-navigation"} & set(box)
    allowed = next(one.split()[1:] for one in policy.split("; ") if one.startswith("script-src "))
    assert f"'sha256-{script_digest()}'" in allowed
    assert script_digest() in answer.text  # the same script as in the page's own policy
    assert "'sha256-e/xDR1ax1+W0dVtXxj+Le6RabsmG5vt804AiT+22kvA='" in allowed  # the first version's pages keep theirs
    assert all(one.startswith("'sha256-") for one in allowed)
    assert "connect-src" not in policy
    assert policy.startswith("default-src 'none'")


def test_two_runs_are_compared_without_numbers_that_json_lacks(client, done, put):
    empty = put(5, owner=ADA)
    found = client.get("/api/v1/compare", person=ADA, params={"a": done, "b": empty})
    assert (found.status_code, found.json()["pearson"]) == (200, None)
    same = client.get("/api/v1/compare", person=ADA, params={"a": done, "b": done}).json()
    assert same["pearson"] == pytest.approx(1.0)
    assert client.get("/api/v1/compare", person=BEN, params={"a": done, "b": empty}).status_code == 404


def test_atlases_are_told_without_places_of_the_machine(client, tmp_path, tiny_h5ad):
    assert [one["name"] for one in client.get("/api/v1/atlases", person=ADA).json()] == ["tiny", "demo"]
    found = client.get("/api/v1/atlases/tiny", person=ADA)
    assert found.json()["datasets"]["tiny"]["source"] == tiny_h5ad.name
    assert str(tiny_h5ad.parent) not in found.text
    missing = client.get("/api/v1/atlases/tinny", person=ADA)
    assert (missing.status_code, missing.json()["possible"]) == (404, ["demo", "tiny"])


# --- following --------------------------------------------------------------------------------------------------------


def test_events_tell_the_state_until_the_run_ends(client, jobs):
    run_id = submit(client).json()["run_id"]
    jobs.state = "failed"
    lines = client.get(f"/api/v1/runs/{run_id}/events", person=ADA, headers={"accept": "text/event-stream"}).text
    data = [json.loads(line[6:]) for line in lines.splitlines() if line.startswith("data: {") and len(line) > 20]
    assert (data[-1]["run_id"], data[-1]["status"]) == (run_id, "failed")
    assert "event: end" in lines
    mark = [line[4:] for line in lines.splitlines() if line.startswith("id: ")][-1]
    again = client.get(f"/api/v1/runs/{run_id}/events", person=ADA, headers={"last-event-id": mark}).text
    assert "event: run" not in again  # what the browser has is not sent again


def test_a_log_is_the_jobs_own(client):
    run_id = submit(client).json()["run_id"]
    assert (
        client.get(f"/api/v1/runs/{run_id}/log", person=ADA).json()["orchestrator"].startswith("reading the question")
    )


def test_atlases_may_lie_in_a_bucket(settings, client_of, tiny_atlas_root):
    files = fsspec.filesystem("memory")
    files.put(str(tiny_atlas_root / "tiny"), "/shelf/tiny", recursive=True)
    changed = settings.model_copy(update={"atlas_root": "memory://shelf"})

    def open_changed(consent):
        return connect(changed, consent=consent)

    try:
        client = client_of(changed, open_changed)
        assert [one["name"] for one in client.get("/api/v1/atlases", person=ADA).json()] == ["tiny", "demo"]
        assert client.get("/api/v1/atlases/tiny", person=ADA).json()["n_cells"] > 0
        health = client.get("/api/v1/health", person=ADA).json()
        assert next(one for one in health if one["check"] == "atlases")["found"] == "tiny"
        body = {"question": "How would B cells respond to IFN-beta?"}
        assert client.post("/api/v1/candidates", person=ADA, json=body).json()["candidates"]
    finally:
        files.rm("/shelf", recursive=True)
