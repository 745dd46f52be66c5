"""reports/figures/ holds the pictures, drawn from what evaluate saved; no network and no torch is needed."""

from retrace import errors, params, paths, reports, splits, tracking
from retrace.figures import FIGURES, style


def main() -> None:
    p = params.load(params.Visualize)
    drawings = params.bind_all(FIGURES, p.figures, "figures")
    samples, _ = splits.load(paths.TEST)
    results = reports.Results(
        reports.load_history(), reports.load_metrics(), reports.load_predictions(), samples, p.seed
    )

    with tracking.stage("visualize") as run:
        for name, draw in drawings.items():
            path = paths.FIGURES / f"{name}.png"
            style.save(draw(results), path)
            run.artifact(path, headline=True)
            print(path)


if __name__ == "__main__":
    errors.run(main)
