"""Lightning's Trainer with its MLFlowLogger, and its defaults otherwise."""

import os
from dataclasses import asdict
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import MLFlowLogger
from torch import nn

from contenders import job as jobs
from contenders.job import Job, Result


class Module(lightning.LightningModule):
    """The training of a job."""

    def __init__(self, job: Job, result: Result) -> None:
        super().__init__()
        self.model = job.model()
        self.job = job
        self.result = result

    def training_step(self, batch: Any) -> Any:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.model(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any) -> None:
        self._measure(batch, "val")

    def test_step(self, batch: Any) -> None:
        self._measure(batch, "test")

    def on_train_start(self) -> None:
        self.result.began = jobs.time.perf_counter()

    def on_train_epoch_end(self) -> None:
        self.result.end_epoch()

    def configure_optimizers(self) -> Any:
        optimizer = self.job.optimizer_of(self.model)
        n_steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.job.factor(step / n_steps)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _measure(self, batch: Any, split: str) -> None:
        images, labels = batch
        logits = self.model(images)
        self.log(f"{split}_loss", nn.functional.cross_entropy(logits, labels))
        self.log(f"{split}_accuracy", (logits.argmax(1) == labels).float().mean())


def main() -> None:
    job = jobs.from_command_line()
    logger = MLFlowLogger(jobs.EXPERIMENT, tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    logger.log_hyperparams(asdict(job))
    training, validation, test = job.loaders()
    result = Result(len(training.dataset))  # pyright: ignore[reportArgumentType]
    trainer = lightning.Trainer(
        max_epochs=job.epochs,
        logger=logger,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir="lightning",
    )
    module = Module(job, result)
    trainer.fit(module, training, validation)
    (metrics,) = trainer.test(module, test, verbose=False)
    result.accuracy = metrics["test_accuracy"]
    result.print()


if __name__ == "__main__":
    main()
