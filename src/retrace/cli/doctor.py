"""`retrace doctor`: list the problems here, each with the command that repairs it."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict

from retrace import doctor
from retrace.cli import arguments
from retrace.doctor.findings import Finding
from retrace.system.text import count

GROUP = "repair"
SUMMARY = (
    "find what is wrong here, and how to repair it: the environment, the machine, git, DVC, the "
    "pipeline, MLflow; it changes nothing; exit code 1 if there is a problem"
)
EXAMPLES = (
    "retrace doctor          each problem with the command that repairs it",
    "retrace doctor --all    also the checks that passed",
    "retrace doctor --json | jq -r '.findings[].repair'",
)
MARKS = {"ok": ("ok", "green"), "warning": ("!", "yellow"), "problem": ("X", "bold red")}


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)
    parser.add_argument("--all", action="store_true", help="also list the checks that passed")


def run(args: Namespace) -> int:
    return examine(everything=args.all, as_json=args.json)


def examine(*, everything: bool, as_json: bool) -> int:
    """Print problems and warnings; return 1 if there is a problem, else 0.

    With `everything`, also print the checks that passed.
    """
    findings = doctor.examine()
    counts = {level: sum(finding.level == level for finding in findings) for level in MARKS}
    if as_json:
        print(
            json.dumps({**counts, "findings": [asdict(finding) for finding in findings]}, indent=2)
        )
    else:
        _print([finding for finding in findings if everything or finding.level != "ok"])
        print(_summary(counts))
    return 1 if counts["problem"] else 0


def _summary(counts: dict[str, int]) -> str:
    passed = f"{count(counts['ok'], 'check')} passed"
    if counts["problem"] or counts["warning"]:
        bad = f"{count(counts['problem'], 'problem')}, {count(counts['warning'], 'warning')}"
        advice = "run the command below each line, then run `retrace doctor` again"
        return f"{bad}, {passed}; {advice}"
    return f"no problems: {passed}; `retrace doctor --all` lists them"


def _print(findings: Sequence[Finding]) -> None:
    """Print in color on a terminal, or without color if rich cannot be imported.

    Commands are never wrapped.
    """
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
    with console.capture() as captured:  # Python prints it, so that a closed pipe ends in cli.main
        for line, style in lines:
            console.print(line, style=style)
    sys.stdout.write(captured.get())
