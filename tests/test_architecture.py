"""The house rules as tests: who imports whom, what importing costs, what is declared, which words are used.

One test holds one rule: it collects every offender and names them all.
"""

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module, metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "haystack_kernel"

# From top to bottom: a row imports only rows below it; modules of one row do not import each other, but for SIBLINGS.
LAYERS = [
    "__init__ __main__",
    "cli",
    "jupyter mcp service widgets",
    "manage",
    "campaign",
    "backtest",
    "batches",
    "asking atlas_in",
    "run",
    "steering",
    "flow",
    "rounds",
    "config",
    "planners",
    "explorer",
    "export",
    "report pl",
    "get",
    "grounding",
    "jobs",
    "atlas",
    "retrieval",
    "literature knowledge store",
    "progress",
    "ports",
    "schema",
    "errors keys texts",
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
    "inference.counts",
    "inference.effects",
    "inference.formats",
    "inference.genes",
    "inference.h5",
    "inference.h5_write",
    "inference.imports",
    "inference.installed",
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
    "anthropic",
    "httpx2",
)


# --- reading the sources --------------------------------------------------------------------------------------------


@cache
def sources(*folders):
    """Every Python file of the folders with its tree."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path: parsed(path) for path in paths}


@cache
def parsed(path):
    """Each file is parsed once, whichever folders are asked for together."""
    return ast.parse(path.read_text(encoding="utf-8"))


def shown(path):
    return path.relative_to(ROOT).as_posix()


@cache
def imported(tree):
    """Full names of all modules a file imports, at any depth of the file."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names]
    return names


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


# --- who imports whom -----------------------------------------------------------------------------------------------


def test_a_row_imports_only_rows_below_it():
    wrong = []
    for path, tree in sources("haystack_kernel").items():
        part = part_of(path)
        if part not in DEPTH:
            wrong.append(f"{shown(path)}: {part} has no row; add it to LAYERS and to CONTRIBUTING.md")
            continue
        parts = {name.split(".")[1] for name in imported(tree) if name.startswith("haystack_kernel.")}
        above = {name for name in parts & DEPTH.keys() if name != part and DEPTH[name] >= DEPTH[part]}
        wrong += [f"{shown(path)} may not import {name}" for name in sorted(above) if (part, name) not in SIBLINGS]
    assert not wrong, "\n".join(wrong)


def test_no_import_is_relative():
    trees = sources("haystack_kernel", "inference", "tools").items()
    assert not [shown(path) for path, tree in trees for name in imported(tree) if name.startswith(".")]


def test_what_scores_a_prediction_never_meets_what_chooses_its_prompt():
    wrong = []
    for path, tree in sources("haystack_kernel").items():
        for forbidden in FORBIDDEN.get(part_of(path), ()):
            wrong += [f"{shown(path)} imports {name}" for name in imported(tree) if name.startswith(forbidden)]
    assert not wrong, "\n".join(wrong)


def test_the_kernel_takes_only_contracts_from_inference_which_never_imports_the_kernel():
    wrong = []
    for path, tree in sources("haystack_kernel").items():
        taken = {".".join(name.split(".")[:2]) for name in imported(tree) if name.split(".")[0] == "inference"}
        wrong += [f"{shown(path)} imports {name}" for name in sorted(taken - INFERENCE_ALLOWED)]
    for path, tree in sources("inference").items():
        wrong += [f"{shown(path)} imports {name}" for name in imported(tree) if name.split(".")[0] == "haystack_kernel"]
    assert not wrong, "\n".join(wrong)


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
    with pytest.raises(AttributeError, match="has no 'chek'; did you mean 'check'"):
        _ = haystack_kernel.chek


