"""Whose run it is: every route refuses what a person may not see or do, and tells nothing of it."""

import itertools
import re

import pytest

pytestmark = pytest.mark.slow

ADA, BEN, EVE = "ada@example.org", "ben@example.org", "eve@example.org"
UNKNOWN = "run-20990101t000000-ffffff"
BODIES = {"resume": {}, "fork": {"changes": {"seed": 1}}, "access": {"people": [BEN]}, "links": {"days": 1}}


def every_route(app):
    """(method, path) of the OpenAPI document and of the pages, where the path names a run."""
    found = [
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        if "{run_id}" in path
    ]
    found += [("GET", f"/runs/{{run_id}}{tail}") for tail in ("", "/log", "/report")]
    tails = ("/cancel", "/resume", "/fork", "/share", "/link", "/end-links")
    return found + [("POST", f"/runs/{{run_id}}{tail}") for tail in tails]


def fill(path, run_id):
    return path.replace("{run_id}", run_id).replace("{path}", "run.json")


def send(client, method, path, person):
    body = BODIES.get(path.rpartition("/")[2]) if "/api/" in path and method in ("POST", "PUT") else None
    form = {"changes": "seed=1", "people": BEN, "days": "1"} if "/api/" not in path and method == "POST" else None
    return client.ask(method, path, person=person, json=body, data=form)


def test_the_list_of_routes_holds_every_one_that_names_a_run(app):
    assert len(every_route(app)) == len(set(every_route(app))) == 23


def test_another_persons_run_is_on_every_route_as_one_that_does_not_exist(app, client, done):
    for method, path in every_route(app):
        there = send(client, method, fill(path, done), BEN)
        absent = send(client, method, fill(path, UNKNOWN), BEN)
        assert (there.status_code, absent.status_code) == (404, 404), (method, path)
        texts = [
            re.sub(r"[0-9a-f]{12}", "", answer.text).replace(run_id, "RUN")
            for answer, run_id in ((there, done), (absent, UNKNOWN))
        ]
        assert texts[0] == texts[1], (method, path)
        assert done not in there.text.replace(f"'{done}'", "").replace(f'"{done}"', ""), (method, path)


def test_who_may_only_read_a_run_cannot_change_it(app, client, done, settings):
    client.ask("PUT", f"/api/v1/runs/{done}/access", person=ADA, json={"people": [BEN]})
    for method, path in every_route(app):
        answer = send(client, method, fill(path, done), BEN)
        if method == "GET" and not path.endswith("/events"):
            assert answer.status_code == 200, (path, answer.text)
        elif method in ("PUT", "DELETE") or path.endswith(
            ("/cancel", "/resume", "/share", "/link", "/end-links", "/links")
        ):
            assert answer.status_code == 403, (path, answer.text)
    shared = client.get(f"/api/v1/runs/{done}/access", person=BEN).json()
    assert (shared["owner"], shared["people"]) == (ADA, [])  # with whom else is the owner's business


def test_nobody_is_let_in_on_any_route(app, client, done):
    paths = [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]
    pages_ = [("GET", path) for path in ("/", "/runs", "/ask", "/compare", "/atlases", "/atlases/tiny", "/health")]
    for method, path in {*paths, *pages_, *every_route(app), ("POST", "/ask"), ("GET", f"/shared/{done}/x")}:
        answer = client.ask(method, fill(path, done).replace("{name}", "tiny"))
        assert answer.status_code == 401, (method, path)
    opened = {"/health/live": 200, "/static/service.css": 200, "/static/../app.py": 401, "/static/app.py": 404}
    assert {path: client.get(path).status_code for path in opened} == opened


def test_a_list_holds_what_the_person_may_see(client, put):
    first = put(1, owner=ADA)
    second = put(2, owner=BEN)
    third = put(3)
    client.ask("PUT", f"/api/v1/runs/{second}/access", person=BEN, json={"everyone": True})

    def listed(person):
        return [row["run_id"] for row in client.get("/api/v1/runs", person=person).json()["runs"]]

    assert listed(ADA) == [second, first]
    assert listed(BEN) == [second]
    assert listed(EVE) == [third, second, first]  # an admin


def test_a_link_opens_a_run_to_who_follows_it_until_it_expires(client, done, store):
    made = client.post(f"/api/v1/runs/{done}/links", person=ADA, json={"days": 0.5})
    assert made.status_code == 201
    path = made.json()["url"].removeprefix("http://127.0.0.1")
    secret = path.rpartition("/")[2]
    opened = client.get(path, person=BEN)
    cookie = opened.headers["set-cookie"].partition(";")[0]
    assert (opened.status_code, opened.headers["location"]) == (303, f"/runs/{done}")
    assert client.get(f"/api/v1/runs/{done}", person=BEN, headers={"cookie": cookie}).status_code == 200
    assert (
        client.post(
            f"/api/v1/runs/{done}/cancel", person=BEN, headers={"cookie": cookie, "origin": "http://127.0.0.1"}
        ).status_code
        == 403
    )
    other = f"haystack_link_{done}={'x' * len(secret)}"
    assert client.get(f"/api/v1/runs/{done}", person=BEN, headers={"cookie": other}).status_code == 404
    assert secret not in store.read(done, "access.json").decode()  # only its digest is kept

    def expire(access):
        (link,) = access.links
        return access.model_copy(update={"links": (link.model_copy(update={"expires_at": link.made_at}),)})

    store.change_access(done, expire)
    assert client.get(f"/api/v1/runs/{done}", person=BEN, headers={"cookie": cookie}).status_code == 404


def test_links_end_when_the_owner_ends_them(client, done):
    path = client.post(f"/api/v1/runs/{done}/links", person=ADA, json={"days": 1}).json()["url"]
    cookie = client.get(path.removeprefix("http://127.0.0.1"), person=BEN).headers["set-cookie"].partition(";")[0]
    assert client.ask("DELETE", f"/api/v1/runs/{done}/links", person=ADA).json()["links"] == []
    assert client.get(f"/api/v1/runs/{done}", person=BEN, headers={"cookie": cookie}).status_code == 404


@pytest.mark.parametrize("days", [0, -1, 91, 8])
def test_a_link_does_not_live_longer_than_the_service_lets_it(client, done, days):
    assert client.post(f"/api/v1/runs/{done}/links", person=ADA, json={"days": days}).status_code == 422


def test_a_fork_of_a_shared_run_belongs_to_who_made_it(client, done, jobs):
    client.ask("PUT", f"/api/v1/runs/{done}/access", person=ADA, json={"people": [BEN.upper()]})
    made = client.post(f"/api/v1/runs/{done}/fork", person=BEN, json={"changes": {"threshold": 9}})
    assert made.status_code == 201, made.text
    assert (made.json()["owner"], made.json()["forked_from"]) == (BEN, done)
    assert client.get(f"/api/v1/runs/{made.json()['run_id']}", person=ADA).status_code == 404
    assert [spec.owner.id for spec in jobs.submitted] == [made.json()["run_id"]]


def test_the_lists_of_several_people_are_apart_at_the_same_time(client, put):
    for number, owner in zip(range(1, 9), itertools.cycle((ADA, BEN)), strict=False):
        put(number, owner=owner)
    for person in (ADA, BEN, ADA):
        assert {row["owner"] for row in client.get("/api/v1/runs", person=person).json()["runs"]} == {person}
