"""JupyterLab on the loopback and a browser's view of its notebooks, for tests of what people see there.

In: an empty folder; a Chromium that Playwright drives. Out: :class:`Lab`, a server with settings, kernels and files of
its own, and :class:`OpenNotebook`, a notebook in it. Nothing here waits for a time: each wait is for a condition.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import nbformat

PATIENCE_S = 180  # ends a hang; a busy machine may need minutes
_THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
_STARTS = 5  # the server looks for a free port and then takes it, and another process may be quicker
_SETTINGS = {
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
    "apputils-extension/kernels-settings": {"skipKernelRestartDialog": True},
    "notebook-extension/tracker": {
        "windowingMode": "none",
        "autoStartDefaultKernel": True,
    },  # all cells are in the page
    "docmanager-extension/plugin": {"autosave": False},
}
_SAID_BY_LAB = (  # at any time, and when its kernel is restarted
    "Failed to load resource: the server responded with a status of 404",
    "Could not restore the debugger",
    "Canceled future for",
    "Error: Canceled future for",
    "Comm not found for comm id",
)
_OPTIONS = {
    "LabApp.expose_app_in_browser": "True",  # window.jupyterapp, by which commands are given and awaited
    "LabApp.extension_manager": "readonly",
    "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    "ServerApp.open_browser": "False",
    "ServerApp.port": "0",
    "ServerApp.ip": "127.0.0.1",
    "ServerApp.allow_root": "True",
    "ServerApp.jpserver_extensions": "{'jupyter_lsp': False}",
}


@dataclass
class Lab:
    """A running JupyterLab: ``root`` holds its files, ``address`` ends in a slash, ``token`` lets in."""

    root: Path
    address: str
    token: str

    def write(self, name, *cells):
        """Write a notebook into the root: texts become code cells, nodes of nbformat stay as they are."""
        made = [nbformat.v4.new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        node = nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel})
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(node, path)
        return path

    def kernels(self):
        """The kernels that run now, as the server lists them."""
        return json.loads(_ask(f"{self.address}api/kernels", self.token))


@contextmanager
def running_lab(folder, **environment):
    """Start JupyterLab in ``folder`` and end it, with its kernels; ``environment`` is added to that of this process."""
    root = folder / "files"
    root.mkdir(parents=True)
    for name, settings in _SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings), encoding="utf-8")
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    token = secrets.token_urlsafe(24)
    given = {name: value for name, value in os.environ.items() if not name.startswith(("HAYSTACK_", "JUPYTER"))}
    given |= {name: str(folder / place) for name, place in own.items()}
    checkout = Path(__file__).parents[2]
    given |= {"JUPYTER_TOKEN": token, "PYTHONPATH": str(checkout), "JUPYTER_PLATFORM_DIRS": "1", **environment}
    options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}", *options]
    with (folder / "lab.log").open("w") as log:
        for _ in range(_STARTS):
            process = subprocess.Popen(command, env=given, cwd=root, stdout=log, stderr=log, start_new_session=True)
            try:
                address = _listening(process, folder / "runtime", token)
                if address is not None:
                    yield Lab(root, address, token)
                    return
            finally:
                _end(process, folder / "runtime", token)
    raise AssertionError((folder / "lab.log").read_text()[-4000:])


def _listening(process, runtime, token):
    """The address once it answers to the token; None if the process ended, as it does where its port was taken."""
    deadline = monotonic() + PATIENCE_S
    while monotonic() < deadline and process.poll() is None:
        with suppress(OSError, ValueError):  # not written yet, half written, not listening yet
            address = json.loads((runtime / f"jpserver-{process.pid}.json").read_text())["url"]
            _ask(f"{address}api/status", token)
            return address
        sleep(0.05)
    assert process.poll() is not None, f"JupyterLab does not answer after {PATIENCE_S} s"
    return None


def _ask(url, token, *, method="GET"):
    request = urllib.request.Request(url, headers={"Authorization": f"token {token}"}, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return answer.read()


def _end(process, runtime, token):
    with suppress(OSError, ValueError):
        address = json.loads((runtime / f"jpserver-{process.pid}.json").read_text())["url"]
        _ask(f"{address}api/shutdown", token, method="POST")
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@dataclass
class OpenNotebook:
    """A notebook in a page of JupyterLab.

    ``page`` is Playwright's; ``said`` holds errors of its console other than Lab's own, ``asked`` the addresses outside
    the server that it asked for.
    """

    page: object
    lab: Lab
    name: str
    said: list = field(default_factory=list)
    asked: list = field(default_factory=list)

    @classmethod
    def open(cls, browser, lab, name, *, theme="light", width=1280, height=900, scheme="light"):
        """Open ``name`` of the lab's root. ``theme`` is Lab's, ``scheme`` that of the system, which may differ."""
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            extra_http_headers={"Authorization": f"token {lab.token}"},
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        opened = cls(page, lab, name)
        page.on("console", lambda message: opened._hear(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: opened._hear(str(error)))
        page.on("dialog", lambda dialog: dialog.accept())  # "leave this page?"
        page.on("request", lambda request: opened._note(request.url))
        page.goto(f"{lab.address}lab/workspaces/{secrets.token_hex(4)}/tree/{name}?token={lab.token}")
        opened._wait_until_ready()
        opened.theme(theme)
        return opened

    def _hear(self, text):
        if not text.startswith(_SAID_BY_LAB):
            self.said.append(text)

    def _note(self, url):
        inner = url.startswith((self.lab.address, "data:", "blob:", self.lab.address.replace("http", "ws", 1)))
        if not inner:
            self.asked.append(url)

    def _wait_until_ready(self):
        self.page.wait_for_function("window.jupyterapp !== undefined")
        self._do(
            """await jupyterapp.restored;
            const path = decodeURIComponent(location.pathname.split('/tree/').pop());
            let panel;
            while (!(panel = [...jupyterapp.shell.widgets('main')].find((one) => one.context?.path === path)))
              await new Promise((next) => setTimeout(next, 20));
            jupyterapp.shell.activateById(panel.id);
            jupyterapp.shell.collapseLeft();
            await panel.context.ready; await panel.sessionContext.ready; await panel.revealed;
            await panel.sessionContext.session.kernel.info;"""
        )

    def _do(self, script):
        """Run JavaScript with ``await`` in it to its end, for at most the time limit; its errors become ours."""
        self.page.evaluate(
            f"""() => {{ window.tested = undefined;
            (async () => {{ {script} }})().then(
              () => {{ window.tested = 'done'; }},
              (error) => {{ window.tested = `failed: ${{error?.stack ?? error}}`; }}); }}"""
        )
        self.page.wait_for_function("window.tested !== undefined")
        assert self.page.evaluate("window.tested") == "done", self.page.evaluate("window.tested")

    def command(self, name, **options):
        """Give a command of JupyterLab, such as ``docmanager:save``, and wait until it is carried out."""
        self._do(f"await jupyterapp.commands.execute({json.dumps(name)}, {json.dumps(options)});")

    def theme(self, theme):
        """Change Lab's theme to ``light`` or ``dark``."""
        self.command("apputils:change-theme", theme=_THEMES[theme])
        self.page.wait_for_function(
            "(name) => document.body.dataset.jpThemeName === name && !document.querySelector('#jupyterlab-splash')",
            arg=_THEMES[theme],
        )

    def run_all(self):
        """Run all cells and wait until the last has ended; an exception in a cell is left for the test to see."""
        self.start_all()
        self.wait_until_idle()

    def start_all(self):
        """Start all cells without waiting, to look at a notebook while it runs."""
        self.page.evaluate("() => { window.ran = jupyterapp.commands.execute('notebook:run-all-cells'); }")

    def wait_until_idle(self):
        """Wait until the cells started by :meth:`start_all` have ended."""
        self._do("await window.ran;")

    def restart_kernel(self):
        """Restart the kernel without clearing what is shown, and wait until it answers."""
        self._do("await jupyterapp.shell.currentWidget.sessionContext.restartKernel();")
        self._do("await jupyterapp.shell.currentWidget.sessionContext.session.kernel.info;")

    def save(self):
        """Save the notebook, with what widgets show."""
        self.command("docmanager:save")

    def reload(self):
        """Load the page again, as a person does by F5."""
        self.page.reload()
        self._wait_until_ready()

    def saved(self):
        """The notebook as its file is now."""
        return nbformat.read(self.lab.root / self.name, as_version=4)

    def cell(self, number):
        """Locator of one cell, counted from 0."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number)

    def output(self, number):
        """Locator of the area with the outputs of one code cell, counted over all cells from 0."""
        return self.cell(number).locator(".jp-Cell-outputArea")

    def text(self, number):
        """The text of all outputs of a cell, without the number of its execution."""
        return "\n".join(self.output(number).locator(".jp-OutputArea-output").all_inner_texts()).strip()

    def close(self):
        """Close the page; the kernel goes on until the server ends."""
        self.page.context.close()


# --- what a picture would show, asked of the page ---------------------------------------------------------------------

_LAYOUT = (Path(__file__).parent / "layout.js").read_text(encoding="utf-8")


def layout_faults(locator):
    """What is wrong with the layout under ``locator``: text that overlaps other text, is cut, or leaves the box.

    Text that can be scrolled to is not cut. Pictures must have loaded and have an alternative text. An element that
    overlaps on purpose is marked ``data-may-overlap``.
    """
    return locator.evaluate(_LAYOUT)


def axe_faults(page, selector, *, allowed=()):
    """Violations that axe-core finds under ``selector``, as (rule, places); rules in ``allowed`` are left out."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context=selector, options={"iframes": False}).response["violations"]
    return [
        (one["id"], [" ".join(map(str, node["target"])) for node in one["nodes"]][:4])
        for one in found
        if one["id"] not in allowed
    ]
