"""All commands, and the commands that they print, in folders whose names are full of characters."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from repository import Tree

pytestmark = pytest.mark.long

# DVC itself bears no braces and, for experiments with --temp, no `#`, `?`, `%20` and line breaks.
NAME = "a%b %c'\"$(x)`;&[1]*~@=+:,|<>!"
OUT = "o ut?%20'\"#.txt"
PROGRAM = f"""\
import json
from pathlib import Path
value = Path("params.yaml").read_text().split()[1]
Path({OUT!r}).write_text(value)
Path("-lead.txt").write_text(value)
Path("fold er&").mkdir(exist_ok=True)
Path("fold er&/a#%41?.txt").write_text(value)
Path("m.json").write_text(json.dumps({{"acc": float(value)}}))
"""
STAGE = {
    "cmd": "python make.py",
    "deps": ["make.py"],
    "params": ["lr"],
    "outs": [OUT, "fold er&", "./-lead.txt"],
    "metrics": [{"m.json": {"cache": False}}],
}


class Nasty(Tree):
    """A DVC repository of one stage; home, temporary folder, caches and remote are beside it."""

    def __init__(self, above: Path, name: str) -> None:
        self.beside = above / name
        super().__init__(self.beside / "repo", self.beside / "cache")
        for folder in ("home", "tmp", "remote", "repo", "cache/dvc/repo"):
            (self.beside / folder).mkdir(parents=True)
        self.env |= {"HOME": str(self.beside / "home"), "TMPDIR": str(self.beside / "tmp")}
        (self.path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": STAGE}}))
        (self.path / "make.py").write_text(PROGRAM)
        (self.path / "params.yaml").write_text("lr: 0.1\n")
        self.type("git init --quiet && git config user.name a && git config user.email a@b.c")
        self.type("dvc init --quiet && dvc config core.autostage true")
        self.run("dvc", "remote", "add", "--default", "team", str(self.beside / "remote"))
        self.commit("start")

    def document(self, *words: str) -> dict[str, object]:
        text = self.run("bash", "-c", f"{shlex.join(words)} 2> /dev/null || true")
        return json.loads(text)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Nasty:
    tree = Nasty(tmp_path_factory.mktemp("in"), NAME)
    tree.type("retrace dvc repro")
    tree.commit("repro")
    tree.type("retrace dvc exp run --name faster -S lr=0.2")
    tree.type("retrace dvc exp run --name apart --temp -S lr=0.3")
    tree.type("retrace sync")
    return tree


LR = {"faster": "0.2", "apart": "0.3"}


def run_of(tree: Nasty, experiment: str) -> str:
    """Return the id of an experiment's run."""
    rows = tree.document("retrace", "leaderboard", "--json", "--metric", "acc")["rows"]
    assert isinstance(rows, list)
    (row,) = [row for row in rows if row["params"] == {"lr": LR[experiment]}]
    return row["runs"][0]["run_id"]


def test_every_run_is_in_the_one_store(tree: Nasty) -> None:
    assert {path.name for path in tree.beside.parent.iterdir()} == {NAME}
    assert (tree.path / "mlflow.db").stat().st_size
    for name in ("faster", "apart"):
        assert run_of(tree, name)


@pytest.mark.parametrize("path", [OUT, "./-lead.txt", "fold er&", "fold er&/a#%41?.txt"])
def test_file_is_traced(tree: Nasty, path: str) -> None:
    assert "lr=" in tree.run("retrace", "trace", path)


def restored(tree: Nasty) -> tuple[str, Path]:
    """Run the commands by which the outputs of a run are restored; return them and their folder."""
    run = run_of(tree, "apart")
    printed = tree.run("retrace", "trace", run)
    tree.run("bash", "-e", "-c", printed[printed.index("\n# To restore") :])
    return printed, tree.path / f"traced-{run[:8]}"


def test_printed_script_restores_outputs(tree: Nasty) -> None:
    _, folder = restored(tree)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {OUT, "-lead.txt", "m.json", "fold er&/a#%41?.txt"}
    assert (folder / OUT).read_text() == "0.3"
    shutil.rmtree(folder)


def test_printed_script_reproduces_outputs(tree: Nasty) -> None:
    tree.type("mv .dvc/cache ../kept && dvc remote remove team")
    try:
        printed, _ = restored(tree)
    finally:
        tree.type("mv ../kept .dvc/cache && git checkout --quiet .dvc/config")
    assert (tree.beside / f"again-{child_of(printed)}" / OUT).read_text() == "0.3"


def child_of(printed: str) -> str:
    """Return the digits of the run whose work tree the printed commands add."""
    return printed.partition("../again-")[2][:8]


def test_run_is_verified(tree: Nasty) -> None:
    tree.run("retrace", "verify", run_of(tree, "faster"))
    tree.run("retrace", "verify", "--cache")
    assert not list((tree.beside / "tmp").glob("retrace-*"))  # DVC leaves files of its own there


def test_others_work(tree: Nasty) -> None:
    tree.run("retrace", "compare", "faster", "apart", "--html", "page.html")
    tree.run("retrace", "share", "--check")
    tree.run("retrace", "sweep", "lr=0.1..0.5", "--metric", "acc", "--trials", "1", "--name", "s")
    assert any((tree.beside / "remote").rglob("*.dir"))


def test_printed_repairs_work(tree: Nasty) -> None:
    tree.type("chmod -R a+w .dvc/cache/files && chmod go+w ../cache/dvc")
    listed = tree.document("retrace", "doctor", "--json")["findings"]
    assert isinstance(listed, list)
    repairs = {each["check"]: each["repair"] for each in listed if each["repair"]}
    assert {"cache", "site cache"} <= repairs.keys()
    for check in ("cache", "site cache"):
        tree.run("bash", "-e", "-c", repairs[check])
    again = tree.document("retrace", "doctor", "--json")["findings"]
    assert isinstance(again, list)
    assert {each["level"] for each in again if each["check"] in ("cache", "site cache")} == {"ok"}


@pytest.mark.parametrize(
    ("name", "level"), [("a{2}b", "problem"), ("a#b?", "warning"), ("a%2Fb", "warning")]
)
def test_doctor_names_what_dvc_refuses(tmp_path: Path, name: str, level: str) -> None:
    tree = Nasty(tmp_path, name)
    listed = tree.document("retrace", "doctor", "--json")["findings"]
    assert isinstance(listed, list)
    assert [each["level"] for each in listed if each["check"] == "path"] == [level]
    assert name in tree.run("retrace", "dvc", "status")
    assert name in tree.run("retrace", "sweep", "lr=0.1..0.5", "--metric", "acc", code=2)
