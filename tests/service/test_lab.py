"""Inside JupyterLab: a secret that only the proxy knows lets in, and the pages may be shown in Lab's frame."""

import tomllib
from pathlib import Path

import pytest

from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.service.app import create
from haystack_kernel.service.lab import setup

pytestmark = pytest.mark.slow

SECRET = "s" * 43


@pytest.fixture
def lab_client(settings, client_type):
    lab = {**settings.service.model_dump(), "identity": "lab", "lab_secret": SECRET, "person": "ada"}
    return client_type(create(type(settings).model_validate({**settings.model_dump(), "service": lab})))


def test_the_entry_point_describes_a_server_on_a_socket_with_a_secret_of_its_own(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_USER", "ada")
    found = setup()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entry = project["entry-points"]["jupyter_serverproxy_servers"]["haystack"]
    assert entry == f"{setup.__module__}:{setup.__name__}"
    secret = found["environment"]["HAYSTACK_SERVICE__LAB_SECRET"]
    assert len(secret) >= 32
    assert found["request_headers_override"] == {"X-Haystack-Lab": secret, "Authorization": "", "Cookie": ""}
    assert secret not in " ".join(found["command"])  # which every user of the machine can read
    assert (found["unix_socket"], found["environment"]["HAYSTACK_SERVICE__PERSON"]) == (True, "ada")
    assert Path(found["launcher_entry"]["icon_path"]).is_file()
    for name, value in found["environment"].items():
        monkeypatch.setenv(name, value)
    assert load_settings(layer="test").service.identity == "lab"


def test_only_the_proxy_is_let_in_and_its_user_is_the_owner(lab_client):
    assert lab_client.get("/api/v1/me").status_code == 401
    assert lab_client.get("/api/v1/me", headers={"x-haystack-lab": "wrong"}).status_code == 401
    found = lab_client.get("/api/v1/me", headers={"x-haystack-lab": SECRET})
    assert found.json()["name"] == "ada"


def test_lab_may_show_the_pages_in_its_frame_and_no_other_site_may(lab_client):
    answer = lab_client.get("/runs", headers={"x-haystack-lab": SECRET})
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    assert "x-frame-options" not in answer.headers


def test_another_site_changes_nothing_through_lab(lab_client):
    headers = {"x-haystack-lab": SECRET, "cookie": "", "authorization": "", "host": "hub.example"}
    for more in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {}):
        assert lab_client.post("/ask", data={"question": "x"}, headers={**headers, **more}).status_code == 403
    own = {**headers, "origin": "https://hub.example"}
    assert lab_client.post("/ask", data={"question": "x"}, headers=own).status_code == 422


def test_a_service_that_nobody_could_sign_in_to_does_not_start(settings):
    for service in ({"identity": "lab"}, {"identity": "token"}, {"identity": "token", "token": "short"}):
        changed = {**settings.service.model_dump(), **service}
        made = type(settings).model_validate({**settings.model_dump(), "service": changed})
        with pytest.raises(InvalidInputError, match="16 characters"):
            create(made)
    with pytest.raises(InvalidInputError, match="audience"):
        load_settings(layer="test", service={"identity": "iap"})
