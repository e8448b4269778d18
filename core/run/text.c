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

mr_status mri_text_ids(const mr_tokenizer_ops *ops, void *tok, const char *text, uint64_t n,
                       bool begin, int32_t **ids, uint64_t *n_ids, mr_err *err)
{
    mr_tokenizer_info info = { .size = sizeof info };
    int32_t *v = NULL;
    uint64_t got = 0, bos;
    mr_status st = ops->info(tok, &info, err);
    if (st)
        return st;
    bos = begin && info.bos >= 0;
    for (uint64_t room = n / 2 + 16;; room = got) { /* most tokens are two bytes and more */
        v = mri_grow(v, (bos + room) * sizeof *v);
        st = ops->encode(tok, text, n, v + bos, room, &got, err);
        if (st || got <= room)
            break;
    }
    if (st) {
        free(v);
        return st;
    }
    if (bos)
        v[0] = info.bos;
    *ids = v;
    *n_ids = bos + got;
    return 0;
}
