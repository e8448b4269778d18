/* SPDX-License-Identifier: Apache-2.0
 *
 * Sequences over the ranks of cp: a block with attention, cut zig-zag over 2 to 8 ranks, with keys
 * gathered or passed round a ring, gives each rank the rows of the whole block's outputs and
 * gradients that are its own, with documents, chunks, grouped heads, values of another width than
 * keys, and latents.
 */
#include "core/ops/zigzag.h"
#include "core/plan/shard_experts.h"
#include "lockstep.h"

enum { SEQ = 16, ROWS = 2, T = SEQ * ROWS };

typedef struct shape {
    int64_t heads, kv_heads, c, cv, chunk;
    bool documents;
} shape;

static mr_prog *block(const shape *s, int64_t tokens)
{
    mr_net n = { &mri_builder, mri_prog_new("attn", "f64") };
    mr_type tq = mr_type2("f64", tokens, s->heads * s->c);
    mr_type tk = mr_type2("f64", tokens, s->kv_heads * s->c);
    mr_type tv = mr_type2("f64", tokens, s->kv_heads * s->cv), ti = mr_type1("i32", tokens);
    mr_val q = n.b->input(n.p, "q", &tq), k = n.b->input(n.p, "k", &tk), o[2];
    mr_val v = n.b->input(n.p, "v", &tv), start = n.b->input(n.p, "seq_start", &ti);
    MR_OPN(n, "attention", o, 2, MR_IN(q, k, v, start),
           MR_AT(mr_ai("heads", s->heads), mr_ai("kv_heads", s->kv_heads), mr_ai("head_dim", s->c),
                 mr_ai("chunk", s->chunk), mr_ai("seq", SEQ), mr_ai("packed", 1)));
    n.b->output(n.p, "y", o[0]);
    return n.p;
}

static mri_mesh mesh_of(uint32_t rank, uint32_t ranks, const char *type)
{
    mri_mesh m;
    mr_err err = MR_ERR_INIT;
    mri_cfg_mesh c = { .dp = 1, .tp = 1, .pp = 1, .vpp = 1, .cp = ranks, .ep = 1, .etp = 1,
                       .copies = 1, .cp_comm_type = type };
    ls_ok(mri_mesh_make(&c, ranks, rank, &m, &err), &err);
    return m;
}

/* the rows of rank r, or back to their places in `whole` */
static void cut(double *whole, double *part, int64_t width, uint32_t ranks, uint32_t r, bool back)
{
    for (int64_t i = 0; i < T / ranks; i++) {
        double *w = whole + mri_zigzag_row(i, SEQ, ranks, r) * width, *p = part + i * width;
        memcpy(back ? w : p, back ? p : w, (size_t)width * sizeof *w);
    }
}

static void compare(const shape *s, uint32_t ranks, const char *type)
{
    static const char *const in[] = { "q", "k", "v", "d:y" };
    static const char *const out[] = { "y", "d:q", "d:k", "d:v" };
    lockstep whole, parts;
    mr_prog *one[] = { block(s, T) }, *p[LS_RANKS];
    int64_t n, m;
    for (uint32_t r = 0; r < ranks; r++) {
        mri_mesh mesh = mesh_of(r, ranks, type);
        mr_err err = MR_ERR_INIT;
        p[r] = block(s, T / ranks);
        ls_ok(mri_shard_context(&p[r], &mesh, &err), &err);
    }
    ls_open(&whole, one, 1);
    ls_open(&parts, p, ranks);
    int32_t *start = ls_named(&whole, 0, MRI_INPUT, "seq_start", &n);
    for (int64_t t = 0; t < T; t++) /* a document begins at every 7th row of a sequence */
        start[t] = (int32_t)(t / SEQ * SEQ + (s->documents ? t % SEQ / 7 * 7 : 0));
    for (uint32_t i = 0; i < 4; i++) {
        double *x = ls_named(&whole, 0, MRI_INPUT, in[i], &n);
        ls_fill(x, n, i + 1);
        for (uint32_t r = 0; r < ranks; r++)
            cut(x, ls_named(&parts, r, MRI_INPUT, in[i], &m), n / T, ranks, r, false);
    }
    for (uint32_t r = 0; r < ranks; r++) {
        int32_t *part = ls_named(&parts, r, MRI_INPUT, "seq_start", &m);
        for (int64_t i = 0; i < m; i++)
            part[i] = start[mri_zigzag_row(i, SEQ, ranks, r)];
    }
    ls_run(&whole);
    ls_run(&parts);
    for (uint32_t i = 0; i < 4; i++) {
        double *b = ls_output(&whole, 0, out[i], &n), *a = malloc((size_t)n * sizeof *a);
        for (uint32_t r = 0; r < ranks; r++)
            cut(a, ls_output(&parts, r, out[i], &m), n / T, ranks, r, true);
        ls_equal(a, b, n, out[i]);
        free(a);
    }
    ls_close(&whole);
    ls_close(&parts);
}

