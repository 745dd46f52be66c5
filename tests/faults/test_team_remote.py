"""Results shared through a remote of each kind, as docs/team.md says, and faulty remotes.

The commands of the page are typed as they stand. A remote may lack files, damage them, or be away.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from repository import ROOT, Clone, Tree, environment

from faults.servers import Server, Ssh, Weed, rows
from faults.stages import find_runs
from lab import params, paths
from retrace.pipeline import hashing
from retrace.pipeline.workspace import Workspace
from retrace.store import run_tags

PAGE = (ROOT / "docs/team.md").read_text()
OURS = PAGE[: PAGE.index("    $ git clone ")]  # from here on, another clone
THEIRS = PAGE.removeprefix(OURS)
# A command, and what is shown of its output.
TYPED = re.compile(r"^    \$ (.*)\n((?:    (?!\$ ).*\n)*)", re.MULTILINE)
SMALL = {"dataset: mnist": "dataset: digits", "epochs: 5": "epochs: 2", "threads: 2": "threads: 1"}
WHO = {
    f"GIT_{who}_{what}": "ann@localhost"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}
FOLDER = pytest.param("folder", marks=[pytest.mark.long, pytest.mark.xdist_group("folder")])
SERVERS = [
    pytest.param(server, marks=[pytest.mark.faults, pytest.mark.xdist_group(server)])
    for server in ("s3", "ssh")
]
# Where damage is easily done.
IN_A_FOLDER = pytest.mark.parametrize(
    "location",
    [pytest.param("folder", marks=[pytest.mark.faults, pytest.mark.xdist_group("folder")])],
    indirect=True,
)


@dataclass
class Team:
    """Two clones of a repository, with the output of the page's commands in each."""

    store: str
    remote: str
    env: dict[str, str]
    ann: Clone
    origin: Path
    ben: Tree
    # By clone: each command, its output as shown, as printed.
    output: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    # MLflow's rows before ben's first command.
    before: dict[str, list[tuple[object, ...]]] = field(default_factory=dict)

    def clone(self, path: Path, **config: str) -> Tree:
        """Clone the repository anew, with other settings of the remote."""
        subprocess.run(["git", "clone", "--quiet", self.origin, path], check=True)
        tree = Tree(path, path / ".retrace")
        tree.env |= self.env
        for name, value in config.items():
            tree.run("dvc", "remote", "modify", "--local", "team", name, value)
        return tree


