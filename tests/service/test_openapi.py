"""The OpenAPI document holds for whatever it allows and whatever it does not: no failure inside, forms as promised."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import booleans

pytestmark = pytest.mark.slow

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
GenerationMode = schemathesis.GenerationMode

ADA = "ada@example.org"
N_EXAMPLES = 3
LONG = "/events"  # follows a run until it ends


def operations(app):
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers={"x-person": ADA})
    return [found.ok() for found in schema.get_all_operations()]


def test_every_route_is_described_with_the_problems_it_may_answer_with(app):
    document = app.openapi()
    assert document["openapi"].startswith("3.1")
    wrong = []
    for path, methods in document["paths"].items():
        for method, found in methods.items():
            answers = found["responses"]
            if not {"401", "403", "422", "429", "503"} <= answers.keys():
                wrong.append((method, path, "problems"))
            if "{run_id}" in path and "404" not in answers:
                wrong.append((method, path, "404"))
            if not found.get("summary") or not found.get("description"):
                wrong.append((method, path, "words"))
    assert not wrong
    assert "Problem" in document["components"]["schemas"]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_that_the_document_allows_or_forbids_breaks_the_service(app, put, mode):
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    run_id, failures = put(1, owner=ADA, status="failed"), []
    for operation in operations(app):
        if operation.path.endswith(LONG):
            continue

        @given(case=operation.as_strategy(generation_mode=mode), is_there=booleans())
        @settings(
            max_examples=N_EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case, is_there):
            if is_there and "run_id" in case.path_parameters and mode == GenerationMode.POSITIVE:
                case.path_parameters["run_id"] = run_id
            # what fits the document may still be refused: a question that names no cells, an id that does not exist
            case.call_and_validate(headers={"x-person": ADA}, excluded_checks=[positive_data_acceptance])

        try:
            check()
        except Unsatisfiable:  # a route without anything that could be wrong
            assert mode == GenerationMode.NEGATIVE
        except FailureGroup as error:  # every route is told of, not the first
            failures.append(f"{operation.label}: {error}\n{error.exceptions}"[:1500])
    assert not failures, "\n\n".join(failures)
