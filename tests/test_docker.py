"""The image recipes as text: what they install, copy, run and run as; docker/README.md says how to build them."""

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "docker").glob("Dockerfile.*"))
TORCH, PLAIN = r"pytorch/pytorch:[\d.]+-cuda[\d.]+-cudnn\d+-runtime", r"python:3\.11-slim"
BASES = {  # the bases the images are meant for; a build without a registry names another
    "Dockerfile.api": PLAIN,
    "Dockerfile.inference": TORCH,
    "Dockerfile.lab": TORCH,
    "Dockerfile.orchestrator": PLAIN,
}
FROM_BASE = "${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}}"
PROGRAMS = {"jupyter": "lab"}  # of packages that an extra brings
CODE = {".py", ".pyc", ".c", ".h", ".so"}  # the last is what the extension was compiled to


def instructions(path):
    """The recipe as (instruction, text), comments out, continued lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def texts(path, name):
    return [text for instruction, text in instructions(path) if instruction == name]


def environment(path):
    """ENV of the last stage, as a dictionary."""
    found = {}
    for instruction, text in instructions(path):
        if instruction == "FROM":
            found = {}
        elif instruction == "ENV":
            found |= dict(item.split("=", 1) for item in shlex.split(text))
    return found


def is_ignored(path, rules):
    """Whether a path below the repository stays out of the build context: the last rule that matches it decides."""
    parts = PurePosixPath(path).parts
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]  # a rule for a folder holds for what is in it
    ignored = False
    for rule in rules:
        pattern = rule.lstrip("!").strip("/")
        anywhere = pattern.removeprefix("**/")
        if anywhere != pattern:
            hit = any(fnmatch.fnmatchcase(part, anywhere) for part in parts)
        else:
            hit = any(fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for name in above)
        ignored = (not rule.startswith("!")) if hit else ignored
    return ignored


@pytest.fixture(scope="module")
def rules():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.suffix[1:])


def test_every_image_has_a_recipe():
    assert set(BASES) <= {path.name for path in RECIPES}


@each_recipe
def test_base_is_an_argument_with_the_real_base_as_default(path):
    first, *rest = instructions(path)
    assert first[0] == "ARG"
    assert first[1].startswith("BASE_IMAGE=")
    assert re.fullmatch(BASES.get(path.name, r"[\w./-]+:[\w.-]+"), first[1].removeprefix("BASE_IMAGE="))
    assert not first[1].endswith(":latest")
    assert rest[0] == ("ARG", "BASE_DIGEST=")
    stages = [text.split() for name, text in rest if name == "FROM"]
    names = {words[2] for words in stages if len(words) == 3}
    assert FROM_BASE in {words[0] for words in stages}
    assert {words[0] for words in stages} <= {FROM_BASE, *names}


@each_recipe
def test_what_is_installed_is_pinned(path):
    parts = [part for text in texts(path, "RUN") for part in text.split("&&")]
    installs = [part for part in parts if re.search(r"\bpip .*\binstall\b|pip install", part)]
    assert installs
    for command in installs:
        words = shlex.split(command)
        wanted = [word for word in words[words.index("install") + 1 :] if not word.startswith("-")]
        exact = all(re.fullmatch(r"[\w.-]+==[\w.]+|\S+\.whl", word) for word in wanted)
        constrained = "-c" in words and words[words.index("-c") + 1].endswith("/constraints.txt")
        assert exact or constrained, command
        assert "-e" not in words
    assert not [text for text in texts(path, "RUN") if re.search(r"git clone|\bcurl\b|\bwget\b", text)]


@each_recipe
def test_image_does_not_run_as_root(path):
    last_stage = max(n for n, (name, _) in enumerate(instructions(path)) if name == "FROM")
    users = [text for name, text in instructions(path)[last_stage:] if name == "USER"]
    assert users
    user = users[-1].split(":")[0]
    assert user.isdigit(), "a number can be checked by what runs the container"
    assert int(user) >= 1000
    assert re.search(rf"useradd --uid {user}\b.*--create-home", " ".join(texts(path, "RUN")))


@each_recipe
def test_no_secret_is_baked_in(path):
    words = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)
    for name in ("ENV", "ARG", "COPY", "ADD", "LABEL"):
        assert not [text for text in texts(path, name) if words.search(text)]
    assert not texts(path, "ADD"), "ADD may fetch from the net; COPY does not"


def sources(path):
    """What COPY takes from the repository (not from another stage)."""
    copies = [shlex.split(text) for text in texts(path, "COPY")]
    return [source for words in copies if not words[0].startswith("--from") for source in words[:-1]]


@each_recipe
def test_every_copied_source_exists_and_reaches_the_build(path, rules):
    assert sources(path)
    for source in sources(path):
        assert source not in (".", "./"), "name what is copied"
        assert (ROOT / source).exists(), source
        assert not is_ignored(source, rules), source
    for source in sources(path):
        for file in (ROOT / source).rglob("*.py"):
            assert not is_ignored(file.relative_to(ROOT).as_posix(), rules), file


PRIVATE = [".env", ".git/config", "tests/conftest.py", "haystack.toml", "key.json", "inference/.env"]
MADE = [".venv/bin/python", "demo-run/x.h5ad", "build/lib/x.py", "inference/__pycache__/x.pyc", "notebooks/a.pyc"]


@pytest.mark.parametrize("name", [*PRIVATE, *MADE])
def test_private_and_made_files_stay_out_of_the_build(name, rules):
    assert is_ignored(name, rules)


@each_recipe
def test_image_starts_something_that_exists(path, project):
    starts = texts(path, "ENTRYPOINT") + texts(path, "CMD")
    assert starts
    assert all(text.startswith("[") for text in starts), "no shell in between: it would swallow signals"
    words = json.loads(starts[0])
    if words[:2] == ["python", "-m"]:
        module = ROOT.joinpath(*words[2].split(".")).with_suffix(".py")
        assert module.exists()
        assert '__name__ == "__main__"' in module.read_text(encoding="utf-8")
        assert any(words[2].split(".")[0] == source for source in sources(path))
    else:
        extra = PROGRAMS.get(words[0])
        assert words[0] in project["project"]["scripts"] or extra in project["project"]["optional-dependencies"]


@pytest.mark.slow
def test_command_of_the_service_image_serves_and_audits_and_shows_no_token(tmp_path):
    """As the image runs it, but for the port: what it prints is the log of a container."""
    (text,) = texts(ROOT / "docker" / "Dockerfile.api", "CMD")
    program, *words = json.loads(text)
    assert program == "haystack"
    words[words.index("--port") + 1] = "0"
    token = "t" * 40
    given = {"HAYSTACK_SERVICE__TOKEN": token, "HAYSTACK_SERVICE__HOSTS": "localhost"}
    with subprocess.Popen(
        [sys.executable, "-m", "haystack_kernel", *words],
        env={**os.environ, **given, "HAYSTACK_STORAGE": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            address = process.stdout.readline().strip()  # it listens before it says so
            port = address.rpartition(":")[2]
            with httpx.Client(base_url=f"http://localhost:{port}", timeout=120) as client:
                assert client.get("/health/ready").status_code == 200
                assert client.post("/api/v1/parse", json={"question": "x"}).status_code == 401
                held = {"authorization": f"Bearer {token}"}
                assert client.get("/api/v1/me", headers=held).status_code == 200
        finally:
            process.terminate()
        out, log = process.communicate(timeout=120)
    assert address == f"http://0.0.0.0:{port}"
    assert re.search(r'haystack\.audit \{"who": null, "what": "POST /api/v1/parse", "status": 401', log)
    assert token not in address + out + log


@each_recipe
def test_image_says_what_it_is(path):
    labels = " ".join(texts(path, "LABEL"))
    for name in ("title", "version", "revision", "source", "licenses"):
        assert f"org.opencontainers.image.{name}=" in labels


@pytest.mark.parametrize("name", ["api", "lab"])
def test_image_that_serves_tells_its_health(name):
    (check,) = texts(ROOT / "docker" / f"Dockerfile.{name}", "HEALTHCHECK")
    (port,) = texts(ROOT / "docker" / f"Dockerfile.{name}", "EXPOSE")
    assert f"127.0.0.1:{port}/" in check


def test_only_what_predicts_or_serves_notebooks_has_torch():
    for name in ("api", "orchestrator"):
        path = ROOT / "docker" / f"Dockerfile.{name}"
        assert "torch" not in " ".join(texts(path, "RUN"))
        assert BASES[path.name] == PLAIN


@pytest.mark.parametrize("name", ["inference", "lab"])
def test_image_with_the_model_has_its_kernels_or_is_not_built(name):
    path = ROOT / "docker" / f"Dockerfile.{name}"
    run = " ".join(texts(path, "RUN"))
    assert "install -y --no-install-recommends gcc libc6-dev" in run
    assert "inference.stack._native" in run
    assert environment(path)["TRITON_CACHE_DIR"].startswith("/srv/haystack/")


@each_recipe
def test_environment_lets_any_user_write_where_needed(path):
    found = environment(path)
    assert found["PYTHONUNBUFFERED"] == "1"
    assert found["HOME"] == "/srv/haystack"
    assert re.search(r"chmod (0777|-R a\+rwX) /srv/haystack", " ".join(texts(path, "RUN")))


def test_orchestrator_fills_its_caches_for_any_user():
    path = ROOT / "docker" / "Dockerfile.orchestrator"
    found = environment(path)
    assert found["MPLCONFIGDIR"].startswith("/srv/haystack/")
    steps = instructions(path)
    warm = next(n for n, (name, text) in enumerate(steps) if name == "RUN" and "matplotlib.pyplot" in text)
    users = [n for n, (name, _) in enumerate(steps) if name == "USER"]
    assert users[-1] < warm, "what fills the caches must be the user who reads them"
    assert steps[warm][1].index("matplotlib.pyplot") < steps[warm][1].index("chmod -R a+rwX /srv/haystack")
    assert any("MPLCONFIGDIR" in text for name, text in steps[:warm] if name == "ENV")


@each_recipe
def test_what_is_copied_to_where_people_work_can_be_saved_there(path):
    steps = instructions(path)
    opened = max(n for n, (name, text) in enumerate(steps) if name == "RUN" and "chmod -R a+rwX /srv/haystack" in text)
    copied = [n for n, (name, text) in enumerate(steps) if name == "COPY" and text.split()[-1].startswith("/srv/")]
    assert all(n < opened for n in copied)


def test_orchestrator_installs_the_wheel_with_the_cloud_extra():
    run = " ".join(texts(ROOT / "docker" / "Dockerfile.orchestrator", "RUN"))
    assert "pip wheel --no-deps --no-build-isolation" in run
    assert "['optional-dependencies']['gcp']" in run
    assert "pip install --no-deps /opt/haystack/wheels/*.whl" in run
    assert {"haystack_kernel", "inference", "notebooks"} <= set(sources(ROOT / "docker" / "Dockerfile.orchestrator"))


def test_inference_keeps_the_torch_of_its_base():
    path = ROOT / "docker" / "Dockerfile.inference"
    run = " ".join(texts(path, "RUN"))
    pattern = re.search(r"sed -i -E '/(\S+)/d' (\S+) (\S+) ", run)
    assert {Path(name).name for name in pattern.groups()[1:]} == {"constraints.txt", "requirements.txt"}
    for name in ("constraints.txt", "inference/requirements.txt"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if "torch" in line.split("#")[0] and not re.match(pattern[1], line)]
    assert run.index("sed -i -E") < run.index("pip install") < run.index('= "$base"')
    assert "--system-site-packages" in run
    last = max(n for n, (name, _) in enumerate(instructions(path)) if name == "FROM")
    copies = [shlex.split(text) for name, text in instructions(path)[last:] if name == "COPY"]
    assert [words[:-1] for words in copies] == [
        ["constraints.txt", "inference/requirements.txt"],
        ["--from=build", "/build/inference"],
    ]


def test_every_requirement_of_the_inference_image_is_pinned():
    def names(file):
        lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines())
        return {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines if line}

    assert names("inference/requirements.txt") <= names("constraints.txt")


def test_every_data_file_of_the_packages_goes_into_the_wheel(project):
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    found = [path for package in ("haystack_kernel", "inference") for path in (ROOT / package).rglob("*")]
    files = [path for path in found if path.is_file() and path.suffix not in CODE and "__pycache__" not in path.parts]
    assert len(files) > 5
    assert not [str(path) for path in files if not any(fnmatch.fnmatchcase(path.name, item) for item in patterns)]


def test_every_notebook_goes_into_the_wheel_where_the_package_looks(project):
    from haystack_kernel.jupyter.execute import notebook_path

    assert notebook_path("haystack") == ROOT / "notebooks" / "haystack.ipynb"
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert 'Path("notebooks").glob("*.ipynb")' in setup
    assert 'TARGET = "haystack_kernel/notebooks"' in setup
    assert "haystack_kernel*" in project["tool"]["setuptools"]["packages"]["find"]["include"]
