"""Download the files of the chosen data set into data/raw/."""

import retrace
from lab import params, paths
from lab.data.datasets import DATASETS
from retrace import errors


def main() -> None:
    p = params.load(params.Download)
    params.bind({name: entry.read for name, entry in DATASETS.items()}, p.dataset, "datasets")
    with retrace.stage("download") as run:
        origin = DATASETS[p.dataset.name].collect(paths.RAW)
        sizes = {path: path.stat().st_size for path in sorted(paths.RAW.iterdir())}
        run.set_tags({"retrace.source": origin})
        run.log({"raw_bytes": sum(sizes.values())})
    print(f"{p.dataset.name}, source: {origin}")
    for path, size in sizes.items():
        print(f"{path}: {size:,} bytes")


if __name__ == "__main__":
    errors.run(main)
