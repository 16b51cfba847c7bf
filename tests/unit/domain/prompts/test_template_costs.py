r"""What templates may cost: time in proportion to their length, and bounded memory."""

import time

import pytest

from fleetplane_prompts.template import TemplateError, Variable, escape, parse

LARGEST = 256 * 1024


@pytest.mark.parametrize(
    "text", ["\\" * LARGEST, "\\" * (LARGEST - 1) + "{", "{\\" * (LARGEST // 2)]
)
def test_a_template_of_backslashes_is_read_at_once(text):
    began = time.process_time()
    assert parse(text) == (text,)
    assert escape(text) == text
    assert time.process_time() - began < 1


def test_backslashes_before_a_variable_still_count_from_the_first():
    assert parse(r"a\\\\{{x}}") == ("a\\\\", Variable("x"))
    assert parse(r"\\\{{x}}") == (r"\{{x}}",)
    assert parse(r"{{x}}\{{y}}") == (Variable("x"), "{{y}}")
    assert parse(r"\{{\{{") == ("{{{{",)
    with pytest.raises(TemplateError):
        parse("{{{x}}}")


def test_parts_of_large_templates_are_not_kept():
    large = "{{a}}" * 10_000
    assert parse(large) is not parse(large)
    small = "{{a}} is kept"
    assert parse(small) is parse(small)
