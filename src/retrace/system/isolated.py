"""Run a module of this very retrace, out of the reach of the folder in which a stage runs.

    python -I .../retrace/system/isolated.py MODULE ARGUMENTS...

Python's isolated mode, `-I`, ignores the working directory and PYTHONPATH, where a project may have
modules named like ours or like the libraries that we use. It also ignores a retrace that was found
there, or in the user's site-packages; so the folder of the package, which this file knows, is added
to the path if it is not there.
"""

import sys
from importlib import import_module
from pathlib import Path


def python(module: str) -> list[str]:
    """Return the command that runs a module of retrace, isolated if this process is."""
    program = ["-I", __file__, module] if sys.flags.isolated else ["-m", module]
    return [sys.executable, *program]


def _main() -> None:
    packages = str(Path(__file__).resolve().parents[2])
    if packages not in sys.path:
        sys.path.insert(0, packages)
    del sys.argv[0]
    import_module(sys.argv[0]).main()


if __name__ == "__main__":
    _main()
