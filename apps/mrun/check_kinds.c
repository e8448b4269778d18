/* SPDX-License-Identifier: Apache-2.0
 *
 * check_kinds.c - what a unit of each kind must do, on small instances: one function and one
 * row a claim.
 */
#include "check.h"
#include "core/ops/catalogue.h"
#include "core/ops/ref.h"
#include "mrun/data.h"
#include "mrun/optimizer.h"
#include "mrun/sink.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- backend ------------------------------------------------------------------------------- */

static void cross_backend_table(check *c)
{
    void *dev;
    if (!check_make(c, &dev))
        return;
    check_table sum = { 0 };
    mri_str lines = { 0 };
    app_check_backend(c->unit->table, dev, c->seed, &sum, &lines);
    check_say(c, "%u ops: %u cases agree with the reference loops, %u differ, %u unsupported",
              sum.ops, sum.cases - sum.failed - sum.unsupported, sum.failed, sum.unsupported);
    if (sum.failed)
        check_fail(c, "%s", lines.s);
    else
        check_say(c, "%s", lines.s ? lines.s : "");
    if (!sum.failed && sum.cases && sum.cases == sum.unsupported)
        check_fail(c, "it supports no op of the catalogue");
    mri_str_free(&lines);
    check_drop(c, dev);
}

/* ---- tokenizer ----------------------------------------------------------------------------- */

static const struct {
    const char *text;
    size_t n;
} torture[] = {
#define T(s) { s, sizeof(s) - 1 }
    T(""),
    T("a"),
    T("The quick brown fox jumps over the lazy dog.\n"),
    T("  leading, trailing  \t\r\n\n  "),
    T("caf\xc3\xa9 na\xc3\xafve \xe2\x82\xac 20 \xe6\xbc\xa2\xe5\xad\x97 "
      "\xf0\x9f\x90\x8d\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x94\xac"),
    T("cafe\xcc\x81 is not the same bytes"),
    T("nul \0 inside"),
    T("\xff\xfe not UTF-8 \xc3 \xe2\x82 \xf0\x9f \x80\xbf \xc0\xaf \xed\xa0\x80"),
    T("<|endoftext|><s></s><|im_start|>"),
    T("0123456789 3.14159 -1e-10 0x7fff"),
    T("if (a<b) { return x->y[0]; } // \\n"),
#undef T
};

/* encode with room, ask the size with none, decode, compare; nothing is written past `cap` */
static void round_trip(check *c, const mr_tokenizer_ops *t, void *tok, int64_t vocab,
                       const char *what, const char *text, size_t n)
{
    enum { GUARD = 0x5a5a5a5a };
    uint64_t asked = 0, got = 0, back = 0;
    mr_err err = MR_ERR_INIT;
    if (t->encode(tok, text, n, NULL, 0, &asked, &err)) {
        check_fail_err(c, what, &err);
        return;
    }
    if (asked > 16 * (uint64_t)n + 16) {
        check_fail(c, "%s: %zu bytes need %llu ids", what, n, (unsigned long long)asked);
        return;
    }
    int32_t *ids = mri_alloc((asked + 1) * sizeof *ids);
    char *out = mri_alloc(n + 2);
    ids[asked] = GUARD;
    memset(out, '#', n + 1);
    if (t->encode(tok, text, n, ids, asked, &got, &err)) {
        check_fail_err(c, what, &err);
    } else if (got != asked || ids[asked] != GUARD) {
        check_fail(c, "%s: cap 0 asked for %llu ids, encode gave %llu%s", what,
                   (unsigned long long)asked, (unsigned long long)got,
                   ids[asked] != GUARD ? " and wrote past them" : "");
    } else {
        for (uint64_t i = 0; i < got; i++)
            if (ids[i] < 0 || ids[i] >= vocab)
                check_fail(c, "%s: id %d is outside [0,%lld)", what, ids[i], (long long)vocab);
        if (t->decode(tok, ids, got, NULL, 0, &back, &err) || back != n)
            check_fail(c, "%s: decode with cap 0 says %llu bytes, the text had %zu", what,
                       (unsigned long long)back, n);
        else if (t->decode(tok, ids, got, out, n, &back, &err))
            check_fail_err(c, what, &err);
        else if (back != n || memcmp(out, text, n) || out[n] != '#')
            check_fail(c, "%s: decode(encode(text)) is not the text", what);
        if (got > 1) { /* half the room: the rest is untouched, the need is still told */
            uint64_t half = got / 2;
            int32_t kept = ids[half - 1];
            for (uint64_t i = 0; i < got; i++)
                ids[i] = GUARD;
            if (t->encode(tok, text, n, ids, half, &back, &err) || back != got)
                check_fail(c, "%s: with room for %llu of %llu ids it says %llu", what,
                           (unsigned long long)half, (unsigned long long)got,
                           (unsigned long long)back);
            else if (ids[half] != GUARD || ids[half - 1] != kept)
                check_fail(c, "%s: encode with too little room writes past it, or other ids", what);
        }
    }
    free(ids);
    free(out);
}

