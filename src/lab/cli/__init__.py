"""The lab's commands of `retrace`, one module per command."""
