"""A real ComfyUI server on this machine: started, given prompts over HTTP, followed over its websocket, stopped.

>>> base = make_base(Path("out/base"), {"my_pack": Path("my_pack")})
>>> with ComfyHost(find_comfy(), base) as host:
...     outcome = host.run(prompt, on_event=print)
"""

from __future__ import annotations

import asyncio
import filecmp
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

REPOSITORY = Path(__file__).resolve().parents[1]


class HostError(RuntimeError):
    """The server did not start, ended, or did not answer in time. The message holds the last lines of its log."""


@dataclass
class Outcome:
    """What became of one prompt.

    outputs: what each output node reported, by node id, e.g. {"9": {"images": [{"filename": ..., "subfolder": ..., "type": ...}]}}
    error, error_node: the sentence that ended it and the id of the node that said so, if any
    seconds: by node id, from its start to the next node's; nodes taken from the cache are in `cached` instead"""

    outputs: dict[str, dict] = field(default_factory=dict)
    error: str | None = None
    error_node: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)


def make_base(base: Path, packs: Mapping[str, Path]) -> Path:
    """Makes the folder of one ComfyUI instance, with each of these folders as the custom node pack of its name.

    May be called again on the same folder. Returns its absolute path."""
    base = base.resolve()
    for folder in ("custom_nodes", "models", "input", "output", "temp", "user/default"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, pack in packs.items():
        install_pack(pack, base / "custom_nodes" / name)
    return base


def install_pack(source: Path, target: Path) -> None:
    """A link to `source`; where the system grants none (Windows without developer mode), a copy of what the pack ships."""
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
    try:
        target.symlink_to(source, target_is_directory=True)
    except OSError:
        lists = [path.read_text(encoding="utf-8") for name in (".gitignore", ".comfyignore") if (path := source / name).exists()]
        left_out = [line.strip("/") for text in lists for line in text.splitlines() if line and not line.startswith("#")]
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", *left_out))


def copy_if_new(source: Path, target: Path) -> None:
    """Copies unless the same bytes are there already: a new time stamp would make the server read an unchanged file again."""
    if not (target.exists() and filecmp.cmp(source, target, shallow=False)):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


class ComfyHost:
    """Context manager: ComfyUI on 127.0.0.1 at a free port, stopped by its process id however the block ends.

    comfy: folder with ComfyUI's main.py; it is not written to
    base: the instance's own folder, as make_base makes it
    log: file for all that the server prints (default: base/host.log)
    cpu: run on the CPU even where CUDA is available; on the CPU results repeat to the bit
    start_timeout: seconds that the server may take until it answers
    page: folder of the page to serve (default: the one that is installed beside ComfyUI)

    Entering raises HostError if the server ends or does not answer, or if one of the packs in `base` fails to import."""

    def __init__(
        self, comfy: Path, base: Path, log: Path | None = None, cpu: bool = False, start_timeout: float = 300, page: Path | None = None
    ):
        self.comfy, self.base = Path(comfy).resolve(), Path(base).resolve()
        self.log = Path(log).resolve() if log else self.base / "host.log"
        self.cpu, self.start_timeout, self.page = cpu, start_timeout, page
        self.address = ""
        self.pid = 0
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> ComfyHost:
        try:
            self._start()
            self._wait_until_ready()
            self._check_packs()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        command = [sys.executable, str(REPOSITORY / "runner" / "launch.py"), str(self.comfy)]
        command += ["--listen", "127.0.0.1", "--port", str(port), "--disable-api-nodes", "--disable-auto-launch"]
        command += ["--base-directory", str(self.base)]
        command += ["--database-url", f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"]  # else it lies in ComfyUI's own folder
        command += ["--cpu"] if self.cpu else []
        command += ["--front-end-root", str(self.page)] if self.page else []
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=self.base, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
            )
        self.pid = self._process.pid

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + self.start_timeout
        while True:
            try:
                self._get("/system_stats")
                return
            except OSError:  # URLError and timeouts are OSErrors: nobody listens yet
                pass
            if not self.running:
                raise self._failure("ComfyUI ended while it started")
            if time.monotonic() > end:
                raise self._failure(f"ComfyUI did not answer within {self.start_timeout:.0f} s")
            time.sleep(0.2)

    def _check_packs(self) -> None:
        """ComfyUI starts without a pack that does not import. Here that is an error, told with the traceback."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        for pack in (self.base / "custom_nodes").iterdir():
            if re.search(rf"\(IMPORT FAILED\): {re.escape(str(pack))}\s*$", text, re.MULTILINE):
                reason = re.search(rf"Traceback(?:(?!Traceback).)*?Cannot import {re.escape(str(pack))} [^\n]*", text, re.DOTALL)
                raise HostError(f"ComfyUI could not import {pack}:\n{reason[0] if reason else text[-4000:]}")

    def _failure(self, what: str) -> HostError:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
        return HostError("\n".join([f"{what}. The last lines of {self.log}:", *lines]))

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends the server; does nothing if it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.terminate()
            process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()  # nothing happens if it has ended
            process.wait()
            if process.stdin:
                process.stdin.close()

    def _get(self, path: str) -> Any:
        # Past a proxy that the environment may name: it knows nothing of this machine's ports.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.address + path, timeout=60) as response:
            return json.load(response)

    def object_info(self) -> dict:
        """Every node type that the server knows, by id, as the page sees it."""
        return self._get("/object_info")

    def translations(self) -> dict:
        """The texts of all packs in other languages, by language, as the page merges them into its own."""
        return self._get("/i18n")

    def add_input(self, path: Path) -> str:
        """Copies a file into the input folder, in place of one of the same name, and returns the name that a loader node takes."""
        copy_if_new(path, self.base / "input" / path.name)
        return path.name

    def run(self, prompt: dict, on_event: Callable[[dict], None] | None = None, timeout: float = 1800) -> Outcome:
        """Queues a prompt (API form: node id -> {"class_type", "inputs"}) and follows it to its end.

        on_event gets each of the server's messages about it as {"type": ..., "data": {...}}: "executing", "progress", "executed", ...
        A refused prompt and a node's error are an Outcome with `error`. Raises HostError if the server ends or `timeout` seconds pass."""
        try:
            return asyncio.run(asyncio.wait_for(self._follow(prompt, on_event), timeout))
        except asyncio.TimeoutError:
            raise self._failure(f"The prompt was not done within {timeout:.0f} s") from None
        except aiohttp.ClientError as error:
            raise self._failure(f"The connection to ComfyUI broke ({error})") from error

    async def _follow(self, prompt: dict, on_event: Callable[[dict], None] | None) -> Outcome:
        client = uuid.uuid4().hex
        outcome = Outcome()
        async with (
            aiohttp.ClientSession(self.address, timeout=aiohttp.ClientTimeout(total=None)) as session,
            session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as messages,
        ):
            async with session.post("/prompt", json={"prompt": prompt, "client_id": client}) as response:
                if response.status not in (200, 400):
                    raise self._failure(f"ComfyUI answered {response.status} to the prompt")
                answer = await response.json()
            outcome.error, outcome.error_node = refusal(answer)
            if "prompt_id" not in answer:
                return outcome
            current, since = None, 0.0
            async for message in messages:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue  # preview pictures
                event = json.loads(message.data)
                data = event.get("data") or {}
                if data.get("prompt_id") != answer["prompt_id"]:
                    continue
                if on_event:
                    on_event(event)
                if event["type"] == "executing":
                    now = time.monotonic()
                    if current is not None:
                        outcome.seconds[current] = outcome.seconds.get(current, 0.0) + now - since
                    current, since = data["node"] and (data.get("display_node") or data["node"]), now
                    if current is None:
                        break
                elif event["type"] == "execution_cached":
                    outcome.cached = data["nodes"]
                elif event["type"] == "execution_error":
                    outcome.error, outcome.error_node = data["exception_message"].strip(), data["node_id"]
                elif event["type"] == "execution_interrupted":
                    outcome.error, outcome.error_node = "interrupted", data["node_id"]
            else:
                raise self._failure("ComfyUI ended, or closed its connection, during the prompt")
            async with session.get(f"/history/{answer['prompt_id']}") as response:
                outcome.outputs = (await response.json()).get(answer["prompt_id"], {}).get("outputs", {})
        return outcome


def refusal(answer: dict) -> tuple[str | None, str | None]:
    """The sentence and the node id of a prompt that was refused whole or in part; (None, None) if it was not."""
    sentences = {}
    for node, report in (answer.get("node_errors") or {}).items():
        if report["errors"]:  # a node may be listed for what another one did
            found = "; ".join(f"{e['message']}: {e['details']}" if e.get("details") else e["message"] for e in report["errors"])
            sentences[node] = f"{report['class_type']} (node {node}): {found}"
    if sentences:
        return "\n".join(sentences.values()), next(iter(sentences))
    if error := answer.get("error"):
        return f"{error['message']} {error.get('details') or ''}".strip(), None
    return None, None
