/* SPDX-License-Identifier: Apache-2.0
 *
 * text.c - a tokenizer: texts to ids and back. The state is fixed once it is made; what a call
 * writes to lies in a working set that it takes from the pool and puts back.
 *
 * Bytes that are not UTF-8 split a text as added tokens do: each run of them is a piece of its
 * own. So every byte string comes back from its ids unless a normalizer or a vocabulary without
 * some bytes changes it.
 */
#include "bpe.h"
#include <stdlib.h>

enum {
    STACK_START = 1 << 15,
    STACK_MAX = 1 << 26, /* bytes that PCRE2's JIT may use of its own stack, a thread */
    MATCHED_COPY_KEEP = 1 << 16
};

struct bp_work {
    bp_work *next;
    bp_scratch *scratch;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    char *copy; /* of a text with stand-ins */
    uint64_t copy_room;
};

/* One encode(): what its steps share. */
typedef struct run {
    const bp_tok *t;
    bp_work *w;
    bp_ids *out;
    bool plain;
    mr_err *err;
} run;

static void drop_work(bp_work *w)
{
    if (!w)
        return;
    bp_scratch_free(w->scratch);
    pcre2_match_data_free(w->match);
    pcre2_match_context_free(w->context);
    pcre2_jit_stack_free(w->stack);
    free(w->copy);
    free(w);
}

static mr_status take_work(bp_tok *t, bp_work **out, mr_err *err)
{
    pthread_mutex_lock(&t->lock);
    bp_work *w = t->free;
    if (w)
        t->free = w->next;
    pthread_mutex_unlock(&t->lock);
    if (!w && (w = calloc(1, sizeof *w))) {
        w->scratch = bp_scratch_new();
        w->match = pcre2_match_data_create(1, NULL);
        w->context = pcre2_match_context_create(NULL);
        w->stack = pcre2_jit_stack_create(STACK_START, STACK_MAX, NULL);
        if (w->context)
            pcre2_jit_stack_assign(w->context, NULL, w->stack); /* NULL: no JIT, no stack */
    }
    if (!w || !w->scratch || !w->match || !w->context) {
        drop_work(w);
        return bp_nomem(err, "a thread's working set", 0);
    }
    *out = w;
    return MR_OK;
}

static void give_work(bp_tok *t, bp_work *w)
{
    pthread_mutex_lock(&t->lock);
    w->next = t->free;
    t->free = w;
    pthread_mutex_unlock(&t->lock);
}

/* ---- pieces ---------------------------------------------------------------------------------- */

static mr_status match_failed(const run *r, int code, uint64_t n)
{
    char why[120];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
    mr_fail(r->err, MR_E_TOKENIZER, MR_BLAME_USER, "%s: the pattern fails on the text: %s",
            r->t->unit, why);
    mr_detail(r->err, "a text of %llu bytes; PCRE2's stack may have %d bytes",
              (unsigned long long)n, STACK_MAX);
    mr_hint(r->err, "give the text in smaller parts, or write the pattern with less backtracking");
    return MR_E_TOKENIZER;
}

/* Cuts [p, p + n) by the stages from `k` on; `seen` is the same text with stand-ins. */
static mr_status cut(const run *r, uint32_t k, const char *p, const char *seen, uint64_t n)
{
    mr_status st = MR_OK;
    if (k == r->t->n_stages)
        return bp_piece(&r->t->model, r->w->scratch, p, n, r->out, r->err);
    const bp_stage *s = &r->t->stage[k];
    const size_t *found = pcre2_get_ovector_pointer(r->w->match);
    for (uint64_t done = 0, at = 0; done < n;) {
        int rc = s->jit ? pcre2_jit_match(s->code, (PCRE2_SPTR)seen, n, at, 0, r->w->match,
                                          r->w->context)
                        : pcre2_match(s->code, (PCRE2_SPTR)seen, n, at, PCRE2_NO_UTF_CHECK,
                                      r->w->match, r->w->context);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
            return match_failed(r, rc, n);
        uint64_t from = rc < 0 ? n : found[0], to = rc < 0 ? n : found[1];
        if (to == from && from < n) { /* an empty match cuts between two characters */
            uint32_t len;
            bp_utf8_get(seen + from, &len);
            at = from + len;
        } else {
            at = to;
        }
        if (from > done && !s->drop_rest)
            MR_TRY(cut(r, k + 1, p + done, seen + done, from - done));
        if (to > from && !s->drop_match)
            MR_TRY(cut(r, k + 1, p + from, seen + from, to - from));
        done = to > done ? to : done;
    }
out:
    return st;
}

