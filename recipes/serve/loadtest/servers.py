"""
Server processes on loopback: started on given cores, awaited, stopped.

Knows processes and ports; does not know what they are asked.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SERVER = Path(__file__).parents[1] / "server.py"
# Loopback must not go through a proxy that the environment names.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Server:
    """
    A process that serves.

    Args:
        url (`str`): Its address.
        process (`subprocess.Popen`): The process.
    """

    url: str
    process: subprocess.Popen

    def memory(self) -> float:
        """MiB, with pages that processes share divided among them; 0 where the system does not say."""
        try:
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(), re.M)
        except OSError:
            return 0.0
        return int(found[1]) / 1024 if found else 0.0


@contextmanager
def serving(
    base: str,
    adapters: Mapping[str, Path],
    log: Path,
    *,
    root: Path | None = None,
    threads: int = 1,
    cores: Collection[int] | None = None,
    max_batch: int = 32,
    max_wait_ms: float = 5.0,
) -> Iterator[Server]:
    """
    A server while the block of code runs.

    Args:
        base (`str`): Folder or Hub name.
        adapters (`Mapping[str, Path]`): Folders by task.
        log (`Path`): What it prints.
        root (`Path`, *optional*): Folder from which adapters may be added later; those in it are tasks from the start.
        threads (`int`): Of the model.
        cores (`Collection[int]`, *optional*): To run on; by default all.
        max_batch (`int`), max_wait_ms (`float`): See the server.

    Raises: `RuntimeError`: If it does not start.
    """
    port = free_port()
    words = [sys.executable, str(SERVER), "--base", base, "--port", str(port), *_adapter_words(adapters, root)]
    words += ["--max-batch", str(max_batch), "--max-wait-ms", str(max_wait_ms)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment)
    if cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, cores)  # before it has made threads, which inherit it
    try:
        server = Server(f"http://127.0.0.1:{port}", process)
        _await(server, log)
        yield server
    finally:
        _stop(process)


def _adapter_words(adapters: Mapping[str, Path], root: Path | None) -> list[str]:
    words = ["--adapters", str(root)] if root is not None else []
    for name, folder in adapters.items():
        if root is None or folder.parent != root:
            words += ["--adapter", f"{name}={folder}"]
    return words


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _await(server: Server, log: Path, seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.process.poll() is not None:
            raise RuntimeError(f"The server ended with {server.process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            with _DIRECT.open(f"{server.url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"The server was not ready within {seconds:g} s:\n{log.read_text()[-2000:]}")