static void tokenizer_round_trip(check *c)
{
    void *tok;
    const mr_tokenizer_ops *t = c->unit->table;
    mr_tokenizer_info info = { .size = sizeof info };
    mr_err err = MR_ERR_INIT;
    if (!check_make(c, &tok))
        return;
    if (t->info(tok, &info, &err)) {
        check_fail_err(c, "info", &err);
    } else {
        char what[64], all[256], *big = mri_alloc(100000);
        const int32_t special[] = { info.bos, info.eos, info.pad, info.eod };
        if (info.vocab < 1)
            check_fail(c, "info: a vocabulary of %lld", (long long)info.vocab);
        for (size_t i = 0; i < sizeof special / sizeof *special; i++)
            if (special[i] < -1 || special[i] >= info.vocab)
                check_fail(c, "info: special id %d is outside [-1,%lld)", special[i],
                           (long long)info.vocab);
        for (size_t i = 0; i < sizeof torture / sizeof *torture; i++) {
            snprintf(what, sizeof what, "text %zu", i);
            round_trip(c, t, tok, info.vocab, what, torture[i].text, torture[i].n);
        }
        for (int i = 0; i < 256; i++) {
            all[i] = (char)i;
            snprintf(what, sizeof what, "byte %d", i);
            round_trip(c, t, tok, info.vocab, what, &all[i], 1);
        }
        round_trip(c, t, tok, info.vocab, "all 256 bytes", all, sizeof all);
        for (int i = 0; i < 100000; i++)
            big[i] = "mrun "[i % 5];
        round_trip(c, t, tok, info.vocab, "100,000 bytes", big, 100000);
        free(big);
    }
    check_drop(c, tok);
}

/* ---- optimizer ----------------------------------------------------------------------------- */

static void optimizer_program(check *c)
{
    void *o;
    const mr_optimizer_ops *ops = c->unit->table;
    const mr_type shapes[] = { mr_type1("f32", 37), mr_type2("f32", 8, 5),
                               mr_type3("f32", 2, 3, 4) };
    if (!check_make(c, &o))
        return;
    for (size_t i = 0; i < (ops->flags & MR_OPTIM_FLAT ? 1 : sizeof shapes / sizeof *shapes); i++) {
        mr_err err = MR_ERR_INIT;
        check_program *p = check_program_new();
        if (ops->build(o, &shapes[i], &check_builder, (mr_prog *)p, &err))
            check_fail_err(c, "build", &err);
        else if (check_program_error(p))
            check_fail(c, "build made a wrong call: %s", check_program_error(p));
        else if (!check_program_ops(p))
            check_fail(c, "build made no op");
        else if (!check_program_reads(p, "master") || !check_program_reads(p, "grad"))
            check_fail(c, "no op takes \"master\" and \"grad\"");
        else if (!check_program_reads(p, "ok"))
            check_fail(c, "no op takes \"ok\": a step that failed would change the weights");
        else if (!check_program_balanced(p))
            check_fail(c, "a region is not closed");
        check_program_free(p);
    }
    check_drop(c, o);
}

