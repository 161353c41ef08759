"""YAML as recipes need it: values by YAML 1.2, and every trap named with its line."""

from __future__ import annotations

import math

import pytest

from ft_toolkit.errors import FtError, RecipeError
from ft_toolkit.strict_yaml import dump, parse, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 0.0002),
        ("1e5", 100000.0),
        ("-1E+2", -100.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("1.50", 1.5),
        ("0o17", 15),
        ("0x1F", 31),
        ("007", 7),
        ("-12", -12),
        ("+12", 12),
        ("0", 0),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("false", False),
        ("~", None),
        ("null", None),
        ("NULL", None),
        ("", None),
    ],
)
def test_a_plain_scalar_has_its_yaml_1_2_value(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "yes", "no", "on", "off", "y", "n", "tRue", "nULL", "none", "12:30:45", "2024-01-01", "1_000",
        "1,000", "0b11", "0O17", "-0x1F", "1e", ".", "-", "+", "e5", "1.2.3", "20m", "inf", "nan", "7 ", "١٢",
    ],
)  # fmt: skip
def test_whatever_yaml_1_2_does_not_name_is_a_text(text: str) -> None:
    assert scalar(text) == text


def test_nan_is_a_number() -> None:
    assert math.isnan(scalar(".nan"))


def test_quoted_and_block_scalars_are_always_texts() -> None:
    text = "a: '7'\nb: \"true\"\nc: ''\nd: |\n  12\ne: >-\n  null\n"
    assert parse(text, "r.yaml").value == {"a": "7", "b": "true", "c": "", "d": "12\n", "e": "null"}


def test_plain_values_nest() -> None:
    text = "a: {b: [1, no, 2e-4], c: }\nd:\n- x: 1\n"
    assert parse(text, "r.yaml").value == {"a": {"b": [1, "no", 0.0002], "c": None}, "d": [{"x": 1}]}


def test_keys_are_texts_whatever_they_look_like() -> None:
    assert parse("no: 1\n7: 2\n", "r.yaml").value == {"no": 1, "7": 2}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_a_document_of_nothing_is_nothing(text: str) -> None:
    assert parse(text, "r.yaml").value is None


def test_each_key_knows_its_line() -> None:
    lines = parse("# first\na: 1\nb:\n  c: 2\n\n  d: {e: 3,\n    f: 4}\n", "r.yaml").lines
    assert lines[("a",)] == 2
    assert lines[("b",)] == 3
    assert lines[("b", "c")] == 4
    assert lines[("b", "d")] == 6
    assert lines[("b", "d", "e")] == 6
    assert lines[("b", "d", "f")] == 7


def test_all_duplicate_keys_are_named_with_both_lines() -> None:
    with pytest.raises(RecipeError) as caught:
        parse("a: 1\nb: {c: 1, c: 2}\na: 3\na: 4\n", "r.yaml")
    assert str(caught.value).split("\n") == [
        "r.yaml:2: b.c: duplicate key, first on line 2",
        "r.yaml:3: a: duplicate key, first on line 1",
        "r.yaml:4: a: duplicate key, first on line 1",
    ]


def test_the_same_key_in_two_sections_is_no_duplicate() -> None:
    assert parse("a: {seed: 1}\nb: {seed: 2}\n", "r.yaml").value == {"a": {"seed": 1}, "b": {"seed": 2}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: &x 1\n", 1),
        ("a: 1\nb: &x {c: 1}\n", 2),
        ("a: &x [*x]\n", 1),
        ("a: !!python/name:os.system x\n", 1),
        ("a: 1\nb: !!python/object/apply:os.system [echo]\n", 2),
        ("a: !!python/dict {b: 1}\n", 1),
        ("a: !!str 5\n", 1),
        ("a: !mine 5\n", 1),
        ("a:\n  b: ! 5\n", 2),
    ],
)
def test_anchors_aliases_and_tags_are_refused_with_their_line(text: str, line: int) -> None:
    with pytest.raises(RecipeError, match=f"r.yaml:{line}: (anchor|tag) "):
        parse(text, "r.yaml")


def test_all_anchors_and_tags_are_named_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        parse("a: &x 1\nb: *x\nc: !!int 3\n", "r.yaml")
    places = [fault.split(" ")[0] for fault in str(caught.value).split("\n")]
    assert places == ["r.yaml:1:", "r.yaml:2:", "r.yaml:3:"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: [1, 2\nb: 3\n", "r.yaml:2"),
        ("a: 1\n\tb: 2\n", "r.yaml:2"),
        ("a: 'open\n", "r.yaml:"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2"),
        ("a: *nowhere\n", "r.yaml:1"),
        ("a: \0\n", "r.yaml"),
        ("a: \x07\n", "r.yaml"),
    ],
)
def test_text_that_is_not_yaml_is_one_line_of_fault(text: str, where: str) -> None:
    with pytest.raises(FtError) as caught:
        parse(text, "r.yaml")
    line = str(caught.value)
    assert line.startswith(where)
    assert "\n" not in line
    assert len(line) <= 200


def test_what_is_written_is_read_again_as_it_was() -> None:
    texts = [
        "1e3",
        "0o17",
        "no",
        "true",
        "~",
        "",
        "007",
        "a: b",
        "# x",
        "@main",
        "é",
        "two\nlines",
        "*x",
        "'",
    ]
    shared = ["one", "list"]
    values = {"texts": texts, "a": shared, "b": shared, "n": [2e-05, 1e300, 3, None, True], "d": {"x": {}}}
    assert parse(dump(values), "x").value == values


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 5000, "a: " + "{a: " * 5000, "\n".join(" " * n + "a:" for n in range(2000))]
)
def test_yaml_that_is_nested_too_deep_is_one_line(text: str) -> None:
    with pytest.raises(FtError, match=r"^mine\.yaml: expected YAML, found brackets nested too deep"):
        parse(text, "mine.yaml")


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, "0o" + "7" * 5000])
def test_a_number_of_five_thousand_digits_is_no_integer(number: str) -> None:
    assert not isinstance(scalar(number), int)
