"""Requests at the same moment: one idempotency key makes one run, and no limit is passed by two at once."""

import threading

import pytest

from haystack_kernel.errors import InvalidInputError, LimitError, NotFoundError
from haystack_kernel.manage.tenancy import Person, Tenancy

pytestmark = pytest.mark.slow

ADA = Person("ada@example.org")
QUESTION = "How would B cells respond to IFN-beta?"


def at_once(calls):
    """What each call returned or raised, all begun at the same moment."""
    barrier, found = threading.Barrier(len(calls)), [None] * len(calls)

    def run(place):
        barrier.wait(120)
        try:
            found[place] = calls[place]()
        except Exception as error:  # noqa: BLE001 - it is what is looked at
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def tenancies(settings, open_ports, number, **limits):
    """Several services over one storage."""
    changed = settings.model_copy(update={"service": settings.service.model_copy(update=limits)})
    return [Tenancy(changed, trusts_inputs=True, open_ports=open_ports) for _ in range(number)]


def test_one_key_sent_to_several_services_at_once_makes_one_run(settings, open_ports, jobs, store):
    services = tenancies(settings, open_ports, 4)
    found = at_once([lambda one=one: one.submit(ADA, QUESTION, key="press") for one in services])
    assert len({run.run_id for run, _ in found}) == 1, found
    assert len(store._run_ids()) == 1
    assert {spec.owner.id for spec in jobs.submitted} == set(store._run_ids())


def test_of_several_runs_at_once_no_more_begin_than_a_person_may_have(settings, open_ports, store):
    services = tenancies(settings, open_ports, 4, runs_at_once=2)
    found = at_once(
        [
            lambda one=one, seed=seed: one.submit(ADA, QUESTION, options={"seed": seed})
            for seed, one in enumerate(services)
        ]
    )
    assert len(store._run_ids()) <= 2
    refused = [error for error in found if isinstance(error, LimitError)]
    assert len(refused) == 4 - len(store._run_ids())
    assert services[0].allowances.of(ADA.name).running == len(store._run_ids())


def test_places_that_the_service_reads_from_are_the_only_ones(settings, open_ports, tmp_path):
    own = f"{tmp_path}/uploads/"
    (one,) = tenancies(settings, open_ports, 1, inputs=(own, "gs://lab/uploads/"))
    strict = Tenancy(one.settings, trusts_inputs=False, open_ports=open_ports)
    others = ("gs://lab/uploads/../x.h5ad", "gs://lab/uploadsx.h5ad", "gs://lab/x.h5ad", f"{own}../x.h5ad", "uploads/x")
    for address in (*others, "~/x.h5ad"):
        with pytest.raises(InvalidInputError, match="not among the places"):
            strict.submit(ADA, QUESTION, options={"query_h5ad": address})
    with pytest.raises(NotFoundError, match="cells"):  # which would be read, and is not there
        strict.submit(ADA, QUESTION, options={"query_h5ad": f"{own}cells.h5ad"})
