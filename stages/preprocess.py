"""Split the data set into train, validation and test: packed, in data/processed/."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

import retrace
from lab import params, paths
from lab.data import duplicates, near_duplicates, split, storage
from lab.data.datasets import DATASETS
from lab.data.duplicates import Duplicate
from lab.data.near_duplicates import NearDuplicate
from lab.data.samples import Skipped
from retrace import errors


def main() -> None:
    p = params.load(params.Preprocess)
    readers = {name: entry.read for name, entry in DATASETS.items()}
    read = params.bind(readers, p.dataset, "datasets")
    with retrace.stage("preprocess") as run:
        raw = read(paths.RAW)
        files = (paths.TRAIN, paths.VALIDATION, paths.TEST)
        by_file = dict(zip(files, split.split(raw, p), strict=True))
        skipped = raw.skipped
        del raw  # as large as all splits together
        for path, samples in by_file.items():
            scale = storage.scale(samples) if path == paths.TRAIN else None
            storage.save(path, samples, scale, p.shard_mb * 10**6)
            run.log({f"{path.stem}_samples": len(samples)})
            print(f"{path}: {len(samples):,} samples of {len(samples.class_names)} classes")
        by_name = {path.stem: samples for path, samples in by_file.items()}
        shared = duplicates.across(by_name)
        log_warnings(run, skipped, shared)
        if p.near_duplicates:
            log_near(run, near_duplicates.across(by_name, p.near_duplicates, shared))


def log_near(run: retrace.Run, similar: Sequence[NearDuplicate]) -> None:
    """Log near-duplicates across splits as `log_warnings` does duplicates."""
    run.log({"near_duplicates": len(similar)})
    if similar:
        warn(run, "near_duplicates", similar, f"look alike in two splits, such as {similar[0]}")


def log_warnings(run: retrace.Run, skipped: Sequence[Skipped], shared: Sequence[Duplicate]) -> None:
    """Log skipped files and duplicates across splits to the run, and warn on stderr."""
    run.log({"skipped": len(skipped), "duplicates": len(shared)})
    if skipped:
        warn(run, "skipped", skipped, f"skipped, such as {skipped[0]}")
    if shared:
        warn(run, "duplicates", shared, f"in two splits, such as {shared[0]}")


def warn(run: retrace.Run, name: str, rows: Sequence[NamedTuple], reason: str) -> None:
    run.log_table(f"{name}.csv", rows)
    print(f"warning: {len(rows):,} {reason}; the run's {name}.csv lists them", file=sys.stderr)


if __name__ == "__main__":
    errors.run(main)
