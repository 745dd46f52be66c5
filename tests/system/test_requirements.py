"""The pinned packages have no known vulnerability that a file or a page could exploit."""

import re
import tomllib
from collections.abc import Mapping
from importlib.metadata import version
from itertools import chain

from packaging.requirements import Requirement
from packaging.version import Version
from repository import ROOT

FIXED = {  # the first version without the vulnerability
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
    """Return the pinned versions of each package: platforms may differ."""
    versions: dict[str, list[str]] = {}
    for name, pinned in re.findall(r"^([\w.-]+)==([^ ;\\]+)", requirements, re.MULTILINE):
        versions.setdefault(name, []).append(pinned)
    return versions


def floors(pyproject: str) -> dict[str, list[str]]:
    """Return the oldest allowed version of each direct dependency, of the extras too."""
    project = tomllib.loads(pyproject)["project"]
    extras = project.get("optional-dependencies", {}).values()
    return {
        requirement.name: [
            each.version for each in requirement.specifier if each.operator in (">=", "==")
        ]
        for requirement in map(Requirement, chain(project["dependencies"], *extras))
    }


def vulnerable(pinned: Mapping[str, list[str]]) -> list[str]:
    """List the versions with a known vulnerability."""
    return [
        f"{name} {old}: {cve}"
        for name, (first, cve) in FIXED.items()
        for old in pinned.get(name, [])
        if Version(old) < Version(first)
    ]


def test_pinned_packages_are_not_vulnerable() -> None:
    pinned = pins((ROOT / "requirements.txt").read_text())
    assert vulnerable(pinned) == []
    assert vulnerable(pinned | {"torch": ["2.14.1", "2.5.1"]}) == [
        f"torch 2.5.1: {FIXED['torch'][1]}"
    ]


def test_allowed_packages_are_not_vulnerable() -> None:
    lab = floors((ROOT / "src/lab/pyproject.toml").read_text())
    allowed = floors((ROOT / "pyproject.toml").read_text())
    assert lab.keys() >= {"torch", "mlflow", "pillow"}
    assert allowed.keys() >= {"mlflow", "mlflow-skinny", "pillow", "pyyaml"}
    assert vulnerable(lab) == vulnerable(allowed) == []
    assert vulnerable(allowed | {"requests": ["2.32"]}) == [
        f"requests 2.32: {FIXED['requests'][1]}"
    ]


def test_installed_packages_are_not_vulnerable() -> None:
    assert vulnerable({name: [version(name)] for name in FIXED}) == []
