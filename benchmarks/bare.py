"""Run the five stages as one script: one process, each import once, no graph, no tracking."""

import importlib.util
import sys
from pathlib import Path

import untracked


def main() -> None:
    untracked.replace()
    from lab import params

    for name in params.STAGES:
        spec = importlib.util.spec_from_file_location(name, Path("stages") / f"{name}.py")
        assert spec
        assert spec.loader
        stage = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(stage)
        stage.main()


if __name__ == "__main__":
    main()
