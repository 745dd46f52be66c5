"""Split the data set into train, validation and test, a packed file each in data/processed/."""

import sys
from collections.abc import Sequence

from retrace import dealing, duplicates, errors, params, paths, splits, tracking
from retrace.datasets import DATASETS
from retrace.duplicates import Duplicate
from retrace.journal import EventLog
from retrace.samples import Skipped


def main() -> None:
    p = params.load(params.Preprocess)
    read = params.bind({name: entry.read for name, entry in DATASETS.items()}, p.dataset, "datasets")
    with tracking.stage("preprocess") as run:
        raw = read(paths.RAW)
        parts = dict(zip((paths.TRAIN, paths.VALIDATION, paths.TEST), dealing.deal(raw, p), strict=True))
        skipped = raw.skipped
        del raw  # as large as all parts together
        for path, samples in parts.items():
            splits.save(path, samples, splits.scale(samples) if path == paths.TRAIN else None)
            run.metrics({f"{path.stem}_samples": len(samples)})
            print(f"{path}: {len(samples):,} samples of {len(samples.class_names)} classes")
        tell(run, skipped, duplicates.across({path.stem: samples for path, samples in parts.items()}))


def tell(run: EventLog, skipped: Sequence[Skipped], shared: Sequence[Duplicate]) -> None:
    """What a score on these parts is to be read with is in the run, and on stderr."""
    run.metrics({"skipped": len(skipped), "duplicates": len(shared)})
    if skipped:
        run.table("skipped.csv", skipped)
        first = f"such as {skipped[0].file!r} ({skipped[0].reason})"
        print(
            f"warning: {len(skipped):,} skipped, {first}; the run's skipped.csv lists them",
            file=sys.stderr,
        )
    if shared:
        run.table("duplicates.csv", shared)
        one = shared[0]
        first = f"such as {one.sample!r} of {one.part} and {one.earlier_sample!r} of {one.earlier_part}"
        said = f"{len(shared):,} in two parts, {first}; the run's duplicates.csv lists them"
        print(f"warning: {said}", file=sys.stderr)


if __name__ == "__main__":
    errors.run(main)
