"""data/raw/ holds the files of the chosen data set, verified by digest."""

from retrace import errors, fetching, params, paths, tracking
from retrace.datasets import DATASETS


def main() -> None:
    p = params.load(params.Download)
    params.bind({name: entry.read for name, entry in DATASETS.items()}, p.dataset, "datasets")
    dataset = DATASETS[p.dataset.name]
    with tracking.stage("download") as run:
        origin = fetching.fetch(p.dataset.name, dataset.FILES, dataset.SOURCES, paths.RAW)
        run.tags(**{"retrace.source": origin})
        run.metrics({"raw_bytes": sum(file.size for file in dataset.FILES)})
    print(f"{p.dataset.name}: {len(dataset.FILES)} files from {origin}")


if __name__ == "__main__":
    errors.run(main)
