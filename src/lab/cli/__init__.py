"""The lab's commands of `retrace`, a module each."""
