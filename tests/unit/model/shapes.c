/* SPDX-License-Identifier: Apache-2.0
 *
 * shapes.c - signatures and output shapes of the ops that model families use, as
 * core/ops/README.md tables them. Written apart from core/ops on purpose: the catalogue and
 * this table must agree for a family to pass.
 */
#include "shapes.h"
#include <string.h>

static int64_t attr_i(const mr_call *c, const char *key)
{
    return mr_attr_i(c, key, 0);
}

#define FAIL_UNLESS(x)                                                                             \
    do {                                                                                           \
        if (!(x))                                                                                  \
            return #x;                                                                             \
    } while (0)

static mr_type with_last(const mr_type *t, int64_t last)
{
    mr_type o = *t;
    o.dim[o.rank - 1] = last;
    return o;
}

static const char *linear(const mr_call *c, mr_type *out)
{
    const mr_type *x = c->in[0], *w = c->in[1], *bias = c->in[2];
    FAIL_UNLESS(w->rank == 2 && mr_last(x) == w->dim[1]);
    FAIL_UNLESS(!bias || (bias->rank == 1 && bias->dim[0] == w->dim[0]));
    out[0] = with_last(x, w->dim[0]);
    out[0].dtype = mr_attr_s(c, "out_dtype", x->dtype);
    return NULL;
}

static const char *add(const mr_call *c, mr_type *out)
{
    FAIL_UNLESS(c->in[0]->rank == c->in[1]->rank && mr_numel(c->in[0]) == mr_numel(c->in[1]));
    out[0] = *c->in[0];
    return NULL;
}

static const char *embedding(const mr_call *c, mr_type *out)
{
    FAIL_UNLESS(mr_is(c->in[0], "i32") && c->in[0]->rank == 1 && c->in[1]->rank == 2);
    out[0] = mr_type2(c->in[1]->dtype, c->in[0]->dim[0], c->in[1]->dim[1]);
    return NULL;
}

static const char *rmsnorm(const mr_call *c, mr_type *out)
{
    const mr_type *x = c->in[0], *w = c->in[1];
    int64_t n = attr_i(c, "group") ? attr_i(c, "group") : mr_last(x);
    FAIL_UNLESS(mr_last(x) % n == 0 && (!w || mr_numel(w) == n));
    FAIL_UNLESS(mr_attr_f(c, "eps", 0) > 0);
    out[0] = *x;
    out[1] = with_last(x, mr_last(x) / n);
    out[1].dtype = "f32";
    return NULL;
}

static const char *layernorm(const mr_call *c, mr_type *out)
{
    const mr_type *x = c->in[0];
    FAIL_UNLESS(mr_numel(c->in[1]) == mr_last(x));
    FAIL_UNLESS(!c->in[2] || mr_numel(c->in[2]) == mr_last(x));
    out[0] = *x;
    out[1] = out[2] = mr_type1("f32", mr_rows(x));
    return NULL;
}

static const char *rope(const mr_call *c, mr_type *out)
{
    const mr_attr *f = mr_attr_find(c, "inv_freq");
    int64_t C = attr_i(c, "head_dim");
    FAIL_UNLESS(f && f->type == MR_A_F64S && 2 * (int64_t)f->n <= C);
    FAIL_UNLESS(C > 0 && mr_last(c->in[0]) % C == 0);
    FAIL_UNLESS(mr_is(c->in[1], "i32") && c->in[1]->dim[0] == c->in[0]->dim[0]);
    out[0] = *c->in[0];
    return NULL;
}

static const char *attn_temperature(const mr_call *c, mr_type *out)
{
    FAIL_UNLESS(mr_is(c->in[1], "i32") && mr_attr_f(c, "floor_scale", 0) > 0);
    out[0] = *c->in[0];
    return NULL;
}

static const char *heads(const mr_call *c)
{
    int64_t H = attr_i(c, "heads"), G = attr_i(c, "kv_heads"), C = attr_i(c, "head_dim");
    FAIL_UNLESS(G > 0 && H % G == 0 && C > 0);
    FAIL_UNLESS(mr_last(c->in[0]) == H * C && mr_last(c->in[1]) == G * C);
    FAIL_UNLESS(mr_last(c->in[2]) % G == 0 && mr_is(c->in[3], "i32"));
    return NULL;
}