/* Text without added tokens: runs of UTF-8 are cut, what is none is a piece. */
static mr_status encode_text(const run *r, const char *p, uint64_t n)
{
    mr_status st = MR_OK;
    for (uint64_t i = 0; i < n && !st;) {
        bool rare = false;
        uint64_t ok = bp_utf8_valid(p + i, n - i, &rare);
        const char *seen = p + i;
        if (rare && r->t->n_stages) {
            if (r->w->copy_room < ok) {
                free(r->w->copy);
                r->w->copy = malloc(ok);
                r->w->copy_room = r->w->copy ? ok : 0;
                if (!r->w->copy)
                    return bp_nomem(r->err, "a copy of the text", ok);
            }
            memcpy(r->w->copy, p + i, ok);
            bp_stand_in(r->w->copy, ok);
            seen = r->w->copy;
        }
        if (ok)
            st = cut(r, 0, p + i, seen, ok);
        i += ok;
        uint64_t bad = bp_utf8_invalid(p + i, n - i);
        if (bad && !st)
            st = bp_piece(&r->t->model, r->w->scratch, p + i, bad, r->out, r->err);
        i += bad;
    }
    return st;
}

/* ---- added tokens
 * -------------------------------------------------------------------------------- */

static mr_status between(const run *r, const bp_set *set, const char *p, uint64_t n,
                         mr_status (*rest)(const run *, const char *, uint64_t))
{
    mr_status st = MR_OK;
    bp_found f;
    uint64_t at = 0;
    while (at < n && bp_set_find(set, p, n, at, r->plain, &f)) {
        if (f.from > at)
            MR_TRY(rest(r, p + at, f.from - at));
        bp_push(r->out, f.id);
        at = f.to;
    }
    if (at < n)
        MR_TRY(rest(r, p + at, n - at));
out:
    return st;
}

static mr_status encode_normalized(const run *r, const char *p, uint64_t n)
{
    return between(r, &r->t->normalized, p, n, encode_text);
}

static mr_status encode_raw(const run *r, const char *p, uint64_t n)
{
    char *normal = NULL;
    uint64_t m = 0;
    if (!r->t->nfc || bp_is_nfc_surely(p, n))
        return encode_normalized(r, p, n);
    mr_status st = bp_nfc(p, n, &normal, &m, r->err);
    if (!st)
        st = encode_normalized(r, normal, m);
    free(normal);
    return st;
}

/* ---- the table's rows
 * ------------------------------------------------------------------------------ */

mr_status bp_encode_as(void *tok, uint32_t flags, const char *text, uint64_t n, int32_t *ids,
                       uint64_t cap, uint64_t *n_ids, mr_err *err)
{
    bp_tok *t = tok;
    bp_ids out = { ids, cap, 0 };
    bp_work *w = NULL;
    mr_status st = take_work(t, &w, err);
    if (st)
        return st;
    run r = { t, w, &out, (flags & MR_TOK_PLAIN) != 0, err };
    st = between(&r, &t->raw, text, n, encode_raw);
    if (w->copy_room > MATCHED_COPY_KEEP) {
        free(w->copy);
        w->copy = NULL;
        w->copy_room = 0;
    }
    give_work(t, w);
    *n_ids = out.n;
    return st;
}

mr_status bp_encode(void *tok, const char *text, uint64_t n, int32_t *ids, uint64_t cap,
                    uint64_t *n_ids, mr_err *err)
{
    const bp_tok *t = tok;
    return bp_encode_as(tok, t->special ? 0 : MR_TOK_PLAIN, text, n, ids, cap, n_ids, err);
}

