/* SPDX-License-Identifier: Apache-2.0
 *
 * compose.c - one assembly of two families. The text's own assemble() runs with an assembler of
 * ours: its kinds get "text." before them, its names what the checkpoint has before them, and its
 * first block, the embedding, is followed by "merge", of which all that read embeddings then read.
 *
 *   tower.embed > tower.layer ... > tower.end > projector          (train, infer, images)
 *   text.embed > merge > text.LAYER ... > text.head                (train, infer, decode)
 */
#include "vlm.h"
#include <stdlib.h>

/* The mr_asm of the text's assembler. */
typedef struct composer {
    const mr_assembler *host;
    mr_asm *as;
    const vlm_model *m;
    int32_t n, first, merge; /* text instances so far; of text instance 0; merge or -1 */
    int32_t features;        /* the projector, or -1: core feeds them */
    bool merges;
} composer;

static composer *of(mr_asm *as)
{
    return (composer *)(void *)as;
}

/* the host's number of text instance i */
static int32_t number(const composer *c, int32_t i)
{
    return c->first + i + (i > 0 && c->merges);
}

/* a name of the text's as the checkpoint has it */
static void full_name(const vlm_model *m, const char *name, char *out, size_t cap)
{
    if (m->text_under && !strncmp(name, "model.", 6))
        snprintf(out, cap, "%s%s", m->text_under, name + 6);
    else
        snprintf(out, cap, "%s%s", m->text_at, name);
}

static int32_t instance(mr_asm *as, const char *kind, const char *prefix)
{
    composer *c = of(as);
    char k[96], p[224];
    snprintf(k, sizeof k, "text.%s", kind ? kind : "");
    full_name(c->m, prefix ? prefix : "", p, sizeof p);
    int32_t at = c->host->instance(c->as, k, p);
    if (at < 0)
        return -1;
    if (!c->n) {
        c->first = at;
        if (c->merges) {
            c->merge = c->host->instance(c->as, "merge", "");
            if (c->merge >= 0 && c->features >= 0)
                c->host->edge(c->as, c->features, "features", c->merge, "image_features");
        }
    }
    /* a block without a prefix spells its names out: those under "model." may lie elsewhere */
    if (c->m->text_under && (!prefix || !*prefix)) {
        full_name(c->m, "model.norm.weight", p, sizeof p);
        c->host->bind(c->as, at, "model.norm.weight", p);
    }
    return c->n++;
}

static void edge(mr_asm *as, int32_t from, const char *out, int32_t to, const char *in)
{
    const composer *c = of(as);
    bool embedded = !from && c->merges && out && !strcmp(out, "y");
    c->host->edge(c->as, embedded ? c->merge : number(c, from), out, number(c, to), in);
}

static void bind(mr_asm *as, int32_t i, const char *name, const char *full)
{
    const composer *c = of(as);
    char p[224];
    full_name(c->m, full ? full : "", p, sizeof p);
    c->host->bind(c->as, number(c, i), name, p);
}

static int32_t assemble_tower(const vlm_model *m, const mr_assembler *a, mr_asm *as)
{
    char prefix[96];
    int32_t at = a->instance(as, "tower.embed", m->tower_at);
    for (int64_t i = 0; i < m->layers && at >= 0; i++) {
        snprintf(prefix, sizeof prefix, "%s%s%lld.", m->tower_at, m->tower->layer, (long long)i);
        at = a->instance(as, "tower.layer", prefix);
    }
    if (at >= 0 && m->tower->adapter)
        at = a->instance(as, "tower.end", m->tower_at);
    return at < 0 ? at : a->instance(as, "projector", m->project_at);
}

mr_status vlm_assemble(vlm_model *m, const mr_assembler *a, mr_asm *as, mr_err *err)
{
    const mr_block_env *env = MR_HAS(a, env) ? a->env : NULL;
    const char *mode = env ? env->mode : "train";
    bool pictures = env && MR_HAS(env, images) && env->images > 0;
    bool decode = !strcmp(mode, "decode"), alone = !strcmp(mode, "images");
    int32_t features = -1;
    if (alone && !pictures)
        return mr_fail(err, MR_E_PROGRAM, MR_BLAME_HOST, "vlm: mode \"images\" without images");
    if (pictures && !decode && (features = assemble_tower(m, a, as)) < 0)
        return mr_fail(err, MR_E_PROGRAM, MR_BLAME_HOST,
                       "vlm: the host refused a block of the tower");
    if (alone)
        return 0;
    composer c = { a, as, m, 0, 0, -1, features, pictures };
    const mr_assembler inner = { sizeof inner, 0, instance, edge, bind, env };
    return m->text.ops->assemble(m->text.model, &inner, (mr_asm *)(void *)&c, err);
}

/* ---- the text's blocks, all parameters frozen ------------------------------------------------ */
static _Thread_local const mr_builder *host_builder; /* of the build under way */

static mr_val frozen_param(mr_prog *p, const char *name, const mr_param *desc)
{
    mr_param f;
    size_t n = desc->size < sizeof f ? desc->size : sizeof f;
    memset(&f, 0, sizeof f);
    memcpy(&f, desc, n);
    f.size = (uint32_t)n;
    f.flags |= MR_PARAM_FROZEN;
    return host_builder->param(p, name, &f);
}

mr_status vlm_build_text(vlm_model *m, const char *kind, const mr_block_env *env,
                         const mr_builder *builder, mr_prog *prog, mr_err *err)
{
    mr_builder wrapped = *builder; /* of our size: what it has more, the text's family asks for */
    if (!(m->frozen & VLM_TEXT))
        return m->text.ops->build(m->text.model, kind, env, builder, prog, err);
    if (wrapped.size > sizeof wrapped)
        wrapped.size = sizeof wrapped;
    wrapped.param = frozen_param;
    host_builder = builder;
    return m->text.ops->build(m->text.model, kind, env, &wrapped, prog, err);
}
