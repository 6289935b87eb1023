"""What a user installs: the two packages with their types, and nothing that only training and tests need."""

import tomllib
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_holds_two_typed_packages_and_no_training():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = find_packages(str(ROOT), include=settings["packages"]["find"]["include"])
    assert {name.split(".")[0] for name in found} == {"haystack_kernel", "inference"}
    packed = [path for name in found for path in (ROOT / name.replace(".", "/")).glob("*.py")]
    assert not {"tools", "tests", "training", "train_demo", "lessons", "truth"} & {
        part for path in packed for part in path.relative_to(ROOT).with_suffix("").parts
    }
    assert "py.typed" in settings["package-data"]["*"]
    assert all((ROOT / name / "py.typed").is_file() for name in ("haystack_kernel", "inference"))
