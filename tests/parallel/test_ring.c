/* SPDX-License-Identifier: Apache-2.0
 * [mesh] cp_comm_type = p2p: keys and values pass round the ranks of a sequence. Training has the
 * losses of one rank, alone and with other axes; a rank holds at most two blocks of other ranks'
 * keys and values at a time, however many ranks there are; each travels beside a step's attention.
 */
#include "losses.h"
#include "world.h"

enum { STEPS = 4 };

static const char *const llama4[] = { "model.heads=4", "model.kv_heads=2", "model.head_dim=4",
                                      "model.llama4.experts=4", NULL };
static const char *const kimi[] = {
    "model.plugin=kimi_k2", "model.heads=4", "model.kv_heads=4", "model.head_dim=10",
    "model.kimi_k2.q_lora_rank=12", "model.kimi_k2.kv_lora_rank=10", "model.kimi_k2.nope_dim=6",
    "model.kimi_k2.rope_dim=4", "model.kimi_k2.value_dim=5", "model.kimi_k2.experts=4",
    "model.kimi_k2.experts_per_token=2", "model.kimi_k2.expert_hidden=12", NULL
};

static void train(job *j, const char *dir, const char *const *model, const char *const *mesh)
{
    const char *words[64] = { "p.ini", "-q", "--set", "train.steps=4", "--set",
                              "train.global_batch=4", "--set", "train.micro_batch=2", "--set" };
    size_t n = 9;
    char *at = mri_format("run.dir=%s", dir);
    words[n++] = at;
    for (int list = 0; list < 2; list++)
        for (const char *const *w = list ? mesh : model; w && *w; w++) {
            words[n++] = "--set";
            words[n++] = *w;
        }
    job_child c = job_start(j, words);
    job_result r = job_wait(c);
    JOB_EXPECT(&r, 0, NULL);
    free(at);
}

#define RING "comm.plugin=sim", "mesh.cp_comm_type=p2p"

static void check(const char *const *model, const char *const (*meshes)[8], size_t n)
{
    job j = job_new();
    char *one = mri_strdup(job_path(&j, "one"));
    train(&j, "one", model, NULL);
    for (size_t i = 0; i < n; i++) {
        char dir[24];
        snprintf(dir, sizeof dir, "m%zu", i);
        train(&j, dir, model, meshes[i]);
        same_losses(one, job_path(&j, dir), STEPS);
    }
    free(one);
    job_free(&j);
}

Test(ring, llama4_has_the_losses_of_one_rank)
{
    static const char *const meshes[][8] = {
        { RING, "comm.sim.ranks=4", "mesh.cp=2", "mesh.tp=2" },
        { RING, "comm.sim.ranks=4", "mesh.cp=2", "mesh.pp=2" },
        { RING, "comm.sim.ranks=2", "mesh.cp=2", "mesh.ep=2" },
        { RING, "comm.sim.ranks=4", "mesh.cp=4", "train.recompute=full" },
        { RING, "comm.sim.ranks=4", "mesh.cp=4", "mesh.overlap=false", "debug.poison=true" },
    };
    check(llama4, meshes, sizeof meshes / sizeof *meshes);
}

