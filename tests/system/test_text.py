"""Text for messages."""

import pytest

from retrace.system.text import count


@pytest.mark.parametrize(
    ("n", "plural", "expected"),
    [(0, "", "0 files"), (1, "", "1 file"), (2, "", "2 files"), (2, "folders", "2 folders")],
)
def test_count_has_the_number_of_the_noun(n: int, plural: str, expected: str) -> None:
    assert count(n, "file", plural) == expected
