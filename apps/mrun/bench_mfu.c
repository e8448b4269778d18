/* SPDX-License-Identifier: Apache-2.0
 * bench_mfu.c - see bench_mfu.h. */
#include "bench_mfu.h"
#include <string.h>

/* The share of a weight that a token meets in this node. */
static double share_of(const mr_prog *p, const mri_node *n, double tokens)
{
    if (!strncmp(n->def->id, "embedding", strlen("embedding")))
        return 0;
    if (strncmp(n->def->id, "grouped_linear", strlen("grouped_linear")))
        return 1;
    double rows = (double)mri_val(p, n->in[0])->type.dim[0];
    double experts = (double)mri_val(p, n->in[1])->type.dim[0];
    return rows / (tokens * experts);
}

static double attention_flops(const mr_prog *p, const mri_node *n, int64_t seq)
{
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_call c = mri_node_call(p, n, types);
    int64_t heads = mr_attr_i(&c, "heads", 0);
    int64_t chunk = mr_attr_i(&c, "chunk", 0), span = chunk > 0 && chunk < seq ? chunk : seq;
    if (heads < 1)
        return 0;
    int64_t width = mr_attr_i(&c, "head_dim", 0) + mr_last(c.out[0]) / heads; /* of q and v */
    return 3.0 * (double)heads * (double)span * (double)width;
}

/* A weight counts once a block, by the node that meets most of it. */
static void add_block(const mr_prog *p, double tokens, int64_t seq, bench_work *w)
{
    for (size_t v = 0; v < p->values.n; v++) {
        double share = 0;
        if (p->values.v[v].kind != MRI_PARAM)
            continue;
        for (size_t i = 0; i < p->nodes.n; i++)
            for (uint32_t k = 0; k < p->nodes.v[i].n_in; k++)
                if (p->nodes.v[i].in[k] == v + 1 && p->nodes.v[i].phase == MRI_F) {
                    double s = share_of(p, &p->nodes.v[i], tokens);
                    share = s > share ? s : share;
                }
        w->active += share * (double)mr_numel(&p->values.v[v].type);
    }
    for (size_t i = 0; i < p->nodes.n; i++)
        if (p->nodes.v[i].phase == MRI_F && !p->nodes.v[i].recomputed &&
            (!strcmp(p->nodes.v[i].def->id, "attention") ||
             !strcmp(p->nodes.v[i].def->id, "qkv_attention")))
            w->attention += attention_flops(p, &p->nodes.v[i], seq);
}

bench_work bench_work_of(const mri_exec *train, int64_t seq)
{
    bench_work w = { 0 };
    for (uint32_t i = 0; i < mri_exec_instances(train); i++)
        add_block(mri_exec_frame(train, 0, i)->plan->prog, (double)train->opt.tokens, seq, &w);
    w.flops = 6 * w.active + w.attention;
    return w;
}

static const struct {
    const char *name;
    double flops;
} stated[] = { { "H200", 989.4e12 },  { "H100 80GB HBM3", 989.4e12 }, { "H100 SXM", 989.4e12 },
               { "H100 PCIe", 756e12 }, { "A100", 312e12 } };

double bench_stated_peak(const char *device)
{
    for (size_t i = 0; device && i < sizeof stated / sizeof *stated; i++)
        if (strstr(device, stated[i].name))
            return stated[i].flops;
    return 0;
}
