"""Chat templates of others: a sane one renders as Transformers renders it, a hostile one ends in an error of ours."""

from __future__ import annotations

import resource
import time

import pytest
from test_templates import CASES, DATED, FOLDED, GIVEN_DATE, PREFILLED, THINKING
from transformers import PreTrainedTokenizerFast

from facetrm.backbone.text.chat import DecoderChat, Limit
from facetrm.backbone.text.guarded import LONGEST_SOURCE, GuardedTemplate
from facetrm.core.errors import BackboneError
from fakes import CHATML, LLAMA3, tiny_tokenizer

DATE = "26 Jul 2024"
M = "{{ messages[0].content }}"
LOOP = "{% for m in messages %}{{ m.content }}{% endfor %}"
NEW = "{% set n = namespace(s=[1]) %}"
SIXTY = "{% for i in range(60) %}"
TURNS = [
    {"role": "system", "content": "Be <b>brief</b> & kind."},
    {"role": "user", "content": "  Größe?\n\n100 % of {x} 😀 "},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"},
    {"role": "user", "content": "And 'why'?"},
    {"role": "assistant", "content": 'Because "so".\tEnd'},
]
# What published templates use: macros, namespaces, slices, filters, formats, loop controls, the generation tag.
SANE = {
    "macro": "{% macro say(m, n=1) %}[{{ n }}:{{ m.role | upper }}] {{ m.content | trim }}{% endmacro %}"
    "{% for m in messages %}{{ say(m, loop.index) }}\n{% endfor %}",
    "namespace": "{% set ns = namespace(found=false, text='') %}{% for m in messages[::-1] %}"
    "{% if m.role == 'user' and not ns.found %}{% set ns.found = true %}{% endif %}"
    "{% set ns.text = m.content + '|' ~ loop.revindex ~ ns.text %}{% endfor %}{{ ns.text }}{{ ns.found }}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user') "
    "| list | length }}{{ messages[1:] | tojson }}{{ messages | tojson(indent=2) }}{{ (messages | last).content | "
    "replace('so', 'that') | indent(4, true) }}{{ messages[0].content | length }}{{ messages[0] | dictsort | first }}"
    "{{ 'abc' | center(11) }}{{ 7 | string }}{{ '%s-%05.1f' | format('a', 2.5) }}{{ [3, 1, 2] | sort | list }}"
    "{{ 'a b c' | wordcount }}{{ 'x' | default('y') }}{{ none | default('n', true) }}{{ messages | batch(2) | list | "
    "length }}{{ 'q w' | title | e }}{{ '12' | int + 3 }}{{ messages | groupby('role') | map('first') | list }}",
    "methods": "{{ ', '.join(['a', 'b']) }}{{ 'a-b'.split('-') }}{{ 'x'.center(9) }}{{ '{:>8}|{}'.format('a', 3) }}"
    "{{ messages[4].content.expandtabs(4) }}{{ 'abc'.replace('b', 'BB') }}{{ 'é'.encode('utf-8') }}"
    "{{ messages[0].get('tools', 'none') }}{{ messages[0].items() | list }}{{ '7'.zfill(3) }}{{ 'a'.startswith('a') }}",
    "operators": "{{ 7 % 3 }}{{ 2 ** 10 }}{{ 7 // 2 }}{{ 7 / 2 }}{{ 'ab' * 3 }}{{ [1] + [2] }}{{ (1, 2) + (3,) }}"
    "{{ '%d %s' % (1, 'x') }}{{ -3 + 5 }}{{ 1.5 * 2 }}{{ 'a' ~ 1 ~ none ~ [1, 'b'] }}{{ {'a': [1, {'b': none}]} }}",
    "control": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% if loop.index > 3 %}{% break %}"
    "{% endif %}{{ loop.index0 }}{{ loop.last }}{{ loop.length }}{{ loop.previtem.role }}{{ loop.cycle('x', 'y') }}"
    "{% else %}none{% endfor %}{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% endfor %}",
    "recursive": "{% for x in [[1, [2, [3]]], [4]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}"
    "{% endif %}{% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}{% endfor %}",
    "blanks": "  {% if true %}\n    a\n  {% endif %}\n{{- messages[0].content -}}\n\n  {# a remark #}\n{% set x %}q"
    "{{ 1 }}{% endset %}{{ x }}{% filter upper %}low{{ x }}{% endfilter %}"
    "{% macro show() %}<{{ caller('in') }}>{% endmacro %}{% call(v) show() %}{{ v }}{% endcall %}",
    "names": "{{ bos_token }}{{ eos_token }}{{ date_string }}{{ tools }}{{ documents }}{{ add_generation_prompt }}"
    "{{ nothing }}{{ tools is none }}{{ nothing is defined }}{{ dict(a=1) }}"
    "{{ range(3) | list }}{{ nothing | length }}",
    "escaped": "{% autoescape true %}{{ messages[0].content }}{{ '<a>' ~ messages[0].content }}{% endautoescape %}",
}
FAMILIES = {"llama3": LLAMA3, "chatml": CHATML, "gemma": FOLDED, "dated": DATED, "given date": GIVEN_DATE}
OWN = {"thinking": THINKING, "prefilled": PREFILLED} | {name: case[1] for name, case in CASES.items()}

