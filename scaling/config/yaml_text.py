"""YAML that others wrote: plain values in bounded time and memory, and no key twice."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml
from yaml._yaml import CParser
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import Resolver
from yaml.scanner import Scanner

from data_pipeline.text import is_safe, shown

MAX_CHARACTERS = 65_536  # sixteen times the longest study file that ships; PyYAML reads some 50,000 a second
MAX_DEPTH = 20
MAX_VALUES = 5_000  # with every alias counted as what it stands for
MERGE = "tag:yaml.org,2002:merge"
SURPRISING = re.compile(r"[-+]?0[0-7_]+|[^:]+:.*")  # numbers to base 8 and 60, which look like others


class Unreadable(yaml.YAMLError):
    """Text that is YAML, perhaps, and is not read: the message names the line and the remedy."""


def parse_yaml(text: str) -> Any:
    """The plain values (mappings, lists, texts, numbers, dates, None) in a text.

    Raises:
        yaml.YAMLError: it is no YAML, holds a key twice or a value that cannot be read, is too long or too deep, or has
            aliases that stand for too much; the message names the line.
    """
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"it has {len(text):,} characters, expected {MAX_CHARACTERS:,} at most")
    try:
        return _load(_Fast(text))
    except Unreadable:
        raise
    except yaml.YAMLError:
        return _load(_Quoting(text))


def _load(loader: _Fast | _Quoting) -> Any:
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Bounded(Composer, SafeConstructor, Resolver):
    """From the events of a parser to plain values."""

    def __init__(self) -> None:
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._depth = 0
        # Of each node that is whole: how many values it is, its aliases written out, and how deep they go.
        self._extent: dict[int, tuple[int, int]] = {}

    if TYPE_CHECKING:  # the parser's

        def peek_event(self) -> Any: ...

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._depth += 1
        event: Any = self.peek_event()
        line: int = event.start_mark.line
        if self._depth > MAX_DEPTH:
            raise self._too_deep(line)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and not isinstance(event, yaml.AliasEvent):
            self._measure(node)
        elif node is not None and id(node) not in self._extent:
            raise Unreadable(f"line {line + 1}: an alias stands inside what it names: write the values out")
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if isinstance(key_node, ScalarNode) and key_node.tag != MERGE:
                key, line = self.construct_object(key_node), key_node.start_mark.line + 1
                if key in lines:
                    raise Unreadable(
                        f"key {shown(key)} stands twice, on lines {lines[key]} and {line}: keep one of them"
                    )
                lines[key] = line
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        if isinstance(node, ScalarNode):
            self._require_plain(node)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, OverflowError) as error:  # what PyYAML's own conversions let out
            kind = node.tag.rpartition(":")[2]
            raise Unreadable(
                f"line {node.start_mark.line + 1}: {shown(node.value)} cannot be read as {kind}: mend it, or put it in "
                "quotes where it is a text"
            ) from error
        if isinstance(value, str) and not is_safe(value):  # names become those of folders, and are printed
            raise Unreadable(f"line {node.start_mark.line + 1}: {shown(value)} holds line breaks or control characters")
        return value

    def _require_plain(self, node: ScalarNode) -> None:
        """Unreadable for a number that YAML reads as another than is written: 010 is 8, 1:30 is 90."""
        kind = node.tag.rpartition(":")[2]
        if kind in ("int", "float") and SURPRISING.fullmatch(node.value):
            base = 60 if ":" in node.value else 8
            raise Unreadable(
                f"line {node.start_mark.line + 1}: {shown(node.value)} is a number to base {base} in YAML: write it to "
                "base 10 without zeros in front, or in quotes where it is a text; between a key and its value stands a "
                "space, as in {1: 1.5}"
            )

    def _measure(self, node: Node) -> None:
        """Note the extent of a node that was composed, from that of its children."""
        children: list[Node] = []
        if isinstance(node, MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, SequenceNode):
            children = node.value
        values = 1 + sum(self._extent[id(child)][0] for child in children)
        depth = 1 + max((self._extent[id(child)][1] for child in children), default=0)
        line = node.start_mark.line
        if values > MAX_VALUES:
            raise Unreadable(f"line {line + 1}: with its aliases written out it has more than {MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            raise self._too_deep(line)
        self._extent[id(node)] = values, depth

    def _too_deep(self, line: int) -> Unreadable:
        return Unreadable(f"line {line + 1}: lists and mappings lie more than {MAX_DEPTH} deep")


class _Quoting(_Bounded, Reader, Scanner, Parser):
    """PyYAML's own parser, whose errors quote the place."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        _Bounded.__init__(self)

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        # The scanner looks ahead over open brackets, at a cost that grows with their square.
        if self.flow_level > MAX_DEPTH:
            raise self._too_deep(self.line)
        super().fetch_flow_collection_start(TokenClass)


class _Fast(_Bounded, CParser):
    """libyaml's parser, six times as fast."""

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)
        _Bounded.__init__(self)
