"""Check what a run on this machine needs: software, folders with free space, memory.

In: settings. Out: what was found and what to do, with one function per check.
"""

from __future__ import annotations

import platform
import secrets
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.atlas import list_atlases, local_root
from haystack_kernel.config.options import DEMO_ATLASES
from haystack_kernel.store import hide_home
from haystack_kernel.store.files import open_filesystem
from inference.manifest import MODEL_PACKAGES

if TYPE_CHECKING:
    from haystack_kernel.schema import Settings

_DISTRIBUTION = "haystack-kernel"
_MIN_FREE_GIB = 2.0
_MIN_MEMORY_GIB = 3.0
_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Found:
    """The outcome of a check: whether it passed, what was found, and what to do if it did not pass."""

    ok: bool
    text: str
    remedy: str = ""


def python(settings: Settings) -> Found:
    """Check the version of Python."""
    ok = sys.version_info >= _OLDEST_PYTHON
    return Found(ok, f"Python {platform.python_version()}", "" if ok else "install Python 3.11 or later")


def packages(settings: Settings) -> Found:
    """Check the packages that HAYSTACK requires, and the versions that a checkout's constraints.txt pins."""
    wrong, n_required = _unmet_requirements()
    text = "; ".join(wrong) or f"all {n_required} required packages are installed"
    untested = []  # other versions than HAYSTACK was tested with
    constraints = Path(__file__).parents[2] / "constraints.txt"  # in a checkout; an installed wheel has none
    lines = constraints.read_text(encoding="utf-8").splitlines() if constraints.is_file() else []
    for line in lines:
        if line.startswith("#") or "==" not in line:
            continue
        name, pinned = line.split("==")
        version = _version(name)
        if version not in (None, pinned):
            untested.append(f"{name} {version} (pinned {pinned})")
    text += f"; versions that differ from those tested: {', '.join(untested)}" if untested else ""
    return Found(not wrong, text, "pip install -c constraints.txt haystack-kernel" if wrong or untested else "")


def storage(settings: Settings) -> Found:
    """Check that run folders can be created, and how much space is free."""
    return _folder(settings.storage, name="HAYSTACK_STORAGE")


def cache(settings: Settings) -> Found:
    """Check that jobs can write their logs."""
    return _folder(settings.cache, name="HAYSTACK_CACHE")


def atlas_root(settings: Settings) -> Found:
    """Check that the configured atlases exist; the demo atlas is built when it is first used."""
    if "://" in settings.atlas_root:
        fs, root = open_filesystem(settings.atlas_root)
        if not fs.exists(root):
            return Found(ok=False, text=f"{settings.atlas_root} does not exist", remedy="set HAYSTACK_ATLAS_ROOT")
        found = Found(ok=True, text=f"{settings.atlas_root} can be read")
    else:
        found = _folder(settings.atlas_root, name="HAYSTACK_ATLAS_ROOT")
    names = list_atlases(local_root(settings.atlas_root, cache=settings.cache))
    missing = [name for name in settings.atlases if name not in names and name not in DEMO_ATLASES]
    text = f"{found.text}; atlases: {', '.join(names) or 'none yet'}"
    if missing:
        remedy = f"build {', '.join(missing)} with `haystack atlas build`, or set HAYSTACK_ATLASES"
        return Found(ok=False, text=f"{text}; configured but absent: {', '.join(missing)}", remedy=remedy)
    return Found(found.ok, text, found.remedy)


def memory(settings: Settings) -> Found:
    """Check how much memory is free."""
    import psutil

    now = psutil.virtual_memory()
    free, total = now.available / 2**30, now.total / 2**30
    ok = free >= _MIN_MEMORY_GIB
    remedy = f"a run needs about {_MIN_MEMORY_GIB:g} GiB: close other programs, or use executor batch"
    return Found(ok, f"{free:.1f} of {total:.1f} GiB are free", "" if ok else remedy)


def torch(settings: Settings) -> Found:
    """Check the packages that engine ``stack`` needs, without importing them."""
    have = {name: _version(name) for name in MODEL_PACKAGES}
    missing = [name for name, version in have.items() if version is None]
    text = ", ".join(f"{name} {version or 'is missing'}" for name, version in have.items())
    remedy = "pip install 'haystack-kernel[stack]', or use an engine that needs no model"
    return Found(not missing, text, remedy if missing else "")