def test_what_tab_offers_is_about_a_dozen_verbs_and_no_internals():
    """A person who types ``haystack.`` and Tab sees what to do next; every module stays importable by its full name."""
    code = (
        "import haystack_kernel, json; offered = dir(haystack_kernel)\n"
        "from haystack_kernel import flow, jobs, store\n"
        "print(json.dumps([offered, dir(haystack_kernel)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    offered, after = json.loads(done.stdout)
    assert offered == after == sorted(offered)
    assert 10 <= len(offered) <= 20, offered
    assert not {"flow", "store", "jobs", "planners", "retrieval", "grounding", "annotations", "Any"} & set(offered)


def test_no_module_of_the_campaigns_takes_the_place_of_a_verb():
    """``haystack.campaign.screen`` would be the module once something imports ``haystack_kernel.campaign.screen``."""
    from haystack_kernel import campaign

    taken = {path.stem for path in (PACKAGE / "campaign").glob("*.py")} & set(campaign.__all__)
    assert not taken, f"rename the modules {taken}: screen.py is screening.py, seal.py is sealing.py"


# --- one fact, one place --------------------------------------------------------------------------------------------


def literals(tree):
    """String constants of code: docstrings and other bare strings are left out."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.lineno, node.value


ELSEWHERE = {  # the same word for something else
    "haystack_kernel/schema/settings.py": "the description of the setting `storage` says where run folders lie",
}


def test_file_names_of_a_run_folder_exist_only_in_the_layout():
    from haystack_kernel.store import layout

    constants = {value for name, value in vars(layout).items() if name.isupper() and isinstance(value, str)}
    files = "|".join(re.escape(name) for name in sorted(constants) if "." in name)
    folders = "|".join((layout.RUNS, layout.RECORDS, layout.LEASES, layout.ROUNDS, layout.OUTPUTS))
    written = re.compile(rf"(?<![\w.-])(?:{files})(?![\w-]|\.\w)|(?:^|/)(?:{folders})/")
    wrong = []
    for path, tree in sources("haystack_kernel").items():
        if path == PACKAGE / "store" / "layout.py" or shown(path) in ELSEWHERE:
            continue
        wrong += [f"{shown(path)}:{line} writes {text!r}" for line, text in literals(tree) if written.search(text)]
    assert not wrong, "take it from haystack_kernel/store/layout.py:\n" + "\n".join(wrong)


# --- dependencies ---------------------------------------------------------------------------------------------------


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def names_of(requirements):
    return {normalised(re.match(r"[A-Za-z0-9._-]+", item).group()) for item in requirements}


@cache
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


EXTRA_PARTS = {  # extra -> the parts that may import what it declares
    "gcp": ("haystack_kernel/jobs/batch/", "haystack_kernel/manage/", "inference/bucket.py", "inference/patience.py"),
    "stack": ("inference/",),
    "claude": ("haystack_kernel/planners/claude/",),
    "ontology": ("haystack_kernel/knowledge/",),
    "service": ("haystack_kernel/service/",),
    "notify": ("haystack_kernel/manage/",),
    "mcp": ("haystack_kernel/mcp/",),
    "lab": ("haystack_kernel/widgets/", "haystack_kernel/explorer/"),
}
UNDECLARED = {  # what is imported only where somebody has it
    "triton": "comes with CUDA builds of torch",
    "hdf5plugin": "reads compressed files of users who have it; its absence is an error that names it",
}
NOT_IMPORTED = {
    "ipykernel": "papermill starts it as the notebook's kernel",
    "gcsfs": "fsspec finds it by the protocol of an address",
    "jupyter-server-proxy": "opens the service inside JupyterLab",
    "python-multipart": "FastAPI reads forms with it",
    "cryptography": "PyJWT checks signatures with it",
    "jupyterlab": "the place where notebooks are opened",
    "scanpy": "users read predictions.h5ad with it; nothing here computes with it",
}


installed = cache(metadata.packages_distributions)  # it reads every installed file list


@cache
def namespace_owners():
    """Modules below ``google`` -> distribution, for the names that many distributions share."""
    owners = {}
    for name in set(installed().get("google", ())):
        for file in metadata.files(name) or ():
            module = file.as_posix().removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            owners[module] = normalised(name)
    return owners


def distribution_of(module):
    """Normalised name of the distribution that a module comes from; its own name where it is not installed."""
    top = module.split(".")[0]
    if top == "google":
        parts = module.split(".")
        owners = namespace_owners()
        return next(
            (owners[found] for n in range(len(parts), 0, -1) if (found := ".".join(parts[:n])) in owners), module
        )
    return normalised(installed().get(top, [top])[0])


def test_dependencies_are_what_is_imported():
    core = names_of(project()["dependencies"])
    extras = {name: names_of(items) for name, items in project()["optional-dependencies"].items()}
    own = {"haystack_kernel", "inference", "tools"}
    used, wrong = set(), []
    for path, tree in sources("haystack_kernel", "inference").items():
        for name in imported(tree):
            if name.split(".")[0] in sys.stdlib_module_names | own:
                continue
            found = distribution_of(name)
            used.add(found)
            serving = [extra for extra, parts in EXTRA_PARTS.items() if shown(path).startswith(parts)]
            declared = core.union(*(extras[extra] for extra in serving))
            if found not in declared | UNDECLARED.keys():
                wrong.append(f"{shown(path)} imports {name} ({found}), which neither core nor an extra for it declares")
    for group, names in {"core": core, **extras}.items():
        if group != "dev":
            wrong += [f"nothing imports {name} of {group}" for name in sorted(names - used - NOT_IMPORTED.keys())]
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_the_inference_image_installs_what_inference_imports():
    lines = (ROOT / "inference" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = names_of(line for line in lines if line and not line.startswith("#"))
    used = {distribution_of(name) for tree in sources("inference").values() for name in imported(tree)}
    used -= {normalised(name) for name in sys.stdlib_module_names}
    assert used - {"inference", "haystack-kernel"} - UNDECLARED.keys() == listed


def test_dev_brings_every_extra_that_code_imports():
    extras = {name: names_of(items) for name, items in project()["optional-dependencies"].items()}
    assert set().union(*(extras[name] for name in EXTRA_PARTS)) <= extras["dev"]


def test_every_dependency_is_pinned():
    groups = [project()["dependencies"], *project()["optional-dependencies"].values()]
    wanted = {name for group in groups for name in names_of(group)}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^=\s]+", line) for line in pins), "a constraint is not an exact pin"
    missing = wanted - {normalised(line.split("==")[0]) for line in pins}
    assert not missing
    assert "torch==2.13.0" in pins


def test_pins_satisfy_what_the_project_and_its_containers_ask_for():
    from packaging.requirements import Requirement

    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    pins = {normalised(name): version for name, version in pins.items()}
    texts = [
        text for group in [project()["dependencies"], *project()["optional-dependencies"].values()] for text in group
    ]
    asked = [Requirement(text) for text in texts]
    lines = (ROOT / "inference" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    of_container = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for one in [*asked, *of_container]:
        assert one.specifier.contains(pins[normalised(one.name)], prereleases=True), str(one)
    bounds = {}
    for one in [*asked, *of_container]:
        bounds.setdefault(normalised(one.name), set()).add(str(one.specifier))
    assert {name: found for name, found in bounds.items() if len(found) > 1} == {}, "asked for in two ways"


def test_one_python_and_one_torch_everywhere():
    python = re.search(r">=([\d.]+)", project()["requires-python"])[1]
    recipes = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docker").glob("Dockerfile.*")}
    bases = {name: re.search(r"^ARG BASE_IMAGE=(\S+)", text, re.MULTILINE)[1] for name, text in recipes.items()}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    torch = re.search(r"^torch==(\S+)", pins, re.MULTILINE)[1]
    assert {base.split("-")[0] for base in bases.values()} == {f"python:{python}", f"pytorch/pytorch:{torch}"}
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert set(re.findall(r'python-version: "([\d.]+)"', workflow)) == {python}
    tools = {pin for text in recipes.values() for pin in re.findall(r"setuptools==[\d.]+", text)}
    assert tools == {re.search(r"^setuptools==\S+", pins, re.MULTILINE)[0]}


def test_the_conda_environment_installs_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["dependencies"] == ["python=3.11", "pip", {"pip": ["-c constraints.txt", "-e .[lab]"]}]


# --- how code reads -------------------------------------------------------------------------------------------------

MOST_COMPLEX = 12


def test_no_function_is_too_complex():
    from radon.complexity import cc_visit_ast

    wrong = []
    for path, tree in sources("haystack_kernel", "inference", "tools").items():
        knots = [block for block in cc_visit_ast(tree) if block.letter != "C" and block.complexity > MOST_COMPLEX]
        wrong += [f"{shown(path)}:{block.lineno} {block.fullname} has {block.complexity}" for block in knots]
    assert not wrong, "\n".join(wrong)


def test_module_docstring_says_what_goes_in_and_out():
    wrong = []
    for path, tree in sources("haystack_kernel").items():
        text = ast.get_docstring(tree) or ""
        if not text or (not path.name.startswith("__") and not ("In:" in text and "Out:" in text)):
            wrong.append(shown(path))
    assert not wrong


FORM = {  # numpydoc's codes: the docstring is there, its summary is one sentence, its parameters exist
    "GL03", "GL08", "SS01", "SS02", "SS03", "SS04", "SS06", "PR02", "PR10",
}  # fmt: skip
SECTIONS = {"PR01", "RT01"}  # parameters and results are described
VERB = SECTIONS | {"EX01"}  # and an example shows how


# modules that notebooks import by their full name; the face does not offer them
DESCRIBED = ("planners", "retrieval", "jobs", "grounding", "report", "flow", "knowledge", "store", "manage")


def public_objects():
    """Qualified name -> (object, whether the face itself offers it), for everything that it and its modules offer."""
    import haystack_kernel

    found = {}
    faces = {name: getattr(haystack_kernel, name) for name in haystack_kernel.__all__}
    faces |= {name: import_module(f"haystack_kernel.{name}") for name in DESCRIBED}
    faces["Run"] = import_module("haystack_kernel.run").Run
    for offered in faces.values():
        names = getattr(offered, "__all__", None) or [key for key in vars(offered) if not key.startswith("_")]
        members = [getattr(offered, key) for key in names] if inspect.ismodule(offered) else [offered]
        for item in members:
            if not inspect.isfunction(item) and not inspect.isclass(item):
                continue
            if not item.__module__.startswith("haystack_kernel"):
                continue
            path = f"{item.__module__}.{item.__qualname__}"
            found[path] = (item, found.get(path, (None, False))[1] or not inspect.ismodule(offered))
    return found


def described(path, item, *, is_verb):
    """The object and the public methods of a class, each with the codes it must fulfil.

    Steps of the flow all take a record and the ports; methods of classes that implement a port are described there.
    """
    if inspect.isfunction(item):
        is_step = list(inspect.signature(item).parameters)[:2] == ["record", "ports"]
        yield path, FORM | VERB if is_verb else FORM if is_step else FORM | SECTIONS
        return
    yield path, FORM
    for name, member in vars(item).items():
        if not name.startswith("_") and inspect.isfunction(member):
            has_options = len(inspect.signature(member).parameters) > 1
            yield f"{path}.{name}", FORM | SECTIONS if is_verb and has_options else FORM


def test_docstrings_of_the_public_api_are_numpydoc():
    from numpydoc.validate import validate

    wrong = []
    for path, (item, is_verb) in public_objects().items():
        for name, codes in described(path, item, is_verb=is_verb):
            wrong += [f"{name}: {code} {text}" for code, text in validate(name)["errors"] if code in codes]
    assert not wrong, "\n".join(wrong)


# --- words ----------------------------------------------------------------------------------------------------------

TRANSLATES = {"haystack_kernel/schema/score.py": "translates names that records of earlier versions hold"}
TEXTS = {".py", ".md", ".ipynb", ".j2", ".css", ".js", ".html", ".toml", ".yml", ".yaml", ".c", ".h"}


def glossary():
    """Term -> (meaning, what it is not used for), as CONTRIBUTING.md has them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("# Glossary")[1].split("\n# ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {term: (meaning, instead) for term, meaning, instead in rows[2:]}


def test_the_glossary_defines_each_term_once_and_in_order():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(glossary()) > 20
    assert all(text.count(f"\n| {term} |") == 1 for term in glossary())
    assert all(meaning for meaning, _ in glossary().values())


def test_retired_words_are_not_used():
    retired = [word for _, instead in glossary().values() for word in re.findall(r"`([^`]+)`", instead)]
    assert "rival" in retired
    pattern = re.compile("|".join(rf"(?<![a-z]){re.escape(word)}" for word in retired), re.IGNORECASE)
    apart = {ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", Path(__file__).resolve()}
    folders = ("haystack_kernel", "inference", "tools", "tests", "notebooks", "docs", "docker")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS]
    wrong = []
    for path in [*paths, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.py")]:
        if path in apart or shown(path) in TRANSLATES:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            wrong += [f"{shown(path)}:{number} says {word!r}" for word in pattern.findall(line)]
    assert not wrong, "\n".join(wrong)


# --- what the pages say ---------------------------------------------------------------------------------------------


def test_the_pages_name_make_targets_that_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run", *(ROOT / "docs").glob("*.md")]
    named = {path: set(re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.MULTILINE)) for path in pages}
    assert not {shown(path): names - targets for path, names in named.items() if names - targets}
    assert "test" in named[ROOT / "README.md"]
    assert {"test", "lint"} <= named[ROOT / ".ci" / "run"]


def test_contributing_names_files_and_rows_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`([\w/]+\.(?:py|md))`", text))
    assert len(files) > 15
    assert not {name for name in files if not (ROOT / name).exists() and not (PACKAGE / name).exists()}
    table = text.split("\n\n\\*")[0]
    rows = [set(re.findall(r"`(\w+)/?`", line.split("|")[1])) for line in table.splitlines() if line.startswith("| `")]
    assert [name for row in rows for name in row if name not in DEPTH] == []
    deepest = [min(DEPTH[name] for name in row) for row in rows]
    assert deepest == sorted(deepest, reverse=True)
    assert set().union(*rows) | {"__init__", "__main__"} == DEPTH.keys()
