"""
Serve many tasks on one trunk over HTTP; see the README beside this file.

    python recipes/serve/server.py --base BASE --adapters DIR
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.adapters import adapters_in, check_name, checked, fetched
from serving.errors import ServeError

from subtuning_hf.errors import SubTuningError


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description="Serve many tasks on one trunk over HTTP.")
    found.add_argument("--base", required=True, help="base model: folder or name on the Hub")
    found.add_argument("--revision", help="branch, tag or commit of the base")
    found.add_argument("--adapters", type=Path, metavar="DIR", help="each adapter in it is a task; PUT may add others")
    found.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=ADAPTER", help="a task more: folder or name on the Hub"
    )
    found.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    found.add_argument("--port", type=int, default=8000, help="default: 8000")
    found.add_argument("--device", help="default: cuda where there is one, else cpu")
    found.add_argument("--max-batch", type=int, default=32, metavar="N", help="most requests in a pass (32)")
    found.add_argument("--max-wait-ms", type=float, default=5.0, metavar="MS", help="longest wait for others (5)")
    found.add_argument("--max-queue", type=int, default=512, metavar="N", help="most requests that wait (512)")
    found.add_argument("--timeout", type=float, default=30.0, metavar="S", help="for an answer, in seconds (30)")
    found.add_argument("--max-mbytes", type=float, default=16.0, metavar="MB", help="longest request (16)")
    found.add_argument(
        "--admin-token",
        default=os.environ.get("SUBTUNING_ADMIN_TOKEN"),
        help="needed to add and remove tasks; better given in SUBTUNING_ADMIN_TOKEN, where others cannot read it",
    )
    return found


def named_adapters(options: argparse.Namespace) -> dict[str, Path]:
    """
    Folders of the adapters by task.

    Raises: [`ServeError`]: If one is missing, or a name is given twice.
    """
    found = adapters_in(options.adapters) if options.adapters is not None else {}
    for given in options.adapter:
        name, equals, place = given.partition("=")
        if not equals or not place:
            raise ServeError(f"--adapter: expected NAME=FOLDER_OR_HUB_NAME, found '{given}'.")
        if check_name(name) in found:
            raise ServeError(f"--adapter: there are two adapters for the task '{name}'. Give one another name.")
        found[name] = Path(place) if Path(place).is_dir() else fetched(place)
    for folder in found.values():
        checked(folder)
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(words: Sequence[str] | None = None) -> int:
    """Load everything, then serve until a signal; what waits then is still answered."""
    options = parser().parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        adapters = named_adapters(options)
        import torch
        import uvicorn
        from serving.http import Service, Settings
        from serving.trunk import Trunk

        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        trunk = Trunk.load(options.base, adapters, device, options.revision)
        settings = Settings(
            adapters=options.adapters,
            max_batch=options.max_batch,
            max_wait=options.max_wait_ms / 1000,
            max_queue=options.max_queue,
            timeout=options.timeout,
            max_bytes=int(options.max_mbytes * 1024 * 1024),
            admin_token=options.admin_token or None,
            admin_open=is_loopback(options.host),
        )
        service = Service(trunk, settings)
    except (SubTuningError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    patience = math.ceil(options.timeout) + 1  # for clients that do not take their answers
    uvicorn.run(
        service.app(), host=options.host, port=options.port, access_log=False, timeout_graceful_shutdown=patience
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
