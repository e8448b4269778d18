/* SPDX-License-Identifier: Apache-2.0
 * text.c - see text.h. */
#include "text.h"
#include <stdlib.h>
#include <string.h>

size_t mri_utf8_unfinished(const char *s, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        if ((c & 0xc0) == 0x80)
            continue;
        size_t needs = c < 0xc2 || c > 0xf4 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        unsigned char next = back > 1 ? (unsigned char)s[n - back + 1] : 0;
        bool never = back > 1 && ((c == 0xe0 && next < 0xa0) || (c == 0xed && next > 0x9f) ||
                                  (c == 0xf0 && next < 0x90) || (c == 0xf4 && next > 0x8f));
        return needs > back && !never ? back : 0;
    }
    return 0;
}

static mr_status decode(const mri_text_stream *s, const int32_t *ids, uint64_t n, char *text,
                        uint64_t cap, uint64_t *n_text, mr_err *err)
{
    return MR_CAN(s->ops, decode_as)
               ? s->ops->decode_as(s->tok, MR_TOK_PLAIN, ids, n, text, cap, n_text, err)
               : s->ops->decode(s->tok, ids, n, text, cap, n_text, err);
}

mr_status mri_text_next(mri_text_stream *s, const int32_t *ids, uint64_t n, mri_str *out,
                        mr_err *err)
{
    uint64_t need = 0;
    mr_status st = decode(s, ids, n, NULL, 0, &need, err);
    if (st || !need)
        return st;
    char *text = mri_alloc(s->n_held + need);
    memcpy(text, s->held, s->n_held);
    st = decode(s, ids, n, text + s->n_held, need, &need, err);
    if (!st) {
        size_t all = s->n_held + need, keep = mri_utf8_unfinished(text, all);
        mri_str_addn(out, text, all - keep);
        memcpy(s->held, text + all - keep, keep);
        s->n_held = (uint32_t)keep;
    }
    free(text);
    return st;
}

void mri_text_end(mri_text_stream *s, mri_str *out)
{
    mri_str_addn(out, s->held, s->n_held);
    s->n_held = 0;
}

/* ---- words that end a text ------------------------------------------------------------------- */

/* How many bytes at the end of the text begin one of the words, and do not finish it. */
static size_t may_become(const mri_stop_stream *s)
{
    for (size_t at = 0; at < s->held.n; at++) {
        size_t n = s->held.n - at;
        for (size_t i = 0; i < s->n; i++)
            if (n < strlen(s->words[i]) && !memcmp(s->held.s + at, s->words[i], n))
                return n;
    }
    return 0;
}

void mri_stop_next(mri_stop_stream *s, const char *text, size_t n, mri_str *out)
{
    const char *first = NULL, *first_end = NULL;
    if (s->hit || !n)
        return;
    mri_str_addn(&s->held, text, n);
    for (size_t i = 0; i < s->n; i++) {
        size_t len = strlen(s->words[i]);
        const char *at = memmem(s->held.s, s->held.n, s->words[i], len);
        if (at && (!first || at + len < first_end || (at + len == first_end && at < first))) {
            first = at;
            first_end = at + len;
            s->hit = s->words[i];
        }
    }
    size_t sure = first ? (size_t)(first - s->held.s) : s->held.n - may_become(s);
    mri_str_addn(out, s->held.s, sure);
    memmove(s->held.s, s->held.s + sure, s->held.n - sure);
    s->held.n -= sure;
}

void mri_stop_end(mri_stop_stream *s, mri_str *out)
{
    if (!s->hit && s->held.n)
        mri_str_addn(out, s->held.s, s->held.n);
    s->held.n = 0;
}

void mri_stop_free(mri_stop_stream *s)
{
    mri_str_free(&s->held);
}

/* ---- text to ids ----------------------------------------------------------------------------- */

static mr_status encode(const mr_tokenizer_ops *ops, void *tok, uint32_t flags, const char *text,
                        uint64_t n, int32_t *ids, uint64_t room, uint64_t *got, mr_err *err)
{
    return flags && MR_CAN(ops, encode_as)
               ? ops->encode_as(tok, flags, text, n, ids, room, got, err)
               : ops->encode(tok, text, n, ids, room, got, err);
}

/* The ids, with room for `front` more before them. */
static mr_status encode_all(const mr_tokenizer_ops *ops, void *tok, uint32_t flags, uint64_t front,
                            const char *text, uint64_t n, int32_t **ids, uint64_t *got, mr_err *err)
{
    int32_t *v = NULL;
    mr_status st;
    for (uint64_t room = n / 2 + 16;; room = *got) { /* most tokens are two bytes and more */
        v = mri_grow(v, (front + room) * sizeof *v);
        st = encode(ops, tok, flags, text, n, v + front, room, got, err);
        if (st || *got <= room)
            break;
    }
    if (st)
        free(v);
    else
        *ids = v;
    return st;
}

mr_status mri_text_ids_as(const mr_tokenizer_ops *ops, void *tok, uint32_t flags, const char *text,
                          uint64_t n, int32_t **ids, uint64_t *n_ids, mr_err *err)
{
    return encode_all(ops, tok, flags, 0, text, n, ids, n_ids, err);
}

mr_status mri_text_ids(const mr_tokenizer_ops *ops, void *tok, const char *text, uint64_t n,
                       bool begin, int32_t **ids, uint64_t *n_ids, mr_err *err)
{
    mr_tokenizer_info info = { .size = sizeof info };
    uint64_t got = 0, bos;
    mr_status st = ops->info(tok, &info, err);
    if (st)
        return st;
    bos = begin && info.bos >= 0;
    st = encode_all(ops, tok, 0, bos, text, n, ids, &got, err);
    if (st)
        return st;
    if (bos)
        (*ids)[0] = info.bos;
    *n_ids = bos + got;
    return 0;
}
