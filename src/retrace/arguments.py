"""What can be typed behind `retrace`: each command's line in the help, its examples, arguments and options.

The text of a command up to its first colon is its line in the overview. Help fits a terminal of 80 columns.
"""

from argparse import ArgumentParser
from collections.abc import Callable

GROUPS = {  # of the help: a group's commands, in its order
    "run": ("recipe", "sweep"),
    "look": ("ui", "compare", "leaderboard"),
    "use": ("predict", "promote", "probe"),
    "share": ("share",),
    "trust": ("trace", "verify"),
    "mend": ("doctor", "sync", "reconcile", "clean"),
}
JSON = "one JSON document, for scripts, in place of what people read"

Add = Callable[..., ArgumentParser]  # takes a name, what the command does, and examples


def add_all(add: Add) -> None:
    """Every command is there."""
    _add_recipe(add)
    _add_sweep(add)
    _add_ui(add)
    _add_compare(add)
    _add_leaderboard(add)
    _add_predict(add)
    _add_promote(add)
    _add_probe(add)
    _add_share(add)
    _add_trusting(add)
    _add_mending(add)


def _with_json(command: ArgumentParser) -> ArgumentParser:
    command.add_argument("--json", action="store_true", help=JSON)
    return command


def _add_recipe(add: Add) -> None:
    recipe = _with_json(
        add(
            *("recipe", "print a recipe as flags for `dvc exp run`, or list all"),
            "retrace recipe                                       all of them",
            "dvc exp run $(retrace recipe mnist_fast)             one of them",
            "dvc exp run $(retrace recipe cifar10_v3) -S lr=0.05  another learning rate",
            "retrace recipe --json | jq -r '.[].name'             their names",
        )
    )
    recipe.add_argument("name", nargs="?", metavar="RECIPE", help="a file in recipes/, without .yaml; none: list them")


def _add_sweep(add: Add) -> None:
    sweep = _with_json(
        add(
            "sweep",
            "search parameters for the best validation metric: trials proposed by Optuna, each an experiment of DVC's",
            "retrace sweep lr=log:1e-4..1e-1 model=cnn,lenet",
            "retrace sweep lr=log:1e-4..1e-1 epochs=3 --trials 50 --metric val_loss",
            "retrace sweep model=mlp models.mlp.hidden=[64],[128,64] --name hidden",
        )
    )
    said = "KEY=LOW..HIGH, KEY=log:LOW..HIGH, KEY=LOW..HIGH:STEP, KEY=A,B,C (choices), KEY=A (the same in all trials)"
    sweep.add_argument("words", nargs="+", metavar="KEY=VALUES", help=said)
    said = "in all, with those of earlier calls; %(default)s"
    sweep.add_argument("--trials", type=int, default=30, metavar="N", help=said)
    sweep.add_argument("--metric", default="val_accuracy", metavar="NAME", help="val_loss or val_accuracy; %(default)s")
    sweep.add_argument("--name", help="of the sweep and, with a number behind it, of its experiments; else of the keys")
    sweep.add_argument("--jobs", type=int, default=1, metavar="N", help="trials at a time; %(default)s")
    said = "seconds, after which none begins"
    sweep.add_argument("--timeout", type=float, default=float("inf"), metavar="S", help=said)
    sweep.add_argument("--seed", type=int, default=0, metavar="N", help="of what Optuna proposes; %(default)s")
    sweep.add_argument("--no-prune", action="store_true", help="hopeless trials too run to their end")
    said = "a database of several machines, as postgresql+psycopg2://host/name; else RETRACE_SWEEP_STORAGE, or a file"
    sweep.add_argument("--storage", metavar="URL", help=said)


def _add_ui(add: Add) -> None:
    ui = add(
        *("ui", "MLflow's pages, for this machine alone: one worker, and no page of another site gets in"),
        "retrace ui               every run, curve, picture and model",
        "retrace ui --port 5001   where 5000 is taken",
    )
    ui.add_argument("--host", default="127.0.0.1", help="%(default)s, or another name of this machine for itself")
    ui.add_argument("--port", type=int, default=5000, help="%(default)s")


def _add_compare(add: Add) -> None:
    compare = add(
        "compare",
        "put experiments side by side: parameters, metrics, a test on the same samples of whether one is better",
        "retrace compare main tamed-zigs         a commit and an experiment of DVC's",
        "retrace compare main 4f0c2d 91ab03 --html c.html   and runs, as a page",
        "retrace compare HEAD workspace --json   what has changed, for a script",
        "retrace compare main HEAD --markdown    the same tables, for a pull request",
    )
    said = "`workspace`, DVC's experiment, a commit, branch or tag, or a run's id in MLflow; the first is the measure"
    compare.add_argument("names", nargs="+", metavar="NAME", help=said)
    compare.add_argument("--html", metavar="FILE", help="write a page with learning curves")
    form = compare.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help=JSON)
    form.add_argument("--markdown", action="store_true", help="the same tables as Markdown")


def _add_leaderboard(add: Add) -> None:
    leaderboard = _with_json(
        add(
            "leaderboard",
            "the experiments on a data set, the best first: seeds, mean, spread, seconds of training",
            "retrace leaderboard          on params.yaml's data set, by test accuracy",
            "retrace leaderboard digits --metric val_loss --top 5",
            "retrace leaderboard --json   with all parameters and ids, for a script",
        )
    )
    leaderboard.add_argument("dataset", nargs="?", metavar="DATASET", help="none: the one in params.yaml")
    leaderboard.add_argument("--metric", default="test_accuracy", help="by which they are sorted; %(default)s")
    leaderboard.add_argument("--top", type=int, default=20, metavar="N", help="rows shown; %(default)s")


