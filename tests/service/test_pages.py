"""Pages without scripts: forms lead on, refusals are shown where they arose, money is asked for."""

import pytest

pytestmark = pytest.mark.slow

ADA, BEN = "ada@example.org", "ben@example.org"
QUESTION = "How would B cells respond to IFN-beta?"


def look(client, question, **more):
    return client.post("/ask", person=ADA, data={"question": question, "do": "look", **more})


def test_a_question_that_costs_money_shows_its_range_and_is_started_only_with_approval_and_a_cap(
    client_of, cloudy, jobs, store
):
    client = client_of(*cloudy)
    seen = look(client, QUESTION).text
    for shown in ("One round costs about", "I approve what costs money", 'name="max_cost"', "left today"):
        assert shown in seen
    for form in ({}, {"approve": "true"}, {"max_cost": "5"}, {"approve": "true", "max_cost": "a lot"}):
        refused = client.post("/ask", person=ADA, data={"question": QUESTION, "do": "ask", **form})
        assert refused.status_code in (402, 422), form
        assert QUESTION in refused.text  # nothing that was typed is lost
    assert jobs.submitted == []
    form = {"question": QUESTION, "do": "ask", "approve": "true", "max_cost": "19.5", "key": "press"}
    made = [client.post("/ask", person=ADA, data=form) for _ in range(2)]  # pressed twice
    assert [answer.status_code for answer in made] == [303, 303]
    assert made[0].headers["location"] == made[1].headers["location"]
    assert len(jobs.submitted) == 1
    assert jobs.submitted[0].owner.id in made[0].headers["location"]


def test_a_word_that_is_not_known_is_offered_others_and_the_choice_goes_into_the_question(client):
    refused = look(client, "How would B cells respond to IFN-betaa?")
    assert refused.status_code == 422
    assert "IFN-beta" in refused.text
    corrected = look(client, "How would B cells respond to IFN-betaa?", meant="IFN-betaa => IFN-beta")
    assert corrected.status_code == 200
    assert QUESTION in corrected.text


def test_a_question_about_two_treatments_is_offered_as_two_questions_and_an_unknown_word_the_nearest_terms(client):
    several = look(client, "How would B cells respond to IFN-beta and TNF-alpha?")
    assert (several.status_code, "haystack run" in several.text) == (422, False)  # no command line on a page
    assert f'name="instead" value="{QUESTION}"' in several.text
    assert f">{QUESTION}</textarea>" in look(client, several.text[:20], instead=QUESTION).text
    unknown = look(client, "How would glorps respond to IFN-beta?").text
    assert 'value="glorps => common lymphoid progenitor"' in unknown


def test_the_limits_are_told_before_a_run_is_started(client_of, settings, open_ports, client):
    start = '<button name="do" value="ask">'
    free = look(client, QUESTION).text
    assert (start in free, "0 of the 50 runs that you may have at once" in free) == (True, True)
    made = type(settings).model_validate({**settings.model_dump(), "service": {"runs_at_once": 1}})
    busy = client_of(made, open_ports)
    assert busy.post("/api/v1/runs", person=ADA, json={"question": QUESTION}).status_code == 201
    page = look(busy, QUESTION).text
    assert (start in page, "1 of the 1 runs that you may have at once is being worked on: wait" in page) == (
        False,
        True,
    )
    assert start in busy.post("/ask", person=BEN, data={"question": QUESTION, "do": "look"}).text
    made = type(settings).model_validate({**settings.model_dump(), "service": {"local_runs_at_once": 1}})
    page = client_of(made, open_ports).post("/ask", person=BEN, data={"question": QUESTION, "do": "look"}).text
    assert (start in page, "This machine works on as many runs as it may (1)" in page) == (False, True)


def test_a_run_says_in_words_what_it_does_and_where_it_stopped(client, put, done):
    page = client.get(f"/runs/{done}", person=ADA).text
    assert "searching the atlases for prompt cells" in page
    assert "scoring against known biology, round 1" in page
    assert "stopped: the score reached the threshold of 5" in page
    left = client.get(f"/runs/{put(7, owner=ADA)}", person=ADA).text
    assert "stopped before reading the question" in left
    assert "Nobody is working on this run" in left
    assert "The cells of atlas demo are simulated, not measured." in left


def test_refusals_are_shown_on_the_page_where_they_arose(client, done):
    assert "status" in client.get("/runs?status=lost", person=ADA).text
    wrong = client.post(f"/runs/{done}/fork", person=ADA, data={"changes": "sed=1"})
    assert (wrong.status_code, "did you mean" in wrong.text) == (422, True)
    same = client.post(f"/runs/{done}/fork", person=ADA, data={"changes": "threshold=5"})
    assert (same.status_code, "would change" in same.text) == (422, True)
    one = client.get(f"/compare?run={done}", person=ADA, headers={"accept": "text/html"})
    assert (one.status_code, "mark two" in one.text) == (422, True)
    missing = client.get("/runs/run-20990101t000000-ffffff", person=ADA, headers={"accept": "text/html"})
    assert (missing.status_code, "<h1>Not found</h1>" in missing.text) == (404, True)


def test_a_run_is_shared_by_a_form_and_a_link_is_shown_once(client, done):
    shared = client.post(f"/runs/{done}/share", person=ADA, data={"people": f"{BEN}, third@example.org"})
    assert shared.status_code == 303
    page = client.get(f"/runs/{done}", person=ADA).text
    assert BEN in page
    theirs = client.get(f"/runs/{done}", person=BEN).text
    assert "third@example.org" not in theirs
    assert ">Cancel" not in theirs
    assert "Share" not in theirs
    made = client.post(f"/runs/{done}/link", person=ADA, data={"days": "2"}).text
    link = made.partition("shown once: ")[2].partition("</code>")[0].partition(">")[2]
    assert client.get(link.removeprefix("http://127.0.0.1"), person="third@example.org").status_code == 303
    assert link not in client.get(f"/runs/{done}", person=ADA).text
    assert client.post(f"/runs/{done}/end-links", person=ADA).status_code == 303


def test_pages_lead_through_many_runs(client, put):
    for number in range(1, 31):
        put(number, owner=ADA, status="done")
    first = client.get("/runs", person=ADA).text
    older = first.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
    second = client.get(older, person=ADA).text
    assert "30 runs" in first
    assert (first.count("<tr>"), second.count("<tr>")) == (26, 6)
    assert "Older runs" not in second


def test_who_signs_out_is_signed_out(token_client):
    cookie = token_client.get("/sign-in", params={"token": "t" * 40}).headers["set-cookie"].partition(";")[0]
    page = token_client.get("/runs", headers={"cookie": cookie})
    assert "Sign out" in page.text
    answer = token_client.post("/sign-out", headers={"cookie": cookie, "origin": "http://127.0.0.1"})
    assert 'haystack_session=""' in answer.headers["set-cookie"]
    refused = token_client.get("/runs", headers={"accept": "text/html"})
    assert (refused.status_code, 'name="token"' in refused.text) == (401, True)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_whoever_watches_the_service_needs_no_sign_in(client, path):
    assert client.get(path).text == "ok\n"
