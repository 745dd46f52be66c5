"""The experiment that dvc.lock records, of a folder and of each commit."""

from collections.abc import Iterator
from pathlib import Path

import history as benchmark
import pytest
from repository import Tree

from retrace.errors import RetraceError
from retrace.pipeline import git_objects, hashing, history
from retrace.pipeline.recorded import Experiment, Recorded
from retrace.pipeline.workspace import Workspace
from retrace.settings import Settings

SETTINGS = Settings(experiment="fits")
FILES = benchmark.commit_files(0)
CACHED = "      - metrics.json\n"
UNCACHED = "    metrics: [metrics.json: {cache: false}]\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Return a repository with two commits, whose data is not there."""
    path = tmp_path / "repository"
    benchmark.create(path, map(benchmark.commit_files, range(2)))
    monkeypatch.chdir(path)
    return Tree(path, tmp_path)


def commit(tree: Tree, **texts: str) -> str:
    """Commit files, named with `_` for the dot, and return the commit."""
    for name, text in texts.items():
        (tree.path / name.replace("_", ".")).write_text(text)
    tree.commit("next")
    return tree.run("git", "rev-parse", "HEAD").strip()


def read(*revs: str) -> Iterator[Experiment | None]:
    with history.opened(SETTINGS) as reader:
        yield from map(reader.read, revs)


def numbers(experiment: Experiment | None) -> dict[str, float]:
    assert experiment
    return {key: n for stage in experiment.stages for key, n in stage.summary.items()}


def test_key_is_that_of_the_workspace(repository: Tree) -> None:
    (read_one,) = read("HEAD")
    assert read_one
    assert read_one.key == Workspace(Path()).key() == Recorded(Path()).key()
    assert read_one == Recorded(Path()).experiment(SETTINGS)


def test_key_has_data_beside_outputs(repository: Tree) -> None:
    source = "outs: [{path: raw.csv, md5: '%s'}]\n"
    stages = "  clean: {cmd: x, outs: [data/clean]}\n  fit: {cmd: y, deps: [data]}\n"
    entry = "{cmd: x, outs: [{path: data/clean, md5: %s}]}"
    other = "{cmd: y, deps: [{path: data, md5: %s.dir}]}"
    digest = "a" * 32
    lock = f"schema: '2.0'\nstages:\n  clean: {entry % digest}\n  fit: {other % digest}\n"
    repository.path.joinpath("data").mkdir(exist_ok=True)
    keys: list[str] = []
    for number in "12":
        (repository.path / "data/raw.csv.dvc").write_text(source % (number * 32))
        commit(repository, dvc_yaml=f"stages:\n{stages}", dvc_lock=lock)
        (read_one,) = read("HEAD")
        assert read_one
        assert read_one.key == Workspace(Path()).key() == Recorded(Path()).key()
        keys.append(read_one.key)
    assert len(set(keys)) == 2


def test_commits_are_read_in_order(repository: Tree) -> None:
    commits = git_objects.commits()
    assert [each.subject for each in commits] == ["Change number 0", "Change number 1"]
    assert (commits[0].author, commits[0].time) == ("Ann", 1_700_000_000_000)
    first, second = read(*(each.rev for each in commits))
    assert first
    assert second
    assert (first.params["lr"], second.params["lr"]) == (0.0001, 0.0002)
    assert first.stages[0] == second.stages[0]
    assert first.stages[1] != second.stages[1]
    assert numbers(first)["val_a"] == 0.5


@pytest.mark.parametrize(
    "changed",
    [
        {"params_yaml": "lr: 9\nnet: {width: 8}\n"},
        {"dvc_yaml": benchmark.DVC_YAML.replace("python train.py", "python train.py --fast")},
        {"train_py": "TRAIN = 2\n"},
    ],
)
def test_change_that_was_not_run_is_ignored(repository: Tree, changed: dict[str, str]) -> None:
    (before,) = read("HEAD")
    (after,) = read(commit(repository, **changed))
    assert before == after
    assert Workspace(Path()).key() != Recorded(Path()).key()


def test_leftover_stages_are_left_out(repository: Tree) -> None:
    lock = (repository.path / "dvc.lock").read_text()
    old = hashing.md5(repository.path / "metrics.json")
    data = lock.partition("path: data.csv")[2].partition("md5: ")[2].split()[0]
    rev = commit(repository, dvc_lock=lock.replace(data, "0" * 32, 1))  # prepare made other data
    (experiment,) = read(rev)
    assert experiment
    assert old not in str(experiment)
    assert [stage.name for stage in experiment.stages] == ["prepare"]
    assert not experiment.is_complete


def test_metrics_of_another_run_are_left_out(repository: Tree) -> None:
    (experiment,) = read(commit(repository, metrics_json='{"val_a": 1}'))
    assert numbers(experiment) == {}


def test_metrics_come_from_the_cache(repository: Tree) -> None:
    md5 = hashing.md5(repository.path / "metrics.json")
    text = (repository.path / "metrics.json").read_bytes()
    kept = hashing.object_path(repository.path / ".dvc/cache/files/md5", md5)
    repository.run("git", "rm", "--quiet", "metrics.json")
    rev = commit(repository, _gitignore="/metrics.json\n/.dvc/\n")
    (without,) = read(rev)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"damaged")
    (damaged,) = read(rev)
    kept.write_bytes(text)
    (intact,) = read(rev)
    assert numbers(without) == numbers(damaged) == {}
    assert numbers(intact)["val_a"] == 1 / 3


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"dvc_lock": "<<<<<<< HEAD\nschema: '2.0'\n=======\n"}, "dvc.lock: is not valid"),
        ({"dvc_yaml": "stages: {a: {no: 1}}\n"}, "dvc.yaml"),
        ({"dvc_yaml": "stages: [\n"}, "dvc.yaml"),
    ],
)
def test_broken_commit_is_one_line(repository: Tree, broken: dict[str, str], reason: str) -> None:
    revs = ("HEAD", commit(repository, **broken), "HEAD~1")
    with history.opened(SETTINGS) as reader:
        before = reader.read(revs[2])
        with pytest.raises(RetraceError) as caught:
            reader.read(revs[1])
        assert reader.read(revs[2]) == before
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "/dvc.yaml" not in str(caught.value)


def test_commit_without_lock_is_none(repository: Tree) -> None:
    repository.run("git", "rm", "--quiet", "dvc.lock")
    assert list(read(commit(repository))) == [None]


def test_templates_are_read_with_values_of_the_commit(repository: Tree) -> None:
    text = benchmark.DVC_YAML.replace("python train.py", "python train.py ${lr}")
    templated = "vars: [{a: 1}]\n" + text
    lock = (repository.path / "dvc.lock").read_text()
    rev = commit(
        repository, dvc_yaml=templated, dvc_lock=lock.replace("train.py\n", "train.py 1\n", 1)
    )
    (experiment,) = read(rev)
    assert experiment
    assert experiment.is_complete


def test_symlinks_and_folders_that_replace_files(repository: Tree) -> None:
    (repository.path / "params.yaml").unlink()
    (repository.path / "params.yaml").mkdir()
    (repository.path / "params.yaml/a.yaml").write_text("1\n")
    (repository.path / "link.yaml").symlink_to("/etc/passwd")
    rev = commit(repository)
    first, second, third = read("HEAD~1", rev, "HEAD~1")
    assert first == second == third
