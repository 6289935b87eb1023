"""Which engines there are: HAYSTACK's own, and those of installed packages and of images.

In: settings, a name. Out: a list to choose from, or an error that names what is possible. No engine's code is imported.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import InvalidInputError
from inference.installed import installed_engines
from inference.manifest import AUTO, ENGINES

if TYPE_CHECKING:
    from haystack_kernel.schema import ExecutorName, Settings

WORDS = {
    AUTO: "the engine that the back-test of the atlas favours for the evidence at hand; else the default",
    "none": "no change",
    "mean": "the mean response over the prompt's cell types",
    "shift": "prompt minus control of the same cell type, averaged over the prompt's cells",
    "weighted": "shifts of several cell types, weighted by similarity and size, shrunk by their errors",
    "additive": "weighted, with what the cells show under other treatments where that predicts them better",
    "stack": "in-context generation by the model STACK (needs torch and a model)",
}


@dataclass(frozen=True)
class EngineEntry:
    """An engine that can be asked for, or the reason why not."""

    name: str
    says: str
    package: str = ""  # with its version; empty: HAYSTACK's own
    licence: str = ""
    image: str = ""  # in which jobs of the cloud run it
    fault: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return asdict(self)


def list_engines(settings: Settings) -> list[EngineEntry]:
    """List every engine: those of HAYSTACK first, ``auto`` at their top, then those of other packages by name.

    Parameters
    ----------
    settings
        Section ``batch`` names images of engines that need not be installed here.

    Examples
    --------
    >>> [one.name for one in list_engines(settings)][:3]  # doctest: +SKIP
    ['auto', 'none', 'mean']
    """
    images, here = settings.batch.engine_images, installed_engines()
    found = [EngineEntry(name, says) for name, says in WORDS.items()]
    for name in sorted({*here, *images} - set(ENGINES)):
        one = here.get(name)
        if one is None:
            found.append(EngineEntry(name, "in an image of the cloud only (executor batch)", image=images[name]))
            continue
        found.append(
            EngineEntry(
                name,
                f"{one.target}, code of an installed package",
                package=f"{one.package} {one.version}",
                licence=one.licence,
                image=images.get(name, ""),
                fault=one.fault,
            )
        )
    return [*found, *(EngineEntry(one.name, "", fault=one.fault) for one in here.values() if one.name in ENGINES)]


def engine_names(settings: Settings) -> list[str]:
    """Names that can be asked for, in the order of :func:`list_engines`."""
    return [one.name for one in list_engines(settings) if not one.fault]


def check_engine(name: str, *, settings: Settings, executor: ExecutorName) -> None:
    """Refuse an engine that is not there.

    Raises
    ------
    InvalidInputError
        No engine has this name, or its package cannot be used, or it is in an image only and the job runs here.
    """
    if name in WORDS:
        return
    entries = {one.name: one for one in list_engines(settings)}
    found, possible = entries.get(name), [one.name for one in entries.values() if not one.fault]
    if found is None:
        near = get_close_matches(name, possible, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        msg = (
            f"engine {name!r} is unknown{hint} Possible: {', '.join(possible)}. An engine of your own is a package "
            "with an entry point in haystack.engines; `haystack engine list` shows those installed"
        )
        raise InvalidInputError(msg, given=name, possible=possible)
    if found.fault:
        msg = f"engine {name!r} cannot be used: {found.fault}; possible: {', '.join(possible)}"
        raise InvalidInputError(msg, given=name, possible=possible)
    if not found.package and executor == "local":
        msg = f"engine {name!r} is in an image of the cloud only; install its package here, or use --executor batch"
        raise InvalidInputError(msg, given=name)
