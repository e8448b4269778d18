/* SPDX-License-Identifier: Apache-2.0
 *
 * In mode decode a block's `attention` becomes attention.paged, with caches of its own and the
 * inputs that go with them, and logits come with the likeliest ids; in other modes nothing is
 * changed.
 */
#include "../../kit.h"
#include "core/program/assembly.h"

enum { T = 6, WIDTH = 8 };

/* two attentions in a row, of keys of 4 and of 8 values */
static mr_status build(void *model, const char *kind, const mr_block_env *env, const mr_builder *b,
                       mr_prog *p, mr_err *err)
{
    mr_net n = { b, p };
    mr_type t = mr_type1("i32", T);
    mr_param wide = { .size = sizeof wide, .type = mr_type2("model", WIDTH, WIDTH),
                      .init = "normal", .scale = 1 };
    mr_param narrow = wide;
    (void)model, (void)kind, (void)err;
    narrow.type.dim[0] = 4;
    mr_val out[2] = { 0, 0 }, start = b->input(p, "seq_start", &t);
    mr_val w = b->param(p, "w", &wide), k = b->param(p, "k", &narrow);
    mr_type tokens = mr_type2("model", 50, WIDTH);
    mr_param table = { .size = sizeof table, .type = tokens, .init = "normal", .scale = 1 };
    mr_val x = MR_OP(n, "embedding", MR_IN(b->input(p, "tokens", &t), b->param(p, "e", &table)),
                     MR_NOAT);
    b->region(p, "core_attn");
    MR_OPN(n, "attention", out, 2,
           MR_IN(x, MR_OP(n, "linear", MR_IN(x, k, 0), MR_NOAT),
                 MR_OP(n, "linear", MR_IN(x, k, 0), MR_NOAT), start),
           MR_AT(mr_ai("heads", 2), mr_ai("kv_heads", 1), mr_ai("head_dim", 4),
                 mr_ai("chunk", 3)));
    x = out[0];
    mr_val q = MR_OP(n, "linear", MR_IN(x, w, 0), MR_NOAT);
    MR_OPN(n, "attention", out, 2, MR_IN(q, x, q, start),
           MR_AT(mr_ai("heads", 2), mr_ai("kv_heads", 2), mr_ai("head_dim", 4)));
    b->end(p);
    b->output(p, "logits", mr_logit_rows(n, env, out[0]));
    return 0;
}

static mr_status assemble(void *model, const mr_assembler *a, mr_asm *as, mr_err *err)
{
    (void)model, (void)err;
    a->instance(as, "block", "");
    return 0;
}

static const mr_model_ops ops = { .size = sizeof ops, .assemble = assemble, .build = build };

/* the catalogue's, or one that says as much */
static mr_status index_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    (void)err;
    *out[0] = mr_type1("i32", c->in[0]->dim[0]);
    return 0;
}

static mr_status index_loop(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)in, (void)err;
    memset(out[0].data, 0, (size_t)c->in[0]->dim[0] * 4);
    return 0;
}

static const mr_op_def argmax = { .size = sizeof argmax, .flags = MR_OP_NO_VJP, .id = "argmax",
                                  .doc = "the likeliest", .sig = "logits -> index",
                                  .shape = index_shape, .ref = index_loop };

static const mri_node *find(const mr_prog *p, const char *id, int nth)
{
    for (size_t i = 0; i < p->nodes.n; i++)
        if (!strcmp(p->nodes.v[i].def->id, id) && !nth--)
            return &p->nodes.v[i];
    return NULL;
}

static void is_cache(const mr_prog *p, mr_val v, const char *name, int64_t width)
{
    const mri_value *x = mri_val(p, v);
    cr_assert_eq(x->kind, MRI_STATE);
    cr_assert_str_eq(x->name, name);
    cr_assert_eq(x->flags, MR_STATE_PAGED);
    cr_assert_str_eq(x->type.dtype, "bf16");
    cr_assert(x->type.rank == 3 && x->type.dim[0] == 11 && x->type.dim[1] == 16 &&
              x->type.dim[2] == width);
}

Test(decode_form, attention_gets_caches_of_its_own)
{
    mri_assembly *a;
    mr_err err = MR_ERR_INIT;
    mr_block_env env = { .size = sizeof env, .mode = "decode", .tokens = T, .slots = 3,
                         .max_seq = 70, .pages = 11, .page = 16, .logit_rows = 2 };
    if (!mri_op_find("argmax"))
        kit_ok(mri_op_register(&argmax, &err), &err, "register");
    kit_ok(mri_assemble(&ops, NULL, &env, "bf16", &a, &err), &err, "assemble");
    const mr_prog *p = a->kinds.v[0].prog;
    cr_assert_null(find(p, "attention", 0));
    const mri_node *one = find(p, "attention.paged", 0), *two = find(p, "attention.paged", 1);
    cr_assert(one && two && !find(p, "attention.paged", 2));
    is_cache(p, one->in[6], "k_cache", 4);
    is_cache(p, one->in[7], "v_cache", 4);
    is_cache(p, two->in[6], "k_cache.2", 8);
    is_cache(p, two->in[7], "v_cache.2", 8);
    cr_assert_str_eq(p->regions.v[two->region].name, "core_attn");
    cr_assert_eq(one->n_attr, 4);
    cr_assert_str_eq(one->attr[3].key, "chunk");
    static const char *const fed[] = { "positions", "slot", "pages" };
    for (int i = 0; i < 3; i++) {
        cr_assert_str_eq(mri_val(p, one->in[3 + i])->name, fed[i]);
        cr_assert_eq(one->in[3 + i], two->in[3 + i], "both read the one %s", fed[i]);
    }
    cr_assert_eq(mri_val(p, one->in[5])->type.dim[1], 5, "70 positions are 5 pages");
    cr_assert_eq(mri_val(p, p->outputs.v[0].value)->type.dim[0], 2);
    const mri_node *best = find(p, "argmax", 0);
    cr_assert_eq(best->in[0], mri_port_find(&p->outputs, "logits"));
    cr_assert_eq(best->out[0], mri_port_find(&p->outputs, "next"));
    mri_assembly_free(a);
}

Test(decode_form, other_modes_are_as_they_were_said)
{
    static const char *const modes[] = { "train", "infer" };
    for (int i = 0; i < 2; i++) {
        mri_assembly *a;
        mr_err err = MR_ERR_INIT;
        mr_block_env env = { .size = sizeof env, .mode = modes[i], .tokens = T };
        kit_ok(mri_assemble(&ops, NULL, &env, "bf16", &a, &err), &err, "assemble");
        const mr_prog *p = a->kinds.v[0].prog;
        cr_assert(find(p, "attention", 1) && !find(p, "attention.paged", 0));
        cr_assert(!mri_port_find(&p->outputs, "next"));
        cr_assert_eq(mri_val(p, p->outputs.v[0].value)->type.dim[0], T);
        mri_assembly_free(a);
    }
}