/* ---- model --------------------------------------------------------------------------------- */

typedef struct assembly {
    MRI_VEC(char *) kinds;
    int32_t n;
    char *error;
} assembly;

static int32_t on_instance(mr_asm *m, const char *kind, const char *prefix)
{
    assembly *a = (assembly *)m;
    bool known = false;
    if (!kind || !*kind || !prefix) {
        if (!a->error)
            a->error = mri_format("instance %d has no %s", a->n, prefix ? "kind" : "prefix");
        return -1;
    }
    for (size_t i = 0; i < a->kinds.n; i++)
        known |= !strcmp(a->kinds.v[i], kind);
    if (!known) {
        char *copy = mri_strdup(kind);
        MRI_PUSH(&a->kinds, copy);
    }
    return a->n++;
}

static void on_edge(mr_asm *m, int32_t from, const char *out, int32_t to, const char *in)
{
    assembly *a = (assembly *)m;
    if ((from < 0 || from >= to || to >= a->n || !out || !in) && !a->error)
        a->error = mri_format("an edge leads from instance %d to %d of %d", from, to, a->n);
}

static void on_bind(mr_asm *m, int32_t instance, const char *name, const char *full_name)
{
    assembly *a = (assembly *)m;
    if ((instance < 0 || instance >= a->n || !name || !full_name) && !a->error)
        a->error = mri_format("a parameter is bound to instance %d of %d", instance, a->n);
}

static void build_block(check *c, void *model, const char *kind, const mr_block_env *env)
{
    const mr_model_ops *ops = c->unit->table;
    const char *mode = env->mode;
    mr_err err = MR_ERR_INIT;
    check_program *p = check_program_new();
    mr_status st = ops->build(model, kind, env, &check_builder, (mr_prog *)p, &err);
    if (st == MR_E_UNSUPPORTED && strcmp(mode, "train"))
        check_say(c, "block %s: mode %s is not supported", kind, mode);
    else if (st)
        check_fail(c, "block %s, mode %s: %s", kind, mode, err.what);
    else if (check_program_error(p))
        check_fail(c, "block %s, mode %s: %s", kind, mode, check_program_error(p));
    else if (!check_program_ops(p) || !check_program_outputs(p))
        check_fail(c, "block %s, mode %s: %zu ops and %zu outputs", kind, mode,
                   check_program_ops(p), check_program_outputs(p));
    else if (!check_program_balanced(p))
        check_fail(c, "block %s, mode %s: a region is not closed", kind, mode);
    check_program_free(p);
}

/* Assembles for one mode, then builds each kind once. */
static void model_mode(check *c, void *model, const mr_block_env *env)
{
    const mr_model_ops *ops = c->unit->table;
    const mr_assembler assembler = { sizeof assembler, 0, on_instance, on_edge, on_bind, env };
    assembly a = { 0 };
    mr_err err = MR_ERR_INIT;
    if (ops->assemble(model, &assembler, (mr_asm *)&a, &err))
        check_fail_err(c, "assemble", &err);
    else if (a.error)
        check_fail(c, "assemble: %s", a.error);
    else if (!a.n)
        check_fail(c, "assemble made no instance");
    for (size_t i = 0; i < a.kinds.n; i++) {
        build_block(c, model, a.kinds.v[i], env);
        free(a.kinds.v[i]);
    }
    free(a.kinds.v);
    free(a.error);
}

