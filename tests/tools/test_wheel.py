"""What a user installs: the two packages with their types; and that the programs outside of them start."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
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


@pytest.mark.slow
def test_what_is_built_for_the_wheel_is_every_file_of_the_packages_and_nothing_else(tmp_path):
    """All but the compiled extension, which is built besides."""
    build = ["egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path / "lib")]
    command = [sys.executable, "setup.py", "-q", *build]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    built = {path.relative_to(tmp_path / "lib") for path in (tmp_path / "lib").rglob("*") if path.is_file()}
    paths = [path.relative_to(ROOT) for name in ("haystack_kernel", "inference") for path in (ROOT / name).rglob("*.*")]
    files = {path for path in paths if (ROOT / path).is_file() and "__pycache__" not in path.parts}
    notebooks = {Path("haystack_kernel") / path.relative_to(ROOT) for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert built == {path for path in files if path.suffix != ".so"} | notebooks
    assert not [path for path in built if path.name.startswith(".env") or path.suffix in {".key", ".pem"}]


def test_programs_outside_the_wheel_start(capsys):
    """Each is run as ``python -m NAME`` in the root of a checkout."""
    pytest.importorskip("torch", reason="needs torch: pip install -e '.[stack]'")
    for name in ("tools.lessons", "tools.train_demo"):
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(name).main(["--help"])
        assert (ended.value.code, name in capsys.readouterr().out) == (0, True)
    for name in ("tools.grounding_quality", "tests.benchmarks.demo_model", "tests.benchmarks.candidates"):
        assert callable(importlib.import_module(name).main)
