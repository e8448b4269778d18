/* SPDX-License-Identifier: Apache-2.0
 *
 * methods_parts.c - the methods that take strings apart and put them together: split, partition,
 * replace, join and their like, as Python has them (eval.h). Slot 0 is the string.
 */
#include "eval.h"
#include "unicode.h"
#include <string.h>

#define ARGS mri_render *r, mri_val *a, MR_UNUSED const mri_args *raw
#define GIVEN(x) ((x).kind != MRI_V_ABSENT && (x).kind != MRI_V_NONE)

static void turn_round(mri_val list)
{
    for (size_t i = 0, j = list.l->n; i + 1 < j; i++) {
        mri_val t = list.l->v[i];
        list.l->v[i] = list.l->v[--j];
        list.l->v[j] = t;
    }
}

static mri_val split_spaces(mri_render *r, mri_val of, int64_t max, bool from_right)
{
    mri_val out = mri_list(r, MRI_V_LIST, 8);
    const mri_vstr *v = of.s;
    size_t n;
    if (from_right) { /* white space of one byte decides; that of more is rare in rsplit */
        size_t end = v->n;
        while (end && !r->st) {
            while (end && mri_unicode_is((unsigned char)v->s[end - 1], MRI_U_SPACE))
                end--;
            size_t at = end;
            while (at && ((int64_t)out.l->n == max ||
                          !mri_unicode_is((unsigned char)v->s[at - 1], MRI_U_SPACE)))
                at--;
            if (end > at)
                mri_push(r, out, mri_slice_of(r, of, at, end - at));
            end = at;
        }
        turn_round(out);
        return out;
    }
    for (size_t at = 0; at < v->n && !r->st;) {
        while (at < v->n && mri_unicode_is(mri_utf8_get(v->s + at, v->n - at, &n), MRI_U_SPACE))
            at += n;
        size_t end = at;
        while (end < v->n && ((int64_t)out.l->n == max ||
                              !mri_unicode_is(mri_utf8_get(v->s + end, v->n - end, &n),
                                              MRI_U_SPACE)))
            end += (int64_t)out.l->n == max ? 1 : n;
        if (end > at)
            mri_push(r, out, mri_slice_of(r, of, at, end - at));
        at = end;
    }
    return out;
}

static mri_val split(mri_render *r, mri_val *a, bool from_right)
{
    int64_t max = a[2].kind == MRI_V_ABSENT ? -1 : mri_to_int(r, a[2], "split's maxsplit");
    const mri_vstr *v = a[0].s;
    mri_spend(r, v->n);
    if (!GIVEN(a[1]))
        return split_spaces(r, a[0], max < 0 ? INT64_MAX : max, from_right);
    mri_val out = mri_list(r, MRI_V_LIST, 8);
    if (!mri_need_text(r, a[1], "split"))
        return out;
    if (!a[1].s->n)
        return mri_raise(r, "split: the separator is empty");
    size_t from = 0, to = v->n;
    for (; max; max--) {
        const char *hit = from_right ? mri_rfind(v, to, a[1].s)
                                     : memmem(v->s + from, v->n - from, a[1].s->s, a[1].s->n);
        if (!hit || r->st)
            break;
        size_t at = (size_t)(hit - v->s);
        if (from_right) {
            mri_push(r, out, mri_slice_of(r, a[0], at + a[1].s->n, to - at - a[1].s->n));
            to = at;
        } else {
            mri_push(r, out, mri_slice_of(r, a[0], from, at - from));
            from = at + a[1].s->n;
        }
    }
    mri_push(r, out, mri_slice_of(r, a[0], from, to - from));
    if (from_right)
        turn_round(out);
    return out;
}

static mri_val m_split(ARGS)
{
    return split(r, a, false);
}

static mri_val m_rsplit(ARGS)
{
    return split(r, a, true);
}

static size_t line_break(const char *s, size_t n) /* bytes of the line's end at s; 0: none */
{
    size_t len;
    uint32_t c = mri_utf8_get(s, n, &len);
    if (c == '\r')
        return 1 + (n > 1 && s[1] == '\n');
    return (c >= 10 && c <= 12) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
                   c == 0x2029
               ? len
               : 0;
}

