"""Models that come with this package, known by a name in place of an address.

In: a name. Out: paths of the checkpoint and its gene list. ``demo`` is a small model of the published architecture,
trained by ``python -m tools.train_demo`` on simulated cells; ``demo.md`` beside it says what it reaches.
"""

from __future__ import annotations

from pathlib import Path

from inference.manifest import DEMO_MODEL

_FOLDER = Path(__file__).parent
_FILES = {DEMO_MODEL: ("demo.safetensors", "demo.genes.json")}


def packaged(name: str | None) -> tuple[Path, Path] | None:
    """Return checkpoint and gene list of a packaged model; None where ``name`` is an address."""
    files = _FILES.get(name or "")
    return (_FOLDER / files[0], _FOLDER / files[1]) if files else None
