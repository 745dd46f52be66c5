"""Small pipelines, one for each feature of dvc.yaml, each with its stages as DVC should read them.

Keys of `files` are paths in a repository. `is_plain` says whether the fast path should answer.
"""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retrace.pipeline.definition import Artifact, Out, Pipeline, Source, Stage
from retrace.settings import PredictionsTable


@dataclass(frozen=True)
class Case:
    """A pipeline's files, and what it should be read as."""

    files: Mapping[str, str]
    stages: tuple[Stage, ...] = ()  # in topological order
    sources: tuple[Source, ...] = ()
    metrics: tuple[str, ...] = ()
    plots: tuple[str, ...] = ()
    artifacts: tuple[Artifact, ...] = field(default=())
    predictions: tuple[PredictionsTable, ...] = ()
    is_plain: bool = True

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline that should be read."""
        stages = {stage.name: stage for stage in self.stages}
        declared = (self.metrics, self.plots, self.artifacts, self.predictions)
        return Pipeline(stages, self.sources, *declared)


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Write files into a new repository of git and DVC, and return its root."""
    subprocess.run(["git", "init", "--quiet", root], check=True)
    for name, text in {".dvc/config": "", ".dvc/.gitignore": "tmp\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def rewrite(root: Path, files: Mapping[str, str]) -> Path:
    """Write files into an existing repository, instead of those that it has."""
    for path in root.iterdir():
        if path.name not in (".git", ".dvc"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return write(root, files)


MD5 = "acbd18db4cc2f85cedef654fccc4a4d8"

CASES = {
    "params_of_several_files": Case(
        {
            "dvc.yaml": """
stages:
  train:
    cmd: python train.py
    params:
      - lr
      - model.layers
      - other.yaml: [a, b.c]
      - whole.json:
      - settings.toml: [x]
        code.py: [Config.depth, Config.depth]
      - lr
      - other.yaml: [d]
"""
        },
        (
            Stage(
                "train",
                ("python train.py",),
                params={
                    "params.yaml": ("lr", "model.layers"),
                    "other.yaml": ("a", "b.c", "d"),
                    "whole.json": (),
                    "settings.toml": ("x",),
                    "code.py": ("Config.depth",),
                },
            ),
        ),
    ),
    "whole_file_wins_over_keys": Case(
        {"dvc.yaml": "stages: {a: {cmd: x, params: [lr, {params.yaml: , b: []}, {b: [k]}]}}"},
        (Stage("a", ("x",), params={"params.yaml": (), "b": ()}),),
    ),
    "wildcards": Case(
        {"dvc.yaml": "stages: {a: {cmd: x, params: ['models.*.width', 'opt*']}}"},
        (Stage("a", ("x",), params={"params.yaml": ("models.*.width", "opt*")}),),
    ),
    "templates": Case(
        {
            "params.yaml": "model: {name: cnn}\nn: 3\nrate: 1e-3\nflag: true\nv: 012\n",
            "dvc.yaml": """
stages:
  train:
    cmd: python ${model.name}.py --n ${n} --rate ${rate} --flag ${flag} ${v}
    deps: ["src/${model.name}.py"]
    params: ["models.${model.name}"]
    outs: ["${model.name}/${n}.bin": {cache: false}]
metrics: ["${model.name}.json"]
artifacts: {"${model.name}": {path: "${model.name}/${n}.bin"}}
""",
        },
        (
            Stage(
                "train",
                ("python cnn.py --n 3 --rate 0.001 --flag true 12",),
                deps=("src/cnn.py",),
                params={"params.yaml": ("models.cnn",)},
                outs=(Out("cnn/3.bin", is_cached=False),),
            ),
        ),
        metrics=("cnn.json",),
        artifacts=(Artifact("cnn", "cnn/3.bin"),),
    ),
    "escaped_template": Case(
        {"params.yaml": "a: 1", "dvc.yaml": "stages: {a: {cmd: 'echo \\${HOME} ${a}'}}"},
        (Stage("a", ("echo ${HOME} 1",)),),
        is_plain=False,
    ),
    "template_of_a_table": Case(
        {"params.yaml": "a: {b: 1, c: x y}", "dvc.yaml": "stages: {a: {cmd: 'run ${a}'}}"},
        (Stage("a", ("run --b 1 --c 'x y'",)),),
        is_plain=False,
    ),
    "vars": Case(
        {
            "more.json": '{"m": {"n": 4}, "k": 5}',
            "sub/own.yaml": "b: 2",
            "dvc.yaml": """
vars: [{a: 1}, "more.json:m"]
stages:
  one:
    wdir: sub
    vars: [own.yaml]
    cmd: echo ${a} ${m.n} ${b}
""",
        },
        (Stage("one", ("echo 1 4 2",), folder="sub"),),
        is_plain=False,
    ),
    "foreach": Case(
        {
            "params.yaml": "sets: {x: {n: 1}, y: {n: 2}}",
            "dvc.yaml": """
stages:
  list:
    foreach: [us, uk]
    do: {cmd: "echo ${item}", outs: ["${item}.csv"]}
  table:
    foreach: ${sets}
    do: {cmd: "echo ${key} ${item.n}", deps: [us.csv]}
""",
        },
        (
            Stage("list@us", ("echo us",), outs=(Out("us.csv"),)),
            Stage("list@uk", ("echo uk",), outs=(Out("uk.csv"),)),
            Stage("table@x", ("echo x 1",), deps=("us.csv",)),
            Stage("table@y", ("echo y 2",), deps=("us.csv",)),
        ),
        is_plain=False,
    ),
    "matrix": Case(
        {
            "dvc.yaml": """
stages:
  train:
    matrix: {model: [cnn, mlp], data: [{name: a}, {name: b}], seed: [1]}
    cmd: python train.py ${item.model} ${item.data.name} ${item.seed}
    outs: ["${key}.bin"]
"""
        },
        tuple(
            Stage(
                f"train@{model}-data{i}-1",
                (f"python train.py {model} {data} 1",),
                outs=(Out(f"{model}-data{i}-1.bin"),),
            )
            for model in ("cnn", "mlp")
            for i, data in enumerate("ab")
        ),
        is_plain=False,
    ),
    "wdir": Case(
        {
            "sub/keep": "",
            "dvc.yaml": """
stages:
  train:
    wdir: sub
    cmd: python train.py
    deps: [../data.csv, near.csv]
    params: [lr, ../params.yaml: [n]]
    outs: [model.bin, ../log.txt]
    metrics: [m.json]
""",
        },
        (
            Stage(
                "train",
                ("python train.py",),
                folder="sub",
                deps=("data.csv", "sub/near.csv"),
                params={"sub/params.yaml": ("lr",), "params.yaml": ("n",)},
                outs=(Out("sub/model.bin"), Out("log.txt"), Out("sub/m.json", "metric")),
            ),
        ),
        is_plain=False,
    ),
    "several_files": Case(
        {
            "dvc.yaml": "stages: {last: {cmd: x, deps: [a/b/out.bin]}}\nmetrics: [m.json]",
            "a/b/dvc.yaml": """
stages: {train: {cmd: y, deps: [in.csv, ../../c/o], params: [lr], outs: [out.bin]}}
metrics: [../m.json]
plots: [p.csv]
artifacts: {model: {path: out.bin, type: model}}
""",
            "c/dvc.yaml": "stages: {train: {cmd: z, outs: [o]}}",
        },
        (
            Stage("c/dvc.yaml:train", ("z",), folder="c", outs=(Out("c/o"),)),
            Stage(
                "a/b/dvc.yaml:train",
                ("y",),
                folder="a/b",
                deps=("a/b/in.csv", "c/o"),
                params={"a/b/params.yaml": ("lr",)},
                outs=(Out("a/b/out.bin"),),
            ),
            Stage("last", ("x",), deps=("a/b/out.bin",)),
        ),
        metrics=("m.json", "a/m.json"),
        plots=("a/b/p.csv",),
        artifacts=(Artifact("a/b/dvc.yaml:model", "a/b/out.bin", "model"),),
        is_plain=False,
    ),
    "many_files": Case(
        {f"{folder}/dvc.yaml": "stages: {a: {cmd: x}}" for folder in "dbface"},
        tuple(Stage(f"{folder}/dvc.yaml:a", ("x",), folder=folder) for folder in "abcdef"),
        is_plain=False,
    ),
    "folders_overlap": Case(
        {
            "dvc.yaml": """
stages:
  report: {cmd: r, deps: [models]}
  inner: {cmd: i, deps: [data/raw/a.csv], outs: [models/x/w.bin]}
  other: {cmd: o, outs: [models/y.bin]}
  raw: {cmd: w, outs: [data/raw/]}
"""
        },
        (
            Stage("other", ("o",), outs=(Out("models/y.bin"),)),
            Stage("raw", ("w",), outs=(Out("data/raw"),)),
            Stage("inner", ("i",), deps=("data/raw/a.csv",), outs=(Out("models/x/w.bin"),)),
            Stage("report", ("r",), deps=("models",)),
        ),
    ),
    "order": Case(
        {
            "dvc.yaml": """
stages:
  c: {cmd: c, deps: [b.out]}
  b: {cmd: b, deps: [a.out], outs: [b.out]}
  a: {cmd: a, outs: [a.out]}
"""
        },
        (
            Stage("a", ("a",), outs=(Out("a.out"),)),
            Stage("b", ("b",), deps=("a.out",), outs=(Out("b.out"),)),
            Stage("c", ("c",), deps=("b.out",)),
        ),
    ),
    "flags": Case(
        {
            "dvc.yaml": """
stages:
  frozen: {cmd: x, frozen: true, desc: text, meta: {a: [1]}}
  always: {cmd: x, always_changed: true}
  outs:
    cmd: x
    outs: [a, b: {cache: false, persist: true, push: false, remote: r, desc: d, labels: [l]}]
    metrics: [m.json: {cache: false}]
    plots: [p.csv: {x: a, template: linear}, q: {cache: false}]
"""
        },
        (
            Stage("frozen", ("x",), is_frozen=True),
            Stage("always", ("x",), always_changed=True),
            Stage(
                "outs",
                ("x",),
                outs=(
                    Out("a"),
                    Out("b", is_cached=False, is_persistent=True),
                    Out("m.json", "metric", is_cached=False),
                    Out("p.csv", "plot"),
                    Out("q", "plot", is_cached=False),
                ),
            ),
        ),
    ),
    "commands": Case(
        {
            "dvc.yaml": """
stages:
  list: {cmd: [echo 1, "echo 2; \\necho 3"]}
  lines:
    cmd: |
      echo 1
      echo 2
  folded:
    cmd: >-
      echo 1
      2
"""
        },
        (
            Stage("list", ("echo 1", "echo 2; \necho 3")),
            Stage("lines", ("echo 1", "echo 2")),
            Stage("folded", ("echo 1 2",)),
        ),
    ),
    "external": Case(
        {
            "dvc.yaml": """
stages:
  a: {cmd: x, deps: ["s3://bucket/a//b", "https://example.com/c?d=1", ../beside.csv, ./in.csv]}
"""
        },
        (
            Stage(
                "a",
                ("x",),
                deps=("s3://bucket/a//b", "https://example.com/c?d=1", "../beside.csv", "in.csv"),
            ),
        ),
    ),
    "absolute": Case(
        {"dvc.yaml": "stages: {a: {cmd: x, deps: [/data/in.csv]}}"},
        (Stage("a", ("x",), deps=("/data/in.csv",)),),
        is_plain=False,
    ),
    "dataset": Case(
        {
            "dvc.yaml": """
datasets: [{name: birds, type: url, url: "s3://bucket/birds"}]
stages: {a: {cmd: x, deps: ["ds://birds"]}}
"""
        },
        (Stage("a", ("x",), deps=("ds://birds",)),),
        is_plain=False,
    ),
    "top_level": Case(
        {
            "dvc.yaml": """
stages: {a: {cmd: x, metrics: [m/own.json]}}
params: [extra.yaml]
metrics: [m/own.json, m/b.yaml]
plots:
  - folder
  - roc.csv: {x: fpr, y: [tpr, t]}
  - title:
      x: {steps.csv: step}
      y: {loss.csv: [train, val], acc.csv: acc}
  - image.png:
artifacts:
  net: {path: ./w.bin, type: model, desc: d, labels: [a], meta: {k: 1}}
"""
        },
        (Stage("a", ("x",), outs=(Out("m/own.json", "metric"),)),),
        metrics=("m/own.json", "m/b.yaml"),
        plots=("folder", "roc.csv", "loss.csv", "acc.csv", "steps.csv", "image.png"),
        artifacts=(Artifact("net", "w.bin", "model"),),
    ),
    "confusion": Case(
        {
            "dvc.yaml": """
stages:
  a:
    cmd: x
    plots:
      - own.csv: {template: confusion, x: truth, y: guess}
      - curve.csv: {x: step, y: loss}
plots:
  - matrix:
      template: confusion
      x: actual
      y: {cm/train.json: predicted, cm/test.json: [p]}
  - other.csv: {template: confusion, x: actual}
  - two.csv: {template: confusion, x: actual, y: [p, q]}
"""
        },
        (Stage("a", ("x",), outs=(Out("own.csv", "plot"), Out("curve.csv", "plot"))),),
        plots=("cm/train.json", "cm/test.json", "other.csv", "two.csv"),
        predictions=(
            PredictionsTable("own.csv", "truth", "guess"),
            PredictionsTable("cm/train.json", "actual", "predicted"),
            PredictionsTable("cm/test.json", "actual", "p"),
        ),
    ),
    "confusion_below": Case(
        {
            "sub/dvc.yaml": """
stages:
  a: {cmd: x, wdir: in, plots: [own.csv: {template: confusion, x: t, y: p}]}
plots:
  - cm.csv: {template: confusion, x: t, y: p}
""",
            "sub/in/keep": "",
        },
        (Stage("sub/dvc.yaml:a", ("x",), "sub/in", outs=(Out("sub/in/own.csv", "plot"),)),),
        plots=("sub/cm.csv",),
        predictions=(
            PredictionsTable("sub/in/own.csv", "t", "p"),
            PredictionsTable("sub/cm.csv", "t", "p"),
        ),
        is_plain=False,
    ),
    "names": Case(
        {
            "dvc.yaml": """
stages:
  a=b+c: {cmd: x, deps: ["in put/é=1.csv"], outs: ["o@1+2.bin"]}
  größe 1: {cmd: y, deps: ["o@1+2.bin"]}
  "no": {cmd: n, deps: [no, 1_a, on]}
"""
        },
        (
            Stage("a=b+c", ("x",), deps=("in put/é=1.csv",), outs=(Out("o@1+2.bin"),)),
            Stage("größe 1", ("y",), deps=("o@1+2.bin",)),
            Stage("no", ("n",), deps=("no", "1_a", "on")),
        ),
    ),
    "anchors": Case(
        {
            "dvc.yaml": """
stages:
  a: &a {cmd: x, deps: &deps [d], frozen: true}
  b: {<<: *a, cmd: y}
  c: {cmd: z, deps: *deps}
"""
        },
        (
            Stage("a", ("x",), deps=("d",), is_frozen=True),
            Stage("b", ("y",), deps=("d",), is_frozen=True),
            Stage("c", ("z",), deps=("d",)),
        ),
    ),
    "sources": Case(
        {
            "data/raw.csv.dvc": f"outs:\n- md5: {MD5}\n  size: 3\n  hash: md5\n  path: raw.csv\n",
            "old.dvc": f"wdir: ../{{}}\nouts:\n- md5: {MD5}.dir\n  path: x\n".replace(
                "../{}", "sub"
            ),
            "no_hash.dvc": "outs:\n- path: ü.csv\n",
        },
        sources=(
            Source("no_hash.dvc", "ü.csv"),
            Source("old.dvc", "sub/x", f"{MD5}.dir"),
            Source("data/raw.csv.dvc", "data/raw.csv", MD5),
        ),
    ),
    "source_with_files": Case(
        {
            "data.dvc": f"""
outs:
- path: data
  hash: md5
  files:
  - relpath: b/c.csv
    md5: {MD5}
    size: 3
  - relpath: a.csv
    md5: {MD5}
    size: 3
"""
        },
        sources=(Source("data.dvc", "data", "98b476d94bed6c097a434041106c8210.dir"),),
        is_plain=False,
    ),
    "ignored": Case(
        {
            ".gitignore": "/scratch/\n",
            ".dvcignore": "# comment\n*.py[co]\n__pycache__/\nelse/where\n",
            "scratch/dvc.yaml": "stages: {no: {cmd: x}}",
            "dvc.yaml": "stages: {a: {cmd: x, deps: [src]}}",
        },
        (Stage("a", ("x",), deps=("src",)),),
    ),
    "dvcignored": Case(
        {
            ".dvcignore": "old/*\n",
            "old/a.csv.dvc": "outs:\n- path: a.csv\n",
            "dvc.yaml": "stages: {a: {cmd: x}}",
        },
        (Stage("a", ("x",)),),
        is_plain=False,
    ),
    "dvcignored_folder": Case(
        {
            ".dvcignore": "# others' pipelines\n/examples\n/old/\n",
            "examples/a/dvc.yaml": "stages: {no: {cmd: x}}",
            "old/a.csv.dvc": "outs:\n- path: a.csv\n",
            "dvc.yaml": "stages: {a: {cmd: x}}",
        },
        (Stage("a", ("x",)),),
    ),
    "dvcignored_but": Case(
        {
            ".dvcignore": "/old\n!/old\n",
            "old/a.csv.dvc": "outs:\n- path: a.csv\n",
            "dvc.yaml": "stages: {a: {cmd: x}}",
        },
        (Stage("a", ("x",)),),
        sources=(Source("old/a.csv.dvc", "old/a.csv"),),
        is_plain=False,
    ),
    "repository_within": Case(
        {
            "sub/.dvc/config": "",
            "sub/x.dvc": "outs:\n- path: x\n",
            "dvc.yaml": "stages: {a: {cmd: x}}",
        },
        (Stage("a", ("x",)),),
        is_plain=False,
    ),
    "source_in_an_output": Case(
        {
            "data/x.dvc": "wdir: ..\nouts:\n- path: y\n",
            "dvc.yaml": "stages: {a: {cmd: x, outs: [data]}}",
        },
        (Stage("a", ("x",), outs=(Out("data"),)),),
        is_plain=False,
    ),
    "empty": Case({"dvc.yaml": ""}),
    "nothing": Case({}),
}
