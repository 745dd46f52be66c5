"""Python, its packages, and whose code the `retrace` command runs."""

import platform
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from retrace.checks.findings import REBUILD, Check, Finding, ok, problem, some

PROJECT, PINS = Path("pyproject.toml"), Path("requirements.txt")
PIN = re.compile(r"^([\w.-]+)==([^ ;\\]+) *(?:; *([^\\\n]*[^\\\s]))?", re.MULTILINE)


def python() -> Iterator[Finding]:
    """Python is one of those that pyproject.toml allows."""
    from packaging.specifiers import SpecifierSet

    allowed = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["requires-python"]
    version = platform.python_version()
    if version in SpecifierSet(allowed, prereleases=True):
        yield ok(f"Python {version}")
    else:
        yield problem(f"Python {version}; {PROJECT} allows {allowed}", "rm -rf .venv && make PYTHON=python3.12 env")


def packages() -> Iterator[Finding]:
    """The packages are those of requirements.txt."""
    from packaging.markers import Marker
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    pinned = {
        name: version
        for name, version, marker in PIN.findall(PINS.read_text(encoding="utf-8"))
        if not marker or Marker(marker).evaluate()
    }
    here = {canonicalize_name(each.name): each.version for each in metadata.distributions() if each.name}
    wrong = [
        f"{name} is {here.get(name, 'missing')}, not {version}"
        for name, version in pinned.items()
        if name not in here or Version(here[name]).public != Version(version).public
    ]
    if wrong:
        yield problem(f"{len(wrong)} of {len(pinned)} packages are not as {PINS} says: {some(wrong)}", REBUILD)
    else:
        yield ok(f"{len(pinned)} packages, as {PINS} says")


def code() -> Iterator[Finding]:
    """The command runs the code of the repository that it is called in."""
    own, wanted = Path(__file__).resolve().parents[1], Path("src/retrace").resolve()
    if own == wanted:
        yield ok("`retrace` runs the code in src/")
    else:
        yield problem(f"`retrace` runs the code in {own}, not this repository's", "make env && . .venv/bin/activate")


CHECKS: dict[str, Check] = {"python": python, "packages": packages, "code": code}
