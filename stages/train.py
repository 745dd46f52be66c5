"""Train the classifier on the train split; the validation split selects the epoch."""

import retrace
from lab import params, paths
from lab.models import classifier, summary
from lab.models.classifier import ModelConfig
from lab.training import device, nodes, preparation, processes, rank, recorder
from lab.training.loop import Trainer
from retrace import checkpoint


def main() -> None:
    p = params.load(params.Train)
    if not rank.is_this():
        node = nodes.this(p.processes)
        if p.processes > 1:
            from lab.training import launcher  # late: one process does not need it

            launcher.launch(p, node)
            return

    compute = device.configure(p, p.precision)
    with processes.joined(p, compute) as group:
        trainer, config = preparation.prepare(p, compute, group)
        if group.is_first:
            train(trainer, config)
        else:
            recorder.follow(trainer)


def train(trainer: Trainer, config: ModelConfig) -> None:
    """Train, track the run, save checkpoints, and write the outputs."""
    model = trainer.state.model  # all of it, also where its head is trained alone
    with (
        retrace.stage("train") as run,
        checkpoint.locked(recorder.fingerprint(run, trainer.compute)) as checkpoints,
    ):
        run.set_tags({"retrace.device": trainer.compute})
        recorder.choose_batch_size(run, checkpoints, trainer)
        summary.save(model, config)
        recorder.save_first_batch(trainer)

        record = recorder.Recorder(run, checkpoints, trainer)
        with device.enough_memory(trainer.p.batch_size):
            trainer.precompute_features()
            with record.recording():
                kept = trainer.train(record.on_step, record.on_epoch)
        record.finish(kept)

        classifier.save(model, config.model_copy(update={"epoch": kept.epoch}))
        for path in (paths.HISTORY, paths.STEPS, paths.SUMMARY, paths.MODEL_CONFIG):
            run.log_artifact(path)
        run.model(paths.WEIGHTS, paths.MODEL_CONFIG)
    # Last: a training that is killed before this line resumes from a checkpoint.
    checkpoints.delete()
    print(record.diagnosis)


if __name__ == "__main__":
    rank.run(main)
