"""A storage that fails or does not answer keeps nobody waiting for longer than was said, and nobody else at all."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from haystack_kernel.errors import InvalidInputError, ServiceError
from haystack_kernel.service.slow_work import SlowWork

ADA, BEN = "ada@example.org", "ben@example.org"
QUESTION = "How would B cells respond to IFN-beta?"


def test_who_waits_is_answered_in_time_and_what_was_begun_holds_its_place():
    end, work = threading.Event(), SlowWork(0.3)
    begun = []

    def hang():
        begun.append(1)
        end.wait(120)

    def refuse():
        raise InvalidInputError("no")

    async def done(who, function):
        while True:  # a loaded machine may need longer than the limit for nothing at all
            try:
                return await work.do(who, function, late="")
            except ServiceError:
                continue

    async def story():
        started = time.monotonic()
        late = await asyncio.gather(*(work.do("ada", hang, late="it hangs") for _ in range(6)), return_exceptions=True)
        assert time.monotonic() - started < 60
        assert {type(one) for one in late} == {ServiceError}
        assert sorted({str(one)[:30] for one in late}) == [
            "no answer within 0.3 s: it han",
            "other questions, yours or thos",
        ]
        assert len(begun) == 3  # of one person at once
        assert await done("ben", lambda: 7) == 7  # nobody else waits
        with pytest.raises(InvalidInputError, match="no"):
            await done("ben", refuse)
        end.set()
        assert await done("ada", lambda: 8) == 8  # the places are free again

    asyncio.run(asyncio.wait_for(story(), 120))


@pytest.mark.slow
def test_a_question_naming_a_file_in_a_bucket_that_fails_is_answered_honestly(bucket_server, client_of, settings):
    limits = {**settings.service.model_dump(), "inputs": ("gs://haystack-test/",), "answer_timeout_s": 2}
    made = type(settings).model_validate({**settings.model_dump(), "service": {**limits, "storage_patience_s": 0.5}})
    client = client_of(made, None)
    question = {"question": QUESTION, "options": {"query_h5ad": "gs://haystack-test/cells.h5ad"}}
    bucket_server.fail("cells.h5ad", status=503, times=float("inf"))
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(client.post, "/api/v1/candidates", person=ADA, json=question) for _ in range(4)]
        form = {"question": QUESTION, "do": "look", "more": "query_h5ad=gs://haystack-test/cells.h5ad"}
        page = client.post("/ask", person=BEN, data=form, headers={"accept": "text/html"})
        for answer in (one.result(120) for one in asked):
            assert answer.status_code == 503, answer.text
            said = answer.json()["detail"]
            assert [words for words in ("cells.h5ad", "no answer within 2 s", "took all of 2 s") if words in said], said
    assert (page.status_code, QUESTION in page.text) == (503, True)  # nothing that was typed is lost


@pytest.mark.slow
def test_where_the_storage_fails_many_readers_share_one_wait_and_the_service_says_that_it_lives(
    bucket_server, client_of, settings
):
    service = {**settings.service.model_dump(), "storage_patience_s": 1.0}
    made = {**settings.model_dump(), "storage": "gs://haystack-test/team", "service": service}
    client = client_of(type(settings).model_validate(made), None)
    bucket_server.fail(".", status=503, times=float("inf"))
    started = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(client.get, "/api/v1/runs", person=ADA) for _ in range(12)]
        assert client.get("/health/live").text == "ok\n"
        assert {one.result(120).status_code for one in asked} == {503}
    assert len(bucket_server.requests) <= 16  # not each of them for itself
    assert time.monotonic() - started < 100
    assert client.get("/health/ready").status_code == 503
