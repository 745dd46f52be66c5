"""A running stage: its event log and its background uploader."""
