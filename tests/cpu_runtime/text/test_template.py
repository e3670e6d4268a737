from __future__ import annotations

import time

import pytest

from cpu_runtime.text.template import ChatTemplate
from quant.errors import CheckpointError, UsageError

MESSAGES = [{"role": "user", "content": "hi"}]
GROW = "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = GROWN %}{% endfor %}"
HOSTILE = {
    "python's internals": "{{ ''.__class__.__mro__ }}",
    "internals through a filter": "{{ (''|attr('__class__')).mro }}",
    "endless loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "nested loops": "{% set x = [1] * 1000 %}" + "{% for a in x %}" * 4 + "{% endfor %}" * 4,
    "doubling by ~": GROW.replace("GROWN", "ns.s ~ ns.s"),
    "doubling by +": GROW.replace("GROWN", "ns.s + ns.s"),
    "doubling by set": GROW.replace("{% set ns.s = GROWN %}", "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}"),
    "a long product": "{{ 'x' * 9999999999 }}",
    "a long list": "{{ [0] * 9999999999 }}",
    "padding": "{{ 'x'.ljust(9999999999) }}",
    "a percent format": "{{ '%999999999d' % 3 }}",
    "a format": "{{ '{:>999999999}'.format(1) }}",
    "a filter that pads": "{{ 'x'|center(999999999) }}",
    "a large number": "{% set ns = namespace(n=7) %}{% for i in range(90) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "a power": "{{ 9 ** 9 ** 9 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "doubling recursion": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(500) }}",
    "division by zero": "{{ 1 / 0 }}",
    "a syntax error": "{% if %}",
    "changing the messages": "{{ messages.append(3) }}",
    "reading a file": "{% include '/etc/passwd' %}",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_template_is_refused_soon(what: str) -> None:
    start = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        ChatTemplate(HOSTILE[what], "chat_template.jinja").render(messages=MESSAGES)
    assert "chat_template.jinja" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20  # it is stopped at 4 s of its own time


def test_a_template_may_refuse_its_messages() -> None:
    with pytest.raises(UsageError, match="no tools here"):
        ChatTemplate("{{ raise_exception('no tools here') }}", "t").render(messages=MESSAGES)


def test_what_published_templates_use() -> None:
    source = (
        "{%- for m in messages if m.content -%}{%- if loop.index0 == 5 %}{% break %}{% endif -%}"
        "{{ m.content | trim | tojson }}{{ m['role'] | upper }}{%- endfor %}"
        "{{ {'a': 'é<b>'} | tojson(indent=2) }}{{ messages[::-1] | length }}{{ 'a,b'.split(',')[-1] }}"
    )
    found = ChatTemplate(source, "t").render(messages=[{"role": "user", "content": " ä&'<>"}])
    assert found == '"ä&\'<>"USER{\n  "a": "é<b>"\n}1b'
