"""The part of the hub that `huggingface_hub` and `datasets` ask for data sets, on a port of this machine.

A folder `owner/name` is a repository of data. Each answer is written to a log, with the bytes that were sent; answers
can be cut short or refused, as a bad connection or a busy hub does it.
"""

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import datasets
import huggingface_hub
import pytest

_API = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)(/(?P<what>revision|tree|paths-info)/(?P<rest>.+))?")
_FILE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass(frozen=True)
class Answer:
    """What was asked for, and the bytes of a body that were sent."""

    method: str
    path: str
    status: int
    num_bytes: int


@dataclass
class Fault:
    """What happens to the next `times` requests whose path holds `part`.

    They are refused with `status`, or the connection ends after `cut` bytes: in order, or, where it `breaks`, at once.
    """

    part: str
    times: int = 1
    status: int | None = None
    cut: int | None = None
    breaks: bool = False
    method: str = "GET"


@dataclass
class Hub:
    """A hub that serves the repositories in `root`.

    Attributes:
        answers: all that was answered, in its order.
        faults: what goes wrong next.
    """

    root: Path
    endpoint: str = ""
    answers: list[Answer] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def num_bytes(self, part: str = "") -> int:
        """The bytes that were sent of paths that hold `part`."""
        return sum(answer.num_bytes for answer in self.answers if part in answer.path)

    def requests(self, part: str = "") -> list[str]:
        """The requests of paths that hold `part`."""
        return [f"{answer.method} {answer.path}" for answer in self.answers if part in answer.path]

    def commit_of(self, repo: str) -> str:
        """A digest of all names and sizes, so it changes with the files."""
        files = [f"{path} {(self.root / repo / path).stat().st_size}" for path in self.files_of(repo)]
        return hashlib.sha1("\n".join(files).encode()).hexdigest()

    def files_of(self, repo: str) -> list[str]:
        """The files of a repository, relative to it."""
        folder = self.root / repo
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def fault_of(self, method: str, path: str) -> Fault | None:
        """What goes wrong with this request."""
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.part in path:
                fault.times -= 1
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr; `Hub.answers` has it."""

    def handle_one_request(self) -> None:
        """Every method is answered by `_answer`."""
        self.raw_requestline = self.rfile.readline(65_537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self._answer()
        if self.connection.fileno() >= 0:
            self.wfile.flush()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        form = self.rfile.read(length).decode() if length else ""
        path = unquote(urlsplit(self.path).path)
        fault = self.hub.fault_of(self.command, path)
        if fault is not None and fault.status is not None:
            self._send(fault.status, b"busy", {})
            return
        if match := _FILE.fullmatch(path):
            self._send_file(match["repo"], match["revision"], match["path"], fault)
        elif match := _API.fullmatch(path):
            self._send_api(match["repo"], match["what"], match["rest"] or "", form)
        else:
            self._send(404, b"", {})

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        """An answer with `body`, of which no more is sent than `fault` lets through."""
        cut = None if fault is None else fault.cut
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        sent = b"" if self.command == "HEAD" else body[:cut]
        self.hub.answers.append(Answer(self.command, self.path, status, len(sent)))
        self.wfile.write(sent)
        if fault is not None and fault.cut is not None:
            self.close_connection = True
            if fault.breaks:  # a reset in place of an end
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    def _refuse(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(404, b"", {"X-Error-Code": code, **(headers or {})})

    def _send_file(self, repo: str, revision: str, path: str, fault: Fault | None) -> None:
        if not (self.hub.root / repo).is_dir():
            self._refuse("RepoNotFound")
            return
        commit = {"X-Repo-Commit": self.hub.commit_of(repo)}
        if revision not in ("main", self.hub.commit_of(repo)):
            self._refuse("RevisionNotFound")
            return
        if path not in self.hub.files_of(repo):
            self._refuse("EntryNotFound", commit)
            return
        content = (self.hub.root / repo / path).read_bytes()
        headers = {**commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        status = 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2] or len(content) - 1)
            if first >= len(content):
                self._send(416, b"", commit)
                return
            last = min(last, len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        headers["Content-Length"] = str(len(content))
        self._send(status, content, headers, fault)

    def _send_api(self, repo: str, what: str | None, rest: str, form: str) -> None:
        if not (self.hub.root / repo).is_dir():
            self._refuse("RepoNotFound")
            return
        if what in ("tree", "paths-info"):
            _, _, path = rest.partition("/")
            entries = self._entries(repo)
            if what == "tree":
                inside = f"{path}/" if path else ""
                recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
                found = [one for one in entries if one["path"].startswith(inside)]
                found = [one for one in found if recursive or "/" not in one["path"][len(inside) :]]
                if path and not found:
                    self._refuse("EntryNotFound")
                    return
            else:
                wanted = parse_qs(form).get("paths", []) or json.loads(form or "{}").get("paths", [])
                found = [one for one in entries if one["path"] in wanted]
            self._send_json(found)
        else:
            files = [{"rfilename": path} for path in self.hub.files_of(repo)]
            commit = self.hub.commit_of(repo)
            self._send_json({"id": repo, "sha": commit, "private": False, "tags": [], "siblings": files})

    def _entries(self, repo: str) -> list[dict[str, Any]]:
        """The files and folders of a repository, as the hub lists them."""
        entries: list[dict[str, Any]] = []
        for path in self.hub.files_of(repo):
            size = (self.hub.root / repo / path).stat().st_size
            entries.append({"type": "file", "path": path, "size": size, "oid": hashlib.sha1(path.encode()).hexdigest()})
        folders = {str(parent) for entry in entries for parent in Path(entry["path"]).parents} - {"."}
        for folder in sorted(folders):
            oid = hashlib.sha1(folder.encode()).hexdigest()
            entries.append({"type": "directory", "path": folder, "size": 0, "oid": oid})
        return entries

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """A hub on a free port, until the end of the context."""
    hub = Hub(root)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def environment(hub: Hub, cache: Path) -> dict[str, str]:
    """What a process is to be started with, so that `hub` is its hub."""
    return {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}


def use_hub(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `hub` the hub of this process. The libraries read settings once, so set what they read them into."""
    for key, value in environment(hub, cache).items():
        monkeypatch.setenv(key, value)
    constants = huggingface_hub.constants
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(
        datasets.config, "HUB_DATASETS_URL", hub.endpoint + "/datasets/{repo_id}/resolve/{revision}/{path}"
    )
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
