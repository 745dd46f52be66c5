"""Download the files of the chosen data set to data/raw."""

from retrace import tracking

# First, so that it imports MLflow while this imports the rest.
beside = tracking.start() if __name__ == "__main__" else None

from retrace import errors, params, paths
from retrace.datasets import DATASETS


def main() -> None:
    p = params.load(params.Download)
    params.bind({name: entry.read for name, entry in DATASETS.items()}, p.dataset, "datasets")
    with tracking.stage("download", beside) as run:
        origin = DATASETS[p.dataset.name].collect(paths.RAW)
        sizes = {path: path.stat().st_size for path in sorted(paths.RAW.iterdir())}
        run.tags(**{"retrace.source": origin})
        run.metrics({"raw_bytes": sum(sizes.values())})
    print(f"{p.dataset.name}, source: {origin}")
    for path, size in sizes.items():
        print(f"{path}: {size:,} bytes")


if __name__ == "__main__":
    errors.run(main)
