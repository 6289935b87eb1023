"""Packages with engines, put where this process and its children find them, as pip would."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "docs" / "example-engine"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package with engines where this process and its children find it, as pip would."""
    site = tmp_path / "site"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))

    def put(entries, *, name="foreign", source="", version="2.1", licence="MIT"):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (site / f"{name}_code.py").write_text(source)
        lines = "".join(f"{key} = {value}\n" for key, value in entries.items())
        (info / "entry_points.txt").write_text(f"[haystack.engines]\n{lines}")
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: {licence}\n"
        )
        monkeypatch.syspath_prepend(str(site))
        return site

    return put