Test(ring, kimi_k2_has_the_losses_of_one_rank)
{
    static const char *const meshes[][8] = {
        { RING, "comm.sim.ranks=4", "mesh.cp=4", "debug.poison=true" },
        { RING, "comm.sim.ranks=4", "mesh.cp=2", "mesh.tp=2", "mesh.ep=2" },
    };
    check(kimi, meshes, sizeof meshes / sizeof *meshes);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Was this value another rank's key, value or latent, on its way round? Made in the forward: sums
 * of gradients travel too. */
static bool travels(const mr_prog *p, mr_val v)
{
    const mri_value *x = mri_val(p, v);
    bool shifted = false;
    while (x->kind == MRI_TEMP && !strcmp(p->nodes.v[x->node].def->id, "comm.shift")) {
        x = mri_val(p, p->nodes.v[x->node].in[0]);
        shifted = true;
    }
    return shifted && (x->kind != MRI_TEMP || x->phase == MRI_F);
}

enum { RANKS = 8 };

typedef struct seen { /* by rank: buffers of others' blocks, in all and at a time */
    uint32_t all[RANKS], most[RANKS];
} seen;

static mr_status measure(par_rank *r, void *ctx, mr_err *err)
{
    seen *to = ctx;
    mri_session_options o = { .needs = MRI_NEED_TRAIN };
    mr_status st = 0;
    MR_TRY(par_session(r, &o, err));
    for (size_t f = 0; f < r->session->train->frames.n; f++) {
        const mri_plan *p = r->session->train->frames.v[f].plan;
        size_t steps = p->steps[MRI_F].n + p->steps[MRI_B].n + p->steps[MRI_W].n;
        for (uint32_t s = 0; s < steps; s++) {
            uint32_t now = 0;
            for (size_t i = 0; i < p->buffers.n; i++) {
                const mri_buffer *b = &p->buffers.v[i];
                if (!b->value || !travels(p->prog, b->value))
                    continue;
                to->all[r->rank] += !s;
                now += b->seg != MRI_SEG_SCRATCH || (b->first <= s && s <= b->last);
            }
            if (now > to->most[r->rank])
                to->most[r->rank] = now;
        }
    }
out:
    return st;
}

/* Transfers of the forward, and those beside which an attention runs, before anybody waits. */
static mr_status count_beside(par_rank *r, void *ctx, mr_err *err)
{
    seen *to = ctx;
    mri_session_options o = { .needs = MRI_NEED_TRAIN };
    mr_status st = 0;
    MR_TRY(par_session(r, &o, err));
    for (size_t f = 0; f < r->session->train->frames.n; f++) {
        const mri_plan *p = r->session->train->frames.v[f].plan;
        const mri_step *v = p->steps[MRI_F].v;
        for (uint32_t i = 0; i < p->steps[MRI_F].n; i++) {
            bool beside = false;
            if (v[i].comm != MRI_STEP_SHIFT)
                continue;
            for (uint32_t k = i + 1; k <= v[i].done; k++)
                beside |= !strcmp(p->prog->nodes.v[v[k].node].def->id, "attention.part");
            to->all[r->rank]++;
            to->most[r->rank] += beside;
        }
    }
out:
    return st;
}

Test(ring, transfers_run_beside_attention)
{
    for (int overlap = 0; overlap < 2; overlap++) {
        seen x = { .most = { 0 } };
        par_run(par_source("profiles/parity-tiny.ini"),
                (const char *const[]){ "mesh.cp=4", "mesh.cp_comm_type=p2p", "train.seq=128",
                                       "train.global_batch=2", "train.micro_batch=2",
                                       overlap ? "mesh.overlap=true" : "mesh.overlap=false", NULL },
                4, count_beside, &x);
        for (uint32_t r = 0; r < 4; r++) {
            cr_assert_gt(x.all[r], 0);
            cr_assert_eq(x.most[r], overlap ? x.all[r] : 0, "%u of %u transfers of rank %u",
                         x.most[r], x.all[r], r);
        }
    }
}

/* A block is `values` values: k and v, or latents, the keys' shared part and positions. */
static void holds_two_blocks(uint32_t ranks, const char *cp, const char *model, uint32_t values)
{
    seen x = { .most = { 0 } };
    par_run(par_source("profiles/parity-tiny.ini"),
            (const char *const[]){ cp, "mesh.cp_comm_type=p2p", "train.global_batch=2",
                                   "train.micro_batch=2", "train.seq=128", model, NULL },
            ranks, measure, &x);
    for (uint32_t r = 0; r < ranks; r++) {
        cr_assert_geq(x.all[r], 2 * values * (ranks - 1)); /* of a layer, both ways */
        cr_assert_leq(x.most[r], 2 * values, "rank %u of %u holds %u values at a time", r, ranks,
                      x.most[r]);
    }
}

Test(ring, a_rank_holds_two_blocks_of_others)
{
    holds_two_blocks(4, "mesh.cp=4", "model.plugin=llama4", 2);
    holds_two_blocks(8, "mesh.cp=8", "model.plugin=llama4", 2);
    holds_two_blocks(4, "mesh.cp=4", "model.plugin=kimi_k2", 3);
}
