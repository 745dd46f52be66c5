"""data/processed/ holds the train, validation and test parts, one packed file each."""

from retrace import tracking

# First, so that it imports MLflow while this imports the rest.
beside = tracking.start() if __name__ == "__main__" else None

from retrace import errors, params, paths, splits
from retrace.datasets import DATASETS


def main() -> None:
    p = params.load(params.Preprocess)
    read = params.bind({name: entry.read for name, entry in DATASETS.items()}, p.dataset, "datasets")
    with tracking.stage("preprocess", beside) as run:
        parts = splits.deal(read(paths.RAW), p)
        scale = splits.scale(parts[0])
        for path, samples in zip((paths.TRAIN, paths.VALIDATION, paths.TEST), parts, strict=True):
            splits.save(path, samples, scale)
            run.metrics({f"{path.stem}_samples": len(samples)})
            print(f"{path}: {len(samples):,} samples of {len(samples.class_names)} classes")


if __name__ == "__main__":
    errors.run(main)
