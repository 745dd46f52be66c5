"""`retrace doctor`: what is wrong here, each with the command that mends it. Nothing is changed."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from retrace import checks
from retrace.checks.findings import Finding

MARKS = {"ok": ("ok", "green"), "warning": ("!", "yellow"), "problem": ("X", "bold red")}


def examine(*, everything: bool, as_json: bool) -> int:
    """Print what is found: what is wrong, with `everything` also what is in order. 1 if there is a problem, else 0."""
    found = checks.examine()
    counts = {level: sum(finding.level == level for finding in found) for level in MARKS}
    if as_json:
        print(json.dumps({**counts, "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        _print([finding for finding in found if everything or finding.level != "ok"])
        print(_summed(counts))
    return 1 if counts["problem"] else 0


def _summed(counts: dict[str, int]) -> str:
    if counts["problem"] or counts["warning"]:
        said = f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} in order"
        return f"{said}; each command mends what is above it, and then `retrace doctor` again"
    return f"nothing is wrong: {counts['ok']} in order; `retrace doctor --all` lists them"


def _print(findings: Sequence[Finding]) -> None:
    """Coloured on a terminal; as plain lines where rich is among what is broken. A command is never wrapped."""
    width = max((len(finding.check) for finding in findings), default=0)
    lines = []
    for finding in findings:
        mark, style = MARKS[finding.level]
        lines.append((f"{mark:2} {finding.check:{width}}  {finding.what}", style))
        lines += [(f"   {'':{width}}  $ {finding.repair}", "")] if finding.repair else []
    try:
        from rich.console import Console
    except ImportError:
        print(*(line for line, _ in lines), sep="\n")
        return
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    with console.capture() as captured:  # and printed by Python, for the end of a pipe is answered elsewhere
        for line, style in lines:
            console.print(line, style=style)
    sys.stdout.write(captured.get())
