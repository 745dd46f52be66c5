"""Draw the figures and the report page from the results of evaluate; needs no torch."""

from retrace import errors, params, params_file, paths, reports, splits, tracking
from retrace.figures import FIGURES, style
from retrace.pages import report


def main() -> None:
    p = params.load(params.Visualize)
    drawings = params.bind_all(FIGURES, p.figures, "figures")
    samples, _ = splits.load(paths.TEST)
    metrics: dict[str, float] = {}
    results = reports.Results(
        history=reports.load_history(),
        steps=reports.load_steps(),
        metrics=reports.load_metrics(),
        predictions=reports.load_predictions(),
        samples=samples,
        batch=reports.load_batch(),
        views=reports.load_views(),
        seed=p.seed,
        log_metric=metrics.__setitem__,
    )

    with tracking.stage("visualize") as run:
        paths.FIGURES.mkdir(parents=True, exist_ok=True)
        for name, draw in drawings.items():
            figure = draw(results)
            if isinstance(figure, str):
                print(f"{name}: not drawn: {figure}")
                continue
            path = paths.FIGURES / f"{name}.png"
            style.save(figure, path)
            run.artifact(path, headline=True)
            print(path)
        layers, machine = reports.load_summary(), run.header["machine"]
        inputs = report.Inputs(params_file.read(), run.header["deps"], layers, machine)
        report.save(paths.REPORT, results, metrics, inputs)
        run.artifact(paths.REPORT, headline=True)
        print(paths.REPORT)
        run.metrics(metrics)
        run.headline(metrics)


if __name__ == "__main__":
    errors.run(main)
