"""Read the tables that DVC's plots are drawn from: CSV, TSV, JSON and JSON lines."""

import csv
import io
import json
from typing import Any

JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (".csv", ".tsv", ".json", *JSON_LINES)

Rows = list[dict[str, Any]]


def parse(content: bytes, suffix: str) -> Rows:
    """Return a table's rows by column; cells of CSV and TSV are texts.

    In JSON it is a list of objects, or the first such list in an object. Raises ValueError if there
    is no table.
    """
    try:
        text = content.decode("utf-8-sig")
        if suffix.lower() not in (".json", *JSON_LINES):
            delimiter = "\t" if suffix.lower() == ".tsv" else ","
            return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
        if suffix.lower() in JSON_LINES:
            return _checked([json.loads(line) for line in text.splitlines() if line.strip()])
        document = json.loads(text)
    except (csv.Error, RecursionError) as error:
        raise ValueError(str(error)) from None
    lists = [document, *(document.values() if isinstance(document, dict) else ())]
    return _checked(next((entry for entry in lists if isinstance(entry, list)), None))


def _checked(rows: Any) -> Rows:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("has no list of objects")
    return rows