static const char *attention(const mr_call *c, mr_type *out)
{
    const char *bad = heads(c);
    if (bad)
        return bad;
    out[0] = with_last(c->in[0], mr_last(c->in[2]) / attr_i(c, "kv_heads") * attr_i(c, "heads"));
    out[1] = mr_type2("f32", c->in[0]->dim[0], attr_i(c, "heads"));
    return NULL;
}

/* widths of a head: nope, rope; of its value, where kv is as wide as all heads' keys and values */
typedef struct mla {
    int64_t H, N, P, V;
} mla;

static mla mla_of(const mr_call *c, int64_t kv)
{
    const mr_attr *f = mr_attr_find(c, "inv_freq");
    mla m = { attr_i(c, "heads"), attr_i(c, "nope_dim"), f ? 2 * (int64_t)f->n : 0, 0 };
    m.V = m.H > 0 && kv % m.H == 0 ? kv / m.H - m.N : 0;
    return m;
}

static const char *mla_kv(const mr_call *c, mr_type *out)
{
    mla m = mla_of(c, mr_last(c->in[0]));
    FAIL_UNLESS(m.V > 0 && m.P > 0 && mr_last(c->in[1]) == m.P && mr_is(c->in[2], "i32"));
    out[0] = with_last(c->in[0], m.H * (m.N + m.P));
    out[1] = with_last(c->in[0], m.H * m.V);
    return NULL;
}

static const char *mla_paged(const mr_call *c, mr_type *out)
{
    mla m = mla_of(c, c->in[3]->dim[0]);
    int64_t L = mr_last(c->in[1]);
    FAIL_UNLESS(m.V > 0 && mr_last(c->in[0]) == m.H * (m.N + m.P) && mr_last(c->in[2]) == m.P);
    FAIL_UNLESS(mr_last(c->in[3]) == L && mr_is(c->in[4], "i32") && mr_is(c->in[5], "i32"));
    FAIL_UNLESS(mr_is(c->in[6], "i32") && c->in[6]->rank == 2);
    FAIL_UNLESS(c->in[7]->rank == 3 && mr_last(c->in[7]) == L + m.P);
    out[0] = with_last(c->in[0], m.H * m.V);
    return NULL;
}

static const char *split(const mr_call *c, mr_type *out)
{
    int64_t first = attr_i(c, "first");
    FAIL_UNLESS(first > 0 && first < mr_last(c->in[0]));
    out[0] = with_last(c->in[0], first);
    out[1] = with_last(c->in[0], mr_last(c->in[0]) - first);
    return NULL;
}

static const char *attention_paged(const mr_call *c, mr_type *out)
{
    FAIL_UNLESS(mr_is(c->in[5], "i32") && c->in[5]->rank == 2);
    for (int i = 6; i < 8; i++)
        FAIL_UNLESS(c->in[i]->rank == 3 && mr_last(c->in[i]) == mr_last(c->in[1]));
    out[0] = *c->in[0];
    return heads(c);
}

static const char *swiglu(const mr_call *c, mr_type *out)
{
    const mr_type *gate = c->in[0], *up = c->in[1];
    FAIL_UNLESS(up ? mr_last(gate) == mr_last(up) : mr_last(gate) % 2 == 0);
    out[0] = up ? *gate : with_last(gate, mr_last(gate) / 2);
    return NULL;
}

static const char *same(const mr_call *c, mr_type *out)
{
    out[0] = *c->in[0];
    return NULL;
}

static const char *cross_entropy(const mr_call *c, mr_type *out)
{
    int64_t T = c->in[0]->dim[0];
    FAIL_UNLESS(mr_is(c->in[1], "i32") && mr_is(c->in[2], "f32"));
    FAIL_UNLESS(c->in[1]->dim[0] == T && c->in[2]->dim[0] == T);
    out[0] = mr_type1("f32", 1);
    out[1] = out[2] = mr_type1("f32", T);
    return NULL;
}

static const char *route_topk(const mr_call *c, mr_type *out)
{
    int64_t K = attr_i(c, "k");
    FAIL_UNLESS(K >= 1 && K <= mr_last(c->in[0]));
    out[0] = mr_type2("f32", c->in[0]->dim[0], K);
    out[1] = mr_type2("i32", c->in[0]->dim[0], K);
    return NULL;
}

static const char *route_plan(const mr_call *c, mr_type *out)
{
    FAIL_UNLESS(mr_is(c->in[0], "i32") && attr_i(c, "experts") > 0);
    out[0] = out[1] = mr_type1("i32", mr_numel(c->in[0]));
    out[2] = mr_type1("i32", attr_i(c, "experts") + 1);
    return NULL;
}

