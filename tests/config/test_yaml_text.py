"""YAML that others wrote: each text is read, or refused by its line, in bounded work."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import yaml

from scaling.config.recipes import TeacherRecipe
from scaling.config.validation import ConfigError, apply_override, read_yaml, validate
from scaling.config.yaml_text import MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES, parse_yaml

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_are_read_as_by_pyyaml(path: Path) -> None:
    assert read_yaml(path) == yaml.safe_load(path.read_text())


def test_aliases_merges_and_kinds_of_values() -> None:
    text = "a: &a {x: 1, y: 2.5}\nb: *a\nc: {<<: *a, x: 3}\nd: [2001-02-03, yes, null, 0x10, '2020-13-45']\ne: [*a, *a]"
    a = {"x": 1, "y": 2.5}
    d = [datetime.date(2001, 2, 3), True, None, 16, "2020-13-45"]
    assert parse_yaml(text) == {"a": a, "b": a, "c": {"x": 3, "y": 2.5}, "d": d, "e": [a, a]}
    assert parse_yaml("") is None
    nested = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert parse_yaml(nested) == yaml.safe_load(nested)


LAUGHS = "\n".join(["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 18))])
REFUSED = {
    "a key twice": ("lr: 1\nx:\n  y: 2\nlr: 3", "key 'lr' stands twice, on lines 1 and 4: keep one"),
    "a key twice, quoted": ('x: {lr: 1, "lr": 2}', "key 'lr' stands twice, on lines 1 and 1"),
    "a number twice": ("x:\n  16: a\n  0x10: b", "key 16 stands twice, on lines 2 and 3"),
    "multiplying aliases": (LAUGHS, f"line 5: with its aliases written out it has more than {MAX_VALUES:,} values"),
    "a chain of aliases": (
        "a0: &a0 [1]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 30)),
        f"line 20: lists and mappings lie more than {MAX_DEPTH} deep",
    ),
    "an alias of its own list": ("x: 1\ny: &a [*a]", "line 2: an alias stands inside what it names"),
    "brackets": ("x: 1\ny: " + "[" * 5000, f"line 2: lists and mappings lie more than {MAX_DEPTH} deep"),
    "dashes": ("- " * 5000 + "1", f"line 1: lists and mappings lie more than {MAX_DEPTH} deep"),
    "indents": (
        "\n".join(" " * i + "a:" for i in range(200)),
        f"line 20: lists and mappings lie more than {MAX_DEPTH}",
    ),
    "many values": (f"[{'1,' * MAX_VALUES} 1]", "more than"),
    "many characters": ("x: " + "1" * MAX_CHARACTERS, f"it has {MAX_CHARACTERS + 3:,} characters, expected"),
    "no binary number": ("x:\n- 0b_", "line 2: '0b_' cannot be read as int: mend it, or put it in quotes"),
    "no date": ("x: 2020-13-45", "line 1: '2020-13-45' cannot be read as timestamp"),
    "many digits": ("x: " + "9" * 5000, "cannot be read as int"),
    "a number in base 60": ("x: 1:" + "59:" * 300 + "1.5", "is a number to base 60 in YAML"),
    "a time": ("x:\n  y: 1:30", "line 2: '1:30' is a number to base 60 in YAML: write it to base 10"),
    "a key without its space": ("x: {1:1.5, 2: 1}", "line 1: '1:1.5' is a number to base 60"),
    "zeros in front": ("x: 0100", "line 1: '0100' is a number to base 8 in YAML"),
    "a tag": ("x: !!timestamp a", "'a' cannot be read as timestamp"),
    "a truth": ("x: !!bool a", "'a' cannot be read as bool"),
    "a key that is none": ("2020-13-45: 1", "'2020-13-45' cannot be read as timestamp"),
    "an object": ("x: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "an escape in a text": (r'name: "a\e[2J"', r"line 1: 'a\x1b[2J' holds line breaks or control characters"),
    "a line break in a key": ('x:\n  "a\\nb": 1', r"line 2: 'a\nb' holds line breaks"),
    "a block of lines": ("name: |\n  a\n  b\n", r"line 1: 'a\nb\n' holds line breaks"),
    "a control character": ("x: \x07", "special characters are not allowed"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_name_the_line_and_are_short(tmp_path: Path, kind: str) -> None:
    text, message = REFUSED[kind]
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"s\.yaml: is not valid YAML: ") as caught:
        read_yaml(tmp_path / "s.yaml")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 800
    content = {}
    with pytest.raises(ConfigError, match="the value is not valid YAML: ") as caught:
        apply_override(content, "x=" + text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 800
    assert content == {}


def test_errors_quote_the_place() -> None:
    """libyaml names line and column alone; PyYAML's own parser shows them."""
    with pytest.raises(yaml.YAMLError, match=r"line 2, column 8:\n +lr: 0.1: 2\n +\^"):
        parse_yaml("steps: 1\nlr: 0.1: 2")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"PK\x03\x04", "is a zip archive"),
        (b"#" * (4 * MAX_CHARACTERS + 1), "is longer than 262,144 bytes"),
    ],
)
def test_files_that_are_no_yaml(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "s.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=rf"s\.yaml: {message}"):
        read_yaml(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    ("text", "what"), [("", "is empty"), ("# x\n", "is empty"), ("- a", "holds a list"), ("a", "holds 'a' alone")]
)
def test_files_without_keys(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"s\.yaml: {what}, expected keys and values"):
        read_yaml(tmp_path / "s.yaml")


def test_values_and_keys_are_cut_before_they_are_shown() -> None:
    content = {
        "steps": 1,
        "lr": [1.0] * 10_000,
        "k" * 10_000: "v" * 10_000,
        "a\x1b[2J": 1,
        **{f"x{i}": 0 for i in range(99)},
    }
    with pytest.raises(ConfigError) as caught:
        validate(TeacherRecipe, content, "s.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 82 more"
    assert max(map(len, lines)) <= 502
    assert "\x1b" not in str(caught.value)
    assert "(value [1.0, 1.0, " in str(caught.value)
