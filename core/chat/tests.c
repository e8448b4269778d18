/* SPDX-License-Identifier: Apache-2.0
 *
 * tests.c - what may stand behind `is` (eval.h): Jinja's tests by their names.
 */
#include "eval.h"
#include "lex.h"
#include "unicode.h"
#include <string.h>

#define ARGS MR_UNUSED mri_render *r, MR_UNUSED mri_val *a, MR_UNUSED const mri_args *raw
#define IS(name, condition) \
    static mri_val is_##name(ARGS) \
    { \
        return mri_bool(condition); \
    }

IS(defined, a[0].kind != MRI_V_UNDEF)
IS(undefined, a[0].kind == MRI_V_UNDEF)
IS(none, a[0].kind == MRI_V_NONE)
IS(boolean, a[0].kind == MRI_V_BOOL)
IS(false, a[0].kind == MRI_V_BOOL && !a[0].b)
IS(true, a[0].kind == MRI_V_BOOL && a[0].b)
IS(integer, a[0].kind == MRI_V_INT)
IS(float, a[0].kind == MRI_V_FLOAT)
IS(number, mri_is_num(a[0]))
IS(string, a[0].kind == MRI_V_STR)
IS(mapping, a[0].kind == MRI_V_DICT)
IS(iterable, a[0].kind == MRI_V_UNDEF || a[0].kind == MRI_V_STR || a[0].kind == MRI_V_DICT ||
                 a[0].kind == MRI_V_LOOP || mri_is_list(a[0]))
IS(callable, a[0].kind == MRI_V_UNDEF || a[0].kind == MRI_V_MACRO || a[0].kind == MRI_V_FUNC ||
                 a[0].kind == MRI_V_LOOP)
IS(escaped, a[0].kind == MRI_V_STR && a[0].s->safe)
IS(in, mri_contains(r, a[1], a[0]))
IS(eq, mri_equal(r, a[0], a[1]))
IS(ne, !mri_equal(r, a[0], a[1]))
IS(lt, mri_order(r, a[0], a[1]) < 0)
IS(le, mri_order(r, a[0], a[1]) <= 0)
IS(gt, mri_order(r, a[0], a[1]) > 0)
IS(ge, mri_order(r, a[0], a[1]) >= 0)

/* has a length and indices: undefined has both, in its way */
IS(sequence, a[0].kind == MRI_V_UNDEF || a[0].kind == MRI_V_STR || a[0].kind == MRI_V_DICT ||
                 a[0].kind == MRI_V_LIST || a[0].kind == MRI_V_TUPLE || a[0].kind == MRI_V_RANGE)

static mri_val is_sameas(ARGS)
{
    bool same = a[0].kind == a[1].kind;
    if (same && (mri_is_list(a[0]) || a[0].kind == MRI_V_DICT || a[0].kind == MRI_V_SPACE))
        same = a[0].l == a[1].l;
    return mri_bool(same && mri_equal(r, a[0], a[1]));
}

static mri_val cased(mri_render *r, mri_val v, int property)
{
    const mri_args none = { 0 };
    mri_val s = mri_to_str(r, v);
    return mri_invoke(r, mri_text_method_find(property == MRI_U_UPPER ? "isupper" : "islower"), &s,
                      &none);
}

static mri_val is_lower(ARGS)
{
    return cased(r, a[0], MRI_U_LOWER);
}

static mri_val is_upper(ARGS)
{
    return cased(r, a[0], MRI_U_UPPER);
}

static mri_val is_divisibleby(ARGS)
{
    return mri_bool(!mri_truth(mri_binary(r, MRI_T_MOD, a[0], a[1])));
}

static mri_val is_odd(ARGS)
{
    return mri_bool(mri_equal(r, mri_binary(r, MRI_T_MOD, a[0], mri_int(2)), mri_int(1)));
}

static mri_val is_even(ARGS)
{
    return mri_bool(mri_equal(r, mri_binary(r, MRI_T_MOD, a[0], mri_int(2)), mri_int(0)));
}

static const char *name_of(mri_render *r, mri_val v)
{
    mri_val s = mri_to_str(r, v);
    char *copy = mri_take(r, s.s->n + 1);
    memcpy(copy, s.s->s, s.s->n);
    return copy;
}

static mri_val is_filter(ARGS)
{
    return mri_bool(mri_filter_find(name_of(r, a[0])) != NULL);
}

static mri_val is_test(ARGS)
{
    return mri_bool(mri_test_find(name_of(r, a[0])) != NULL);
}

static const mri_func tests[] = {
    { "defined", "v", 1, is_defined }, { "undefined", "v", 1, is_undefined },
    { "none", "v", 1, is_none }, { "boolean", "v", 1, is_boolean },
    { "false", "v", 1, is_false }, { "true", "v", 1, is_true },
    { "integer", "v", 1, is_integer }, { "float", "v", 1, is_float },
    { "number", "v", 1, is_number }, { "string", "v", 1, is_string },
    { "mapping", "v", 1, is_mapping }, { "sequence", "v", 1, is_sequence },
    { "iterable", "v", 1, is_iterable }, { "callable", "v", 1, is_callable },
    { "escaped", "v", 1, is_escaped }, { "sameas", "v other", 2, is_sameas },
    { "lower", "v", 1, is_lower }, { "upper", "v", 1, is_upper },
    { "odd", "v", 1, is_odd }, { "even", "v", 1, is_even },
    { "divisibleby", "v num", 2, is_divisibleby }, { "filter", "v", 1, is_filter },
    { "test", "v", 1, is_test }, { "in", "v seq", 2, is_in },
    { "==", "v other", 2, is_eq }, { "eq", "v other", 2, is_eq },
    { "equalto", "v other", 2, is_eq }, { "!=", "v other", 2, is_ne },
    { "ne", "v other", 2, is_ne }, { "<", "v other", 2, is_lt },
    { "lt", "v other", 2, is_lt }, { "lessthan", "v other", 2, is_lt },
    { "<=", "v other", 2, is_le }, { "le", "v other", 2, is_le },
    { ">", "v other", 2, is_gt }, { "gt", "v other", 2, is_gt },
    { "greaterthan", "v other", 2, is_gt }, { ">=", "v other", 2, is_ge },
    { "ge", "v other", 2, is_ge },
};

const mri_func *mri_test_find(const char *name)
{
    return mri_func_in(tests, sizeof tests / sizeof *tests, name);
}
