"""A stand-in of the Hub's HTTP API on the loopback: repositories of commits, downloads in ranges, uploads, faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Commits by their hash, the newest one last."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, files: dict[str, bytes]) -> str:
        """Adds a commit with these files over the former ones; returns its hash."""
        before = self.commits[list(self.commits)[-1]] if self.commits else {}
        name = hashlib.sha1(str(len(self.commits)).encode()).hexdigest()
        self.commits[name] = {**before, **files}
        return name

    def revision(self, name: str) -> str | None:
        """The hash of a commit that a branch or a hash names."""
        if name == "main":
            return list(self.commits)[-1] if self.commits else None
        return name if name in self.commits else None


class HubServer(ThreadingHTTPServer):
    """Repositories, what was asked, and what goes wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.failures: dict[str, int] = {}
        """How many times more a file is answered by 503."""
        self.cuts: dict[str, int] = {}
        """How many times more the connection is cut in the middle of a file."""

    @property
    def address(self) -> str:
        """http://127.0.0.1:PORT"""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """The server, in a thread of its own."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self._download(has_body=False)

    def do_GET(self) -> None:
        parts = self._parts()
        if parts[:2] == ["api", "models"]:
            self._info(parts)
        else:
            self._download(has_body=True)

    def do_POST(self) -> None:
        parts, body = self._parts(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'user'}/{asked['name']}"
            self.server.repositories.setdefault(name, Repository(private=bool(asked.get("private"))))
            self._json({"url": f"{self.server.address}/{name}", "name": name, "id": name})
        elif parts[-2:-1] == ["preupload"]:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif parts[-2:-1] == ["commit"]:
            self._commit("/".join(parts[2:4]), body)
        elif parts == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        else:
            self._refuse(404, None)

    def _parts(self) -> list[str]:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        return [part for part in path.split("/") if part]

    def _repository(self, name: str) -> Repository | None:
        """The repository, or None after an answer that refuses it."""
        found, token = self.server.repositories.get(name), self.headers.get("Authorization")
        if found is None or (found.private and token != "Bearer good"):
            return self._refuse(404, "RepoNotFound")
        if found.gated and token != "Bearer good":
            return self._refuse(403, "GatedRepo")
        return found

    def _info(self, parts: list[str]) -> None:
        repository = self._repository("/".join(parts[2:4]))
        if repository is None:
            return
        name = repository.revision(parts[5] if len(parts) > 5 else "main")
        if name is None:
            self._refuse(404, "RevisionNotFound")
            return
        files = repository.commits[name]
        if len(parts) > 4 and parts[4] == "tree":
            rows = [{"type": "file", "path": path, "size": len(data), "oid": "0"} for path, data in files.items()]
            self._json(rows)
        else:
            self._json({"id": "/".join(parts[2:4]), "sha": name, "siblings": [{"rfilename": path} for path in files]})

    def _download(self, *, has_body: bool) -> None:
        parts = self._parts()
        repository = self._repository("/".join(parts[:2]))
        if repository is None:
            return
        name, path = repository.revision(parts[3]), "/".join(parts[4:])
        data = repository.commits[name].get(path) if name else None
        if data is None:
            self._refuse(404, "EntryNotFound" if name else "RevisionNotFound")
            return
        if self.server.failures.get(path, 0) > 0:
            self.server.failures[path] -= 1
            self._refuse(503, None)
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", name or "")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if has_body and self.server.cuts.get(path, 0) > 0:
            self.server.cuts[path] -= 1
            self.wfile.write(data[start : start + (len(data) - start) // 2])
            self.close_connection = True
        elif has_body:
            self.wfile.write(data[start:])

    def _commit(self, repo_id: str, body: bytes) -> None:
        repository = self._repository(repo_id)
        if repository is None:
            return
        files = {}
        for line in body.splitlines():
            operation = json.loads(line)
            if operation["key"] == "file":
                files[operation["value"]["path"]] = base64.b64decode(operation["value"]["content"])
        name = repository.commit(files)
        address = f"{self.server.address}/{repo_id}"
        self._json(
            {"commitUrl": f"{address}/commit/{name}", "commitOid": name, "pullRequestUrl": f"{address}/discussions/1"}
        )

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, code: str | None) -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
