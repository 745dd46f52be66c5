"""The pinned packages: none older than what mended a hole that somebody else's file or page could use against us."""

import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from repository import BIN, ROOT

MENDED = {  # the first version without it
    "torch": ("2.6.0", "CVE-2025-32434: torch.load ran code in spite of weights_only"),
    "mlflow": (
        "3.5.0",
        "CVE-2025-14279: a page of another site reached the server by DNS rebinding",
    ),
    "pillow": ("11.3.0", "CVE-2025-48379: an image overflowed a buffer"),
    "pyyaml": ("5.4", "CVE-2020-14343: a tag ran code"),
    "pyarrow": ("14.0.1", "CVE-2023-47248: a file ran code"),
    "fonttools": ("4.60.2", "CVE-2025-66034: a font wrote a file anywhere"),
    "setuptools": ("78.1.1", "CVE-2025-47273: a package's name led out of its folder"),
    "gitpython": ("3.1.41", "CVE-2024-22190: a program in the work tree was run"),
    "filelock": ("3.20.1", "CVE-2025-68146: a link in a lock's place emptied another file"),
    "requests": ("2.32.4", "CVE-2024-47081: an address drew out a password"),
    "urllib3": ("2.6.0", "CVE-2025-66471: an answer was a decompression bomb"),
    "aiohttp": ("3.10.11", "CVE-2024-52304: a request was smuggled"),
    "h11": ("0.16.0", "CVE-2025-43859: a request was smuggled"),
    "gunicorn": ("23.0.0", "CVE-2024-6827: a request was smuggled"),
    "werkzeug": ("3.0.6", "CVE-2024-49767: a form took all memory"),
    "starlette": ("0.49.1", "CVE-2025-62727: a header took all of a processor"),
    "jinja2": ("3.1.6", "CVE-2025-27516: a template left its sandbox"),
    "scikit-learn": ("1.5.0", "CVE-2024-5206: training text was kept in a model"),
}


def pins(requirements: str) -> dict[str, list[str]]:
    """The versions of each package, as many as there are kinds of machine that have their own."""
    found: dict[str, list[str]] = {}
    for name, pinned in re.findall(r"^([\w.-]+)==([^ ;\\]+)", requirements, re.MULTILINE):
        found.setdefault(name, []).append(pinned)
    return found


def floors(pyproject: str) -> dict[str, list[str]]:
    """The oldest version of each package that we import ourselves which may be installed."""
    said = tomllib.loads(pyproject)["project"]["dependencies"]
    return {
        requirement.name: [part.version for part in requirement.specifier]
        for requirement in map(Requirement, said)
    }


def below(pinned: Mapping[str, list[str]]) -> list[str]:
    """Which packages have a hole that is mended."""
    return [
        f"{name} {old}: {hole}"
        for name, (first, hole) in MENDED.items()
        for old in pinned.get(name, [])
        if Version(old) < Version(first)
    ]


def test_no_pinned_package_has_a_hole_that_we_know_of() -> None:
    pinned = pins((ROOT / "requirements.txt").read_text())
    assert below(pinned) == []
    assert below(pinned | {"torch": ["2.14.1", "2.5.1"]}) == [f"torch 2.5.1: {MENDED['torch'][1]}"]


def test_no_package_with_a_hole_that_we_know_of_is_allowed() -> None:
    allowed = floors((ROOT / "pyproject.toml").read_text())
    assert set(allowed) >= {"torch", "mlflow", "pillow", "pyyaml"}
    assert below(allowed) == []
    assert below(allowed | {"requests": ["2.32"]}) == [f"requests 2.32: {MENDED['requests'][1]}"]


def test_no_installed_package_has_a_hole_that_we_know_of() -> None:
    assert below({name: [version(name)] for name in MENDED}) == []


def audited(**env: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-C", ROOT, "--assume-old=env", "BIN=none", "audit"]
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | env
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_an_audit_that_reaches_no_database_says_so(tmp_path: Path) -> None:
    ended = audited(
        HTTPS_PROXY="http://127.0.0.1:9",
        PIP_AUDIT_CACHE_DIR=str(tmp_path),
        XDG_CACHE_HOME=str(tmp_path),
    )
    assert ended.returncode == 2
    assert "audit: the database did not tell of every package, so nothing is known" in ended.stdout
    assert "Traceback" not in ended.stdout


@pytest.mark.parametrize(
    ("said", "code", "expected"),
    [
        ("No known vulnerabilities found", 0, 0),
        (
            "Found 2 known vulnerabilities in 1 package",
            1,
            2,
        ),  # make's own code for a target that failed
        ("Found 1 known vulnerability in 1 package", 1, 2),
    ],
)
def test_an_audit_shows_what_the_database_says(
    tmp_path: Path, said: str, code: int, expected: int
) -> None:
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\necho {said} >&2\nexit {code}\n")
    program.chmod(0o755)
    ended = audited(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert (ended.returncode, said in ended.stdout) == (expected, True)
    assert "did not tell" not in ended.stdout


@pytest.mark.xdist_group("one worker")
def test_a_group_of_tests_has_one_worker(request: pytest.FixtureRequest) -> None:
    """Else each worker would make what the tests of a group share, and nothing would say so."""
    grouped = request.config.getoption("loadgroup", default=False)
    assert request.node.nodeid.endswith("@one worker") == grouped
