"""The loop, the step, losses, optimizers, schedules and augmentations."""
