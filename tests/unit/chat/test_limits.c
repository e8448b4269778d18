/* SPDX-License-Identifier: Apache-2.0
 * A template from a stranger's file ends: endless loops, recursion, memory, nesting and broken
 * source are one clear error with name and line each. */
#include "core/chat/template.h"
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static mr_status run(const char *text, size_t n, mri_str *out, mr_err *err)
{
    json_t *vars = json_pack("{s:[i,i,i],s:{s:i}}", "l", 1, 2, 3, "d", "a", 1);
    mri_template *t;
    mr_status st = mri_template_parse(text, n, "evil", &t, err);
    if (!st)
        st = mri_template_render(t, vars, 0, out, err);
    mri_template_free(t);
    json_decref(vars);
    return st;
}

static void refuses(const char *text, const char *said)
{
    mri_str out = { 0 };
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(run(text, strlen(text), &out, &err), MR_E_TEMPLATE, "%.80s renders", text);
    cr_assert_eq(strncmp(err.what, "evil:", 5), 0, "%s", err.what);
    cr_assert_not_null(strstr(err.what, said), "%.80s: '%s' is not in: %s", text, said, err.what);
    cr_assert_eq(out.n, 0);
}

#define R "range(99999)"
Test(limits, endless_work_stops)
{
    refuses("{% set r = " R " %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}", "steps");
    refuses("{% for a in " R " %}{% if 'x' in 'y' * 900000 %}{% endif %}{% endfor %}", "m");
    refuses("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested");
    refuses("{% for x in [l] recursive %}{{ loop([l]) }}{% endfor %}", "nested");
    refuses("{% macro m(c) %}{{ caller(c) }}{% endmacro %}"
            "{% macro n() %}{% call(x) m(1) %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}",
            "nested");
}

