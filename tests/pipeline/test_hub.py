"""Models on the Hub, through the real client, which talks to a small server on this machine.

The client reads its environment when it is imported, so every environment is a process of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from sam_diffsr.pipeline.checkpoint import save_pretrained_folder

pytest.importorskip("huggingface_hub")

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys, time
from sam_diffsr.pipeline import SuperResolver

time.sleep = lambda seconds: None  # the client waits longer and longer before it tries again
for name, options in json.loads(sys.argv[1]):
    push = options.pop("push", None)
    try:
        resolver = SuperResolver.from_pretrained(name, device="cpu", **options)
        answer = {"weights": resolver.fingerprint}
        if push:
            answer["url"] = resolver.push_to_hub(**push)
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error), "cause": error.__cause__ is not None}
    print(json.dumps(answer))
"""


def commit_of(branch: str) -> str:
    return hashlib.sha1(branch.encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    """The part of the Hub's interface that downloads and uploads of small files use."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        """Files by repository and branch."""
        self.gated: set[str] = set()
        self.cut: set[str] = set()
        """Repositories whose weights break off half-way."""
        self.agents: list[str] = []
        self.downloads: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.resolve(body=False)

    def do_GET(self) -> None:
        self.resolve(body=True)

    def resolve(self, *, body: bool) -> None:
        self.server.agents.append(self.headers.get("User-Agent", ""))
        owner, name, kind, rest = ([*unquote(self.path).strip("/").split("/", 3), "", "", "", ""])[:4]
        repository = f"{owner}/{name}"
        if kind != "resolve":  # the only other question is for a pull request that was just opened
            details = {"num": 1, "title": "", "status": "draft", "isPullRequest": True, "events": []}
            details |= {
                "createdAt": "2030-01-01T00:00:00.000Z",
                "repo": {"name": f"{kind}/{rest.partition('/')[0]}", "type": "model"},
            }
            return self.json({**details, "changes": {"base": "main"}, "filesWithConflicts": []})
        revision, _, filename = rest.partition("/")
        if repository in self.server.gated:
            return self.answer(403, {"X-Error-Code": "GatedRepo"})
        branches = self.server.repositories.get(repository)
        if branches is None:
            return self.answer(404, {"X-Error-Code": "RepoNotFound"})
        branch = next((name for name in branches if revision in (name, commit_of(name))), None)
        if branch is None:
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        files, commit = branches[branch], commit_of(branch)
        if filename not in files:
            return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = files[filename]
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not body:
            return self.answer(200, {**headers, "Content-Length": str(len(content))})
        self.server.downloads.append(f"{repository}/{filename}")
        if repository in self.server.cut and filename.endswith(".safetensors"):
            if self.headers.get("Range"):
                return self.answer(503, {})
            self.answer(200, {**headers, "Content-Length": str(len(content))}, content[: len(content) // 2])
            self.close_connection = True
            return None
        return self.answer(200, {**headers, "Content-Length": str(len(content))}, content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = unquote(self.path).strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            request = json.loads(body)
            repository = f"{request.get('organization') or 'me'}/{request['name']}"
            if request.get("organization") == "locked":
                return self.answer(403, {}, b'{"error": "You do not have write access"}')
            self.server.repositories.setdefault(repository, {"main": {}})
            return self.json({"url": f"{self.server.endpoint}/{repository}", "name": repository})
        if parts[:2] == ["api", "validate-yaml"]:
            return self.json({"errors": [], "warnings": []})
        repository, action, *revision = "/".join(parts[2:4]), parts[4], *parts[5:]
        if action == "preupload":
            files = [
                {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            return self.json(
                {
                    "files": [
                        {key: file[key] for key in ("path", "uploadMode", "shouldIgnore")} for file in files
                    ]
                }
            )
        if action == "branch":
            branches = self.server.repositories[repository]
            branches.setdefault("/".join(revision), dict(branches["main"]))
            return self.json({})
        if action == "discussions":
            return self.json({"num": 1})
        branch = "/".join(revision).partition("?")[0]
        files = self.server.repositories[repository].setdefault(branch, {})
        for line in body.decode().splitlines():
            operation = json.loads(line)
            if operation["key"] == "file":
                files[operation["value"]["path"]] = base64.b64decode(operation["value"]["content"])
        commit = commit_of(branch)
        answer = {"commitUrl": f"{self.server.endpoint}/{repository}/commit/{commit}", "commitOid": commit}
        if "create_pr=1" in self.path or branch.startswith("refs/pr/"):
            answer["pullRequestUrl"] = f"{self.server.endpoint}/{repository}/discussions/1"
        return self.json(answer)

    def json(self, content: object) -> None:
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path, config, model) -> Iterator[Hub]:
    save_pretrained_folder(tmp_path / "model", config, model.state_dict(), card=None)
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    server = Hub()
    server.repositories = {
        "team/good": {
            "main": files,
            "v1": files,
            "sub": {f"a/b/{name}": text for name, text in files.items()},
        },
        "team/cut": {"main": files},
        "team/bare": {"main": {"model.safetensors": files["model.safetensors"]}},
    }
    server.gated, server.cut = {"team/gated"}, {"team/cut"}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(
    calls: list[tuple[str, dict[str, Any]]], home: Path, *, endpoint: str, **environment: str
) -> list[dict[str, Any]]:
    """What a fresh process answers to some ``from_pretrained`` (and ``push_to_hub``) calls."""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    kept = {key: value for key, value in kept.items() if not key.startswith(("HF_", "HUGGING"))}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(calls)],
        env={
            **kept,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH")))),
            "HF_HOME": str(home),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def check(answers: list[dict[str, Any]], messages: list[str]) -> None:
    assert len(answers) == len(messages)
    for answer, message in zip(answers, messages, strict=True):
        assert answer.get("error") == "ModelLoadError", answer
        assert answer["cause"]
        assert re.search(message, answer["message"]), answer["message"]


def test_download_errors_and_what_the_cache_gives_offline(hub: Hub, tmp_path: Path):
    home, cache = tmp_path / "home", tmp_path / "cache"
    online = ask(
        [
            ("team/good", {}),
            ("team/good", {"revision": "v1"}),
            ("team/good", {"revision": "sub", "subfolder": "a/b"}),
            ("team/good", {"cache_dir": str(cache)}),
            ("team/missing", {}),
            ("team/gated", {}),
            ("team/good", {"revision": "v9"}),
            ("team/bare", {}),
            ("team/good", {"subfolder": "nowhere"}),
            ("team/cut", {}),
            ("team/good--bad", {}),
            ("team/never", {"local_files_only": True}),
            ("team/good", {"local_files_only": True}),
        ],
        home,
        endpoint=hub.endpoint,
    )
    weights = online[0]["weights"]
    assert [answer.get("weights") for answer in online[:4]] == [weights] * 4
    assert online[-1] == {"weights": weights}
    check(
        online[4:-1],
        [
            r"there is no local file or folder 'team/missing' and no public model 'team/missing' at http://127",
            r"the model 'team/gated' at .* is gated: accept its licence at http.*/team/gated, then log in",
            r"the model 'team/good' at .* has no revision 'v9': pass a branch, a tag or a full commit hash",
            r"the model 'team/bare' at .* has no file config\.json: expected config\.json and model",
            r"the model 'team/good' at .* has no file config\.json: .* in the chosen subfolder",
            r"the download of model\.safetensors from 'team/cut' .* failed \(.*\); the unfinished file",
            r"'team/good--bad' is no local file or folder, no bundled model and no valid Hub id: ",
            r"config\.json of 'team/never' \(revision main\) is not in the local cache, and local_files",
        ],
    )
    assert any(path.name == "model.safetensors" for path in cache.rglob("*"))
    assert any("sam_diffsr" in agent for agent in hub.agents)
    assert not list(home.glob("hub/models--team--cut/snapshots/*/model.safetensors"))

    hub.downloads.clear()
    offline = ask(
        [("team/good", {}), ("team/missing", {}), ("team/cut", {}), ("team/good", {"force_download": True})],
        home,
        endpoint=hub.endpoint,
        HF_HUB_OFFLINE="1",
    )
    assert offline[0] == {"weights": weights}
    check(
        offline[1:],
        [
            r"config\.json of 'team/missing' \(revision main\) is not in the local cache, and HF_HUB_OFFLINE",
            r"model\.safetensors of 'team/cut' .* is not in the local cache, and HF_HUB_OFFLINE is set",
            r"config\.json of 'team/good' .* cannot be downloaded again, and HF_HUB_OFFLINE is set",
        ],
    )
    assert hub.downloads == []


def test_push_and_pull(hub: Hub, tmp_path: Path):
    answers = ask(
        [
            ("team/good", {"push": {"repo_id": "team/new", "commit_message": "First", "private": True}}),
            ("team/new", {}),
            ("team/good", {"push": {"repo_id": "team/new", "revision": "next", "card": "# Mine"}}),
            ("team/good", {"push": {"repo_id": "team/new", "create_pr": True}}),
            ("team/good", {"push": {"repo_id": "locked/new"}}),
        ],
        tmp_path / "home",
        endpoint=hub.endpoint,
        HF_TOKEN="hf_not_a_real_one",
    )
    assert answers[0]["url"] == f"{hub.endpoint}/team/new/commit/{commit_of('main')}"
    assert answers[1] == {"weights": answers[0]["weights"]}
    branches = hub.repositories["team/new"]
    assert sorted(branches["main"]) == ["README.md", "config.json", "model.safetensors"]
    assert b'from_pretrained("team/new")' in branches["main"]["README.md"]
    assert branches["next"]["README.md"] == b"# Mine"
    assert answers[3]["url"].endswith("/team/new/discussions/1")
    assert answers[4]["error"] == "OutputError"
    assert f"cannot push to locked/new at {hub.endpoint}: " in answers[4]["message"]
    assert "may write there" in answers[4]["message"]


def test_no_network(tmp_path: Path):
    server = Hub()
    server.server_close()  # nobody listens at this port any more
    answers = ask([("team/good", {})], tmp_path / "home", endpoint=server.endpoint)
    check(
        answers,
        [r"config\.json of 'team/good' .* is not in the local cache, and http.* cannot be reached"],
    )
