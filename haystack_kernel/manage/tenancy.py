"""Runs of several people in one storage: whose each is, who may read and who may steer it, what each may spend.

In: a person and what they ask for. Out: runs, or an error that tells nothing of what the person may not see. Every verb
checks the person's rights itself, so that no caller can forget to.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from haystack_kernel.config.connect import connect
from haystack_kernel.config.options import build_config
from haystack_kernel.errors import (
    ApprovalNeededError,
    ConflictError,
    HaystackError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
)
from haystack_kernel.jobs import describe, in_usd
from haystack_kernel.manage.allowances import Allowances
from haystack_kernel.manage.catalogue import Catalogue
from haystack_kernel.manage.changes import change_config
from haystack_kernel.manage.comparison import Comparison, compare
from haystack_kernel.manage.forking import fork
from haystack_kernel.manage.previews import Preview, preview
from haystack_kernel.manage.submission import submit
from haystack_kernel.ports import Consent
from haystack_kernel.run import Run
from haystack_kernel.schema import FILE_OPTIONS, Access, ShareLink, is_run_id, secret_digest
from haystack_kernel.steering import describe as describe_run
from haystack_kernel.store import layout, new_run_id
from haystack_kernel.store.buckets import open_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunConfig, Settings
    from haystack_kernel.store import StoredFile

_MAX_SHARED = 100


@dataclass(frozen=True)
class Person:
    """Somebody whom a service let in; ``links`` are the secrets of share links they opened, by run."""

    name: str
    is_admin: bool = False
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spending:
    """What a request may spend: whether jobs that cost money may start, and the cap of the run in dollars."""

    approve: bool = False
    max_cost: float | None = None

    @property
    def consent(self) -> Consent:
        """The same for the executors."""
        return Consent.given(self.approve, self.max_cost)


class Tenancy:
    """The runs of a storage as a service offers them.

    Parameters
    ----------
    settings
        Where runs are, what they use, and the limits of the service.
    trusts_inputs
        Whether people may name any file of this machine as query cells, model or gene list; else only addresses that
        begin as ``service.inputs`` says.
    open_ports
        Makes the ports of a call from its consent to spending; None connects as the settings say.

    Examples
    --------
    >>> tenancy = Tenancy(load_settings(), trusts_inputs=True)  # doctest: +SKIP
    >>> run, _ = tenancy.submit(Person("ada"), "How would NK cells respond to IL-15?")  # doctest: +SKIP
    """

    def __init__(
        self, settings: Settings, *, trusts_inputs: bool, open_ports: Callable[[Consent], Ports] | None = None
    ) -> None:
        self.settings, self._trusts_inputs = settings, trusts_inputs
        self._open_ports = open_ports or (
            lambda consent: connect(settings, consent=consent, patience_s=settings.service.storage_patience_s)
        )
        self.ports = self._open_ports(Consent())
        self._store = self.ports.store
        self.catalogue = Catalogue(self.ports)
        self.allowances = Allowances(catalogue=self.catalogue, limits=settings.service, clock=self.ports.clock)
        store = self.catalogue.store
        self._files, self._root = open_files(store.storage, patience=store.patience)

    # --- who may do what ---

    def read(self, person: Person, run_id: str) -> Run:
        """Return a run that the person may read.

        Raises
        ------
        NotFoundError
            There is no such run, or the person may not see it: the two cannot be told apart.
        """
        self.access(person, run_id)
        return Run(self._store.load(run_id), ports=self.ports)

    def access(self, person: Person, run_id: str) -> Access | None:
        """Return whose run it is, where the person may read it; None: of nobody that the service knows.

        Raises
        ------
        NotFoundError
            As :meth:`read`.
        """
        if is_run_id(run_id) and self._store.has(run_id):
            access = self._store.access(run_id)
            if person.is_admin:
                return access
            secret, now = person.links.get(run_id), self.ports.clock.now()
            if access is not None and access.lets_read(person.name, secret=secret, now=now):
                return access
        msg = f"there is no run {run_id[:60]!r} that you may see; GET the list of runs for those you may"
        raise NotFoundError(msg, given=run_id[:60])

    def may_steer(self, person: Person, run_id: str) -> bool:
        """Whether the person may cancel, resume and share the run."""
        access = self.access(person, run_id)
        return person.is_admin or (access is not None and access.owner == person.name)

    def _steer(self, person: Person, run_id: str) -> None:
        if not self.may_steer(person, run_id):
            msg = f"run {run_id} was shared with you to read; only its owner can do this. Fork it to go on by yourself"
            raise NotAllowedError(msg, run_id=run_id)

    # --- looking ---

    def status(self, person: Person, run_id: str) -> dict[str, Any]:
        """Describe where a run stands, as :meth:`haystack_kernel.Run.status` does."""
        return describe_run(self.read(person, run_id).record, self.ports)

    def compare(self, person: Person, run_a: str, run_b: str) -> Comparison:
        """Compare two runs that the person may read."""
        for run_id in (run_a, run_b):
            self.access(person, run_id)
        return compare(run_a, run_b, settings=self.settings)

    def files(self, person: Person, run_id: str) -> dict[str, int]:
        """Return the files of a run that people may have, with their sizes in bytes."""
        self.access(person, run_id)
        return {path: size for path, size in self._store.files(run_id).items() if _is_offered(path)}

    def open_file(self, person: Person, run_id: str, path: str) -> StoredFile:
        """Find one file of a run, to be read piece by piece.

        Raises
        ------
        NotFoundError
            The run has no such file for the person.
        """
        self.access(person, run_id)
        if not _is_offered(path):
            msg = f"run {run_id} has no file {path[:200]!r}; GET the list of its files"
            raise NotFoundError(msg, given=path[:200])
        return self.catalogue.store.open(run_id, path)

    def preview(self, question: str, *, options: Mapping[str, Any], with_candidates: bool = True) -> Preview:
        """Parse a question, search for candidates and estimate the cost; nothing is saved."""
        self._check(question, options)
        return preview(question, ports=self.ports, with_candidates=with_candidates, **options)

    # --- steering ---

    def submit(
        self,
        person: Person,
        question: str,
        *,
        options: Mapping[str, Any] | None = None,
        spending: Spending = Spending(),
        key: str | None = None,
    ) -> tuple[Run, bool]:
        """Hand a question to a job, as :func:`haystack_kernel.submit` does.

        Parameters
        ----------
        person
            Whose run it will be.
        question
            What to ask.
        options
            Fields of :class:`haystack_kernel.schema.RunConfig`.
        spending
            Consent to spending; a run in the cloud needs it, with a cap.
        key
            Idempotency key: the same key with the same request finds the run that it made.

        Returns
        -------
        The run, and whether this call made it.

        Raises
        ------
        InvalidInputError, NotFoundError
            The question or an option is refused.
        ApprovalNeededError
            The run costs money and the request does not consent to it.
        LimitError
            A limit of the person or of the machine is reached.
        ConflictError
            The key was used for another request.
        """
        options = dict(options or {})
        self._check(question, options)
        run_id = new_run_id(self.ports.clock.now())
        key_path = None
        if key is not None:
            key_path, run_id = self._take_key(person, key, run_id, request=[question, options, spending.__dict__])
            if self._store.has(run_id):
                return self.read(person, run_id), False
        try:
            config = build_config(self.settings, **options)
            self._consider(spending, config, lambda: self.preview(question, options=options, with_candidates=False))
            self.allowances.reserve(person.name, run_id, usd=_cap(spending, config))
            try:
                run = submit(
                    question,
                    run_id=run_id,
                    ports=self._open_ports(spending.consent),
                    access=self._new_access(person),
                    **options,
                )
            except ConflictError:  # the same request at the same moment was faster
                if key_path is None or not self._store.has(run_id):
                    raise
                return self.read(person, run_id), False
            except BaseException:
                if not self._store.has(run_id):
                    self.allowances.give_back(person.name, run_id)
                raise
        except HaystackError:
            if key_path is not None and not self._store.has(run_id):  # so that the request can be corrected
                self._files.remove(key_path)
            raise
        self.catalogue.index.look_again([run_id])
        return run, True

    def resume(self, person: Person, run_id: str, *, spending: Spending = Spending()) -> Run:
        """Hand a run that stopped to a new attempt of its job."""
        self._steer(person, run_id)
        record = self._store.load(run_id)
        self._consider(spending, record.config, lambda: None)
        self.allowances.reserve(self._owner(person, run_id), run_id, usd=_cap(spending, record.config))
        run = submit(run_id, ports=self._open_ports(spending.consent))
        self.catalogue.index.look_again([run_id])
        return run

    def cancel(self, person: Person, run_id: str) -> Run:
        """Stop a run and its jobs; finished steps are kept."""
        self._steer(person, run_id)
        run = self.read(person, run_id).cancel()
        self.catalogue.index.look_again([run_id])
        return run

    def fork(
        self,
        person: Person,
        run_id: str,
        *,
        changes: Mapping[str, Any],
        question: str | None = None,
        spending: Spending = Spending(),
    ) -> Run:
        """Make a run of the person's own from one they may read, with some options changed, and start it."""
        parent = self.read(person, run_id).record
        self._check(question, changes)
        config = change_config(parent.config, changes, settings=self.settings)
        for name in FILE_OPTIONS:  # what the owner could read is not read for somebody else
            if getattr(config, name) and not self.may_steer(person, run_id):
                self._check_input(name, getattr(config, name))
        self._consider(spending, config, lambda: None)
        new = new_run_id(self.ports.clock.now())
        self.allowances.reserve(person.name, new, usd=_cap(spending, config))
        try:
            fork(
                run_id,
                changes=changes,
                question=question,
                new_run_id=new,
                settings=self.settings,
                access=self._new_access(person),
            )
            run = submit(new, ports=self._open_ports(spending.consent))
        except BaseException:
            if not self._store.has(new):
                self.allowances.give_back(person.name, new)
            raise
        finally:
            self.catalogue.index.look_again([new])
        return run

    # --- sharing ---

    def share(self, person: Person, run_id: str, *, people: tuple[str, ...], everyone: bool) -> Access:
        """Say who may read a run, beside its owner and whoever holds a link."""
        self._steer(person, run_id)
        names = tuple(dict.fromkeys(name.strip().casefold() for name in people if name.strip()))
        if len(names) > _MAX_SHARED or any(len(name) > 200 or not name.isprintable() for name in names):
            msg = f"a run is shared with {_MAX_SHARED} people at most, each named by an e-mail address"
            raise InvalidInputError(msg, n_people=len(names))
        return self._change(
            person, run_id, lambda found: found.model_copy(update={"shared_with": names, "everyone": everyone})
        )

    def make_link(self, person: Person, run_id: str, *, days: float) -> tuple[str, Access]:
        """Make a link that lets whoever holds it read the run until it expires; its secret is told only now."""
        self._steer(person, run_id)
        most = self.settings.service.link_days
        if not 0 < days <= most:
            msg = f"a link lives {days} days; give more than 0 and {most:g} at most (service.link_days)"
            raise InvalidInputError(msg, days=days)
        secret, now = secrets.token_urlsafe(32), self.ports.clock.now()
        link = ShareLink(digest=secret_digest(secret), made_at=now, expires_at=now + timedelta(days=days))

        def add(found: Access) -> Access:
            alive = tuple(one for one in found.links if one.expires_at > now)
            return found.model_copy(update={"links": (*alive, link)[-_MAX_SHARED:]})

        return secret, self._change(person, run_id, add)

    def end_links(self, person: Person, run_id: str) -> Access:
        """End every link to the run."""
        self._steer(person, run_id)
        return self._change(person, run_id, lambda found: found.model_copy(update={"links": ()}))

    # --- parts ---

    def _change(self, person: Person, run_id: str, change: Callable[[Access], Access]) -> Access:
        made = self._store.change_access(run_id, lambda before: change(before or self._new_access(person)))
        self.catalogue.index.look_again([run_id])
        return made

    def _new_access(self, person: Person) -> Access:
        return Access(owner=person.name, submitted_at=self.ports.clock.now())

    def _owner(self, person: Person, run_id: str) -> str:
        access = self._store.access(run_id)
        return access.owner if access else person.name

    def _check(self, question: str | None, options: Mapping[str, Any]) -> None:
        """Refuse what the command line takes and a person of a service may not say."""
        if question is not None and is_run_id(question.strip()):
            msg = f"{question[:60]!r} is the id of a run, not a question; resume or fork that run instead"
            raise InvalidInputError(msg, given=question[:60])
        for name in FILE_OPTIONS:
            if options.get(name):
                self._check_input(name, str(options[name]))

    def _check_input(self, name: str, address: str) -> None:
        allowed = self.settings.service.inputs
        is_inside = any(address.startswith(start) for start in allowed) and ".." not in address.split("/")
        if self._trusts_inputs or is_inside:
            return
        possible = ", ".join(allowed) or "none: ask who runs the service for a folder (service.inputs)"
        msg = f"{name} {address[:200]!r} is not among the places that this service reads from; possible: {possible}"
        raise InvalidInputError(msg, given=address[:200], possible=list(allowed))

    def _consider(self, spending: Spending, config: RunConfig, look: Callable[[], Preview | None]) -> None:
        """Refuse a run that costs money without consent or without a cap, before anything is made."""
        if not config.costs_money or (spending.approve and spending.max_cost is not None):
            return
        seen = look()
        cost = f": each round costs {describe(seen.of_round)}" if seen is not None and seen.of_round else ""
        if seen is not None and seen.of_planner:
            cost += f"; planner claude costs about {in_usd(seen.of_planner.likely_usd)}"
        msg = (
            f"this run costs money{cost}. Nothing was started: approve it and give the most it may cost "
            "(approve and max_cost)"
        )
        facts = {"low_usd": round(seen.low_usd, 4), "high_usd": round(seen.high_usd, 4)} if seen is not None else {}
        raise ApprovalNeededError(msg, **facts)

    def _take_key(self, person: Person, key: str, run_id: str, *, request: list[Any]) -> tuple[str, str]:
        """Take an idempotency key for a new run, or find the run that it stands for."""
        if not 1 <= len(key) <= 200 or not key.isascii() or not key.isprintable():
            msg = "an idempotency key is 1 to 200 printable ASCII characters"
            raise InvalidInputError(msg, given=key[:200])
        whose, which = (hashlib.sha256(text.encode()).hexdigest()[:32] for text in (person.name, key))
        path = f"{self._root}/{layout.PEOPLE}/{whose}/keys/{which}.json"
        digest = hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()
        if self._files.create(path, json.dumps({"run_id": run_id, "request": digest}).encode()):
            return path, run_id
        found = json.loads(self._files.read(path))
        if found["request"] != digest:
            msg = f"the idempotency key {key!r} was used for another request; take a new key"
            raise ConflictError(msg, given=key)
        return path, str(found["run_id"])


def _cap(spending: Spending, config: RunConfig) -> float:
    """Dollars to reserve for a run: what it may cost at most, nothing on this machine."""
    return (spending.max_cost or 0.0) if config.costs_money else 0.0


def _is_offered(path: str) -> bool:
    """Whether people may have a file: who may read the run, and who works on it, is nobody else's business."""
    return (
        path != layout.ACCESS
        and not path.startswith((f"{layout.LEASES}/", f"{layout.TOLD}/", "."))
        and "/." not in path
    )
