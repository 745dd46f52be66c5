"""The training loop. It knows data, network, loss and optimizer; whoever wants to know more is told by callback."""

import math
from collections.abc import Callable

from retrace import batches, errors
from retrace.batches import Augment, Part
from retrace.errors import DivergedError
from retrace.losses import LossFunction
from retrace.params import Train
from retrace.schedules import Moment
from retrace.seeding import Compute
from retrace.state import Epoch, State, Step, Totals
from retrace.steps import Steps
from retrace.validation import Validation


def train(
    state: State,
    loss_of: LossFunction,
    learning_rate: Callable[[Moment], float],
    augment: Augment | None,
    training: Part,
    validation: Part,
    compute: Compute,
    p: Train,
    *,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None],
) -> Epoch:
    """The network is trained, from where `state` stands; returns the epoch whose weights it has: `p.keep` says which,
    `p.patience` when to stop.

    A signal is answered between two steps or in validation, so that `state` is whole whenever this ends. Raises
    DivergedError at the latest after the next step, where a loss is not finite.
    """
    training = batches.laid_out(training, p.batch_size)
    total = p.epochs * batches.count(training, p.batch_size)
    step, validate = Steps(state, loss_of, compute), Validation(state.model, validation)
    while not state.is_over(p):
        epoch = len(state.epochs)
        with errors.Deferred() as signals:
            for inputs, labels in batches.shuffled(
                training, p.batch_size, augment, state.generator, seed=p.seed, epoch=epoch, after=state.totals.n_steps
            ):
                rate = learning_rate(Moment((state.step + 0.5) / total, epoch, state.val_losses))
                state.stepped(told := step(inputs, labels, rate))
                on_step(told)
                signals.answer()

        scored = _scored(epoch + 1, state.totals, *validate())
        with errors.Deferred():
            state.scored(scored, p)
            on_epoch(scored)
    return state.finish(p)


def _scored(epoch: int, totals: Totals, val_loss: float, val_accuracy: float) -> Epoch:
    train_loss, train_accuracy = totals.means()
    if not math.isfinite(train_loss) or not math.isfinite(val_loss):
        raise DivergedError(
            f"epoch {epoch}: the training loss is {train_loss}, the validation loss {val_loss}; lower lr"
        )
    return Epoch(epoch, train_loss, train_accuracy, val_loss, val_accuracy)
