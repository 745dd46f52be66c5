"""Measure the cost of checkpoints: train params.yaml's recipe with and without them, in turns.

Each save is timed, too. Trainings run in a temporary clone of the working tree under .retrace/.
Nothing else should run on the machine.
"""

import json
import sys
from argparse import ArgumentParser
from statistics import median

import table
from clones import Clone
from table import Figure

from retrace import errors
from retrace.pipeline import params_yaml

LIMIT = 2.0  # percent of the training time

# Runs the stage, and writes how long training and each of its saves took, in seconds.
SCRIPT = """
import json, math, runpy, sys, time
from retrace import checkpoint
from lab.training import recorder

saves = []
save = recorder.Recorder.save

def timed(self):
    began = time.perf_counter()
    save(self)
    saves.append(time.perf_counter() - began)

class Recorder(recorder.Recorder):
    def finish(self, kept):
        json.dump([self.seconds, saves], open("taken.json", "w"))
        super().finish(kept)

recorder.Recorder.save = timed
recorder.Recorder = Recorder
if sys.argv[1] == "without":
    checkpoint.EVERY_S = math.inf
runpy.run_path("stages/train.py", run_name="__main__")
"""


def figures(clone: Clone, n: int) -> list[Figure]:
    """Run `n` trainings of each kind in turns, and return the figures."""
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    saves: list[list[float]] = []
    for turn in range(n):
        for how in sorted(seconds, reverse=turn % 2 == 0):
            clone.run("python", "-c", SCRIPT, how)
            taken, saved = json.loads((clone.path / "taken.json").read_text())
            seconds[how].append(taken)
            if how == "with":
                saves.append(saved)
    plain = median(seconds["without"])
    share = median(
        100 * sum(saved) / taken for saved, taken in zip(saves, seconds["with"], strict=True)
    )
    return [
        Figure("training with checkpoints", median(seconds["with"]), "s", n),
        Figure("training without", plain, "s", n),
        Figure(
            "extra time with checkpoints, medians",
            100 * (median(seconds["with"]) / plain - 1),
            "%",
            n,
            LIMIT,
        ),
        Figure("saves per training", median(map(len, saves)), "", n),
        Figure(
            "a save", 1000 * median(each for saved in saves for each in saved or [0.0]), "ms", n
        ),
        Figure("all saves of a training, relative to its time", share, "%", n, LIMIT),
    ]


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--n", type=int, default=5, help="trainings of each kind (default: %(default)s)"
    )
    n = parser.parse_args().n
    with table.place() as folder:
        clone = Clone(folder / "clone", params_yaml.read()["dataset"])
        clone.run("dvc", "repro", "--quiet", "preprocess")
        sys.exit(table.show(figures(clone, n)))


if __name__ == "__main__":
    errors.run(main)
