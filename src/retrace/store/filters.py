"""Conditions for MLflow's search: names and values with quotes, backticks and backslashes.

MLflow's filters have no escapes. A value with one kind of quotes is put in the other kind. For one
that no quotes can hold, the condition matches a few similar values too: check the results.
"""

import re

from retrace.store import names

ANY = "'%'"
NO_LITERAL = re.compile(r"['\\]")


def tag(name: str) -> str:
    """Return the field of a filter with the tag `name`."""
    return f"tags.`{names.encode(name)}`"


def equals(field: str, value: str) -> str:
    """Return the condition that `field`, `attributes.run_name` or a `tag`, has this value."""
    text = names.storable(value)
    if is_exact(value):
        quote = '"' if "'" in text else "'"
        return f"{field} = {quote}{text}{quote}"
    return f"{field} LIKE '{NO_LITERAL.sub('_', text)}'"  # _ stands for any one character


def exists(name: str) -> str:
    """Return the condition that a run has the tag `name`."""
    return f"{tag(name)} LIKE {ANY}"


def is_exact(value: str) -> bool:
    """Return whether `equals` matches this value only."""
    text = names.storable(value)
    return not ("'" in text and '"' in text) and not text.endswith("\\")