mr_status bp_decode_as(void *tok, uint32_t flags, const int32_t *ids, uint64_t n, char *text,
                       uint64_t cap, uint64_t *n_text, mr_err *err)
{
    const bp_tok *t = tok;
    const bp_vocab *v = &t->model.vocab;
    uint64_t out = 0;
    for (uint64_t i = 0; i < n; i++) {
        const bp_entry *e = ids[i] >= 0 && ids[i] < v->n ? &v->v[ids[i]] : NULL;
        if (!e || !(e->flags & BP_TOKEN)) {
            mr_fail(err, MR_E_TOKENIZER, MR_BLAME_USER, "%s: %d is not a token id", t->unit,
                    ids[i]);
            mr_detail(err, "token %llu of %llu; ids are in [0, %lld)%s", (unsigned long long)i,
                      (unsigned long long)n, (long long)v->n,
                      e ? ", and this one has no token" : "");
            mr_hint(err, "use the tokenizer that the ids were made with");
            return MR_E_TOKENIZER;
        }
        if ((flags & MR_TOK_PLAIN) && (e->flags & BP_SPECIAL))
            continue;
        if (out < cap)
            memcpy(text + out, v->pool + e->at, e->n < cap - out ? e->n : cap - out);
        out += e->n;
    }
    *n_text = out;
    return MR_OK;
}

mr_status bp_decode(void *tok, const int32_t *ids, uint64_t n, char *text, uint64_t cap,
                    uint64_t *n_text, mr_err *err)
{
    return bp_decode_as(tok, 0, ids, n, text, cap, n_text, err);
}

mr_status bp_info(void *tok, mr_tokenizer_info *out, mr_err *err)
{
    (void)err;
    const mr_tokenizer_info *info = &((const bp_tok *)tok)->info;
    uint32_t size = out->size; /* the caller's, who may know fewer fields, or more */
    memcpy(out, info, size < info->size ? size : info->size);
    out->size = size;
    return MR_OK;
}

/* ---- life
 * ------------------------------------------------------------------------------------------ */

bp_tok *bp_new(const char *unit)
{
    bp_tok *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->unit = unit;
    t->special = true;
    t->model.unk = BP_NONE;
    t->info = (mr_tokenizer_info) { sizeof t->info, 0, 0, -1, -1, -1, -1 };
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

mr_status bp_seal(bp_tok *t, mr_err *err)
{
    bp_model *m = &t->model;
    t->info.vocab = m->vocab.n;
    m->pair = malloc(sizeof *m->pair << 16);
    if (!m->pair)
        return bp_nomem(err, "pairs of bytes", sizeof *m->pair << 16);
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        m->byte_id[b] = bp_vocab_find(&m->vocab, &byte, 1);
    }
    for (uint32_t i = 0; i < 1 << 16; i++) {
        int32_t a = m->byte_id[i >> 8], b = m->byte_id[i & 255];
        const bp_merge *two = a == BP_NONE || b == BP_NONE
                                  ? NULL
                                  : bp_merges_find(&m->merges, (uint32_t)a, (uint32_t)b);
        m->pair[i] = two ? (bp_pair) { two->rank, two->id } : (bp_pair) { UINT32_MAX, 0 };
    }
    return MR_OK;
}

void bp_destroy(void *tok)
{
    bp_tok *t = tok;
    if (!t)
        return;
    while (t->free) {
        bp_work *w = t->free;
        t->free = w->next;
        drop_work(w);
    }
    for (uint32_t i = 0; i < t->n_stages; i++)
        pcre2_code_free(t->stage[i].code);
    bp_set_free(&t->raw);
    bp_set_free(&t->normalized);
    bp_vocab_free(&t->model.vocab);
    bp_merges_free(&t->model.merges);
    free(t->model.pair);
    pthread_mutex_destroy(&t->lock);
    free(t);
}
