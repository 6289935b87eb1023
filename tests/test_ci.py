"""What the checks of a change rely on: a browser test that is skipped under CI fails the suite."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = """
import pytest

@pytest.fixture
def browser():
    pytest.skip("none here")

def test_asks_for_the_fixture(browser):
    pass

@pytest.mark.browser
def test_is_marked():
    pytest.skip("a reason of its own")

def test_needs_no_browser():
    pytest.skip("another reason")
"""


@pytest.mark.slow
def test_browser_tests_may_skip_but_not_under_ci(tmp_path):
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (tmp_path / "test_skips.py").write_text(SKIPS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = browser: drives a browser")
    said = {}
    for value in ("", "true"):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pytest.ini"]
        environment = {**os.environ, "CI": value, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they load for seconds
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        said[value] = (done.returncode, done.stdout)
    code, out = said[""]
    assert (code, "3 skipped" in out) == (0, True), out
    code, out = said["true"]
    assert (code, "1 failed, 1 skipped, 1 error" in out) == (1, True), out
    assert out.count("Browser tests must not be skipped under CI.") >= 2
    assert "a reason of its own" in out
