/* SPDX-License-Identifier: Apache-2.0
 *
 * check_backend.c - the cross-backend table: each op of the catalogue, each of its sample
 * cases, in f32 and in bf16, on the backend's device against the reference loops.
 *
 * Invariants: every device buffer, the workspace included, has guard bytes right before and
 * right behind it; outputs and workspace start as rubbish, so that what is not written shows;
 * operands that are not written ("!" in the signature) must come back as they were; the same
 * case run twice gives the same bits.
 */
#include "check.h"
#include "core/ops/catalogue.h"
#include "core/ops/ref.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 64, RUBBISH = 0xff, GUARD_BYTE = 0xa5 };

typedef struct bench {
    const mr_backend_ops *ops;
    void *dev, *stream;
    const char *dtype;
    double tolerance; /* of |difference| by the operand's largest |value| */
    uint64_t seed;
    mri_str *out;
    double worst; /* of this op and dtype */
} bench;

/* One operand on the device: GUARD bytes, the data, GUARD bytes. */
typedef struct slot {
    void *base;
    size_t bytes;
    uint8_t *image; /* of all of it, on the host: what was sent, then what came back */
} slot;

static mr_status slot_make(const bench *b, size_t bytes, slot *s, mr_err *err)
{
    s->bytes = bytes;
    s->image = mri_alloc(bytes + 2 * GUARD);
    return b->ops->alloc(b->dev, bytes + 2 * GUARD, MR_MEM_ARENA, &s->base, err);
}

static void slot_free(const bench *b, slot *s)
{
    if (s->base)
        b->ops->free(b->dev, s->base, s->bytes + 2 * GUARD);
    free(s->image);
    memset(s, 0, sizeof *s);
}

static mr_status send(const bench *b, slot *s, const void *data, mr_err *err)
{
    memset(s->image, GUARD_BYTE, s->bytes + 2 * GUARD);
    if (data)
        memcpy(s->image + GUARD, data, s->bytes);
    else
        memset(s->image + GUARD, RUBBISH, s->bytes);
    return b->ops->copy(b->dev, b->stream, s->base, s->image, s->bytes + 2 * GUARD, err);
}

static mr_status fetch(const bench *b, slot *s, mr_err *err)
{
    return b->ops->copy(b->dev, b->stream, s->image, s->base, s->bytes + 2 * GUARD, err);
}

static bool guards_hold(const slot *s)
{
    for (size_t i = 0; i < GUARD; i++)
        if (s->image[i] != GUARD_BYTE || s->image[GUARD + s->bytes + i] != GUARD_BYTE)
            return false;
    return true;
}

typedef struct trial { /* one case on the device */
    slot in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS], work;
    mr_buf in_buf[MRI_MAX_OPERANDS], out_buf[MRI_MAX_OPERANDS];
} trial;

static mr_status trial_make(const bench *b, const mri_case *c, uint64_t workspace, trial *t,
                            mr_err *err)
{
    mr_status st = 0;
    for (uint32_t i = 0; i < c->call.n_in; i++) {
        if (!c->call.in[i])
            continue;
        MR_TRY(slot_make(b, mr_bytes(c->call.in[i]), &t->in[i], err));
        t->in_buf[i].data = (char *)t->in[i].base + GUARD;
    }
    for (uint32_t i = 0; i < c->call.n_out; i++) {
        if (!c->call.out[i])
            continue;
        MR_TRY(slot_make(b, mr_bytes(c->call.out[i]), &t->out[i], err));
        t->out_buf[i].data = (char *)t->out[i].base + GUARD;
    }
    if (workspace)
        MR_TRY(slot_make(b, workspace, &t->work, err));
out:
    return st;
}

static void trial_free(const bench *b, trial *t)
{
    for (uint32_t i = 0; i < MRI_MAX_OPERANDS; i++) {
        slot_free(b, &t->in[i]);
        slot_free(b, &t->out[i]);
    }
    slot_free(b, &t->work);
}

