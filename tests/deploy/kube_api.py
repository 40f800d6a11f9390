"""A small stand-in for a cluster's API: it notes who asked for what, takes jobs, and tells watchers of them.

It knows pods and jobs, validates nothing, and gives every right; what would have been needed follows from its notes.
"""

import json
import queue
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

Object = dict[str, Any]
DISCOVERY: dict[str, Object] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "groups": [
            {
                "name": "batch",
                "versions": [{"groupVersion": "batch/v1", "version": "v1"}],
                "preferredVersion": {"groupVersion": "batch/v1", "version": "v1"},
            }
        ],
    },
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {"name": "namespaces", "singularName": "namespace", "kind": "Namespace", "namespaced": False, "verbs": []},
            {"name": "pods", "singularName": "pod", "kind": "Pod", "namespaced": True, "verbs": ["list", "watch"]},
            {"name": "events", "singularName": "event", "kind": "Event", "namespaced": True, "verbs": ["create"]},
        ],
    },
    "/apis/batch/v1": {
        "kind": "APIResourceList",
        "groupVersion": "batch/v1",
        "resources": [
            {"name": "jobs", "singularName": "job", "kind": "Job", "namespaced": True, "verbs": ["list", "watch"]}
        ],
    },
}
"""What every account may ask, with the pods and jobs that this API has."""
SAID = "the last words of a pod"
PLACE = re.compile(
    r"/(?:api/v1|apis/(?P<group>[\w.]+)/\w+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>\w+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<sub>\w+))?)?"
)
VERBS = {"POST": "create", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}


class Api(ThreadingHTTPServer):
    """The server; `on_job` is called with each job that is made, in a thread of its own."""

    daemon_threads = True

    def __init__(self, on_job: Callable[["Api", Object], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.on_job = on_job
        self.calls: set[tuple[str | None, str, str]] = set()
        """Namespace, verb and resource of each call, as a role names them."""
        self.jobs: list[Object] = []
        self.pods: list[Object] = []
        self.posted: list[Object] = []
        self.watchers: list[tuple[str, queue.Queue[Object | None]]] = []
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, job: Object) -> Object:
        """Note a job as it came, and make it one of the cluster's."""
        self.posted.append(json.loads(json.dumps(job)))
        job["metadata"] |= {"name": f"{job['metadata']['generateName']}{len(self.posted)}", "uid": str(uuid4())}
        job["metadata"] |= {"creationTimestamp": "2026-01-31T08:30:12Z", "resourceVersion": "2"}
        job["status"] = {}
        self.jobs.append(job)
        self.tell("jobs", "ADDED", job)
        threading.Thread(target=self.on_job, args=(self, job), daemon=True).start()
        return job

    def completed(self, job: Object) -> None:
        """A job's pod has ended well."""
        job["status"] = {"succeeded": 1}
        self.tell("jobs", "MODIFIED", job)

    def failed(self, job: Object) -> None:
        """A job's pod has ended with another status than 0, and is still there with its log."""
        name, spec = job["metadata"]["name"], job["spec"]["template"]["spec"]
        metadata = {"name": f"{name}-pod", "namespace": "wafer", "uid": str(uuid4()), "labels": {"job-name": name}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Failed"}}
        self.pods.append(pod)
        job["status"] = {"failed": 1}
        self.tell("jobs", "MODIFIED", job)

    def removed(self, job: Object) -> None:
        """A job is gone."""
        self.jobs.remove(job)
        self.tell("jobs", "DELETED", job)

    def tell(self, resource: str, kind: str, one: Object) -> None:
        """Tell all who watch."""
        with self.lock:
            for watched, found in self.watchers:
                if watched == resource:
                    found.put({"type": kind, "object": one})


def selected(one: Object, selector: str) -> bool:
    """Whether an object has labels such as `name=value` or `name`, separated by commas."""
    labels = one["metadata"].get("labels", {})
    asked = [part.partition("=") for part in selector.split(",") if part]
    return all(name in labels and (not is_value or labels[name] == value) for name, is_value, value in asked)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Api

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, body: Object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _any(self) -> None:
        address = urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        if address.path in DISCOVERY or address.path == "/version":
            self._answer(DISCOVERY.get(address.path, {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}))
            return
        place = PLACE.fullmatch(address.path)
        if place is None:
            self._answer({"kind": "Status", "status": "Failure", "code": 404}, 404)
            return
        resource, name, sub = place["resource"], place["name"], place["sub"]
        watched = parse_qs(address.query).get("watch", [""])[0] in ("true", "True", "1")
        verb = VERBS.get(self.command, "get" if name else "watch" if watched else "list")
        self.server.calls.add((place["namespace"], verb, f"{resource}/{sub}" if sub else resource))
        if verb == "watch":
            self._watch(resource)
        elif verb == "create" and resource == "jobs":
            self._answer(self.server.take(body), 201)
        elif verb == "create":
            self._answer(body, 201)
        elif verb == "list":
            selector = parse_qs(address.query).get("labelSelector", [""])[0]
            version = "batch/v1" if resource == "jobs" else "v1"
            there = self.server.jobs if resource == "jobs" else self.server.pods
            items = [one for one in there if selected(one, selector)]
            kind = f"{resource.capitalize()[:-1]}List"
            self._answer({"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": "1"}, "items": items})
        elif sub == "log":
            self._answer({"said": SAID})
        else:
            found = next((one for one in self.server.jobs if one["metadata"]["name"] == name), None)
            if found and verb == "delete":
                self.server.removed(found)
            missing = {"kind": "Status", "status": "Failure", "code": 404}
            self._answer(found or missing, 200 if found else 404)

    def _watch(self, resource: str) -> None:
        mine: queue.Queue[Object | None] = queue.Queue()
        with self.server.lock:
            self.server.watchers.append((resource, mine))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while (event := mine.get()) is not None:
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                self.wfile.flush()
        except OSError:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815 - the names that the server calls
