"""
Prints the lower bounds of setup.cfg as constraints for pip: what `make test-lowest` installs.

Of what the tests themselves need the newest versions are taken.
"""

import configparser
import re
from pathlib import Path

EXTRAS = ("plots", "demo", "timm")


def lower_bounds(text: str) -> dict[str, str]:
    """Package names and lower bounds of a setup.cfg's requirements."""
    config = configparser.ConfigParser()
    config.read_string(text)
    lists = [config["options"]["install_requires"], *(config["options.extras_require"][name] for name in EXTRAS)]
    lines = [line.strip() for one in lists for line in one.splitlines() if line.strip()]
    found = [re.match(r"([\w.-]+)>=([\w.]+)", line) for line in lines]
    missing = [line for line, match in zip(lines, found, strict=True) if match is None]
    if missing:
        raise SystemExit(f"setup.cfg: no lower bound for {', '.join(missing)}.")
    return {match[1]: match[2] for match in found if match is not None}


if __name__ == "__main__":
    bounds = lower_bounds((Path(__file__).parent.parent / "setup.cfg").read_text(encoding="utf-8"))
    print("\n".join(f"{name}=={bound}" for name, bound in bounds.items()))
