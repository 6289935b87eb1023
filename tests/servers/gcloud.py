"""A local Google Cloud in memory, as far as the scripts of ``docker/gcp`` need one, for the real ``gcloud``.

In: the requests of ``gcloud``, told by environment variables to send them here. Out: answers in the forms of the APIs,
policies and resources that are kept, every request as seen, and calls that fail where asked.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

PLAIN = (
    "ARTIFACTREGISTRY", "BATCH", "CLOUDRESOURCEMANAGER", "IAM", "IAP", "PUBSUB", "SECRETMANAGER", "SERVICEUSAGE",
    "VPCACCESS"
)  # fmt: skip
POLICY = re.compile(r"(?P<name>.+?)(?::getIamPolicy|:setIamPolicy|/iam)$")
TAGS = re.compile(r"/v1/(?P<package>.+/packages/(?P<image>[^/]+))/tags")
READY = ("Ready", "ConfigurationsReady", "RoutesReady")


class Cloud:
    """What the project holds: ``things`` by path, ``policies`` by path, ``requests`` as (method, path, body)."""

    def __init__(self, project, region):
        self.project, self.region = project, region
        self.things, self.policies, self.requests = {}, {}, []
        self.enabled, self.images = set(), {}
        self.failures = []  # (method and path as a pattern, status, message), each used once
        self.fails_each = None  # (status, message) with which every call fails when it is first made
        self.failed = []  # calls that did
        self.revision = 0

    @property
    def changes(self):
        """Requests that change something, as "METHOD path"."""
        reads = re.compile(r"GET |POST \S+:(?:getIamPolicy|testIamPermissions)$")
        return [
            line
            for method, path, query, _ in self.requests
            if not reads.match(line := f"{method} {path}") and "dryRun" not in query
        ]

    def members(self, path):
        """The bindings of a policy as {role: members}."""
        return {one["role"]: set(one["members"]) for one in self.policies.get(path, {}).get("bindings", [])}

    # --- answers ----------------------------------------------------------------------------------------------------

    def answer(self, method, path, query, body):
        for failure in list(self.failures):
            pattern, status, message = failure
            if re.search(pattern, f"{method} {path}"):
                self.failures.remove(failure)
                return status, {"error": {"code": status, "status": message.split(":")[0], "message": message}}
        if self.fails_each and (call := f"{method} {path}") not in self.failed:
            self.failed.append(call)
            status, message = self.fails_each
            return status, {"error": {"code": status, "status": message.split(":")[0], "message": message}}
        path = (
            path.removeprefix("/storage").removeprefix("/compute").replace("/projects/-/", f"/projects/{self.project}/")
        )
        if found := POLICY.fullmatch(path):
            return self.policy(method, path, found["name"], body)
        if (simple := self.simple(path, body)) is not None:
            return 200, simple
        if found := TAGS.fullmatch(path):
            return self.tags(**found.groupdict())
        if "/apis/serving.knative.dev/" in path:
            return self.service(method, path, body)
        return self.thing(method, path, query, body)

    def simple(self, path, body):
        """The project itself, its APIs and quotas; None for anything else."""
        if path.endswith("/services") and path.startswith("/v1/projects/"):
            return {"services": [{"config": {"name": one}, "state": "ENABLED"} for one in sorted(self.enabled)]}
        if re.fullmatch(r"/v1/b/[^/]+/(o|managedFolders|folders)", path):
            return {"items": []}
        if re.fullmatch(r"/v1/b/[^/]+/storageLayout", path):
            return {"bucket": path.split("/")[3], "hierarchicalNamespace": {"enabled": False}}
        if path.endswith(":generateServiceIdentity"):
            return {"name": "operations/done", "done": True, "response": {"email": "proxy@example.org"}}
        if path.endswith((":batchEnable", ":enable")):
            self.enabled |= set(body.get("serviceIds") or [path.split("/")[-1].partition(":")[0]])
            return {"name": "operations/done", "done": True, "response": {}}
        if "/regions/" in path:
            quotas = [{"metric": "NVIDIA_A100_GPUS", "limit": 0.0, "usage": 0.0}]
            return {"name": self.region, "quotas": [*quotas, {"metric": "CPUS", "limit": 24.0, "usage": 1.0}]}
        if path == f"/v1/projects/{self.project}":
            quotas = [{"metric": "GPUS_ALL_REGIONS", "limit": 0.0, "usage": 0.0}]
            found = {"projectId": self.project, "projectNumber": "123456789", "lifecycleState": "ACTIVE"}
            return {**found, "name": self.project, "quotas": quotas}
        return None

    def push(self, image, tag):
        """Act as if an image had been pushed to a repository; returns its digest."""
        where = f"/v1/projects/{self.project}/locations/{self.region}/repositories/haystack"
        self.things.setdefault(where, {"name": where.removeprefix("/v1/"), "format": "DOCKER"})
        digest = f"sha256:{hashlib.sha256(f'{image}:{tag}'.encode()).hexdigest()}"
        self.images[image, tag] = digest
        return digest

    def tags(self, package, image):
        """The tags of an image, whatever is filtered for; one that was never pushed does not exist."""
        found = {tag: digest for (name, tag), digest in self.images.items() if name == image}
        if not found:
            return 404, {"error": {"code": 404, "status": "NOT_FOUND", "message": f"{image} not found"}}
        shown = [{"name": f"{package}/tags/{tag}", "version": f"{package}/versions/{found[tag]}"} for tag in found]
        return 200, {"tags": shown}

    def policy(self, method, path, name, body):
        if method == "GET" or path.endswith(":getIamPolicy"):
            empty = {"version": 1, "etag": base64.b64encode(b"0").decode()}
            return 200, self.policies.get(name, empty)
        policy = body.get("policy", body)
        policy["etag"] = base64.b64encode(str(len(self.requests)).encode()).decode()
        self.policies[name] = policy
        return 200, policy

    def thing(self, method, path, query, body):
        key = {"serviceAccounts": "accountId", "repositories": "repositoryId", "secrets": "secretId"}
        key |= {"jobs": "jobId", "connectors": "connectorId", "workloadIdentityPools": "workloadIdentityPoolId"}
        key |= {"providers": "workloadIdentityPoolProviderId", "b": "name"}
        kind = path.rsplit("/", 1)[-1]
        if method == "POST" and kind in key:
            ident = body.get(key[kind]) or query.get(key[kind], [""])[0]
            return self.create(path, kind, ident, body)
        if method == "GET" and kind in key and path not in self.things:
            inside = [value for name, value in self.things.items() if name.rpartition("/")[0] == path]
            return 200, {"accounts" if kind == "serviceAccounts" else kind: inside}
        if method == "PUT" and path.split("/")[-2] in {"topics", "subscriptions"}:
            self.things[path] = {**body, "name": path.removeprefix("/v1/")}
            return 200, self.things[path]
        if path not in self.things:
            return 404, {"error": {"code": 404, "status": "NOT_FOUND", "message": f"{path} not found"}}
        if method == "DELETE":
            done = self.things.pop(path)
            operation = {"name": f"{'/'.join(path.split('/')[2:6])}/operations/done", "done": True, "response": {}}
            return 200, operation if "/locations/" in path else done
        if method in {"PATCH", "PUT"}:
            self.things[path] |= body
        return 200, self.things[path]

    def create(self, path, kind, ident, body):
        if kind == "serviceAccounts":
            ident = f"{ident}@{self.project}.iam.gserviceaccount.com"
        name = f"{path}/{ident}"
        if name in self.things:
            return 409, {"error": {"code": 409, "status": "ALREADY_EXISTS", "message": f"{ident} exists"}}
        made = {**(body.get("serviceAccount") or body), "name": name.removeprefix("/v1/").removeprefix("/v1beta1/")}
        if kind == "serviceAccounts":
            made |= {"email": ident, "projectId": self.project}
        if kind == "b":
            made |= {"name": ident, "id": ident, "projectNumber": "123456789", "storageClass": "STANDARD"}
        self.things[name] = made
        is_slow = kind in {"repositories", "connectors", "workloadIdentityPools", "providers"}
        where = "/".join(path.split("/")[2:6])
        return 200, {"name": f"{where}/operations/done", "done": True, "response": made} if is_slow else made

    def service(self, method, path, body):
        """Cloud Run's own form: a service is ready as soon as it is replaced."""
        if method == "GET" and path not in self.things:
            return 404, {"error": {"code": 404, "status": "NOT_FOUND", "message": "Cannot find service"}}
        if method in {"POST", "PUT"}:
            self.revision += 1
            name = body["metadata"]["name"]
            key = path if path.endswith(f"/{name}") else f"{path}/{name}"
            body["metadata"] |= {"generation": self.revision, "uid": "u", "resourceVersion": str(self.revision)}
            body["spec"].setdefault("traffic", [{"latestRevision": True, "percent": 100}])
            latest = f"{name}-{self.revision:05d}-abc"
            body["status"] = {
                "observedGeneration": self.revision,
                "url": f"https://{name}.example",
                "latestReadyRevisionName": latest,
                "latestCreatedRevisionName": latest,
                "conditions": [{"type": kind, "status": "True"} for kind in READY],
                "traffic": [{"revisionName": latest, **target} for target in body["spec"]["traffic"]],
            }
            self.things[key] = body
            return 200, body
        if method == "DELETE":
            self.things.pop(path, None)
            return 200, {"status": "Success"}
        return 200, self.things[path]


@contextmanager
def google_cloud(project="my-lab-dev", region="us-east1"):
    """Serve one; yields it and the variables that lead ``gcloud`` to it."""
    cloud, lock = Cloud(project, region), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self):
            text = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            parts = urlsplit(self.path)  # a proxied request names its host, too
            body = json.loads(text) if text.strip().startswith("{") else {}
            path, query = unquote(parts.path), parse_qs(parts.query)
            with lock:
                cloud.requests.append((self.command, path, query, json.loads(text) if body else {}))
                status, answer = cloud.answer(self.command, path, query, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815 - the base class names them so

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
    at = f"http://127.0.0.1:{port}/"
    variables = {f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{name}": at for name in PLAIN}
    variables |= {
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{at}storage/v1/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{at}compute/v1/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN": "http://run.test/",
        "CLOUDSDK_PROXY_TYPE": "http",
        "CLOUDSDK_PROXY_ADDRESS": "127.0.0.1",
        "CLOUDSDK_PROXY_PORT": str(port),
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
        "HAYSTACK_SETUP_PAUSE_S": "0",
    }
    try:
        yield cloud, variables
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def answering(status):
    """Serve one web page that always has this status; yields its address."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
