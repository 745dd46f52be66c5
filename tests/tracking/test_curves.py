"""Tables that a stage's command writes, followed as metrics while it runs."""

import csv
import io
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrace import event_log
from retrace.event_log import EventLog
from retrace.tracking import curves, growing_table
from retrace.tracking.curves import Follower
from retrace.tracking.growing_table import GrowingTable

Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLog:
    """Return an event log beside an empty folder, which is entered."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return EventLog(tmp_path / "log", stage="train")


def logged(log: EventLog) -> Curves:
    """Return the points of the event log by metric."""
    points = defaultdict[str, list[tuple[int, float]]](list)
    for event in event_log.read(log.path):
        for name, value in event["values"].items() if event["kind"] == "metrics" else ():
            points[name].append((event["step"], value))
    return dict(points)


def tags(log: EventLog) -> dict[str, str]:
    events = event_log.read(log.path)
    return {k: v for event in events if event["kind"] == "tags" for k, v in event["values"].items()}


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, newline="")


def add(path: str, text: str) -> None:
    with Path(path).open("a", newline="") as file:
        file.write(text)


def follower(log: EventLog, *paths: str) -> Follower:
    return Follower(log, map(Path, paths))


def test_table_known_at_the_end_is_logged(log: EventLog) -> None:
    """DVCLive adds its tables to dvc.yaml while the stage runs."""
    write("live/plots/metrics/loss.tsv", "step\tloss\n0\t0.5\n1\t0.2\n")
    write("live/plots/metrics/old.tsv", "step\told\n0\t0.5\n")
    os.utime("live/plots/metrics/old.tsv", (1, 1))
    curves.log_new(log, [Path("live/plots/metrics")])
    assert logged(log) == {"loss": [(0, 0.5), (1, 0.2)]}


def test_metrics_of_the_stage_are_not_logged_twice(log: EventLog) -> None:
    follow = follower(log, "history.csv")
    EventLog.reopen(log.path).metrics({"loss": 0.5}, step=1)
    write("history.csv", "epoch,loss,lr\n1,0.5,0.1\n2,0.25,0.1\n")
    follow.poll()
    assert logged(log) == {"loss": [(1, 0.5)], "lr": [(1, 0.1), (2, 0.1)]}


def test_complete_tables_are_read(log: EventLog) -> None:
    write("history.csv", "epoch,loss\n1,0.5\n2,0.25\n")
    write("live/plots/metrics/acc.tsv", "step\tacc\n0\t0.75\n")
    curves_of = curves.read_all([Path("history.csv"), Path("live")])
    assert curves_of == {"loss": {1: 0.5, 2: 0.25}, "acc": {0: 0.75}}


def test_rows_are_logged_once_as_they_come(log: EventLog) -> None:
    follow = follower(log, "history.csv")
    follow.poll()
    write("history.csv", "epoch,loss,note,lr\r\n1,0.5,good,")
    follow.poll()
    assert logged(log) == {}
    add("history.csv", "0.1\r\n2,0.2")
    follow.poll()
    follow.poll()
    assert logged(log) == {"loss": [(1, 0.5)], "lr": [(1, 0.1)]}
    add("history.csv", "5,bad,0.01\r\n")
    follow.poll()
    assert logged(log) == {"loss": [(1, 0.5), (2, 0.25)], "lr": [(1, 0.1), (2, 0.01)]}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.tsv", "iter\tLogloss\n0\t0.5\n", {"Logloss": [(0, 0.5)]}),
        ("a.csv", "  epoch,  box/loss\n  1,   2e-1\n", {"box/loss": [(1, 0.2)]}),
        ("a.csv", "Epoch;loss\n1;0.5\n", {"loss": [(1, 0.5)]}),
        ("a.csv", "\ufeffround,rmse\n1,NA\n2,3\n", {"rmse": [(2, 3.0)]}),
        ("a.csv", "epoch,step,loss\n0,5,1\n0,,2\n0,9,3\n", {"loss": [(5, 1), (9, 3)]}),
        ("a.csv", "batch,epoch,loss\n1,1,1\n0,2,3\n", {"batch": [(1, 1), (2, 0)]}),
        ("a.csv", 'step,text,x\n1,"a\nb, c",2\n2,d,3\n', {"x": [(1, 2.0), (2, 3.0)]}),
        ("a.csv", "step,loss\n1,1\nstep,loss\n2,2\n", {"loss": [(1, 1), (2, 2)]}),
        ("a.csv", 'step,x,size\n1,2,5"\n2,3,6"\n', {"x": [(1, 2.0), (2, 3.0)]}),
        ("a.csv", "time/iterations,r\n1.0,7\n", {"r": [(1, 7.0)]}),
        ("a.jsonl", '{"config": 1}\n\n{"step": 3, "eval": {"f1": 1}}\n', {"eval.f1": [(3, 1.0)]}),
        ("a.json", '{"iteration": 1, "b": true, "s": "1", "x": 2}\n', {"x": [(1, 2.0)]}),
        ("a.csv", "id,price\n1,2\n2,3\n", {}),
        ("a.csv", "1,2\n3,4\n", {}),
        ("a.json", '{\n  "step": 1,\n  "loss": 2\n}\n', {}),
        ("a.json", '[{"step": 1, "loss": 2}]\n', {}),
        ("a.csv", "step,loss\n", {}),
        ("a.csv", "", {}),
        ("a.txt", "step,loss\n1,2\n", {}),
    ],
)
def test_table(log: EventLog, name: str, text: str, expected: Curves) -> None:
    follow = follower(log, name)
    write(name, text)
    follow.finish()
    curves = logged(log)
    assert {key: curves.get(key) for key in expected} == expected
    assert bool(curves) == bool(expected)
    assert tags(log) == {}


CELLS = st.integers(-9, 9).map(str) | st.text('a,"\n\r é', max_size=4)


@given(st.lists(st.tuples(CELLS, CELLS)), st.lists(st.integers(1, 40)))
def test_rows_do_not_depend_on_the_polls(rows: list[tuple[str, str]], sizes: list[int]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(("a,\n", "step", "b"))
    csv.writer(text).writerows((a, step, b) for step, (a, b) in enumerate(rows))
    content = text.getvalue().encode()
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        path.write_bytes(content)
        whole = GrowingTable(path)
        expected = [row.step for row in whole.read()]
        path.write_bytes(b"")
        table = GrowingTable(path)
        steps: list[int] = []
        with path.open("ab", buffering=0) as file:
            for size in [*sizes, len(content)]:
                file.write(content[file.tell() : file.tell() + size])
                steps += [row.step for row in table.read()]
    assert (steps, table.problem) == (expected, None)
    assert steps == list(range(len(rows)))


def test_numbers_that_are_not_finite(log: EventLog) -> None:
    follow = follower(log, "a.csv", "b.jsonl")
    write("a.csv", "step,loss,gain\n1,nan,-inf\n")
    write("b.jsonl", '{"step": 1, "x": NaN, "y": Infinity, "z": 1' + "0" * 400 + "}\n")
    follow.poll()
    values = {name: value for name, ((_, value),) in logged(log).items()}
    assert math.isnan(values.pop("loss"))
    assert math.isnan(values.pop("x"))
    assert values == {"gain": -math.inf, "y": math.inf, "z": math.inf}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("1700000000123", 1_700_000_000_123),
        ("1700000000.5", 1_700_000_000_500),
        ("2023-11-14T22:13:20+00:00", 1_700_000_000_000),
    ],
)
def test_time_is_that_of_the_row(log: EventLog, cell: str, expected: int) -> None:
    follow = follower(log, "a.csv")
    write("a.csv", f"timestamp,step,loss\n{cell},1,2\n")
    follow.poll()
    (event,) = [event for event in event_log.read(log.path) if event["kind"] == "metrics"]
    assert (event["time"], event["values"]) == (expected, {"loss": 2.0})


@pytest.mark.parametrize("cell", ["soon", "", "0.5", "nan", "1700000000123456789", "9999-99-99"])
def test_time_without_one_is_that_of_poll(log: EventLog, cell: str) -> None:
    follow = follower(log, "a.csv")
    write("a.csv", f"timestamp,step,loss\n{cell},1,2\n")
    before = event_log.now()
    follow.poll()
    (event,) = [event for event in event_log.read(log.path) if event["kind"] == "metrics"]
    assert before <= event["time"] <= event_log.now()


@pytest.mark.parametrize("declared", ["dvclive", "dvclive/metrics.json", "dvclive/plots"])
def test_dvclive_is_found(log: EventLog, declared: str) -> None:
    write("dvclive/plots/metrics/old.tsv", "step\told\n0\t1\n")
    follow = follower(log, declared)
    write("dvclive/plots/metrics/train/loss.tsv", "step\tloss\n0\t0.5\n")
    write("dvclive/plots/metrics/acc.top5.tsv", "timestamp\tstep\tacc.top5\n1700000000123\t0\t1\n")
    write("dvclive/metrics.json", '{\n  "train": {"loss": 0.5},\n  "step": 0\n}')
    follow.finish()
    assert logged(log) == {"train/loss": [(0, 0.5)], "acc.top5": [(0, 1.0)]}


def test_earlier_file_counts_when_it_changes(log: EventLog) -> None:
    write("a.csv", "step,loss\n1,1\n")
    write("b.csv", "step,gain\n1,1\n")
    follow = follower(log, "a.csv", "b.csv")
    follow.poll()
    add("b.csv", "2,2\n")
    follow.finish()
    assert logged(log) == {"gain": [(1, 1.0), (2, 2.0)]}


def replace(path: str, text: str) -> None:
    write(f"{path}.new", text)
    Path(f"{path}.new").replace(path)


@pytest.mark.parametrize("rewrite", [write, replace])
@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("step,loss\n1,1\n2,2\n3,3\n", [(3, 3.0)]),
        ("step,loss\n1,1\n", []),
        ("step,loss\n2,2\n3,4\n", [(3, 4.0)]),
        ("epoch,loss,gain\n1,1,\n2,5,\n3,,\n4,,\n5,,\n", [(2, 5.0)]),
    ],
)
def test_rewritten_file_is_read_again(
    log: EventLog, rewrite: Callable[[str, str], None], text: str, more: list[tuple[int, float]]
) -> None:
    follow = follower(log, "a.csv")
    write("a.csv", "step,loss\n1,1\n2,2\n")
    follow.poll()
    rewrite("a.csv", text)
    follow.poll()
    add("a.csv", "9,9\n")
    follow.poll()
    assert logged(log) == {"loss": [(1, 1.0), (2, 2.0), *more, (9, 9.0)]}


def test_change_of_earlier_rows_is_noticed(log: EventLog) -> None:
    follow = follower(log, "a.csv")
    rows = [f"{step},{step}.00\n" for step in range(1000)]
    write("a.csv", "step,loss\n" + "".join(rows))
    follow.poll()
    rows[900] = "900,900.12345\n"
    write("a.csv", "step,loss\n" + "".join(rows) + "1000,1\n")
    follow.poll()
    assert logged(log)["loss"][1000:] == [(900, 900.12345), (1000, 1.0)]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("train.csv", "val.csv"), {"train/loss", "val/loss", "lr", "acc"}),
        (("runs/a/log.csv", "runs/b/log.csv"), {"a/loss", "b/loss", "lr", "acc"}),
        (("log.csv", "log.tsv"), {"log.csv/loss", "log.tsv/loss", "lr", "acc"}),
    ],
)
@pytest.mark.parametrize("polls", [(), (0,), (1,)])
def test_equal_columns_get_prefixes(
    log: EventLog, paths: tuple[str, str], expected: set[str], polls: Iterable[int]
) -> None:
    follow = follower(log, *paths)
    texts = ("step,loss,lr\n1,1,1\n", "step,loss,acc\n1,2,1\n")
    for index in polls:  # a file that is there earlier
        write(paths[index], texts[index])
        follow.poll()
    for path, text in zip(paths, texts, strict=True):
        write(path, text)
    follow.poll()
    add(paths[0], "2,3,1\n")
    follow.finish()
    curves = logged(log)
    assert curves.keys() - {"loss"} == expected
    first, second = sorted(expected - {"lr", "acc"})
    assert (curves[first], curves[second]) == ([(1, 1.0), (2, 3.0)], [(1, 2.0)])
    assert len(curves["lr"]) == 2
    assert len(curves.get("loss", [])) == len(list(polls))


def test_problem_is_named_once(log: EventLog) -> None:
    follow = follower(log, *(f"{name}.csv" for name in "abcdefg"), "data.csv")
    write("data.csv", "id,x\n1,\xff\n")
    for name in "abcdef":
        write(f"{name}.csv", "step,loss\n5,1\n4,2\n")
    write("g.csv", "step,loss\n1,1\n")
    follow.poll()
    add("g.csv", "0,2\n2,3\n")
    follow.finish()
    assert logged(log) == {"loss": [(1, 1.0)]}
    assert follow.problems[Path("g.csv")] == "step is 0 in row 2, after 1"
    assert tags(log)[curves.TAG].startswith("a.csv: step is no integer, or goes back; b.csv: ")
    assert tags(log)[curves.TAG].endswith("; and 2 more")


@pytest.mark.parametrize("content", [b"\0\xff\n" * 9, b"\x89PNG\r\n", b'"' * 2**20, b"x" * 2**21])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_binary_file_is_no_error(log: EventLog, content: bytes, suffix: str) -> None:
    follow = follower(log, f"a{suffix}")
    Path(f"a{suffix}").write_bytes(content)
    follow.finish()
    assert (logged(log), tags(log)) == ({}, {})


def test_deep_json_is_no_error(log: EventLog) -> None:
    follow = follower(log, "a.jsonl")
    write("a.jsonl", '{"step": 1, "a": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    follow.finish()
    assert logged(log) == {}


def test_long_table_is_thinned(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_table, "MAX_ROWS", 100)
    monkeypatch.setattr(growing_table, "MAX_CHUNK", 256)
    follow = follower(log, "a.csv")
    write("a.csv", "step,x\n" + "".join(f"{i},{i}\n" for i in range(1000)))
    follow.finish()
    steps = [step for step, _ in logged(log)["x"]]
    assert steps[:100] == list(range(100))
    assert steps[100:150] == list(range(100, 200, 2))
    assert steps[-2:] == [992, 999]  # the last row as well
    assert len(steps) < 300


def test_poll_reads_a_part_of_much(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_table, "MAX_CHUNK", 64)
    follow = follower(log, "a.csv")
    write("a.csv", "step,x\n" + "".join(f"{i},{i}\n" for i in range(100)))
    follow.poll()
    assert 0 < len(logged(log)["x"]) < 20
    monkeypatch.setattr(curves, "LAST_S", 0.0)
    follow.finish()
    assert tags(log) == {curves.TAG: "a.csv: is long, and was not read to its end"}
    monkeypatch.setattr(curves, "LAST_S", 10.0)
    follow.finish()
    assert [step for step, _ in logged(log)["x"]] == list(range(100))


def test_folder_is_searched(log: EventLog) -> None:
    follow = follower(log, "out")
    follow.poll()
    write("out/version_0/metrics.csv", "epoch,step,loss\n0,9,1\n")
    Path("out/loop").symlink_to("..")
    follow.poll()
    write("out/new.csv", "step,gain\n1,1\n")
    follow.poll()
    assert logged(log) == {"epoch": [(9, 0.0)], "loss": [(9, 1.0)], "gain": [(1, 1.0)]}


def test_vanished_file_is_no_error(log: EventLog) -> None:
    follow = follower(log, "a.csv", "out")
    write("a.csv", "step,x\n1,1\n")
    write("out/b.csv", "step,y\n1,1\n")
    follow.poll()
    Path("a.csv").unlink()
    Path("out/b.csv").unlink()
    Path("out").rmdir()
    started = time.monotonic()
    follow.finish()
    assert time.monotonic() - started < 1
    assert logged(log) == {"x": [(1, 1.0)], "y": [(1, 1.0)]}


def test_idle_poll_takes_stats_only(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"{n}.csv" for n in range(100)]
    follow = follower(log, *paths)
    for n, path in enumerate(paths):
        write(path, f"step,x{n}\n1,1\n")
    follow.poll()
    monkeypatch.setattr(Path, "open", None)
    started = time.process_time()
    for _ in range(10):
        follow.poll()
    assert (time.process_time() - started) / 10 / len(paths) < 0.0005  # seconds a file


WRITER = """
import csv, sys
file = open("history.csv", "w", newline="")
writer = csv.writer(file)
writer.writerow(["epoch", "loss"])
for epoch in range(100):
    writer.writerow([epoch, 1 / (epoch + 1)])
    file.flush()
    print(epoch, flush=True)
    sys.stdin.readline()
"""


def test_process_is_followed_in_a_thread(log: EventLog) -> None:
    with (
        curves.follow(log, [Path("history.csv")], interval_s=0.001),
        subprocess.Popen(
            [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as writer,
    ):
        assert writer.stdin
        assert writer.stdout
        for epoch, _ in enumerate(writer.stdout):
            while epoch == 50 and len(logged(log).get("loss", [])) < 51:
                time.sleep(0.001)  # it is live: this ends although the writer waits
            writer.stdin.write("\n")
            writer.stdin.flush()
    assert logged(log)["loss"] == [(epoch, 1 / (epoch + 1)) for epoch in range(100)]


def test_last_rows_precede_the_end(log: EventLog) -> None:
    with pytest.raises(KeyError), curves.follow(log, [Path("a.csv")], interval_s=60):
        write("a.csv", "step,x\n1,1\n")
        raise KeyError
    log.end("FAILED")
    assert [event["kind"] for event in event_log.read(log.path)] == ["start", "metrics", "end"]
