"""
A Hub on this machine, as far as huggingface_hub's client needs one: repositories, commits, large files, tokens.

Keeps everything in memory. Faults are switched on by attributes: refused commits, connections that break in the middle
of an upload. Every request is written down.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = (".safetensors", ".png", ".bin", ".pt")


@dataclass
class Repo:
    """A repository: for each branch its commits, each a folder of files as bytes."""

    private: bool = False
    gated: bool = False
    branches: dict[str, list[str]] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    pull_requests: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        parent = self.branches.get(branch) or self.branches.get("main") or []
        oid = hashlib.sha1(f"{branch}/{len(self.commits)}/{message}".encode()).hexdigest()
        self.commits[oid] = {**(self.commits[parent[-1]] if parent else {}), **files}
        self.messages[oid] = message
        self.branches[branch] = [*parent, oid]
        return oid

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, or the commit itself."""
        if revision in self.commits:
            return revision
        return self.branches[revision][-1] if self.branches.get(revision) else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.resolve(revision)]


class Hub:
    """
    The server.

    Attributes: `repos` by name; `users` by token; `requests`, each as `(method, path, token)`; `cut_uploads`, how
    many uploads are to break halfway; `cut_downloads`, the same for downloads of the file `cut_file`; `refuse_commits`,
    a message with which commits are refused; `cards`, the metadata that were asked about; `large`, contents by their
    SHA-256.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.users = {"hf_owner": "user", "hf_reader": "reader"}
        self.requests: list[tuple[str, str, str | None]] = []
        self.large: dict[str, bytes] = {}
        self.cut_uploads = 0
        self.cut_downloads = 0
        self.cut_file = "adapter_model.safetensors"
        self.refuse_commits: str | None = None
        self.cards: list[dict[str, Any]] = []
        self.lock = threading.RLock()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def put(self, name: str, files: dict[str, bytes], **settings: Any) -> Repo:
        """A repository that somebody else has made."""
        repo = self.repos.setdefault(name, Repo(**settings))
        repo.commit("main", files, "put here")
        return repo

    def asked(self, part: str) -> list[str]:
        """Requests whose path holds a text."""
        return [f"{method} {path}" for method, path, _ in self.requests if part in path]


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """A Hub that answers until the end of the block."""
    hub = Hub()
    hub.thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        hub.thread.join()


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


_ROUTES: list[tuple[str, re.Pattern[str], str]] = [
    ("GET", re.compile(r"/api/whoami-v2"), "whoami"),
    ("POST", re.compile(r"/api/repos/create"), "create"),
    ("POST", re.compile(r"/api/validate-yaml"), "validate"),
    ("POST", re.compile(r"/api/models/(?P<repo>.+?)/preupload/(?P<revision>[^/]+)"), "preupload"),
    ("POST", re.compile(r"/api/models/(?P<repo>.+?)/commit/(?P<revision>[^/]+)"), "commit"),
    ("POST", re.compile(r"/api/models/(?P<repo>.+?)/branch/(?P<revision>[^/]+)"), "branch"),
    ("GET", re.compile(r"/api/models/(?P<repo>.+?)/tree/(?P<revision>[^/]+)(/.*)?"), "tree"),
    ("POST", re.compile(r"/api/models/(?P<repo>.+?)/paths-info/(?P<revision>[^/]+)"), "paths"),
    ("GET", re.compile(r"/api/models/(?P<repo>.+?)/revision/(?P<revision>[^/]+)"), "info"),
    ("GET", re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)"), "info"),
    ("POST", re.compile(r"/(?P<repo>.+?)\.git/info/lfs/objects/batch"), "batch"),
    ("PUT", re.compile(r"/lfs/(?P<oid>[0-9a-f]{64})"), "upload"),
    ("HEAD", re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"), "download"),
    ("GET", re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"), "download"),
]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_HEAD = do_GET

    # --- around every request ---------------------------------------------------------------
    def _answer(self) -> None:
        place = urlsplit(self.path)
        self.query = parse_qs(place.query)
        header = self.headers.get("Authorization") or ""
        self.token = header.removeprefix("Bearer ") or None
        with self.hub.lock:
            self.hub.requests.append((self.command, place.path, self.token))
        try:
            for method, pattern, name in _ROUTES:
                found = pattern.fullmatch(place.path)
                if found is not None and method == self.command:
                    groups = {key: unquote(value) for key, value in found.groupdict().items()}
                    getattr(self, name)(**groups)
                    return
            raise _Refused(404, message=f"no route for {self.command} {place.path}")
        except _Refused as refused:
            self._drain()
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(refused.status, {"error": refused.message}, {k: v for k, v in headers.items() if v})

    def _drain(self) -> None:
        if not getattr(self, "_read", False):
            self._body()

    def _body(self) -> bytes:
        self._read = True
        if (self.headers.get("Transfer-Encoding") or "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self._read = False
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if cut:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(data)

    # --- who may do what --------------------------------------------------------------------
    def _user(self) -> str | None:
        if self.token is None:
            return None
        if self.token not in self.hub.users:
            raise _Refused(401, message="Invalid user token.")
        return self.hub.users[self.token]

    def _readable(self, name: str) -> Repo:
        user, repo = self._user(), self.hub.repos.get(name)
        owner = name.split("/")[0]
        if repo is None or (repo.private and user != owner):
            raise _Refused(401 if user is None else 404, "RepoNotFound", "Repository not found")
        if repo.gated and user is None:
            raise _Refused(401, "GatedRepo", "Access to this repository is restricted.")
        return repo

    def _writable(self, name: str) -> Repo:
        repo = self._readable(name)
        if self._user() != name.split("/")[0]:
            raise _Refused(401 if self.token is None else 403, message="You have no right to write here.")
        return repo

    # --- answers ----------------------------------------------------------------------------
    def whoami(self) -> None:
        user = self._user()
        if user is None:
            raise _Refused(401, message="Invalid username or password.")
        self._send(200, {"type": "user", "name": user, "orgs": []})

    def create(self) -> None:
        asked = json.loads(self._body())
        user = self._user()
        if user is None:
            raise _Refused(401, message="Invalid username or password.")
        owner = asked.get("organization") or user
        if owner != user:
            raise _Refused(403, message=f"You have no right to create a model under the namespace {owner}.")
        name = f"{owner}/{asked['name']}"
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        exists = name in self.hub.repos
        if not exists:
            self.hub.repos[name] = Repo(private=private)
            self.hub.repos[name].commit("main", {".gitattributes": b""}, "initial commit")
        self._send(409 if exists else 200, {"url": f"{self.hub.url}/{name}", "name": name})

    def validate(self) -> None:
        content = json.loads(self._body())["content"]
        block = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        errors = []
        try:
            data = yaml.safe_load(block.group(1)) if block else {}
            self.hub.cards.append(data)
            known = ("base_model", "license", "pipeline_tag", "library_name")
            errors += [f'"{name}" must not be empty' for name in known if name in data and not data[name]]
        except yaml.YAMLError as error:
            errors.append(str(error))
        messages = [{"message": error} for error in errors]
        self._send(400 if errors else 200, {"errors": messages, "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        asked = json.loads(self._body())["files"]
        here = self._writable(repo)
        if here.resolve(revision) is None:
            raise _Refused(404, "RevisionNotFound", "Invalid rev id")
        found = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for one in asked
        ]
        self._send(200, {"files": found})

    def batch(self, repo: str) -> None:
        asked = json.loads(self._body())
        self._writable(repo)
        objects: list[dict[str, Any]] = []
        for one in asked["objects"]:
            known = one["oid"] in self.hub.large
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}
            objects.append({"oid": one["oid"], "size": one["size"], **({} if known else {"actions": upload})})
        self._send(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        with self.hub.lock:
            cut = self.hub.cut_uploads > 0
            self.hub.cut_uploads -= cut
        if cut:
            self.rfile.read(16)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        data = self._body()
        if hashlib.sha256(data).hexdigest() != oid:
            raise _Refused(400, message="The content does not have this hash.")
        self.hub.large[oid] = data
        self._send(200, b"")

    def commit(self, repo: str, revision: str) -> None:
        lines = [json.loads(line) for line in self._body().splitlines() if line.strip()]
        here = self._writable(repo)
        if self.hub.refuse_commits is not None:
            raise _Refused(403, message=self.hub.refuse_commits)
        header, files = lines[0]["value"], {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise _Refused(400, message=f"Large file of {value['path']} was never uploaded.")
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                raise _Refused(400, message=f"This server knows nothing of {line['key']}.")
        request = "create_pr" in self.query
        branch = f"refs/pr/{len(here.pull_requests) + 1}" if request else revision
        if not request and here.resolve(branch) is None:
            raise _Refused(404, "RevisionNotFound", "Invalid rev id")
        oid = here.commit(branch, files, header["summary"])
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"}
        if request:
            here.pull_requests.append(branch)
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo}/discussions/{len(here.pull_requests)}"
        self._send(200, answer)

    def branch(self, repo: str, revision: str) -> None:
        self._body()
        here = self._writable(repo)
        if revision in here.branches:
            raise _Refused(409, message="Reference already exists")
        here.branches[revision] = list(here.branches["main"])
        self._send(200, {})

    def _at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        here = self._readable(repo)
        oid = here.resolve(revision)
        if oid is None:
            raise _Refused(404, "RevisionNotFound", "Invalid rev id")
        return oid, here.commits[oid]

    def info(self, repo: str, revision: str = "main") -> None:
        oid, files = self._at(repo, revision)
        here = self.hub.repos[repo]
        siblings = [{"rfilename": name} for name in sorted(files)]
        self._send(200, {"id": repo, "sha": oid, "private": here.private, "siblings": siblings, "tags": []})

    def tree(self, repo: str, revision: str) -> None:
        _, files = self._at(repo, revision)
        self._send(200, [_entry(name, data) for name, data in sorted(files.items())])

    def paths(self, repo: str, revision: str) -> None:
        body = self._body()
        wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
        _, files = self._at(repo, revision)
        self._send(200, [_entry(name, files[name]) for name in wanted if name in files])

    def download(self, repo: str, revision: str, path: str) -> None:
        oid, files = self._at(repo, revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": oid, "ETag": f'"{hashlib.sha256(files[path]).hexdigest()}"'}
        data, start = files[path], 0
        if "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        with self.hub.lock:
            cut = self.hub.cut_downloads > 0 and self.command == "GET" and path == self.hub.cut_file
            self.hub.cut_downloads -= cut
        self._send(206 if start else 200, data[start:], headers, cut)


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
