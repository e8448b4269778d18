/* SPDX-License-Identifier: Apache-2.0
 * An exec of several chunks and slots has several micro-batches in flight: whatever the order in
 * which their forwards and backwards take turns, gradients and losses are those of one after the
 * other, and each slot is as large as an exec of one. */
#include "../plan/tiny.h"

enum { SLOTS = 2, CUT = 3 };

typedef struct slotted {
    mri_exec *exec;
    void *block;
} slotted;

static slotted open_slotted(tiny *t)
{
    mri_session *s = t->s;
    mri_chunk chunks[2] = { { .n = CUT, .slots = SLOTS }, { .slots = SLOTS } };
    mr_block_env env = { .size = sizeof env, .mode = "train", .tokens = s->train->opt.tokens };
    mri_exec_options o = s->train->opt;
    mri_assembly *a = NULL;
    slotted x = { 0 };
    mr_err err = MR_ERR_INIT;
    kit_ok(mri_assemble(s->model_ops, s->model, &env, s->model_dtype, &a, &err), &err, "assemble");
    chunks[1].n = (uint32_t)a->instances.n - CUT;
    o.chunks = chunks;
    o.n_chunks = 2;
    o.share_slots = false; /* both chunks of a micro-batch are live at once */
    kit_ok(mri_exec_create(&s->device, a, &s->params, &s->scalars, &o, &x.exec, &err), &err,
           "exec");
    kit_ok(s->device.ops->alloc(s->device.dev, x.exec->bytes, MR_MEM_ARENA, &x.block, &err), &err,
           "memory");
    kit_ok(mri_exec_bind(x.exec, x.block, &err), &err, "bind");
    return x;
}

static void close_slotted(tiny *t, slotted *x)
{
    uint64_t bytes = x->exec->bytes;
    mri_exec_free(x->exec);
    t->s->device.ops->free(t->s->device.dev, x->block, bytes);
}

/* A micro-batch's fields into a slot of both chunks; upload() fills slot 0, which another has. */
static void load(mri_exec *e, uint32_t slot, uint32_t seed)
{
    mri_batch b = kit_batch(TINY_ROWS, TINY_SEQ, TINY_VOCAB, seed);
    mr_err err = MR_ERR_INIT;
    uint64_t n = mri_exec_fields_bytes(&e->opt);
    char *kept[2], *host = mri_alloc(n);
    for (uint32_t c = 0; c < 2; c++)
        memcpy(kept[c] = mri_alloc(n), e->base + mri_exec_slot_at(e, c, 0), n);
    kit_ok(mri_exec_upload(e, &b, &err), &err, "upload");
    memcpy(host, e->base + e->at_fields, n);
    for (uint32_t c = 0; c < 2; c++) {
        memcpy(e->base + mri_exec_slot_at(e, c, 0), kept[c], n);
        memcpy(e->base + mri_exec_slot_at(e, c, slot), host, n);
        free(kept[c]);
    }
    free(host);
    kit_batch_free(&b);
}

static void run(mri_exec *e, uint32_t slot, uint8_t phase)
{
    uint32_t n = mri_exec_instances(e);
    mr_err err = MR_ERR_INIT;
    for (uint32_t k = 0; k < n; k++)
        kit_ok(mri_exec_run_in(e, slot, phase ? n - 1 - k : k, phase, &err), &err, "run");
}

static float *gradients(tiny *t, mri_exec *e, const uint8_t (*order)[2], float *losses)
{
    mri_params *p = &t->s->params;
    size_t n = p->trainable * sizeof(float);
    float *g = mri_alloc(n);
    mr_err err = MR_ERR_INIT;
    memset(p->grads, 0, n);
    kit_ok(mri_scalar_set(&t->s->scalars, &t->s->device, MRI_LOSS_SEED, 0.125, &err), &err, "seed");
    for (int k = 0; order[k][1] != 9; k++) {
        if (order[k][1] == MRI_F)
            load(e, order[k][0], 7 + order[k][0]);
        run(e, order[k][0], order[k][1]);
    }
    memcpy(g, p->grads, n);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        for (uint32_t c = 0; c < 2; c++)
            for (uint32_t l = 0; l < e->chunks.v[c].n_losses; l++)
                *losses++ = ((float *)mri_exec_losses_at(e, c, slot))[l * MRI_SCALAR_STRIDE];
    return g;
}

static void check(const char *split)
{
    static const uint8_t in_turn[][2] = { { 0, MRI_F }, { 0, MRI_B }, { 0, MRI_W }, { 1, MRI_F },
                                          { 1, MRI_B }, { 1, MRI_W }, { 0, 9 } };
    static const uint8_t mixed[][2] = { { 0, MRI_F }, { 1, MRI_F }, { 0, MRI_B }, { 1, MRI_B },
                                        { 0, MRI_W }, { 1, MRI_W }, { 0, 9 } };
    const char *sets[] = { split, NULL };
    tiny t = tiny_open("cpu", (mri_session_options){ 0 }, sets);
    slotted x = open_slotted(&t);
    float one[64] = { 0 }, two[64] = { 0 };
    float *a = gradients(&t, x.exec, in_turn, one), *b = gradients(&t, x.exec, mixed, two);
    for (uint64_t i = 0; i < t.s->params.trainable; i++)
        cr_assert_eq(a[i], b[i], "element %llu: %.9g and %.9g", (unsigned long long)i,
                     (double)a[i], (double)b[i]);
    for (int i = 0; i < 64; i++)
        cr_assert_eq(one[i], two[i], "loss %d: %.9g and %.9g", i, (double)one[i], (double)two[i]);
    cr_assert(one[0] > 0 || one[1] > 0);
    cr_assert_eq(x.exec->saved_bytes, SLOTS * t.s->train->saved_bytes);
    cr_assert_eq(x.exec->scratch_bytes, t.s->train->scratch_bytes);
    free(a);
    free(b);
    close_slotted(&t, &x);
    tiny_close(&t);
}

Test(slots, micro_batches_in_flight)
{
    check("train.split_weight_gradient=false");
}

Test(slots, with_weight_gradients_put_off)
{
    check("train.split_weight_gradient=true");
}