static void model_blocks(check *c)
{
    static const char *const modes[] = { "train", "infer", "decode", "images" };
    void *model;
    const mr_model_ops *ops = c->unit->table;
    mr_model_info info = { .size = sizeof info };
    mr_err err = MR_ERR_INIT;
    if (!check_make(c, &model))
        return;
    if (ops->info(model, &info, &err))
        check_fail_err(c, "info", &err);
    else if (info.vocab < 1 || info.hidden < 1 || info.layers < 1)
        check_fail(c, "info: vocab %lld, hidden %lld, layers %lld", (long long)info.vocab,
                   (long long)info.hidden, (long long)info.layers);
    for (int pictures = 0; pictures <= (info.image_size > 0); pictures++)
        for (size_t m = 0; m < (pictures ? 4 : 3); m++) {
            mr_block_env env = { .size = sizeof env, .mode = modes[m], .tokens = 32,
                                 .images = pictures };
            if (!strcmp(modes[m], "decode")) {
                env.slots = 2;
                env.max_seq = 20;
                env.pages = 4;
                env.page = 16;
                env.logit_rows = 2;
            }
            model_mode(c, model, &env);
        }
    check_drop(c, model);
}

/* ---- data ---------------------------------------------------------------------------------- */

enum { SEQ = 16 };
typedef struct sample {
    int32_t tokens[SEQ + 1], targets[SEQ + 1], positions[SEQ + 1], seq_start[SEQ + 1];
    float weight[SEQ + 1];
} sample;

static mr_status read_sample(const mr_data_ops *ops, void *data, uint32_t set, int64_t i, sample *s,
                             mr_err *err)
{
    mr_sample view = {
        sizeof view, 0, s->tokens, s->targets, s->positions, s->seq_start, s->weight
    };
    memset(s, 0x5a, sizeof *s);
    return ops->read(data, set, i, &view, err);
}

static void data_samples(check *c)
{
    void *data;
    const mr_data_ops *ops = c->unit->table;
    mr_err err = MR_ERR_INIT;
    if (!check_make(c, &data))
        return;
    void *config = MR_CAN(ops, promises) ? check_config(c) : NULL;
    bool whole = config && (ops->promises(config) & MR_DATA_WHOLE);
    free(config);
    uint32_t n = 0;
    for (mr_data_set set = { .size = sizeof set }; n < 100 && !ops->set(data, n, &set, &err); n++) {
        if (!set.name || !*set.name)
            check_fail(c, "set %u has no name", n);
        for (int64_t i = 0; i < set.samples && i < 8; i++) {
            sample a, b;
            if (read_sample(ops, data, n, i, &a, &err) || read_sample(ops, data, n, i, &b, &err)) {
                check_fail_err(c, "read", &err);
                break;
            }
            if (memcmp(&a, &b, sizeof a))
                check_fail(c, "set %u: sample %lld differs when it is read again", n, (long long)i);
            if (a.tokens[SEQ] != 0x5a5a5a5a || a.targets[SEQ] != 0x5a5a5a5a ||
                a.positions[SEQ] != 0x5a5a5a5a || a.seq_start[SEQ] != 0x5a5a5a5a)
                check_fail(c, "set %u: sample %lld is longer than seq", n, (long long)i);
            for (int t = 0; t < SEQ; t++)
                if (a.tokens[t] < 0 || a.tokens[t] > 256 || a.positions[t] < 0 ||
                    a.seq_start[t] < 0 || a.seq_start[t] > (whole ? 0 : t) || !isfinite(a.weight[t]) ||
                    (a.weight[t] > 0 && (a.targets[t] < 0 || a.targets[t] > 256))) {
                    check_fail(c, "set %u, sample %lld, token %d: token %d target %d position %d "
                               "seq_start %d weight %g", n, (long long)i, t, a.tokens[t],
                               a.targets[t], a.positions[t], a.seq_start[t], (double)a.weight[t]);
                    break;
                }
        }
    }
    if (!n)
        check_fail(c, "it has no set");
    else if (err.code != MR_E_ARG)
        check_fail(c, "asking for set %u, past the last, gives %d, not MR_E_ARG", n, err.code);
    check_drop(c, data);
}

/* ---- sink ---------------------------------------------------------------------------------- */

