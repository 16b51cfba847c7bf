from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetplane_prompts import (
    MAX_RENDERED_BYTES,
    TemplateError,
    VariableError,
    VariableSpec,
    VariableType,
    escape,
    parse,
    render,
    variable_names,
)

TEXT = VariableSpec()


def filled(template: str, specs: dict[str, VariableSpec] | None = None, **values: Any) -> str:
    known = specs if specs is not None else dict.fromkeys(values, TEXT)
    return render([("", template)], known, values).messages[0].content


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("Hello {{name}}!", "Hello Ada!"),
        ("{{ name }}{{\tname}}", "AdaAda"),
        ("{name} { {name} }", "{name} { {name} }"),
        ("}} {{name}}", "}} Ada"),
        (r"\{{name}}", "{{name}}"),
        (r"\\{{name}}", r"\Ada"),
        (r"\\\{{name}}", r"\{{name}}"),
        (r"a\b {{name}}", r"a\b Ada"),
        ("no variable", "no variable"),
    ],
)
def test_a_template_fills_in_names_and_nothing_else(template, expected):
    assert filled(template, {"name": TEXT}, name="Ada") == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{",
        "{{}}",
        "{{ }}",
        "{{1a}}",
        "{{a b}}",
        "{{a.b}}",
        "{{a|upper}}",
        "{{{a}}}",
        "{{a}",
        "{{ä}}",
    ],
)
def test_what_is_no_variable_is_refused_with_its_place(template):
    with pytest.raises(TemplateError, match="line 2, column 4"):
        parse("one\ntwo" + template)


@given(st.text(max_size=200))
def test_a_value_is_never_expanded(value):
    """Whatever a value holds, braces included, it comes out as it went in."""
    assert filled("<{{a}}{{b}}>", a=value, b="{{a}}") == f"<{value}{{{{a}}}}>"


@given(st.text(max_size=200))
def test_an_escaped_text_renders_to_itself(text):
    assert filled(escape(text)) == text


@given(st.text(alphabet="\\{}ab ", max_size=40))
def test_any_text_is_a_template_or_refused(text):
    try:
        names = variable_names((text,))
    except TemplateError:
        return
    assert names <= {"a", "b", "aa", "ab", "ba", "bb"} or all(set(n) <= {"a", "b"} for n in names)


@pytest.mark.parametrize(
    ("spec", "value", "expected"),
    [
        (VariableSpec(type=VariableType.NUMBER), 3, "3"),
        (VariableSpec(type=VariableType.NUMBER), 2.0, "2"),
        (VariableSpec(type=VariableType.NUMBER), 0.5, "0.5"),
        (VariableSpec(type=VariableType.BOOLEAN), True, "true"),
        (
            VariableSpec(type=VariableType.JSON),
            {"b": [1.0, None], "a": "ü"},
            '{"a":"ü","b":[1,null]}',
        ),
        (VariableSpec(type=VariableType.JSON), None, "null"),
        (VariableSpec(max_length=3), "abc", "abc"),
    ],
)
def test_values_are_written_by_their_type(spec, value, expected):
    assert filled("{{x}}", {"x": spec}, x=value) == expected


@pytest.mark.parametrize(
    ("spec", "values", "why"),
    [
        (TEXT, {}, "is missing"),
        (TEXT, {"x": "a", "y": "b"}, "is not known"),
        (TEXT, {"x": 1}, "must be a string"),
        (TEXT, {"x": None}, "must be a string"),
        (VariableSpec(max_length=2), {"x": "abc"}, "longer than 2"),
        (VariableSpec(type=VariableType.NUMBER), {"x": True}, "must be a number"),
        (VariableSpec(type=VariableType.NUMBER), {"x": float("nan")}, "finite"),
        (VariableSpec(type=VariableType.BOOLEAN), {"x": 1}, "true or false"),
        (VariableSpec(type=VariableType.JSON), {"x": {1: 2}}, "JSON"),
        (VariableSpec(type=VariableType.JSON), {"x": float("inf")}, "JSON"),
        (TEXT, {"x": "a" * (MAX_RENDERED_BYTES + 1)}, "larger than"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(spec, values, why):
    with pytest.raises(VariableError, match=why) as caught:
        render([("", "{{x}}")], {"x": spec}, values)
    assert caught.value.name in {"x", "y"}


def test_an_optional_variable_may_be_left_out():
    assert filled("a{{x}}b", {"x": VariableSpec(required=False)}) == "ab"


def test_the_size_and_an_estimate_of_tokens_are_told():
    rendered = render([("system", "äö"), ("user", "{{x}}")], {"x": TEXT}, {"x": "abcd"})
    assert rendered.size_bytes == 8
    assert rendered.estimated_tokens == 2 + 2 * 4
