"""Text for messages."""


def count(n: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: `1 file`, `2 files`. `plural` is needed if it is irregular."""
    return f"{n} {singular if n == 1 else plural or f'{singular}s'}"
