"""A clone for tests of the benchmarks: it records commands and runs nothing."""

from pathlib import Path

from clones import Clone


class Stub(Clone):
    """A clone whose commands take the given time."""

    def __init__(self, path: Path, seconds: float = 0) -> None:
        self.path = path
        self.dataset = "mnist"
        self.taken = seconds
        self.commands: list[str] = []

    def run(self, *command: str, **_: str) -> str:
        self.commands.append(" ".join(command))
        return ""

    def seconds(self, *command: str) -> float:
        self.run(*command)
        return 1.0 if "benchmarks/untracked.py" in command else 1.0 + self.taken