Test(limits, memory_stops)
{
    refuses("{{ 'x' * 999999999999 }}", "more than a template may take");
    refuses("{{ [1] * 999999999 }}", "more than a template may take");
    refuses("{{ range(100001) }}", "100000");
    refuses("{% set n = namespace(s='xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') %}"
            "{% for i in range(64) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "MiB");
    refuses("{% set n = namespace(s=[1]) %}"
            "{% for i in range(64) %}{% set n.s = n.s + n.s %}{% endfor %}", "m");
    refuses("{% for i in " R " %}{{ 'xxxxxxxxxxxxxxxxxxxx' * 1000 }}{% endfor %}", "MiB");
    refuses("{{ 'a'.center(999999999999) }}", "MiB");
    refuses("{{ '%999999999d' % 3 }}", "width");
}

Test(limits, depth_stops)
{
    mri_str s = { 0 };
    for (int i = 0; i < 100000; i++)
        mri_str_add(&s, "{{ (");
    refuses(s.s, "nested");
    s.n = 0;
    mri_str_add(&s, "{{ ");
    for (int i = 0; i < 100000; i++)
        mri_str_add(&s, "not ");
    mri_str_add(&s, "1 }}");
    refuses(s.s, "nested");
    s.n = 0;
    for (int i = 0; i < 100000; i++)
        mri_str_add(&s, "{% if 1 %}");
    refuses(s.s, "nested");
    s.n = 0;
    mri_str_add(&s, "{{ 1");
    for (int i = 0; i < 100000; i++)
        mri_str_add(&s, "+1");
    mri_str_add(&s, " }}");
    refuses(s.s, "nested");
    mri_str_free(&s);
    refuses("{% set n = namespace(s=[]) %}{% for i in " R " %}{% set n.s = [n.s] %}{% endfor %}"
            "{{ n.s }}", "nested");
    refuses("{% set n = namespace(s=[]) %}{% for i in " R " %}{% set n.s = [n.s] %}{% endfor %}"
            "{{ n.s|tojson }}", "nested");
    refuses("{% set n = namespace(s=[]) %}{% for i in " R " %}{% set n.s = [n.s] %}{% endfor %}"
            "{{ n.s == [n.s] }}", "nested");
}

Test(limits, broken_source_is_named_with_its_line)
{
    static const struct {
        const char *text, *said;
    } broken[] = {
        { "a\n\n{% if x %}", "evil:3: the text ends, but {% elif %} is missing" },
        { "\n{{ 'abc }}", "evil:2: a string is never ended" },
        { "{{ 1 + }}", "evil:1: an expression is expected" },
        { "{# x", "comment is never ended" },
        { "{{ x", "tag is never ended" },
        { "{% raw %}x", "{% raw %} is never ended" },
        { "{{ (1] }}", "unexpected ']'" },
        { "{{ $ }}", "unexpected character '$'" },
        { "{% endfor %}", "unknown tag 'endfor'" },
        { "{% frobnicate %}", "unknown tag 'frobnicate'" },
        { "{% include 'x' %}", "stands alone" },
        { "{{ l | nope }}", "no filter named 'nope'" },
        { "{{ l is nope }}", "no test named 'nope'" },
        { "{% for 1 in l %}{% endfor %}", "nothing can be assigned" },
        { "{% macro m(a=1, b) %}{% endmacro %}", "without a default" },
        { "{{ f(a=1, 2) }}", "wrong order" },
        { "{{ 99999999999999999999 }}", "does not fit 64 bits" },
        { "{{ 9223372036854775807 + 1 }}", "does not fit 64 bits" },
        { "{{ (-9223372036854775807 - 1) // -1 }}", "does not fit 64 bits" },
        { "{{ 3 ** 99 }}", "does not fit 64 bits" },
        { "{{ '\\ud800' }}", "wrong escape" },
        { "{{ 1 % 0 }}", "division by zero" },
        { "{{ 'x'.frob() }}", "has no attribute 'frob', which is undefined" },
        { "\n\n{{ d.b.c }}", "evil:3: 'dict object' has no attribute 'b', which is undefined" },
        { "{% set n = namespace(_x=1) %}", "begin with '_'" },
        { "{% set d.x = 1 %}", "no namespace()" },
        { "{{ l.append(1) }}", "hidden" },
        { "{{ ''.__class__.__mro__ }}", "hidden" },
        { "{{ '%d' % 'x' }}", "takes a number" },
        { "{{ '%s %s' % (1,) }}", "not enough arguments" },
        { "{{ '{}'.format() }}", "lacks the argument" },
        { "{{ upper() }}", "undefined" },
        { "{{ 'abc'[::0] }}", "zero" },
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
        refuses(broken[i].text, broken[i].said);
}

/* Every prefix of a template, and each with a byte changed, gives a text or an error. */
Test(limits, cut_and_changed_templates_are_survived)
{
    static const char whole[] =
        "{%- macro m(a, b=[1, {'k': 2.5}]) -%}{{ a|upper ~ b[0:2:1] }}{% endmacro %}"
        "{% for x, y in d.items() if y is number and x recursive %}"
        "{{ loop.index }}{{ m('\\u00e9') }}"
        "{% else %}{# c #}{% endfor %}{% set z %}{% raw %}{{ }}{% endraw %}{% endset %}"
        "{{ '%s' % (z,) if z not in l else -1 ** 2 // 3 }}";
    int rendered = 0;
    for (size_t n = 0; n < sizeof whole; n++) {
        char text[sizeof whole];
        for (int flip = -1; flip < 8; flip++) {
            mri_str out = { 0 };
            mr_err err = MR_ERR_INIT;
            memcpy(text, whole, sizeof whole);
            if (flip >= 0 && n < sizeof whole - 1)
                text[n] = (char)(text[n] ^ 1 << flip);
            mr_status st = run(text, flip < 0 ? n : sizeof whole - 1, &out, &err);
            cr_assert(!st || st == MR_E_TEMPLATE);
            rendered += !st;
            mri_str_free(&out);
        }
    }
    cr_assert_gt(rendered, 100, "%d", rendered);
}