static void sink_events(check *c)
{
    static const mr_metric metrics[] = { { "loss", 2.5 }, { "lr", 1e-3 }, { "odd", NAN } };
    static const struct {
        const char *type, *text;
        int64_t step;
        uint32_t n;
    } run[] = {
        { "start", "a run begins", 0, 0 },    { "step", NULL, 1, 3 }, { "eval", NULL, 1, 1 },
        { "step", NULL, 2, 3 },               { "note", "a word", 2, 0 },
        { "something-new", NULL, 2, 2 },      { "checkpoint", "saved", 2, 0 },
        { "end", "the run ends", 2, 0 },
    };
    void *sink;
    const mr_sink_ops *ops = c->unit->table;
    if (!check_make(c, &sink))
        return;
    for (size_t i = 0; i < sizeof run / sizeof *run; i++) {
        mr_err err = MR_ERR_INIT;
        mr_event e = {
            sizeof e, run[i].n, run[i].type, run[i].step, 2, 1.7e9, metrics, run[i].text
        };
        if (ops->event(sink, &e, &err))
            check_fail(c, "event %s: %s", run[i].type, err.what);
    }
    check_drop(c, sink);
}

/* ---- op ------------------------------------------------------------------------------------ */

/* the reference loops run on the op's own cases and leave numbers in every output */
static void op_reference(check *c)
{
    const mr_op_def *def = mri_op_find(((const mr_op_def *)c->unit->table)->id);
    uint32_t n = 0;
    if (!def) {
        check_fail(c, "the catalogue did not take it");
        return;
    }
    for (const char *const *text = def->cases; text && *text; text++, n++) {
        mri_case k;
        mr_err err = MR_ERR_INIT;
        if (mri_case_make(def, *text, NULL, c->seed, &k, &err)) {
            check_fail_err(c, *text, &err);
            continue;
        }
        for (uint32_t o = 0; o < k.call.n_out; o++)
            memset(k.out[o].data, 0xff, mr_bytes(k.call.out[o]));
        if (def->ref(&k.call, k.in, k.out, &err))
            check_fail_err(c, *text, &err);
        else
            for (uint32_t o = 0; o < k.call.n_out; o++) {
                mri_view v = mri_at(k.call.out[o], &k.out[o]);
                for (int64_t i = 0; i < mr_numel(k.call.out[o]); i++)
                    if (!isfinite(mri_get(v, i))) {
                        check_fail(c, "%s: output %u[%lld] was not written, or is no number", *text,
                                   o, (long long)i);
                        break;
                    }
            }
        mri_case_free(&k);
    }
    if (!n)
        check_fail(c, "it has no sample case: nothing can be compared with a backend");
}

const check_row check_kind_rows[] = {
    { "cross-backend-table", "every op agrees with the reference loops, f32 and bf16", CHECK_UNIT,
      "backend", 300, cross_backend_table },
    { "decode-of-encode-is-the-text", "any bytes survive, sizes are told, no buffer is overrun",
      CHECK_UNIT, "tokenizer", 60, tokenizer_round_trip },
    { "update-program-is-sound", "build() emits ops that take master, grad and ok", CHECK_UNIT,
      "optimizer", 20, optimizer_program },
    { "blocks-build", "every block kind of a small model builds in every mode", CHECK_UNIT, "model",
      60, model_blocks },
    { "samples-are-repeatable", "sample i is the same when read again, and in bounds", CHECK_UNIT,
      "data", 120, data_samples },
    { "takes-every-event", "a whole run's events, known and unknown", CHECK_UNIT, "sink", 20,
      sink_events },
    { "cuts-are-sound", "every item has its piece, equal numbers do equal work, obstacles stay out",
      CHECK_UNIT, "graph", 20, check_graph_cuts },
    { "plans-are-sound", "every part is in one bucket, in order, with a strategy that it allows",
      CHECK_UNIT, "shard", 20, check_shard_plans },
    { "reference-loops-run", "the sample cases give numbers", CHECK_UNIT, "op", 60, op_reference },
    { NULL, NULL, 0, NULL, 0, NULL },
};
