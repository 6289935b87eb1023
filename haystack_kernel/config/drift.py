"""A run goes on later, elsewhere, or after an upgrade: what is no longer as it was, said before the next step.

In: a record and the world as it is now. Out: the settings the run keeps, and one sentence per difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from haystack_kernel.errors import ContractError, HaystackError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.schema import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunConfig, RunRecord

SECTIONS = ("retrieval", "rounds", "grounding")  # of the settings, on which numbers depend; the rest is in RunConfig
IN_CONFIG = (("rounds", "threshold"), ("rounds", "maximum"))  # what the run was asked, as threshold and max_rounds
ATLAS = "atlas:"


def recorded_settings(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the sections that a record keeps, without what its configuration says already."""
    whole = settings.model_dump(mode="json")
    return {name: {key: whole[name][key] for key in whole[name] if (name, key) not in IN_CONFIG} for name in SECTIONS}


def pinned(settings: Settings, record: RunRecord) -> Settings:
    """``settings`` with those sections as the run began with them, so that all its steps follow the same rules.

    Raises
    ------
    ContractError
        The record holds a setting that this version does not know.
    """
    try:
        return Settings.model_validate({**settings.model_dump(), **record.settings})
    except ValidationError as error:
        names = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        begun = record.versions.get("haystack-kernel", "another version")
        msg = (
            f"run {record.run_id} was begun by haystack-kernel {begun} with settings that this version refuses "
            f"({names}); go on with that version, or ask the question as a new run"
        )
        raise ContractError(msg, run_id=record.run_id, names=names) from error


def current_digests(config: RunConfig, ports: Ports) -> dict[str, str]:
    """Digests of the atlases of a run and of the knowledge tables as they are now."""
    names = config.atlas_names
    atlas = ports.open_atlas(names).digests() if names else {}
    knowledge = load_knowledge(ports.settings.knowledge)
    return {**{f"{ATLAS}{name}": digest for name, digest in atlas.items()}, **knowledge.digests()}


def find_drift(record: RunRecord, ports: Ports, *, versions: Mapping[str, str]) -> tuple[str, ...]:
    """What changed since the run began, one sentence each; empty for a run that is done.

    Parameters
    ----------
    versions
        Of the software, now.
    """
    if record.status == "done":
        return ()
    found = [*_changed_settings(record, ports.settings), *_changed_versions(record, versions)]
    if record.digests:
        try:
            found += _changed_digests(record, current_digests(record.config, ports))
        except HaystackError as error:  # the step that needs it will refuse; others can go on
            found.append(f"an atlas of the run cannot be opened now: {error}")
    return tuple(found)


def _changed_settings(record: RunRecord, settings: Settings) -> list[str]:
    now = recorded_settings(settings)
    return [
        f"setting {section}.{name} is {now[section].get(name)!r} now; the run keeps {value!r}"
        for section, values in record.settings.items()
        for name, value in values.items()
        if section in now and (section, name) not in IN_CONFIG and now[section].get(name) != value
    ]


def _changed_versions(record: RunRecord, versions: Mapping[str, str]) -> list[str]:
    changed = [
        f"{name} {then} -> {versions[name]}"
        for name, then in record.versions.items()
        if name in versions and versions[name] != then
    ]
    return [f"begun with other software: {', '.join(changed)}"] if changed else []


def _changed_digests(record: RunRecord, now: Mapping[str, str]) -> list[str]:
    found = []
    for name, then in record.digests.items():
        if now.get(name) == then:
            continue
        new = f"{then[:8]} -> {now[name][:8]}" if name in now else f"{then[:8]} -> none"
        if name.startswith(ATLAS):
            what = f"atlas {name.removeprefix(ATLAS)} was rebuilt since the run searched it"
        else:
            what = f"the knowledge table {name} changed since the run read it"
        found.append(f"{what} (digest {new}); steps still to do use the new one, and a new run would use it in all")
    return found
