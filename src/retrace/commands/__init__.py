"""What people do around the pipeline: a file here is a command of `retrace`, and only cli.py imports it.

To add one: `src/retrace/commands/<name>.py` with a function of the command's arguments, and its place in cli.py.
"""