static mr_status trial_run(const bench *b, const mri_case *c, void *kernel, trial *t, mr_err *err)
{
    mr_status st = 0;
    for (uint32_t i = 0; i < MRI_MAX_OPERANDS; i++) {
        if (t->in[i].base)
            MR_TRY(send(b, &t->in[i], c->in[i].data, err));
        if (t->out[i].base)
            MR_TRY(send(b, &t->out[i], NULL, err));
    }
    if (t->work.base)
        MR_TRY(send(b, &t->work, NULL, err));
    MR_TRY(b->ops->run(b->dev, kernel, b->stream, t->in_buf, t->out_buf,
                       t->work.base ? (char *)t->work.base + GUARD : NULL, err));
    for (uint32_t i = 0; i < MRI_MAX_OPERANDS; i++) {
        if (t->in[i].base)
            MR_TRY(fetch(b, &t->in[i], err));
        if (t->out[i].base)
            MR_TRY(fetch(b, &t->out[i], err));
    }
    if (t->work.base)
        MR_TRY(fetch(b, &t->work, err));
    MR_TRY(b->ops->sync(b->dev, b->stream, err));
out:
    return st;
}

MR_PRINTF(4, 5)
static bool differs(const bench *b, const mr_op_def *def, const char *text, const char *fmt, ...)
{
    va_list ap;
    mri_str_fmt(b->out, "%s %s \"%s\": ", def->id, b->dtype, text);
    va_start(ap, fmt);
    mri_str_vfmt(b->out, fmt, ap);
    va_end(ap);
    mri_str_add(b->out, "\n");
    return false;
}

/* `got` against `want`; integers must be equal, floats within the tolerance */
static bool same(bench *b, const mr_op_def *def, const char *text, const char *name,
                 const mr_type *t, const void *got_data, const void *want_data)
{
    mr_buf gb = { (void *)got_data, NULL }, wb = { (void *)want_data, NULL };
    mri_view got = mri_at(t, &gb), want = mri_at(t, &wb);
    int64_t n = mr_numel(t), at = -1;
    bool whole = want.kind == 'i' || want.kind == 'l' || want.kind == 'u';
    double top = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double w = fabs(mri_get(want, i));
        if (isfinite(w) && w > top)
            top = w;
    }
    for (int64_t i = 0; i < n; i++) {
        double g = mri_get(got, i), w = mri_get(want, i), d = fabs(g - w);
        if (g == w || (isnan(g) && isnan(w)))
            continue;
        double rel = whole || !isfinite(d) ? INFINITY : d / (top > 1e-30 ? top : 1e-30);
        if (rel > worst) {
            worst = rel;
            at = i;
        }
    }
    if (isfinite(worst) && worst > b->worst)
        b->worst = worst;
    if (worst <= b->tolerance)
        return true;
    return differs(b, def, text, "%s[%lld] is %.9g, the reference says %.9g: %.2g of the largest "
                   "value, the tolerance is %.2g", name, (long long)at, mri_get(got, at),
                   mri_get(want, at), worst, b->tolerance);
}

static bool judge(bench *b, const mr_op_def *def, const char *text, const mri_sig *sig,
                  const mri_case *sent, const mri_case *want, const trial *t)
{
    bool fine = true;
    for (uint32_t i = 0; i < want->call.n_in; i++) {
        const slot *s = &t->in[i];
        if (!s->base)
            continue;
        if (!guards_hold(s))
            fine = differs(b, def, text, "writes beside operand %s", sig->in[i].name);
        if (sig->in[i].mutated)
            fine &= same(b, def, text, sig->in[i].name, want->call.in[i], s->image + GUARD,
                         want->in[i].data);
        else if (memcmp(s->image + GUARD, sent->in[i].data, s->bytes))
            fine = differs(b, def, text, "changes its operand %s", sig->in[i].name);
    }
    for (uint32_t i = 0; i < want->call.n_out; i++) {
        const slot *s = &t->out[i];
        if (!s->base)
            continue;
        if (!guards_hold(s))
            fine = differs(b, def, text, "writes beside output %s", sig->out[i].name);
        fine &= same(b, def, text, sig->out[i].name, want->call.out[i], s->image + GUARD,
                     want->out[i].data);
    }
    if (t->work.base && !guards_hold(&t->work))
        fine = differs(b, def, text, "writes beside its workspace of %zu bytes", t->work.bytes);
    return fine;
}

/* bits of every operand and output after a run, as one number */
static uint64_t fingerprint(const trial *t)
{
    uint64_t h = 0;
    for (uint32_t i = 0; i < MRI_MAX_OPERANDS; i++) {
        if (t->in[i].base)
            h = mri_hash(h, t->in[i].image, t->in[i].bytes + 2 * GUARD);
        if (t->out[i].base)
            h = mri_hash(h, t->out[i].image, t->out[i].bytes + 2 * GUARD);
    }
    return h;
}