static mri_val m_splitlines(ARGS)
{
    mri_val out = mri_list(r, MRI_V_LIST, 8);
    const mri_vstr *v = a[0].s;
    bool keep = GIVEN(a[1]) && mri_truth(a[1]);
    mri_spend(r, v->n);
    for (size_t at = 0; at < v->n && !r->st;) {
        size_t end = at, n = 0;
        while (end < v->n && !(n = line_break(v->s + end, v->n - end)))
            end += mri_utf8_len(v->s + end, v->n - end);
        mri_push(r, out, mri_slice_of(r, a[0], at, end - at + (keep ? n : 0)));
        at = end + n;
        n = 0;
    }
    return out;
}

static mri_val partition(mri_render *r, mri_val *a, bool from_right)
{
    const mri_vstr *v = a[0].s;
    mri_val out = mri_list(r, MRI_V_TUPLE, 3), empty = mri_text(r, "");
    if (!mri_need_text(r, a[1], "partition"))
        return out;
    if (!a[1].s->n)
        return mri_raise(r, "partition: the separator is empty");
    const char *hit = from_right ? mri_rfind(v, v->n, a[1].s)
                                 : memmem(v->s, v->n, a[1].s->s, a[1].s->n);
    size_t at = hit ? (size_t)(hit - v->s) : 0, end = at + a[1].s->n;
    mri_push(r, out, hit ? mri_slice_of(r, a[0], 0, at) : from_right ? empty : a[0]);
    mri_push(r, out, hit ? a[1] : empty);
    mri_push(r, out, hit ? mri_slice_of(r, a[0], end, v->n - end) : from_right ? a[0] : empty);
    return out;
}

static mri_val m_partition(ARGS)
{
    return partition(r, a, false);
}

static mri_val m_rpartition(ARGS)
{
    return partition(r, a, true);
}

static mri_val m_replace(ARGS)
{
    int64_t max = a[3].kind == MRI_V_ABSENT ? -1 : mri_to_int(r, a[3], "replace's count");
    const mri_vstr *v = a[0].s;
    mri_str b = { 0 };
    if (!mri_need_text(r, a[1], "replace") || !mri_need_text(r, a[2], "replace"))
        return a[0];
    size_t at = 0, old = a[1].s->n;
    mri_spend(r, v->n);
    while (max && at <= v->n && b.n <= MRI_CHAT_OUTPUT) {
        const char *hit = old ? memmem(v->s + at, v->n - at, a[1].s->s, old) : v->s + at;
        if (!hit || !mri_spend(r, a[2].s->n))
            break;
        mri_str_addn(&b, v->s + at, (size_t)(hit - v->s) - at);
        mri_str_addn(&b, a[2].s->s, a[2].s->n);
        at = (size_t)(hit - v->s) + old;
        if (!old) { /* between all characters */
            size_t n = at < v->n ? mri_utf8_len(v->s + at, v->n - at) : 0;
            mri_str_addn(&b, v->s + at, n);
            at += n ? n : 1;
        }
        max--;
    }
    if (b.n > MRI_CHAT_OUTPUT)
        mri_raise(r, "a text is longer than %d MiB", MRI_CHAT_OUTPUT >> 20);
    if (at < v->n)
        mri_str_addn(&b, v->s + at, v->n - at);
    return mri_take_str(r, &b);
}

static mri_val m_join(ARGS)
{
    const mri_vlist *l = mri_items(r, a[1]);
    mri_str b = { 0 };
    for (size_t i = 0; i < l->n && mri_need_text(r, l->v[i], "join"); i++) {
        mri_spend(r, l->v[i].s->n);
        mri_str_addn(&b, a[0].s->s, i ? a[0].s->n : 0);
        mri_str_addn(&b, l->v[i].s->s, l->v[i].s->n);
        if (b.n > MRI_CHAT_OUTPUT)
            mri_raise(r, "a text is longer than %d MiB", MRI_CHAT_OUTPUT >> 20);
    }
    return mri_take_str(r, &b);
}

static const mri_func methods[] = {
    { "join", "self iterable", 2, m_join }, { "partition", "self sep", 2, m_partition },
    { "replace", "self old new count", 3, m_replace },
    { "rpartition", "self sep", 2, m_rpartition }, { "rsplit", "self sep maxsplit", 1, m_rsplit },
    { "split", "self sep maxsplit", 1, m_split },
    { "splitlines", "self keepends", 1, m_splitlines },
};

const mri_func *mri_parts_method_find(const char *name)
{
    return mri_func_in(methods, sizeof methods / sizeof *methods, name);
}
