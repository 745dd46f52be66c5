"""DVC and git: stages, parameters, hashes, identity, the queue."""