HOSTILE = {
    "division by zero": "{{ 1 / 0 }}",
    "whole division by zero": "{{ 1 // 0 }}{{ 1 % 0 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a block in itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "a recursion that doubles": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "a loop that calls itself": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a huge range": "{{ range(10 ** 12) | list }}",
    "a loop in a loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a loop that passes all over": "{% for a in range(99999) %}"
    "{% for b in range(99999) if b < 0 %}{% endfor %}{% endfor %}",
    "a loop over letters": "{% set s = 'a' * 900000 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}",
    "text times a number": "{{ 'a' * 10 ** 10 }}",
    "a number times text": "{{ (9 * 10 ** 9) * 'a' }}",
    "text doubled": "{% set n = namespace(s='abcdefgh') %}" + SIXTY + "{% set n.s = n.s + n.s %}{% endfor %}",
    "text joined": "{% set n = namespace(s='abcdefgh') %}" + SIXTY + "{% set n.s = n.s ~ n.s %}{% endfor %}",
    "a list times a number": "{{ [1] * 10 ** 10 }}",
    "a list doubled": NEW + SIXTY + "{% set n.s = n.s + n.s %}{% endfor %}",
    "a list of itself": NEW + SIXTY + "{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    "a dict of itself": NEW + SIXTY + "{% set n.s = {'a': n.s, 'b': n.s} %}{% endfor %}"
    + "{{ n.s | tojson }}",
    "a namespace of itself": "{% set n = namespace(s=1) %}{% set n.s = n %}{{ n }}{{ [n, n] }}",
    "namespaces doubled": NEW + SIXTY + "{% set n.s = namespace(a=n.s, b=n.s) %}"
    + "{% endfor %}{{ n.s }}",
    "many long texts kept": "{% set n = namespace(l=[], s='a' * 1000000) %}{% for i in range(99999) %}"
    "{% set n.l = n.l + [n.s[1:]] %}{% endfor %}",
    "many long lists kept": "{% set n = namespace(l=[]) %}{% for i in range(99999) %}"
    "{% set n.l = [n.l, ('a ' * 90000).split()] %}{% endfor %}",
    "a long buffer": "{% set s = 'a' * 1000000 %}{% set x %}{% for i in range(99999) %}{{ s }}{% endfor %}{% endset %}",
    "a power": "{{ 10 ** 10000000000 }}",
    "a power that grows": "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "an overflow": "{{ 10.0 ** 999 }}",
    "a hexadecimal bomb": "{{ ('f' * 900000) | int(0, 16) * 2 }}",
    "bytes of a number": "{{ (1).to_bytes(10 ** 10, 'big') }}",
    "rounding": "{{ 1.5 | round(10 ** 9, 'ceil') }}",
    "endless output": "{% for a in range(90000) %}{{ messages[0].content }}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}",
    "a constant written often": "{% for a in range(90000) %}" + "a" * 5000 + "{% endfor %}",
    "center": "{{ 'a' | center(10 ** 10) }}",
    "the method center": "{{ 'a'.center(10 ** 10) }}",
    "ljust": "{{ 'a'.ljust(10 ** 10) }}",
    "zfill": "{{ '1'.zfill(10 ** 10) }}",
    "expandtabs": "{{ ('\t' * 10000).expandtabs(900000) }}",
    "replace": "{{ ('a' * 90000).replace('a', 'b' * 90000) }}",
    "the filter replace": "{{ ('a' * 90000) | replace('a', 'b' * 90000) }}",
    "replace between letters": "{{ ('a' * 90000).replace('', 'b' * 90000) }}",
    "join": "{{ ('b' * 90000).join('a' * 90000) }}",
    "join of a generator": "{{ ('b' * 90000).join(range(90000) | map('string')) }}",
    "the filter join": "{{ range(90000) | join('b' * 90000) }}",
    "translate": "{{ ('a' * 90000).translate({97: 'b' * 90000}) }}",
    "format": "{{ '{:>9999999999}'.format(1) }}",
    "format of a width": "{{ '{:>{}}'.format(1, 9999999999) }}",
    "format of many": "{{ ('{0}' * 90000).format('b' * 90000) }}",
    "percent": "{{ '%9999999999d' % 1 }}",
    "percent of a width": "{{ '%*d' % (999999999, 1) }}",
    "percent of a precision": "{{ '%.999999999f' | format(1.5) }}",
    "percent of many": "{{ ('%(a)s' * 90000) % {'a': 'b' * 90000} }}",
    "indent": "{{ ('a\n' * 9000) | indent(900000) }}",
    "indent by a text": "{{ ('a\n' * 9000) | indent('b' * 90000) }}",
    "wordwrap": "{{ ('a' * 90000) | wordwrap(1, true, 'b' * 90000) }}",
    "tojson": "{{ range(9000) | list | tojson(indent=900000) }}",
    "batch": "{{ [1] | batch(10 ** 9, 'a') | list }}",
    "slice": "{{ [1] | slice(10 ** 9, 'a') | list }}",
    "sum": "{{ range(90000) | map('string') | map('list') | sum(start=[]) | length }}",
    "sum of a list": "{{ range(60000) | batch(1) | list | sum(start=[]) | length }}",
    "lipsum": "{{ lipsum(n=10 ** 9) }}",
    "urlize": "{{ ('http://a.de ' * 90000) | urlize(target='b' * 90000) }}",
    "comparisons": "{% set b = 'a' * 900000 %}{% set a = 'a' * 450000 + 'b' + 'a' * 400000 %}"
    + "{% if (a in b) or (b == a) %}{% endif %}" * 5000,
    "a chain of comparisons": "{{ " + " in ".join(["messages"] * 500) + " }}",
    "half a character": "{{ '\\ud83d' }}",
    "half a character of the source": "\ud83d",
    "an include": "{% include 'x' %}",
    "an extension": "{% extends 'x' %}",
    "no such filter": "{{ 1 | nothing }}",
    "an attribute that is kept": "{{ ''.__class__.__mro__ }}",
    "a method that changes": "{{ messages.append(1) }}",
    "calling nothing": "{{ nothing() }}",
    "a type": "{{ 1 + 'a' }}",
    "an unknown codec": "{{ 'a'.encode('nothing') }}",
    "not iterable": "{% for a in 1 %}{% endfor %}",
    "a message that steers": "{{ raise_exception('\\x1b[2J\\x1b]0;mine\\x07' * 5) }}",
    "a message of a megabyte": "{{ raise_exception('a' * 1000000) }}",
    "a message without end": NEW + SIXTY + "{% set n.s = [n.s, n.s] %}{% endfor %}"
    + "{{ raise_exception(n.s) }}",
    "a template of a megabyte": "{# " + "a" * 1_000_000 + " #}",
    "a deep expression": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "deep blocks": "{% if 1 %}" * 2_000 + "{% endif %}" * 2_000,
    "deep loops": "{% for a in [1] %}" * 60 + "{% endfor %}" * 60,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer("llama3")


def read_with(tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    return DecoderChat(tokenizer, template=template, limit=Limit(4096), date=DATE).render(TURNS[1:3])


@pytest.mark.parametrize("name", [*FAMILIES, *OWN, *SANE])
def test_a_sane_template_renders_byte_by_byte_as_transformers_renders_it(name, tokenizer):
    template = {**FAMILIES, **OWN, **SANE}[name]
    macro = "{%- macro strftime_now(format='') -%}" + DATE + "{%- endmacro -%}"
    source = macro + template if "strftime_now" in template else template
    guarded = GuardedTemplate(source)
    for turns in (TURNS, TURNS[:2], TURNS[1:], TURNS[1:3], [*TURNS[1:] * 30]):
        try:
            theirs = tokenizer.apply_chat_template(turns, chat_template=source, tokenize=False, date_string=DATE)
        except Exception:
            with pytest.raises(BackboneError, match="chat template"):
                guarded.render(tokenizer, turns, date=DATE, place="here")
            continue
        assert guarded.render(tokenizer, turns, date=DATE, place="here") == theirs


def test_a_long_conversation_meets_no_limit(tokenizer):
    long = [{"role": ("user", "assistant")[n % 2], "content": f"turn {n} " * 400} for n in range(400)]
    tiny = [{"role": ("user", "assistant")[n % 2], "content": "a"} for n in range(4_000)]
    huge = [{"role": "user", "content": "word " * 400_000}, {"role": "assistant", "content": "b"}]
    for template in (LLAMA3, CHATML, THINKING, SANE["namespace"], SANE["macro"]):
        for turns in (long, tiny[:800] if template == SANE["namespace"] else tiny, huge):
            theirs = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
            assert GuardedTemplate(template).render(tokenizer, turns, date=DATE, place="here") == theirs


@pytest.mark.parametrize("name", list(HOSTILE))
@pytest.mark.parametrize("where", ["always", "where there is an answer"])
def test_a_hostile_template_ends_in_an_error_of_ours_soon(name, where, tokenizer):
    bomb = HOSTILE[name]
    if where == "where there is an answer":  # the probe of one user turn passes
        if any(tag in bomb for tag in ("block", "extends", "macro")):
            pytest.skip("stands at the top of a template only")
        bomb = "{% if messages | length > 1 %}" + bomb + "{% endif %}"
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(BackboneError) as caught:
        read_with(tokenizer, LOOP + bomb)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kilobytes"
    said = str(caught.value)
    assert len(said) < 1_000
    assert said.isprintable()
    assert caught.value.fix


def test_names_of_our_own_filters_cannot_be_written(tokenizer):
    with pytest.raises(BackboneError, match="cannot be read"):
        GuardedTemplate("{{ 1 | step of a loop }}")
    with pytest.raises(BackboneError, match=str(LONGEST_SOURCE)):
        GuardedTemplate("a" * (LONGEST_SOURCE + 1))