static const char *permute(const mr_call *c, mr_type *out)
{
    FAIL_UNLESS(mr_is(c->in[1], "i32") && mr_is(c->in[2], "i32"));
    FAIL_UNLESS(!c->in[3] || mr_numel(c->in[3]) == c->in[1]->dim[0]);
    FAIL_UNLESS(c->in[1]->dim[0] % c->in[0]->dim[0] == 0);
    out[0] = mr_type2(c->in[0]->dtype, c->in[1]->dim[0], c->in[0]->dim[1]);
    return NULL;
}

static const char *unpermute(const mr_call *c, mr_type *out)
{
    int64_t K = attr_i(c, "k");
    FAIL_UNLESS(K > 0 && c->in[0]->dim[0] % K == 0);
    out[0] = mr_type2(c->in[0]->dtype, c->in[0]->dim[0] / K, c->in[0]->dim[1]);
    return NULL;
}

static const char *grouped_linear(const mr_call *c, mr_type *out)
{
    const mr_type *w = c->in[1];
    int io = !strcmp(mr_attr_s(c, "layout", "io"), "io");
    FAIL_UNLESS(w->rank == 3 && w->dim[io ? 1 : 2] == mr_last(c->in[0]));
    FAIL_UNLESS(c->in[2]->dim[0] == w->dim[0] + 1);
    out[0] = with_last(c->in[0], w->dim[io ? 2 : 1]);
    return NULL;
}

static const char *moe_aux_loss(const mr_call *c, mr_type *out)
{
    const char *type = mr_attr_s(c, "type", "");
    FAIL_UNLESS(mr_is(c->in[0], "f32") && mr_is(c->in[1], "i32") && attr_i(c, "k") > 0);
    FAIL_UNLESS(!strcmp(type, "aux") || !strcmp(type, "seq_aux"));
    out[0] = mr_type1("f32", 1);
    out[1] = *c->in[0];
    return NULL;
}

static const char *router_z_loss(const mr_call *c, mr_type *out)
{
    FAIL_UNLESS(mr_is(c->in[0], "f32") && mr_attr_f(c, "coeff", 0) > 0);
    out[0] = mr_type1("f32", 1);
    out[1] = mr_type1("f32", c->in[0]->dim[0]);
    return NULL;
}

static const fk_shape table[] = {
    { "linear", "x w bias? -> y", "out_dtype", linear },
    { "add", "a b -> y", "", add },
    { "embedding", "ids table -> y", "skip", embedding },
    { "rmsnorm", "x w? -> y rstd", "eps group", rmsnorm },
    { "layernorm", "x w bias? -> y mean rstd", "eps", layernorm },
    { "rope", "x positions -> y", "head_dim inv_freq interleaved factor inverse", rope },
    { "attn_temperature", "x positions -> y", "floor_scale attn_scale", attn_temperature },
    { "attention", "q k v seq_start -> o lse", "heads kv_heads head_dim scale chunk seq packed",
      attention },
    { "attention.paged", "q k v positions slot pages k_cache! v_cache! -> o",
      "heads kv_heads head_dim scale chunk seq packed", attention_paged },
    { "rope_tail", "x positions -> y", "head_dim inv_freq factor inverse", rope },
    { "mla_kv", "kv kr positions -> k v", "heads nope_dim inv_freq factor", mla_kv },
    { "mla_attention.paged", "q c kr w positions slot pages cache! -> o",
      "heads nope_dim inv_freq factor scale", mla_paged },
    { "split", "x -> a b", "first", split },
    { "swiglu", "gate up? -> y", "", swiglu },
    { "gelu", "x -> y", "approx", same },
    { "cross_entropy", "logits targets weight -> loss nll lse", "", cross_entropy },
    { "route_topk", "logits bias? -> probs index",
      "k score pre_softmax norm scale groups group_topk group_best", route_topk },
    { "route_plan", "index -> rows slots offsets", "experts", route_plan },
    { "permute", "x rows slots probs? -> y", "", permute },
    { "unpermute", "y rows slots probs? -> x", "k", unpermute },
    { "grouped_linear", "x w offsets -> y", "layout", grouped_linear },
    { "moe_aux_loss", "logits seq_start -> loss counts", "k type score coeff", moe_aux_loss },
    { "router_z_loss", "logits -> loss lse", "coeff", router_z_loss },
};

const fk_shape *fk_shape_of(const char *id)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(table[i].id, id))
            return &table[i];
    return NULL;
}
