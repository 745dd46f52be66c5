"""Run experiments on several machines: tasks, and the engines that run them.

`task` says what an experiment needs, as plain JSON, and runs it in a clone (`scratch`). `plan`
makes the tasks of a command line. `nodes` starts Ray on a machine, `ray_queue` runs tasks on it.
No pickle is ever loaded from a file; but Ray, inside a cluster, passes calls and results as
pickles between processes that have its token.
"""