def _add_predict(add: Add) -> None:
    predict = _with_json(
        add(
            "predict",
            "say what a model makes of pictures, on the CPU in float32",
            "retrace predict models photo.png           what `dvc repro` has trained here",
            "retrace predict 4f0c2d photo.png --top 3   a run's, the three likeliest",
            "retrace predict models:/mnist@champion scans   all pictures in a folder",
            "retrace predict models photo.png --invert  dark ink on white paper",
        )
    )
    said = "models/model.safetensors, a folder with it and model.json, a run's id, or models:/name@alias"
    predict.add_argument("model", metavar="MODEL", help=said)
    said = "PNG, JPEG, WEBP or BMP of any size: the middle is cut out and resized, as data/images are; or a folder"
    predict.add_argument("images", nargs="+", metavar="IMAGE", help=said)
    predict.add_argument("--top", type=int, default=1, metavar="N", help="classes a line, likeliest first; %(default)s")
    predict.add_argument("--invert", action="store_true", help="take the negatives; nothing is guessed without it")
    said = "%(default)s, whatever params.yaml says"
    predict.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=said)


def _add_promote(add: Add) -> None:
    promote = add(
        "promote",
        "give a run's model its name in the registry: its data set's, unless one that is better has it",
        "retrace promote 4f0c2d                   it is models:/mnist@champion",
        "retrace promote 4f0c2d --as challenger   another alias",
    )
    promote.add_argument("run", metavar="RUN_ID", help="MLflow's id of a run, or its first digits")
    promote.add_argument("--as", dest="alias", default="champion", metavar="ALIAS", help="%(default)s")
    promote.add_argument("--force", action="store_true", help="also if it is worse, or was tested on other bytes")


def _add_probe(add: Add) -> None:
    probe = _with_json(
        add(
            "probe",
            "measure a model's server on this machine: its answers are checked, and both logged in MLflow",
            "retrace probe models:/mnist@champion http://127.0.0.1:5001",
            "retrace probe 4f0c2d http://127.0.0.1:5001 --images 100 --clients 2",
        )
    )
    probe.add_argument("model", metavar="MODEL", help="a run's id, or models:/name@alias: what the server should have")
    probe.add_argument("url", metavar="URL", help="http://127.0.0.1:PORT")
    probe.add_argument("--requests", type=int, default=200, metavar="N", help="at most; %(default)s")
    probe.add_argument("--clients", type=int, default=1, metavar="N", help="that ask at once; %(default)s")
    probe.add_argument("--seconds", type=int, default=20, metavar="N", help="in which they begin; %(default)s")
    probe.add_argument("--images", type=int, default=1, metavar="N", help="a request; %(default)s")


def _add_share(add: Add) -> None:
    share = add(
        "share",
        "give the team all that was made here: DVC's remote has it, all of it hashed before, and nobody makes it again",
        "retrace share           before `dvc exp push origin NAME`, or `git push`",
        "retrace share --check   is all whole that the remote has?",
    )
    said = "hash what the remote has as well, and replace what is damaged there"
    share.add_argument("--check", action="store_true", help=said)


def _add_trusting(add: Add) -> None:
    trace = _with_json(
        add(
            *("trace", "say what made a file, or what a run made and where that is"),
            "retrace trace models/model.safetensors   down to the raw data",
            "retrace trace 4f0c2d                     a run, by the first digits of its id",
            "retrace trace 4f0c2d --json | jq -r '.commands[]' | sh   its files, here again",
        )
    )
    trace.add_argument("target", metavar="FILE|RUN_ID", help="a file, wherever it lies now, or MLflow's id of a run")

    verify = _with_json(
        add(
            "verify",
            "make a run again and compare every bit, or hash all files: the same code, parameters and raw data, in a "
            "folder of its own, without any cache; exit code 1 where something differs",
            "retrace verify 4f0c2d                    a run, by the first digits of its id",
            "retrace verify 4f0c2d --tolerance 0.01   made on another kind of device",
            "retrace verify --cache                   all that dvc.lock names, hashed",
        )
    )
    which = verify.add_mutually_exclusive_group(required=True)
    which.add_argument("run", nargs="?", metavar="RUN_ID", help="MLflow's id of a run, or its first digits")
    said = "hash every file that dvc.lock names, here and in DVC's cache"
    which.add_argument("--cache", action="store_true", help=said)
    said = "of metrics, where the device is another kind; %(default)s"
    verify.add_argument("--tolerance", type=float, default=0.005, help=said)


def _add_mending(add: Add) -> None:
    doctor = _with_json(
        add(
            "doctor",
            "look for what is wrong here, and say how to mend it: the environment, the machine, git, DVC, the graph, "
            "MLflow; it changes nothing; exit code 1 where there is a problem",
            "retrace doctor          what is found, each with the command that mends it",
            "retrace doctor --all    and what is in order",
            "retrace doctor --json | jq -r '.findings[].repair'",
        )
    )
    doctor.add_argument("--all", action="store_true", help="also what is in order")

    _with_json(
        add(
            *("sync", "upload to MLflow what it missed: an outage, a killed stage, what DVC took from its cache"),
            "retrace sync            after a crash, an outage, `dvc exp run` from the cache",
            "retrace sync --json     how much of what was uploaded, closed and added",
        )
    )
    _with_json(
        add(
            *("reconcile", "put back into DVC's queue what a worker had that is gone"),
            "retrace reconcile && dvc queue start   after a crash, the queue goes on",
            "retrace reconcile --json               what was put back and removed",
        )
    )
    clean = _with_json(
        add(
            *("clean", "list checkpoints of interrupted trainings, or remove them"),
            "retrace clean            what can go on, with its size",
            "retrace clean --force    none of them shall go on",
        )
    )
    clean.add_argument("--force", action="store_true", help="remove those that no process uses")
