"""The house rules as tests: who may import whom, what importing costs, what is pinned."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "haystack_kernel"

# From top to bottom: a row imports only rows below it; modules of one row do not import each other, but for SIBLINGS.
# service, widgets, campaign and backtest are places for parts that do not exist yet.
LAYERS = [
    "__init__ __main__",
    "cli",
    "jupyter service widgets",
    "manage",
    "campaign backtest",
    "run",
    "steering",
    "flow",
    "rounds",
    "config",
    "planners",
    "report pl",
    "grounding",
    "jobs",
    "atlas",
    "retrieval",
    "literature knowledge store",
    "progress",
    "ports",
    "schema",
    "errors keys",
]
DEPTH = {name: depth for depth, row in enumerate(reversed(LAYERS)) for name in row.split()}
SIBLINGS = {("report", "pl")}
FORBIDDEN = {  # what scores must not see how prompts are chosen, nor what the simulator knows
    "grounding": ("haystack_kernel.retrieval", "haystack_kernel.atlas.demo"),
    "retrieval": ("haystack_kernel.grounding", "haystack_kernel.atlas.demo"),
    "knowledge": ("haystack_kernel.atlas",),
    "planners": ("haystack_kernel.atlas", "haystack_kernel.grounding"),
}
INFERENCE_ALLOWED = {
    "inference.manifest",
    "inference.baselines",
    "inference.checks",
    "inference.preflight",
    "inference.bucket",
    "inference.patience",
    "inference.errors",
}
HEAVY = (
    "pandas",
    "matplotlib",
    "anndata",
    "scanpy",
    "scipy",
    "nbformat",
    "nbconvert",
    "papermill",
    "torch",
    "sklearn",
    "pronto",
    "google.cloud.batch_v1",
    "google.api_core",
    "grpc",
)


def imported(path: Path) -> list[str]:
    """Full names of all modules a file imports, at any depth of the file."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_imports_only_what_lies_below_it(path):
    part = part_of(path)
    assert part in DEPTH, f"{part} has no row: add it to LAYERS and to CONTRIBUTING.md"
    parts = {name.split(".")[1] for name in imported(path) if name.startswith("haystack_kernel.")}
    wrong = {
        name
        for name in parts & DEPTH.keys()
        if name != part and DEPTH[name] >= DEPTH[part] and (part, name) not in SIBLINGS
    }
    assert not wrong, f"{part} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_keeps_the_scientific_separations(path):
    for forbidden in FORBIDDEN.get(part_of(path), ()):
        assert not [name for name in imported(path) if name.startswith(forbidden)]
    from_inference = {".".join(name.split(".")[:2]) for name in imported(path) if name.split(".")[0] == "inference"}
    assert from_inference <= INFERENCE_ALLOWED


@pytest.mark.parametrize("path", sorted((ROOT / "inference").rglob("*.py")), ids=lambda p: p.name)
def test_inference_never_imports_the_kernel(path):
    assert not [name for name in imported(path) if name.split(".")[0] == "haystack_kernel"]


@pytest.mark.parametrize("statement", ["import haystack_kernel", "import haystack_kernel.cli"])
def test_importing_the_face_loads_nothing_heavy(statement):
    code = f"{statement}; import sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_lazy_face_lists_and_resolves_every_name():
    import haystack_kernel

    assert set(haystack_kernel.__all__) <= set(dir(haystack_kernel))
    for name in haystack_kernel.__all__:
        assert getattr(haystack_kernel, name) is not None
    with pytest.raises(AttributeError, match="has no 'nonsense'"):
        _ = haystack_kernel.nonsense


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(item for group in project["optional-dependencies"].values() for item in group),
    ]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^=\s]+", line) for line in pins), "a constraint is not an exact pin"
    pinned = {normalised(line.split("==")[0]) for line in pins}
    missing = {normalised(re.match(r"[A-Za-z0-9._-]+", item).group()) for item in wanted} - pinned
    assert not missing
    assert "torch==2.13.0" in pins


def test_the_conda_environment_installs_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["dependencies"] == ["python=3.11", "pip", {"pip": ["-c constraints.txt", "-e .[lab]"]}]


def test_the_readme_names_commands_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", readme)) <= targets
    assert "make test" in readme
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


PUBLIC = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__main__.py"]


@pytest.mark.parametrize("path", PUBLIC, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_docstring_says_what_goes_in_and_out(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert text
    if path.name != "__init__.py":
        assert "In:" in text
        assert "Out:" in text
