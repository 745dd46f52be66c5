"""Draw the figures and the report page from what train and evaluate wrote; needs no torch."""

import retrace
from lab import params, paths
from lab.data import storage
from lab.report.figures import FIGURES, style
from lab.report.html import page
from lab.report.results import load_layers, load_results
from retrace import errors
from retrace.pipeline import params_yaml


def main() -> None:
    p = params.load(params.Visualize)
    drawings = params.bind_all(FIGURES, p.figures, "figures")
    samples, _ = storage.load(paths.TEST)
    metrics: dict[str, float] = {}
    results = load_results(samples, p.seed, metrics.__setitem__)

    with retrace.stage("visualize") as run:
        paths.FIGURES.mkdir(parents=True, exist_ok=True)
        for name, draw in drawings.items():
            figure = draw(results)
            if isinstance(figure, str):
                print(f"{name}: not drawn: {figure}")
                continue
            path = paths.FIGURES / f"{name}.png"
            style.save(figure, path)
            run.log_artifact(path, summary=True)
            print(path)
        layers = load_layers()
        deps = run.header["deps"]
        inputs = page.Provenance(params_yaml.read(), deps, layers, run.header["machine"])
        page.save(paths.REPORT, results, metrics, inputs)
        run.log_artifact(paths.REPORT, summary=True)
        print(paths.REPORT)
        run.log(metrics)
        run.summary(metrics)


if __name__ == "__main__":
    errors.run(main)
