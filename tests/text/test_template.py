"""Chat templates that stall, grow or break: one line in bounded time; what they render is judged in test_tokenizer."""

import time

import pytest

from lynx_jax.text.template import MOST_SECONDS, render

MESSAGES = [{"role": "user", "content": "12345678 a-b"}]
LONG = "{% set x = 'a' * 16000000 %}"
GROWING = (
  "{{% set ns = namespace(s={start}) %}}{{% for i in range(60) %}}{{% set ns.s = {next} %}}{{% endfor %}}{{{{ ns.s }}}}"
)


@pytest.mark.parametrize(
  "template",
  [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro a(n) %}{% for i in range(99999) %}{{ caller() if caller else '' }}{% endfor %}{% endmacro %}"
    "{% call a(1) %}{% for j in range(99999) %}{% endfor %}{% endcall %}",
  ],
)
def test_loops_end_after_seconds_of_the_processor(template):
  begin = time.thread_time()
  with pytest.raises(ValueError, match="refuses these messages: it runs for more than 2 s"):
    render(template, MESSAGES, {})
  assert time.thread_time() - begin < 3 * MOST_SECONDS


@pytest.mark.parametrize(
  "template",
  [
    "{{ 10 ** (10 ** 9) }}",
    "{{ 2 ** -(10 ** 9) }}",
    GROWING.format(start="3", next="ns.s * ns.s"),
    "{{ 'a' * 10**10 }}",
    "{{ 10**10 * [1] }}",
    GROWING.format(start="'abc'", next="ns.s + ns.s"),
    GROWING.format(start="'abc'", next="ns.s ~ ns.s"),
    GROWING.format(start="[1]", next="ns.s + ns.s"),
    "{% for i in range(99) %}{{ 'a' * 1000000 }}{% endfor %}",
    "{% set x %}{% for i in range(99) %}{{ 'a' * 1000000 }}{% endfor %}{% endset %}{{ x | length }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=10**9) }}",
    "{{ strftime_now('%1000000000Y') }}",
    "{{ 'a'.center(10**10) }}",
    "{{ 'a' | center(10**10) }}",
    "{{ 'a' | indent(10**9, true) }}",
    "{{ [1] | batch(10**9, 'x') | list | length }}",
    "{{ [1] | tojson(indent=10**9) }}",
    "{{ range(99999) | map('center', 99999) | join | length }}",
    "{{ ''.join(range(99999) | map('center', 99999)) | length }}",
    LONG + "{{ x | replace('a', x) | length }}",
    LONG + "{{ x.replace('a', x) | length }}",
    LONG + "{{ x.join(x) | length }}",
  ],
)
def test_what_would_fill_memory_is_refused_before_it_does(template):
  begin = time.thread_time()
  with pytest.raises(ValueError, match=r"refuses these messages: it makes a value of size [0-9]+, more than [0-9]+"):
    render(template, MESSAGES, {})
  assert time.thread_time() - begin < MOST_SECONDS


@pytest.mark.parametrize(
  ("template", "error"),
  [
    ("{{ 1 // 0 }}", "ZeroDivisionError"),
    ("{{ 2.0 ** 100000 }}", "OverflowError"),
    ("{% for i in range(10**12) %}{% endfor %}", "OverflowError"),
    ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
    ("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", "RecursionError"),
    ("{{ 'a' + 1 }}", "TypeError"),
    ("{{ 'a' | wordwrap(0) }}", "ValueError"),
  ],
)
def test_an_error_inside_is_named(template, error):
  with pytest.raises(ValueError, match=rf"the chat template fails with {error} \(.*\): it is broken"):
    render(template, MESSAGES, {})


def test_ordinary_work_passes():
  template = (
    "{{ ', '.join(['a', 'b']) }} {{ ['a', 1] | join('-') }} {{ '%s %09d' % (messages[0].content, 12345678) }} "
    "{{ '{} {}'.format(messages[0].content, 12345678) }} {{ messages[0].content.replace('-', '+') }} "
    "{{ 'a' | center(5) }}{{ 2 ** 10 * 3 + 1 }} {{ 'ab' * 3 }} {{ [1] + [2] }} {{ 'a' ~ 1 ~ messages[0].role }}"
    "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('m') }}{% set y %}{{ twice('n') }}{% endset %}{{ y }}"
    "{% for i in range(3) %}{{ loop.index }}{% endfor %}"
  )
  assert render(template, MESSAGES, {}) == (
    "a, b a-1 12345678 a-b 012345678 12345678 a-b 12345678 12345678 a+b   a  3073 ababab [1, 2] a1usermmnn123"
  )


def test_long_conversations_pass():
  long = [{"role": "user", "content": "word " * 200_000}] * 3
  assert len(render("{% for m in messages %}{{ '<|user|>' + m.content | trim }}{% endfor %}", long, {})) > 2_900_000
