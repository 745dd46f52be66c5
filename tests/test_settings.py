"""The engine's file names: equal to the lab's, which the engine cannot import."""

from lab import paths
from retrace import settings


def test_files_are_those_of_the_lab() -> None:
    named = {name: value for name, value in vars(settings).items() if name.isupper()}
    lab = {**vars(paths), "DVC_YAML": paths.GRAPH}
    assert named == {name: lab.get(name) for name in named}
