"""Parse YAML as DVC does (version 1.2), from files that may be hostile.

`parse` uses PyYAML's loader in C, which is five times as fast as ruamel.yaml's, which DVC uses. By
default PyYAML reads YAML 1.1, in which `no` and `1e3` are false and text. A test holds both equal.
"""

import re
from collections.abc import Iterable
from typing import Any

from yaml import CollectionNode, CSafeLoader, MappingNode, Node, ScalarNode, SequenceNode, YAMLError

from retrace.errors import RetraceError

INVALID = (
    *(YAMLError, RecursionError, RetraceError),  # of the parser and its checks
    *(ValueError, OverflowError, AttributeError, TypeError, LookupError),  # of entries
)
MAX_DEPTH = 10_000  # brackets in a file, or characters in a line: with more, libyaml can crash
MAX_VALUES = 1_000_000  # once aliases are expanded

FLOAT = (
    r"[-+]?\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|[-+]?\d[\d_]*[eE][-+]?\d+"
    r"|[-+]?\.[\d_]+(?:[eE][-+]\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
INT = r"[-+]?0b[01_]+|[-+]?0o?[0-7_]+|[-+]?[\d_]+|[-+]?0x[\da-fA-F_]+"
TIMESTAMP = (
    r"\d{4}-\d\d-\d\d|\d{4}-\d\d?-\d\d?(?:[Tt]|[ \t]+)\d\d?:\d\d:\d\d(?:\.\d*)?"
    r"(?:[ \t]*(?:Z|[-+]\d\d?(?::\d\d)?))?"
)
COLON = re.compile(r":(?:\S|\Z)")
RESOLVERS = {  # of YAML 1.2: a plain scalar's tag, its pattern, and the characters it begins with
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "float": (FLOAT, "-+0123456789."),
    "int": (INT, "-+0123456789"),
    "merge": ("<<", "<"),
    "null": (r"~|null|Null|NULL|", ("~", "n", "N", "")),
    "timestamp": (TIMESTAMP, "0123456789"),
}


class Loader(CSafeLoader):
    """The safe loader in C, which makes plain values only, for YAML 1.2, as strict as ruamel's."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping. Raises YAMLError if a key occurs twice."""
        _check_flow(node, [child for pair in node.value for child in pair])
        keys = [key.value for key, _ in node.value if isinstance(key, ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise YAMLError(f"line {node.start_mark.line + 1}: the key {twice!r} occurs twice")
        return super().construct_mapping(node, deep=deep)

    def construct_sequence(self, node: SequenceNode, deep: bool = False) -> list[Any]:
        """Return the list."""
        _check_flow(node, node.value)
        return super().construct_sequence(node, deep=deep)


def parse(text: str) -> Any:
    """Parse plain values. Raises YAMLError, or RecursionError."""
    check_depth(text)
    loader = Loader(text)
    try:
        value = loader.get_single_data()
    except (ValueError, OverflowError) as error:  # such as 2024-13-01
        raise YAMLError(str(error)) from None
    finally:
        loader.dispose()
    check_size(value)
    return value


def parse_as_dvc(text: str) -> Any:
    """Parse YAML 1.2, with the parser that DVC uses for params and metrics. Raises YAMLError."""
    from ruamel.yaml import YAML, error  # takes time to import

    check_depth(text)
    try:
        return YAML(typ="safe").load(text)
    except error.YAMLError as invalid:
        raise YAMLError(" ".join(str(invalid).split())) from None


def check_depth(text: str) -> None:
    """Raise YAMLError if the text could be nested so deeply that libyaml would crash."""
    n_brackets = text.count("[") + text.count("{")
    longest_line = max(map(len, text.split("\n")))
    if max(n_brackets, longest_line) > MAX_DEPTH:
        raise YAMLError(f"more than {MAX_DEPTH:,} brackets, or characters in a line")


def check_size(value: Any) -> None:
    """Raise YAMLError if a few aliases expand to very many values, or an alias contains itself."""
    n_values = 0
    left = [value] if isinstance(value, dict | list) else []
    while left:
        node = left.pop()
        children = node.values() if isinstance(node, dict) else node
        n_values += len(node)
        left += [child for child in children if isinstance(child, dict | list)]
        if n_values > MAX_VALUES:
            raise YAMLError(f"more than {MAX_VALUES:,} values once aliases are expanded")


def _check_flow(node: CollectionNode, children: Iterable[Node]) -> None:
    """Raise YAMLError if a plain scalar between brackets has a colon: `[s3://bucket]`."""
    if node.flow_style:
        for child in children:
            if isinstance(child, ScalarNode) and not child.style and COLON.search(child.value):
                raise YAMLError(f"line {child.start_mark.line + 1}: found unexpected ':'")


def _int(loader: Loader, node: ScalarNode) -> int:
    """Return an integer of YAML 1.2, in which 012 is twelve and 0o12 is ten."""
    digits = str(loader.construct_scalar(node)).replace("_", "")
    try:
        return int(digits)
    except ValueError:
        return int(digits, 0)


for _tag, (_pattern, _first) in RESOLVERS.items():
    Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$", re.ASCII), list(_first)
    )
Loader.add_constructor("tag:yaml.org,2002:int", _int)
