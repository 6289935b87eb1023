"""The planner that asks Claude, or that plays what Claude answered before; loads the SDK only when it is asked.

In: settings, tables, consent of the current call. Out: query, choice and words, each checked by rules.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.errors import ContractError, InvalidInputError, MissingExtraError
from haystack_kernel.jobs.consent import SpendingGate
from haystack_kernel.knowledge import with_vocabulary
from haystack_kernel.planners.check import check_human
from haystack_kernel.planners.claude.cost import estimate_planner, price_of
from haystack_kernel.planners.offline.planner import OfflinePlanner
from haystack_kernel.ports import Answer
from haystack_kernel.schema import Transcript

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.planners.claude.client import Service
    from haystack_kernel.ports import Clock, Consent, PapersToRead, PlannerView
    from haystack_kernel.schema import (
        Call,
        Choice,
        Interpretation,
        ModelReadings,
        RunConfig,
        RunRecord,
        Settings,
        StructuredQuery,
        Usage,
        Vocabulary,
    )

_PROMPTS = Path(__file__).with_name("prompts")


class ClaudePlanner:
    """Parse, choose and interpret with Claude; implements :class:`haystack_kernel.ports.Planner`.

    Parameters
    ----------
    settings
        Section ``claude`` names service, models and caps.
    knowledge
        The tables that every name is looked up in.
    clock
        Measures and waits.
    consent
        Of the call that is under way; without it nothing is asked.
    """

    name = "claude"

    def __init__(self, settings: Settings, knowledge: Knowledge, *, clock: Clock, consent: Consent) -> None:
        self.settings, self.knowledge, self._clock = settings, knowledge, clock
        self._gate = SpendingGate(consent, standing_cap_usd=settings.cost.max_usd)
        self._rules = OfflinePlanner(knowledge)

    def check(self, config: RunConfig) -> None:
        """Check the package, the credentials, and that the prices of the models are known."""
        _check_package()
        if not self.settings.claude.is_configured:
            msg = (
                "planner 'claude' has no credentials: set ANTHROPIC_API_KEY (or HAYSTACK_CLAUDE__API_KEY), or "
                "claude.provider to 'vertex' or 'google_cloud' with a project; --planner offline needs none"
            )
            raise InvalidInputError(msg, planner=config.planner)
        for model in (self.settings.claude.model, self.settings.claude.small_model):
            price_of(model)

    def understand(
        self, question: str, *, vocabulary: Vocabulary, view: PlannerView | None = None
    ) -> Answer[StructuredQuery]:
        """Read a question of any wording; see :mod:`haystack_kernel.planners.claude.understand`."""
        from haystack_kernel.planners.claude.understand import understand

        text, knowledge = check_human(question), with_vocabulary(self.knowledge, vocabulary)
        with self._service(view, "understand") as service:
            query = understand(text, knowledge=knowledge, service=service, planner=self.name)
            return Answer(query, self._usage(service))

    def choose(self, record: RunRecord, *, view: PlannerView | None = None) -> Answer[Choice | None]:
        """Choose the candidates of the next round; see :mod:`haystack_kernel.planners.claude.choose`."""
        from haystack_kernel.planners.claude.choose import choose

        with self._service(view, "choose") as service:
            choice = choose(record, view=service.meter.view, knowledge=self.knowledge, service=service)
            return Answer(choice, self._usage(service))

    def read_papers(self, asked: PapersToRead, *, view: PlannerView) -> Answer[ModelReadings | None]:
        """Read each paper on its own; see :mod:`haystack_kernel.planners.claude.papers`."""
        from haystack_kernel.planners.claude.papers import read_papers

        with self._service(view, "read") as service:
            return Answer(read_papers(asked, service=service), self._usage(service))

    def interpret(
        self, record: RunRecord, *, de: pd.DataFrame, pathways: pd.DataFrame, view: PlannerView | None = None
    ) -> Answer[Interpretation]:
        """Put the best round into words: headline and limitations by rules, the text beside them by Claude."""
        from haystack_kernel.planners.claude.interpret import interpret

        said, _ = self._rules.interpret(record, de=de, pathways=pathways, view=view)
        with self._service(view, "interpret") as service:
            text = interpret(record, de=de, pathways=pathways, view=service.meter.view, service=service)
            said = said.model_copy(update={"planner": self.name, "model_text": text})
            return Answer(said, self._usage(service))

    def _service(self, view: PlannerView | None, step: str) -> Service:
        from haystack_kernel.planners.claude.client import Service
        from haystack_kernel.planners.claude.meter import Meter

        if view is None:
            msg = f"planner {self.name} keeps its requests with a run and needs its view"
            raise ContractError(msg)
        settings, tape = self.settings.claude, self._tape(view.config)
        meter = Meter(
            view,
            settings=settings,
            gate=self._gate,
            clock=self._clock,
            tape=tape,
            estimate=estimate_planner(view.config, settings),
        )
        return Service(settings, meter, prompt=prompt_of(step), is_replay=tape is not None)

    def _tape(self, config: RunConfig) -> list[Call] | None:
        """Calls that answer instead of the service; None: the service is asked."""
        del config
        return None

    def _usage(self, service: Service) -> Usage:
        used = service.meter.usage
        return used.model_copy(update={"model": service.settings.model, "prompts": prompts_digest()})


class ReplayPlanner(ClaudePlanner):
    """Play the transcript of an earlier run: the same answers, and no key, no network and no money.

    Parameters
    ----------
    read
        Returns the bytes of the file that an option names.
    **others
        As :class:`ClaudePlanner`.
    """

    name = "replay"

    def __init__(
        self,
        settings: Settings,
        knowledge: Knowledge,
        *,
        clock: Clock,
        consent: Consent,
        read: Callable[[str], bytes],
    ) -> None:
        super().__init__(settings, knowledge, clock=clock, consent=consent)
        self._read = read

    def check(self, config: RunConfig) -> None:
        """Check that the transcript can be read."""
        _check_package()
        self._tape(config.located())

    def _tape(self, config: RunConfig) -> list[Call]:
        from pydantic import ValidationError

        if config.transcript is None:
            msg = "planner 'replay' needs a transcript; give it with --transcript"
            raise InvalidInputError(msg, planner=self.name)
        try:
            return list(Transcript.model_validate_json(self._read(config.transcript)).calls)
        except ValidationError as error:
            msg = f"{config.transcript!r} is no transcript of a planner: {error.errors()[0]['msg']}"
            raise InvalidInputError(msg, transcript=config.transcript) from error


@cache
def prompt_of(step: str) -> str:
    """Return the instructions of a step: those of all steps, then its own."""
    return "".join((_PROMPTS / f"{name}.md").read_text(encoding="utf-8") for name in ("common", step))


@cache
def prompts_digest() -> str:
    """Return the digest of all prompt files, which the record keeps with what each step used."""
    files = sorted(_PROMPTS.glob("*.md"))
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()[:12]


def _check_package() -> None:
    if find_spec("anthropic") is None:
        msg = "planner 'claude' needs the package anthropic: pip install 'haystack-kernel[claude]'"
        raise MissingExtraError(msg, extra="claude")