@pytest.fixture(scope="module", params=[FOLDER, *SERVERS])
def location(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the address of an empty remote and the environment of its users."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "s3":
        with Weed(folder).running() as weed:
            yield weed.address, weed.sets
    elif request.param == "ssh":
        with tempfile.TemporaryDirectory() as open_to_it, Ssh(Path(open_to_it)).running() as ssh:
            user = f"{ssh.user} {ssh.key}"
            sets = {"HOME": str(ssh.home), "SSH_AUTH_SOCK": "", "RETRACE_TEST_SSH": user}
            yield ssh.address, sets
    else:
        yield str(folder / "remote"), {}


@pytest.fixture(scope="module")
def store(
    location: tuple[str, dict[str, str]],
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Yield the address of the common MLflow store: a server if the remote is one too."""
    folder = tmp_path_factory.mktemp("mlflow")
    database = f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"
    if not location[1]:
        yield database
        return
    server = Server(database, folder, environment(folder))
    server.start()
    yield server.url
    server.kill()


@pytest.fixture(scope="module")
def team(
    location: tuple[str, dict[str, str]], store: str, tmp_path_factory: pytest.TempPathFactory
) -> Team:
    """Type the commands of the page, from the first to the last."""
    folder = tmp_path_factory.mktemp("clones")
    remote, sets = location
    env = WHO | sets | {"MLFLOW_TRACKING_URI": store}
    (folder / "ann").mkdir()
    ann = Clone(folder / "ann", folder / "ann/.retrace", SMALL)
    origin = folder / "retrace.git"
    ann.env |= env
    ann.type(f"git branch --move main && git init --quiet --bare --initial-branch main {origin}")
    ann.run("git", "remote", "add", "origin", str(origin))
    team = Team(
        store, remote, env, ann, origin, Tree(folder / "retrace", folder / "retrace/.retrace")
    )
    team.ben.env |= env
    substitutes = {"/srv/retrace": remote, "git@example.org:retrace.git": str(origin)}
    team.output["ann"] = typed(OURS, ann, substitutes, lambda: user_of(ann, sets))
    team.before = rows(database_of(team))
    above = Tree(folder, folder / "retrace/.retrace")
    above.env |= env
    clone, rest = THEIRS.split("    $ dvc repro --pull\n", 1)
    team.output["ben"] = typed(clone, above, substitutes)
    user_of(team.ben, sets)
    (slower,) = parent(team, "slower")
    substitutes["RUN_ID"] = slower.info.run_id
    team.output["ben"] += typed(f"    $ dvc repro --pull\n{rest}", team.ben, substitutes)
    return team


def user_of(tree: Tree, sets: dict[str, str]) -> None:
    """Configure user and key of an SSH remote."""
    if "RETRACE_TEST_SSH" in sets:
        user, key = sets["RETRACE_TEST_SSH"].split()
        tree.type(f"dvc remote modify --local team user {user}")
        tree.type(f"dvc remote modify --local team keyfile {key}")


def typed(
    text: str,
    tree: Tree,
    substitutes: dict[str, str],
    once_there: Callable[[], None] = lambda: None,
) -> list[tuple[str, str, str]]:
    output = []
    for command, shown in TYPED.findall(text):
        if command.startswith("export "):
            continue
        for old, new in substitutes.items():
            command, shown = command.replace(old, new), shown.replace(old, new)  # noqa: PLW2901
        output.append((command, shown, tree.type(command)))
        if "remote modify" in command:
            once_there()
    return output


def database_of(team: Team) -> str:
    return (
        team.store
        if team.store.startswith("sqlite")
        else next(
            f"sqlite:///{path}" for path in team.ann.path.parent.parent.glob("mlflow*/mlflow.db")
        )
    )


def parent(team: Team, name: str) -> list[Run]:
    """Return the runs with that name."""
    return [run for run in find_runs(team.store) if run.info.run_name == name]


def outs(tree: Tree) -> dict[str, str]:
    """Return the MD5 of all outputs in a clone."""
    return {out: hashing.md5(tree.path / out) for out in Workspace(tree.path).pipeline.makers}


def locked(tree: Tree) -> dict[str, str]:
    return Workspace(tree.path).recorded


def words(line: str) -> str:
    """Replace numbers, which depend on the data."""
    return re.sub(r"\d[\d.,]*", "0", line.strip())


def test_output_is_as_in_docs(team: Team) -> None:
    for command, shown, printed in team.output["ann"] + team.output["ben"]:
        lines = [words(line) for line in printed.splitlines()]
        last = -1
        for line in shown.splitlines():
            if line.strip() != "...":
                assert words(line) in lines[last + 1 :], f"{command}: {line}\n{printed}"
                last = lines.index(words(line), last + 1)


def test_pull_computes_nothing(team: Team) -> None:
    printed = "".join(
        printed for command, _, printed in team.output["ben"] if "verify" not in command
    )
    assert "Running stage" not in printed
    assert "epoch 1/" not in printed
    assert not list((team.ben.path / ".retrace/journal").rglob("*.jsonl"))
    assert outs(team.ben) == outs(team.ann) == locked(team.ann)


def test_metrics_and_figures_are_pulled(team: Team) -> None:
    for path in (
        paths.METRICS,
        *(path.relative_to(team.ann.path) for path in team.ann.path.glob("reports/figures/*")),
    ):
        assert (team.ben.path / path).read_bytes() == (team.ann.path / path).read_bytes()


def test_pull_adds_no_run(team: Team) -> None:
    (slower,) = parent(team, "slower")
    assert slower.data.tags["dvc.exp_name"] == "slower"
    for tree in (team.ann, team.ben, team.ann):
        tree.run("retrace", "sync")
    assert "added or completed: 0 experiments" in team.ann.run("retrace", "sync")
    after = rows(database_of(team))
    assert [row[0] for row in after["runs"]] == [row[0] for row in team.before["runs"]]
    assert (
        MlflowClient(team.store).get_run(slower.info.run_id).data.tags["dvc.exp_name"] == "slower"
    )


def test_other_clone_traces_and_verifies(team: Team) -> None:
    output = {
        command.split()[1]: printed
        for command, _, printed in team.output["ben"]
        if command.startswith("retrace")
    }
    (slower,) = parent(team, "slower")
    assert (
        f"train, run {run_tags.stage_run(slower.data.tags, 'train')}: FINISHED" in output["trace"]
    )
    assert f"of experiment slower, run {slower.info.run_id}" in output["trace"]
    assert "from " in output["trace"].split("download, run ")[1]
    assert "verified: " in output["verify"]


def test_experiment_links_to_first_clone_s_runs(team: Team) -> None:
    (slower,) = parent(team, "slower")
    output = team.ben.type(
        "git restore . && dvc exp run --pull --name fewer -S lr=0.01 -S figures.tsne.perplexity=20"
    )
    assert re.findall(r"Running stage '(\w+)'", output) == ["visualize"]
    (changed,) = parent(team, "fewer")
    cached = {
        tag: value for tag, value in changed.data.tags.items() if tag.startswith("retrace.cached.")
    }
    tags = slower.data.tags
    theirs = {stage: run_tags.linked_run(tags, stage) for stage in params.STAGES}
    del theirs["visualize"]
    assert cached == {f"retrace.cached.{stage}": run for stage, run in theirs.items()}
    assert changed.data.metrics["test_accuracy"] == slower.data.metrics["test_accuracy"]


@pytest.fixture
def remote(team: Team, tmp_path: Path) -> Path:
    """Return a copy of the team's remote, to be damaged."""
    return shutil.copytree(team.remote, tmp_path / "remote")


def at(remote: Path, md5: str) -> Path:
    return remote / "files/md5" / md5[:2] / md5[2:]


def flip(file: Path) -> None:
    """Flip a bit of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    file.chmod(0o444)


@IN_A_FOLDER
def test_file_missing_in_remote_is_reproduced(team: Team, remote: Path, tmp_path: Path) -> None:
    tree = team.clone(tmp_path / "cid", url=str(remote))
    lost = locked(tree)["models/model.safetensors"]
    at(remote, lost).unlink()
    shutil.rmtree(remote / "runs")
    output = tree.run("dvc", "pull", code=1)
    assert lost in output
    assert "models/model.safetensors" in output
    output = tree.run("dvc", "repro", "--pull")
    assert re.findall(r"Running stage '(\w+)'", output) == ["train"]
    assert outs(tree) == locked(tree)
    assert "sent: 1 file," in tree.run("retrace", "share")
    assert at(remote, lost).exists()


@IN_A_FOLDER
def test_file_damaged_in_remote_is_refused(team: Team, remote: Path, tmp_path: Path) -> None:
    tree = team.clone(tmp_path / "dan", url=str(remote))
    damaged = [
        locked(tree)[path]
        for path in ("data/processed/train.safetensors", "models/model.safetensors")
    ]
    for md5 in damaged:
        flip(at(remote, md5))
    output = tree.run("dvc", "repro", "--pull")
    assert re.findall(r"Running stage '(\w+)'", output) == ["preprocess", "train"]
    assert outs(tree) == locked(tree)
    assert "all files match dvc.lock" in tree.run("retrace", "verify", "--cache")
    assert "sent: 0 files" in tree.run("retrace", "share")
    assert "sent: 2 files, 2 in place of damaged ones" in tree.run("retrace", "share", "--check")
    assert [hashing.md5(at(remote, md5)) for md5 in damaged] == damaged


@IN_A_FOLDER
def test_damaged_input_is_not_trained_on(team: Team, remote: Path, tmp_path: Path) -> None:
    tree = team.clone(tmp_path / "eve", url=str(remote), verify="false")
    flip(at(remote, locked(tree)["data/processed/train.safetensors"]))
    team.ann.type("dvc remote modify --local team verify false")
    assert "`dvc remote modify team verify true`" in team.ann.type("retrace share")
    team.ann.type("dvc remote modify --local --unset team verify")
    tree.run("dvc", "pull")
    output = tree.run("dvc", "exp", "run", "-S", "epochs=1", code=255)
    assert "data/processed/train.safetensors: damaged" in output
    assert "epoch 1/1" not in output
    output = tree.run("retrace", "verify", "--cache", code=1)
    repair = output.split("to repair: ")[1]
    tree.type(f"git restore . && {repair}")
    assert outs(tree) == locked(tree)


@IN_A_FOLDER
def test_damaged_file_is_not_shared(team: Team, tmp_path: Path) -> None:
    tree = team.clone(tmp_path / "fay", url=str(tmp_path / "empty"))
    with_it = team.clone(tmp_path / "gil")
    with_it.run("dvc", "pull", "--run-cache")
    shutil.copytree(with_it.path / ".dvc/cache", tree.path / ".dvc/cache", symlinks=True)
    md5 = locked(tree)["models/model.safetensors"]
    file = at(tree.path / ".dvc/cache", md5)
    flip(file)
    output = tree.run("retrace", "share", code=2)
    damaged = next(line for line in output.splitlines() if md5[2:] in line)
    assert hashing.md5(file) in damaged
    assert "models/model.safetensors" in damaged
    assert not at(tmp_path / "empty", md5).exists()
    assert at(tmp_path / "empty", locked(tree)["data/processed/train.safetensors"]).exists()


@IN_A_FOLDER
def test_share_without_remote_says_so(team: Team, tmp_path: Path) -> None:
    tree = team.clone(tmp_path / "hal", url="ssh://127.0.0.1:9/retrace")
    shutil.copytree(team.ann.path / ".dvc/cache", tree.path / ".dvc/cache", symlinks=True)
    (line,) = tree.run("retrace", "share", code=2).splitlines()
    assert line.startswith("DVC's remote: ")
    tree.run("dvc", "remote", "remove", "team")
    (line,) = tree.run("retrace", "share", code=2).splitlines()
    assert "`dvc remote add --default team ADDRESS`" in line


@IN_A_FOLDER
def test_experiment_older_than_remote_is_shared(team: Team, tmp_path: Path) -> None:
    (tmp_path / "ina").mkdir()
    ina = Clone(tmp_path / "ina", tmp_path / "ina/.retrace", SMALL)
    ina.env |= team.env
    origin = tmp_path / "ina.git"
    ina.type(f"git branch --move main && git init --quiet --bare --initial-branch main {origin}")
    ina.type(f"git remote add origin {origin} && dvc exp run --quiet --name older && git restore .")
    ina.type(f"dvc remote add --default team {tmp_path / 'remote'}")
    ina.type("git commit --quiet --message remote .dvc")
    ina.type("git push --quiet origin HEAD && retrace share && dvc exp push origin older")
    subprocess.run(["git", "clone", "--quiet", origin, tmp_path / "jon"], check=True)
    jon = Tree(tmp_path / "jon", tmp_path / "jon/.retrace")
    jon.env |= team.env
    jon.type(
        "dvc exp pull origin older; dvc exp apply older; git restore --source HEAD .dvc/config"
    )
    assert "Running stage" not in jon.type("dvc repro --pull")
    assert outs(jon) == locked(jon)
