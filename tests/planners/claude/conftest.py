"""A run of planner claude against the local Messages API."""

from dataclasses import replace

import pytest

from haystack_kernel.config.connect import connect
from haystack_kernel.config.options import build_config
from haystack_kernel.ports import Consent
from haystack_kernel.run import new_record
from haystack_kernel.schema import Settings

pytest.importorskip("anthropic", reason="anthropic is not installed")

from tests.planners.claude import model
from tests.servers import messages

APPROVED = Consent(approve=True)
QUESTION = "What happens to the cells that make antibodies when you hit them with IFN-beta?"


@pytest.fixture
def server():
    with messages.messages_server(model.honest) as running:
        yield running


@pytest.fixture
def asking(server, tiny_settings, clock):
    """Make ports with planner claude: ``asking(consent=…, max_usd=…)``; sleeping costs no time."""

    def make(*, consent=APPROVED, **claude):
        section = {"base_url": server.address, "api_key": server.key, **claude}
        settings = Settings.model_validate({**tiny_settings.model_dump(), "claude": section, "planner": "claude"})
        ports = connect(settings, consent=consent)
        for name in ("claude", "replay"):
            ports.planners[name]._clock = clock
        return replace(ports, clock=clock)

    return make


@pytest.fixture
def begin_with(clock):
    """The record of a run that has no step yet, not saved: ``begin_with(ports, QUESTION)``."""

    def begin(ports, question=QUESTION, **options):
        return new_record(question, run_id=None, config=build_config(ports.settings, **options), ports=ports)

    return begin
