"""Engines of other packages: found by the entry points that they declare, without importing any of their code.

In: the installed packages. Out: name -> :class:`Installed`.

An engine is declared in the ``pyproject.toml`` of its package::

    [project.entry-points."haystack.engines"]
    my_engine = "my_package.module:MyEngine"

It is code that the user has installed, and runs with the user's rights; see docs/engines-and-models.md. It needs the
standard library only.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from inference.manifest import ENGINES, is_engine_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "haystack.engines"
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
NOT_STATED = "not stated by its package"


@dataclass(frozen=True)
class Installed:
    """An engine that an installed package declares."""

    name: str
    target: str  # "package.module:object"
    package: str
    version: str
    licence: str  # of the package, by its metadata
    fault: str = ""  # why it cannot be used; empty where nothing is wrong with the declaration

    @property
    def digest(self) -> str:
        """Sha256 of what tells one state of the engine from another: package, version and object."""
        return hashlib.sha256(f"{self.package} {self.version} {self.target}".encode()).hexdigest()


def installed_engines() -> dict[str, Installed]:
    """Engines of other packages by name, also those that cannot be used; their code is not imported."""
    found: dict[str, Installed] = {}
    for entry in entry_points(group=GROUP):
        one = _describe(entry)
        before = found.get(one.name)
        if before is None or before.target == one.target:
            found[one.name] = one
        else:
            fault = f"two packages declare it ({before.package} and {one.package}); uninstall one of them"
            found[one.name] = Installed(one.name, one.target, one.package, one.version, one.licence, fault)
    return dict(sorted(found.items()))


def find_installed(name: str) -> Installed | None:
    """The engine of that name that can be used; None where there is none."""
    one = installed_engines().get(name)
    return one if one is not None and not one.fault else None


def _describe(entry: EntryPoint) -> Installed:
    package = entry.dist.metadata if entry.dist is not None else None

    def stated(key: str) -> str:
        return str(package[key] or "").strip() if package is not None else ""

    licence = (stated("License-Expression") or stated("License") or NOT_STATED).splitlines()[0]
    fault = ""
    if entry.name in ENGINES:
        fault = f"the name is that of an engine of HAYSTACK ({', '.join(ENGINES)}); its author must choose another one"
    elif not is_engine_name(entry.name):
        fault = "the name must be 2 to 40 of a-z, 0-9 and _, begin with a letter, and be none of HAYSTACK's own words"
    elif not _TARGET.fullmatch(entry.value):
        fault = f"its entry point {entry.value!r} is not 'package.module:object'"
    return Installed(entry.name, entry.value, stated("Name"), stated("Version"), licence, fault)
