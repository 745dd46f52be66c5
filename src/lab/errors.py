"""The lab's own errors that a user can fix; the others are in `retrace.errors`."""

from retrace.errors import RetraceError


class FetchError(RetraceError):
    """No source has a file with the pinned digests."""


class DivergedError(RetraceError):
    """The training loss, the validation loss or a weight is NaN or infinite."""
