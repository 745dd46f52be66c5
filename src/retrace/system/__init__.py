"""The operating system: processes and locks, atomic files, memory, the terminal."""