enum { AGREES, DIFFERS, UNSUPPORTED };

static int run_case(bench *b, const mr_op_def *def, const char *text)
{
    mri_case sent = { 0 }, want = { 0 };
    mri_sig sig;
    trial t = { 0 };
    void *kernel = NULL;
    mr_kernel_info info = { .size = sizeof info };
    mr_err err = MR_ERR_INIT;
    const char *doing = "making the case";
    int result = DIFFERS;
    mr_status st;
    MR_TRY(mri_sig_parse(def->sig, &sig, &err));
    MR_TRY(mri_case_make(def, text, b->dtype, b->seed, &sent, &err));
    MR_TRY(mri_case_make(def, text, b->dtype, b->seed, &want, &err));
    doing = "the reference loops";
    MR_TRY(def->ref(&want.call, want.in, want.out, &err));
    doing = "query";
    st = b->ops->query(b->dev, def->id, &sent.call, MR_QUERY_DETERMINISTIC, &kernel, &info, &err);
    if (st == MR_E_UNSUPPORTED) {
        result = UNSUPPORTED;
        st = 0;
        goto out;
    }
    if (st)
        goto out;
    if (!(info.flags & MR_K_DETERMINISTIC)) {
        differs(b, def, text, "query was asked for a deterministic kernel and gave another");
        goto out;
    }
    doing = "alloc";
    MR_TRY(trial_make(b, &sent, info.workspace, &t, &err));
    doing = "run";
    MR_TRY(trial_run(b, &sent, kernel, &t, &err));
    if (judge(b, def, text, &sig, &sent, &want, &t)) {
        uint64_t first = fingerprint(&t);
        MR_TRY(trial_run(b, &sent, kernel, &t, &err));
        if (first == fingerprint(&t))
            result = AGREES;
        else
            differs(b, def, text, "a second run gives other bits");
    }
out:
    if (st)
        differs(b, def, text, "%s: %s", doing, err.what);
    if (kernel)
        b->ops->release(b->dev, kernel);
    trial_free(b, &t);
    mri_case_free(&sent);
    mri_case_free(&want);
    return result;
}

static void run_op(bench *b, const mr_op_def *def, check_table *sum)
{
    static const struct {
        const char *dtype;
        double tolerance;
    } recipes[] = { { "f32", 1e-5 }, { "bf16", 2e-2 } };
    mri_str line = { 0 };
    sum->ops++;
    mri_str_fmt(&line, "%-20s", def->id);
    for (size_t r = 0; r < sizeof recipes / sizeof *recipes; r++) {
        uint32_t n[3] = { 0 };
        b->dtype = recipes[r].dtype;
        b->tolerance = recipes[r].tolerance;
        b->worst = 0;
        for (const char *const *text = def->cases; text && *text; text++)
            n[run_case(b, def, *text)]++;
        sum->cases += n[AGREES] + n[DIFFERS] + n[UNSUPPORTED];
        sum->failed += n[DIFFERS];
        sum->unsupported += n[UNSUPPORTED];
        mri_str_fmt(&line, "  %s:", b->dtype);
        if (n[UNSUPPORTED] && !n[AGREES] && !n[DIFFERS])
            mri_str_add(&line, " unsupported");
        else
            mri_str_fmt(&line, " %u ok (worst %.1e)", n[AGREES], b->worst);
        if (n[UNSUPPORTED] && (n[AGREES] || n[DIFFERS]))
            mri_str_fmt(&line, ", %u unsupported", n[UNSUPPORTED]);
        if (n[DIFFERS])
            mri_str_fmt(&line, ", %u differ", n[DIFFERS]);
    }
    mri_str_fmt(b->out, "%s\n", line.s);
    mri_str_free(&line);
}

void app_check_backend(const mr_backend_ops *ops, void *dev, uint64_t seed, check_table *sum,
                       mri_str *out)
{
    bench b = { .ops = ops, .dev = dev, .seed = seed, .out = out };
    mr_err err = MR_ERR_INIT;
    if (ops->stream_create(dev, 0, &b.stream, &err)) {
        mri_str_fmt(out, "stream_create: %s\n", err.what);
        sum->failed++;
        return;
    }
    const mr_op_def *def;
    for (uint32_t i = 0; (def = mri_op_at(i)); i++)
        run_op(&b, def, sum);
    ops->stream_destroy(dev, b.stream);
}
