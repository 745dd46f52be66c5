"""The commands of `retrace`, a module each.

A command has GROUP, SUMMARY, EXAMPLES, add_arguments(parser) and run(args), as usage.Command says.
The help imports all of them, so they import heavy modules in the functions that need them. To add
one: a module here and its name in cli.BUILT_IN; in another package: an entry point in the group
`retrace.cli`.
"""
