"""The lab's own errors that a user can fix; the others are in `retrace.errors`."""

from retrace.errors import RetraceError


class FetchError(RetraceError):
    """No source has a file with the pinned digests."""


class DivergedError(RetraceError):
    """The loss of a training is not a number."""