def fast_kernels(settings: Settings) -> Found:
    """Check for the compiled extension that makes engine ``stack`` fast on a CPU."""
    spec = find_spec("inference.stack._native")
    remedy = "install a C compiler and reinstall haystack-kernel; until then the slower code of torch is used"
    return Found(spec is not None, "compiled" if spec else "not compiled", "" if spec else remedy)


def demo_model(settings: Settings) -> Found:
    """Check for the packaged model of the demo atlas."""
    package = find_spec("inference")
    files = sorted(Path(package.origin).parent.rglob("*.safetensors")) if package and package.origin else []
    text = ", ".join(f"{path.name}, {path.stat().st_size / 2**20:.1f} MiB" for path in files)
    remedy = "reinstall haystack-kernel; until then the demo uses an engine without a model"
    return Found(bool(files), text or "missing", "" if files else remedy)


def planner(settings: Settings) -> Found:
    """Check who reads questions: rules, or a language model that has what it needs. It is not asked."""
    claude, chosen = settings.claude, settings.planner
    if chosen == "offline" or (chosen == "auto" and not claude.is_configured):
        return Found(ok=True, text=f"{chosen}: questions are read by rules, no language model is asked")
    text = f"{chosen}: claude with {claude.model}, at most {claude.max_usd:.2f} USD a run"
    if _version("anthropic") is None:
        remedy = "pip install 'haystack-kernel[claude]', or set HAYSTACK_PLANNER=offline"
        return Found(ok=False, text=f"{text}; the package anthropic is missing", remedy=remedy)
    if not claude.is_configured:
        remedy = "set HAYSTACK_CLAUDE__API_KEY or HAYSTACK_CLAUDE__PROVIDER, or HAYSTACK_PLANNER=offline"
        return Found(ok=False, text=f"{text}; no credentials are configured", remedy=remedy)
    return Found(ok=True, text=text)


def assistants(settings: Settings) -> Found:
    """Check what assistants may do through ``haystack mcp``."""
    version, limits = _version("mcp"), settings.mcp
    if version is None:
        return Found(ok=False, text="the package mcp is missing", remedy="pip install 'haystack-kernel[mcp]'")
    spend = f"cost {limits.max_usd:.2f} USD together" if limits.max_usd else "cost nothing"
    text = f"mcp {version}; runs started through one server may {spend}, {limits.runs_at_once} at a time"
    return Found(ok=True, text=text)


def write_and_delete(address: str) -> None:
    """Create, read back and delete a small file below ``address``; raises the error of the storage."""
    fs, root = open_filesystem(address)
    path, data = f"{root}/.haystack-doctor-{secrets.token_hex(6)}", b"can be written"
    fs.pipe_file(path, data)
    try:
        if fs.cat_file(path) != data:
            msg = f"{path} reads back differently from what was written"
            raise OSError(msg)
    finally:
        fs.rm_file(path)


def _folder(address: str, *, name: str) -> Found:
    """Check that a folder, or its nearest existing parent, is writable, and how much space is free."""
    if "://" in address:
        write_and_delete(address)
        return Found(ok=True, text=f"files can be written, read and deleted in {address}")
    folder = Path(address)
    while not folder.exists():
        folder = folder.parent
    if not _is_writable(folder):
        return Found(ok=False, text=f"{hide_home(str(folder))} is not writable", remedy=f"set {name} to another folder")
    free = shutil.disk_usage(folder).free / 2**30
    text = f"{hide_home(address)}{'' if folder == Path(address) else ' (will be created)'}, {free:.1f} GiB free"
    ok = free >= _MIN_FREE_GIB
    return Found(ok, text, "" if ok else f"free some space (`haystack gc`), or set {name} to another disk")


def _is_writable(folder: Path) -> bool:
    try:
        write_and_delete(str(folder))
    except OSError:  # StorageError is one
        return False
    return True


def _unmet_requirements() -> tuple[list[str], int]:
    """Requirements of the installed HAYSTACK that are not met, in words, and how many there are without extras."""
    from packaging.requirements import Requirement

    every = [Requirement(text) for text in metadata.requires(_DISTRIBUTION) or ()]
    required = [item for item in every if item.marker is None or item.marker.evaluate({"extra": ""})]
    wrong = []
    for item in required:
        version = _version(item.name)
        if version is None or not item.specifier.contains(version, prereleases=True):
            wrong.append(f"{item.name} {version or 'is missing'} (needs {item.specifier or 'any'})")
    return wrong, len(required)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name).partition("+")[0]  # a build for one processor is the same version
    except metadata.PackageNotFoundError:
        return None
