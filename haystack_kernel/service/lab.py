"""The same service inside JupyterLab: one click on a card of the launcher opens it as a tab.

In: nothing. Out: what jupyter-server-proxy needs to start the service on a socket and to pass requests to it.

Lab's own sign-in guards the way in. The proxy passes cookies and headers of the browser on, so they prove nothing to
the service: each request carries a secret instead, made when this process starts and known to the proxy and to the
service. The user of Lab is the owner of every run.
"""

from __future__ import annotations

import secrets
import sys
from functools import cache
from pathlib import Path
from typing import Any

from haystack_kernel.config.settings import jupyter_user

_ICON = Path(__file__).parent / "static" / "lab.svg"
_GRACE_S = 3


@cache
def _secret() -> str:
    return secrets.token_urlsafe(32)


def setup() -> dict[str, Any]:
    """Describe the server for jupyter-server-proxy, which finds this function by its entry point.

    Returns
    -------
    Its command, which listens at a socket in a folder of this user alone, and its card.
    """
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "haystack_kernel.service.app:create",
        "--uds",
        "{unix_socket}",
        "--root-path",
        "{base_url}haystack",
        "--timeout-graceful-shutdown",
        str(_GRACE_S),
        "--no-access-log",
        "--log-level",
        "warning",
    ]
    return {
        "command": command,
        "environment": {
            "HAYSTACK_SERVICE__IDENTITY": "lab",
            "HAYSTACK_SERVICE__LAB_SECRET": _secret(),
            "HAYSTACK_SERVICE__PERSON": jupyter_user(),
        },
        "unix_socket": True,
        "timeout": 60,
        "new_browser_tab": False,
        "request_headers_override": {"X-Haystack-Lab": _secret(), "Authorization": "", "Cookie": ""},
        "launcher_entry": {
            "title": "HAYSTACK runs",
            "icon_path": str(_ICON),
            "category": "Notebook",
            "path_info": "haystack/runs",
        },
    }
