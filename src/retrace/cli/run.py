"""`retrace run`: track the command of one stage, written so in dvc.yaml."""

import os
import sys
from argparse import ArgumentParser, Namespace
from typing import NoReturn

from retrace.cli import arguments
from retrace.errors import RetraceError

GROUP = "run"
SUMMARY = "track a stage's command: write `cmd: retrace run -- COMMAND` in dvc.yaml"
EXAMPLES = (
    "retrace run -- Rscript fit.R      in dvc.yaml: a command in any language",
    "retrace run -- make results       several programs, as one command",
)


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_words(parser, "COMMAND", "the program to run, and its words, after --")


def run(args: Namespace) -> NoReturn:
    track(arguments.words(args))


def track(words: list[str]) -> NoReturn:
    """Run a command as the stage that DVC runs, and end as it ends.

    Below `retrace dvc` the stage is tracked already; outside DVC it is not tracked. Raises
    RetraceError without a command.
    """
    from retrace.tracking import shell, stage

    if not words:
        raise RetraceError("retrace run: no command; type it after --: retrace run -- COMMAND")
    env = dict(os.environ)
    name = env.get("DVC_STAGE")
    if name is None:
        print("warning: not tracked: DVC does not run this command", file=sys.stderr, flush=True)
        shell.replace(words, env)
    if stage.current():
        shell.replace(words, env)
    shell.track(name, words, env, line="", only="retrace run")
