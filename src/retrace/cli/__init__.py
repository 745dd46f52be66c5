"""The commands of `retrace`, one module per command.

A command has GROUP, SUMMARY, EXAMPLES, add_arguments(parser) and run(args): see
arguments.Command. The help imports all commands, so they import heavy modules in the functions
that need them. To add a command, add a module here and its name to main.BUILT_IN; in another
package, add an entry point to the group `retrace.commands`.
"""
