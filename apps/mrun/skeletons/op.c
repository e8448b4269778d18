/*
 * skeleton - an op for mrun: y = a + scale * b, for equal shapes.
 *
 * With shape() and ref() alone an op runs on every backend; vjp() makes it trainable; the
 * sharding rule lets it be split over ranks; the cases are what it is tested with. The
 * reference loops are the definition of truth: plain, in double, rounded once.
 */
#include "mrun/op.h"

static mr_status shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *a = c->in[0], *b = c->in[1];
    if (!mr_is(a, "f32") && !mr_is(a, "f64") && !mr_is(a, "bf16"))
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                       "skeleton.scaled_add takes f32, f64, bf16");
    if (a->rank != b->rank || !mr_is(b, a->dtype) ||
        memcmp(a->dim, b->dim, a->rank * sizeof *a->dim))
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                       "skeleton.scaled_add: both operands must have one type");
    *out[0] = *a;
    return MR_OK;
}

static double get(const mr_type *t, const void *p, int64_t i)
{
    if (mr_is(t, "f64"))
        return ((const double *)p)[i];
    if (mr_is(t, "f32"))
        return ((const float *)p)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16; /* bf16: the upper half of a float */
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void put(const mr_type *t, void *p, int64_t i, double x)
{
    float f = (float)x;
    uint32_t bits;
    if (mr_is(t, "f64")) {
        ((double *)p)[i] = x;
    } else if (mr_is(t, "f32")) {
        ((float *)p)[i] = f;
    } else { /* to nearest, ties to even; a NaN stays one */
        memcpy(&bits, &f, sizeof bits);
        bits = f != f ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
        ((uint16_t *)p)[i] = (uint16_t)(bits >> 16);
    }
}

static mr_status ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    const mr_type *t = c->in[0];
    double scale = mr_attr_f(c, "scale", 1);
    (void)err;
    for (int64_t i = 0; i < mr_numel(t); i++)
        put(t, out[0].data, i, get(t, in[0].data, i) + scale * get(t, in[1].data, i));
    return MR_OK;
}

/* da = dy;  db = scale * dy, which this op itself says: dy + (scale - 1) * dy */
static mr_status vjp(const mr_vjp *v, mr_err *err)
{
    mr_val dy = v->dout[0], db = 0;
    (void)err;
    if (!dy)
        return MR_OK;
    if (v->need[0])
        v->din[0] = dy;
    if (v->need[1]) {
        mr_attr scale = mr_af("scale", mr_attr_f(v->call, "scale", 1) - 1);
        v->op(v, "skeleton.scaled_add", MR_IN(dy, dy), &scale, 1, &db, 1);
        v->din[1] = db;
    }
    return MR_OK;
}

static void cost(const mr_call *c, mr_cost *out)
{
    out->flops = 2 * (double)mr_numel(c->in[0]);
    out->bytes = 3 * (double)mr_bytes(c->in[0]);
}

static const char *const cases[] = {
    "a=F[7,5] b=F[7,5] @scale=0.5",
    "a=F[12] b=F[12]",
    NULL
};

static const mr_op_def scaled_add = {
    .size = sizeof scaled_add,
    .id = "skeleton.scaled_add",
    .doc = "y = a + scale b",
    .sig = "a b -> y",
    .attrs = "scale:f=1",
    .shape = shape,
    .vjp = vjp,
    .ref = ref,
    .cost = cost,
    .shard = "T D, T D -> T D | T:map D:map",
    .cases = cases,
};

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "op",
    .name = "skeleton",
    .doc = "adds a scaled value",
    .table = &scaled_add,
};

MR_PLUGIN_NOTE("org.example.skeleton", "0.1.0", "op/skeleton");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.example.skeleton",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "an op",
    .units = &unit,
    .n_units = 1,
};