Test(context, attention_over_ranks_is_that_of_one)
{
    static const shape shapes[] = {
        { 2, 2, 4, 4, 0, false }, { 4, 2, 3, 3, 0, true }, { 2, 1, 6, 4, 5, false },
        { 2, 2, 6, 4, 3, true },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (uint32_t ranks = 2; ranks <= LS_RANKS; ranks *= 2) {
            compare(&shapes[i], ranks, "all_gather");
            compare(&shapes[i], ranks, "p2p");
        }
}

/* Latent attention: what is sent is latents and the keys' shared part where these are fewer
 * bytes, and every rank makes all keys and values of them; else keys and values. */
enum { HEADS = 2, NOPE = 4, VALUE = 5, LATENT_ROPE = 2 };

static mr_prog *latent_block(int64_t latent, int64_t tokens)
{
    static const double freq[] = { 0.3 };
    mr_net n = { &mri_builder, mri_prog_new("attn", "f64") };
    const int64_t C = NOPE + LATENT_ROPE;
    mr_type tq = mr_type2("f64", tokens, HEADS * C), ti = mr_type1("i32", tokens);
    mr_type tc = mr_type2("f64", tokens, latent), tr = mr_type2("f64", tokens, LATENT_ROPE);
    mr_param w = { .size = sizeof w, .type = mr_type2("f64", HEADS * (NOPE + VALUE), latent),
                   .placement = "-", .scale = 1 };
    mr_val q = n.b->input(n.p, "q", &tq), c = n.b->input(n.p, "c", &tc), kv[2], o[2];
    mr_val kr = n.b->input(n.p, "kr", &tr), start = n.b->input(n.p, "seq_start", &ti);
    mr_val at = n.b->input(n.p, "positions", &ti), up = n.b->param(n.p, "w", &w);
    mr_val x = MR_OP(n, "linear", MR_IN(c, up, 0), MR_NOAT);
    MR_OPN(n, "mla_kv", kv, 2, MR_IN(x, kr, at),
           MR_AT(mr_ai("heads", HEADS), mr_ai("nope_dim", NOPE), mr_afs("inv_freq", freq, 1)));
    MR_OPN(n, "attention", o, 2, MR_IN(q, kv[0], kv[1], start),
           MR_AT(mr_ai("heads", HEADS), mr_ai("kv_heads", HEADS), mr_ai("head_dim", C),
                 mr_ai("seq", SEQ)));
    n.b->output(n.p, "y", o[0]);
    return n.p;
}

static size_t bytes_sent(const mr_prog *p, const char *by)
{
    size_t n = 0;
    for (size_t i = 0; i < p->nodes.n; i++)
        if (!strcmp(p->nodes.v[i].def->id, by))
            n += mr_bytes(&mri_val(p, p->nodes.v[i].in[0])->type);
    return n;
}

static void latents(int64_t latent, uint32_t ranks, bool ring)
{
    static const char *const in[] = { "q", "c", "kr", "d:y" };
    static const char *const out[] = { "y", "d:q", "d:c", "d:kr" };
    const size_t expanded = HEADS * (NOPE + LATENT_ROPE + VALUE) * sizeof(double);
    const size_t few = (size_t)(latent + LATENT_ROPE) * sizeof(double) + sizeof(int32_t);
    lockstep whole, parts;
    mr_prog *one[] = { latent_block(latent, T) }, *p[LS_RANKS];
    int64_t n, m;
    for (uint32_t r = 0; r < ranks; r++) {
        mri_mesh mesh = mesh_of(r, ranks, ring ? "p2p" : "all_gather");
        mr_err err = MR_ERR_INIT;
        p[r] = latent_block(latent, T / ranks);
        ls_ok(p[r]->failed, &p[r]->err);
        ls_ok(mri_shard_context(&p[r], &mesh, &err), &err);
        size_t want = T / ranks * (few < expanded ? few : expanded) * (ring ? ranks - 1 : 1);
        size_t sent = bytes_sent(p[r], ring ? "comm.shift" : "comm.gather");
        cr_assert_eq(sent, want, "%zu bytes are sent, not %zu", sent, want);
    }
    ls_open(&whole, one, 1);
    ls_open(&parts, p, ranks);
    double *w = ls_named(&whole, 0, MRI_PARAM, "w", &n);
    ls_fill(w, n, 9);
    int32_t *start = ls_named(&whole, 0, MRI_INPUT, "seq_start", &m);
    int32_t *at = ls_named(&whole, 0, MRI_INPUT, "positions", &m);
    for (int64_t t = 0; t < T; t++) {
        start[t] = (int32_t)(t / SEQ * SEQ + t % SEQ / 7 * 7);
        at[t] = (int32_t)(t % SEQ % 7);
    }
    for (uint32_t r = 0; r < ranks; r++) {
        memcpy(ls_named(&parts, r, MRI_PARAM, "w", &n), w, (size_t)n * sizeof *w);
        int32_t *s = ls_named(&parts, r, MRI_INPUT, "seq_start", &m);
        int32_t *a = ls_named(&parts, r, MRI_INPUT, "positions", &m);
        for (int64_t i = 0; i < m; i++) {
            s[i] = start[mri_zigzag_row(i, SEQ, ranks, r)];
            a[i] = at[mri_zigzag_row(i, SEQ, ranks, r)];
        }
    }
    for (uint32_t i = 0; i < 4; i++) {
        double *x = ls_named(&whole, 0, MRI_INPUT, in[i], &n);
        ls_fill(x, n, i + 1);
        for (uint32_t r = 0; r < ranks; r++)
            cut(x, ls_named(&parts, r, MRI_INPUT, in[i], &m), n / T, ranks, r, false);
    }
    ls_run(&whole);
    ls_run(&parts);
    for (uint32_t i = 0; i < 4; i++) {
        double *b = ls_output(&whole, 0, out[i], &n), *a = malloc((size_t)n * sizeof *a);
        for (uint32_t r = 0; r < ranks; r++)
            cut(a, ls_output(&parts, r, out[i], &m), n / T, ranks, r, true);
        ls_equal(a, b, n, out[i]);
        free(a);
    }
    double *b = ls_named(&whole, 0, MRI_GRAD, "w", &n), *sum = calloc((size_t)n, sizeof *sum);
    for (uint32_t r = 0; r < ranks; r++)
        for (int64_t i = 0; i < n; i++)
            sum[i] += ((double *)ls_named(&parts, r, MRI_GRAD, "w", &m))[i];
    ls_equal(sum, b, n, "gradient of w");
    free(sum);
    ls_close(&whole);
    ls_close(&parts);
}

Test(context, latents_are_sent_where_they_are_fewer)
{
    for (uint32_t ranks = 2; ranks <= 4; ranks *= 2)
        for (int ring = 0; ring < 2; ring++) {
            latents(6, ranks, ring);
            latents(30, ranks, ring);
        }
}

/* The load-balancing loss of a micro-batch that ranks share: the parts add up to the whole's, and
 * each rank has the gradients of its own rows. */
static mr_prog *router(bool by_sequence, bool softmax, int64_t tokens)
{
    mr_net n = { &mri_builder, mri_prog_new("router", "f64") };
    mr_type tl = mr_type2("f64", tokens, 5), ti = mr_type1("i32", tokens);
    mr_val logits = n.b->input(n.p, "logits", &tl), start = n.b->input(n.p, "seq_start", &ti), o[2];
    MR_OPN(n, "moe_aux_loss", o, 2, MR_IN(logits, start),
           MR_AT(mr_ai("k", 2), mr_as("type", by_sequence ? "seq_aux" : "aux"),
                 mr_as("score", softmax ? "softmax" : "sigmoid"), mr_af("coeff", 0.3)));
    n.b->output(n.p, "y", o[0]);
    return n.p;
}

static void balance(bool by_sequence, bool softmax, uint32_t ranks)
{
    lockstep whole, parts;
    mr_prog *one[] = { router(by_sequence, softmax, T) }, *p[LS_RANKS];
    int64_t n, m;
    double sum = 0, joined[T * 5];
    for (uint32_t r = 0; r < ranks; r++) {
        mri_mesh mesh = mesh_of(r, ranks, "all_gather");
        mr_err err = MR_ERR_INIT;
        p[r] = router(by_sequence, softmax, T / ranks);
        ls_ok(mri_shard_context(&p[r], &mesh, &err), &err);
    }
    ls_open(&whole, one, 1);
    ls_open(&parts, p, ranks);
    double *logits = ls_named(&whole, 0, MRI_INPUT, "logits", &n);
    int32_t *start = ls_named(&whole, 0, MRI_INPUT, "seq_start", &m);
    ls_fill(logits, n, 3);
    for (int64_t t = 0; t < T; t++)
        start[t] = (int32_t)(t / SEQ * SEQ + t % SEQ / 7 * 7);
    *(double *)ls_named(&whole, 0, MRI_INPUT, "d:y", &n) = 0.7;
    for (uint32_t r = 0; r < ranks; r++) {
        *(double *)ls_named(&parts, r, MRI_INPUT, "d:y", &n) = 0.7;
        int32_t *part = ls_named(&parts, r, MRI_INPUT, "seq_start", &m);
        cut(logits, ls_named(&parts, r, MRI_INPUT, "logits", &n), 5, ranks, r, false);
        for (int64_t i = 0; i < m; i++)
            part[i] = start[mri_zigzag_row(i, SEQ, ranks, r)];
    }
    ls_run(&whole);
    ls_run(&parts);
    for (uint32_t r = 0; r < ranks; r++) {
        sum += *ls_output(&parts, r, "y", &n);
        cut(joined, ls_output(&parts, r, "d:logits", &n), 5, ranks, r, true);
    }
    ls_equal(&sum, ls_output(&whole, 0, "y", &n), 1, "loss");
    ls_equal(joined, ls_output(&whole, 0, "d:logits", &n), n, "d:logits");
    ls_close(&whole);
    ls_close(&parts);
}

Test(context, balance_losses_over_ranks_are_that_of_one)
{
    for (int i = 0; i < 4; i++)
        for (uint32_t ranks = 2; ranks <= 4; ranks *= 2)
            balance(i & 1, i & 2, ranks);
}

/* Every row is one rank's, and the ranks see as many keys. */
Test(context, pieces_are_dealt_evenly)
{
    for (uint32_t ranks = 1; ranks <= 8; ranks *= 2) {
        bool taken[T] = { false };
        int64_t pairs[8] = { 0 };
        for (uint32_t r = 0; r < ranks; r++)
            for (int64_t i = 0; i < T / ranks; i++) {
                int64_t t = mri_zigzag_row(i, SEQ, ranks, r);
                cr_assert(t >= 0 && t < T && !taken[t]);
                taken[t] = true;
                pairs[r] += t % SEQ + 1;
            }
        for (uint32_t r = 1; r < ranks; r++)
            cr_assert_eq(pairs[r], pairs[0]);
    }
}

Test(context, sequences_that_do_not_divide_are_refused)
{
    const shape s = { 1, 1, 2, 2, 0, false };
    mri_mesh mesh = mesh_of(0, 3, "p2p");
    mr_err err = MR_ERR_INIT;
    mr_prog *p = block(&s, SEQ);
    cr_assert_eq(mri_shard_context(&p, &mesh, &err), MR_E_PROFILE_CONFLICT);
    cr_assert(strstr(err.what, "16") && strstr(err.hint, "2*cp"), "%s (%s)", err.what, err.hint);
    mri_prog_free(p);
}
