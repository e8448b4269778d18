/* SPDX-License-Identifier: Apache-2.0
 *
 * values.c - the values of parameters, in whatever form they are kept (params.h): conversion
 * between dtypes, one parameter from and to the host, fresh weights.
 *
 * Invariant: all kept forms of a parameter come from one f32 value an element (f64 under recipe
 * fp64), so they always agree. Host memory is needed for a part of a parameter, not for all.
 */
#include "core/ops/ref.h"
#include "init.h"
#include "params.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t width(const char *dtype)
{
    return mr_dtype_bytes(dtype);
}

/* ---- conversion ------------------------------------------------------------------------- */

static double f16_to_double(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double power = e > 15 ? (double)(1 << (e - 15)) : 1.0 / (1 << (15 - e));
    double x = e == 31 ? (m ? (double)NAN : (double)INFINITY)
             : e       ? (1 + m / 1024.0) * power
                       : m / 1024.0 / 16384.0;
    return h >> 15 ? -x : x;
}

/* Rounded to nearest, ties to even; beyond the largest half it is infinite. */
static uint16_t double_to_f16(double x)
{
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double a = fabs(x);
    if (isnan(x))
        return sign | 0x7e00;
    if (a >= 65520)
        return sign | 0x7c00;
    if (a < 0x1p-14) /* subnormal: multiples of 2^-24; 1024 of them are the first normal one */
        return sign | (uint16_t)nearbyint(a * 0x1p24);
    int e;
    double m = nearbyint(frexp(a, &e) * 2048); /* 1024 .. 2048 */
    return sign | (uint16_t)(((e + 14) << 10) + ((int)m - 1024));
}

/* What whole models are converted by; all else goes element by element through double. */
static bool convert_fast(void *dst, const char *dst_dtype, const void *src, const char *src_dtype,
                         uint64_t n)
{
    if (!strcmp(src_dtype, "f32") && !strcmp(dst_dtype, "bf16"))
        for (uint64_t i = 0; i < n; i++)
            ((uint16_t *)dst)[i] = mri_f32_to_bf16(((const float *)src)[i]);
    else if (!strcmp(src_dtype, "bf16") && !strcmp(dst_dtype, "f32"))
        for (uint64_t i = 0; i < n; i++)
            ((float *)dst)[i] = mri_bf16_to_f32(((const uint16_t *)src)[i]);
    else
        return false;
    return true;
}

mr_status mri_convert(void *dst, const char *dst_dtype, const void *src, const char *src_dtype,
                      uint64_t n, mr_err *err)
{
    if (!strcmp(dst_dtype, src_dtype) && mr_dtype_bytes(src_dtype)) {
        memcpy(dst, src, n * mr_dtype_bytes(src_dtype));
        return 0;
    }
    if (convert_fast(dst, dst_dtype, src, src_dtype, n))
        return 0;
    static const char *const known[] = { "f32", "f64", "bf16", "f16" };
    bool from = false, to = false;
    for (int i = 0; i < 4; i++) {
        from |= !strcmp(src_dtype, known[i]);
        to |= !strcmp(dst_dtype, known[i]);
    }
    if (!from || !to)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                       "no conversion from dtype %s to %s", src_dtype, dst_dtype);
    mr_type ts = mr_type1(src_dtype, 1), td = mr_type1(dst_dtype, 1);
    mr_buf bs = { (void *)(uintptr_t)src, NULL }, bd = { dst, NULL };
    mri_view vs = mri_at(&ts, &bs), vd = mri_at(&td, &bd);
    bool half = !strcmp(src_dtype, "f16"), to_half = !strcmp(dst_dtype, "f16");
    for (uint64_t i = 0; i < n; i++) {
        double x = half ? f16_to_double(((const uint16_t *)src)[i]) : mri_get(vs, (int64_t)i);
        if (to_half)
            ((uint16_t *)dst)[i] = double_to_f16(x);
        else
            mri_put(vd, (int64_t)i, x);
    }
    return 0;
}

/* ---- to and from the device --------------------------------------------------------------- */

enum { PART = 1 << 20 }; /* elements that are converted at a time */

size_t mri_params_forms(const mri_params *p, const mri_tensor_slot *s, uint64_t i,
                        mri_param_form out[2])
{
    uint64_t at = s->at + i;
    char *master = mri_params_master(p, at), *weight = mri_params_kept_weight(p, at);
    char *rest = master ? NULL : mri_params_masters(p, at);
    size_t n = 0;
    if (p->rest_n && !master) { /* the halves of one number; the second may be another rank's */
        if (weight)
            out[n++] = (mri_param_form){ weight, "bf16", 2, true };
        if (rest)
            out[n++] = (mri_param_form){ rest, "i16", 2, true };
        return n;
    }
    if (weight && weight != master)
        out[n++] = (mri_param_form){ weight, p->dtype, width(p->dtype), false };
    if (master)
        out[n++] = (mri_param_form){ master, p->acc_dtype, width(p->acc_dtype), false };
    return n;
}

/* f32 values in halves; other dtypes go through f32 by small parts */
static mr_status encode_halves(void *const to[2], bool rest, const void *from, const char *dtype,
                               uint64_t n, mr_err *err)
{
    float part[1024];
    mr_status st = 0;
    for (uint64_t i = 0; i < n && !st; i += 1024) {
        uint64_t k = n - i < 1024 ? n - i : 1024;
        st = mri_convert(part, "f32", (const char *)from + i * width(dtype), dtype, k, err);
        for (uint64_t j = 0; j < k && !st; j++) {
            int16_t elsewhere;
            mri_split(part[j], (uint16_t *)to[0] + i + j,
                      rest ? (int16_t *)to[1] + i + j : &elsewhere);
        }
    }
    return st;
}

mr_status mri_params_encode(const mri_param_form *f, size_t n_forms, void *const to[2],
                            const void *from, const char *dtype, uint64_t n, mr_err *err)
{
    mr_status st = 0;
    if (n_forms && f[0].half)
        return encode_halves(to, n_forms > 1, from, dtype, n, err);
    for (size_t k = 0; k < n_forms && !st; k++)
        st = mri_convert(to[k], f[k].dtype, from, dtype, n, err);
    return st;
}

/* The part of parameter `s` from its element `i` on. `room`: PART elements of any two forms. */
static mr_status set_part(mri_params *p, mri_device *d, const mri_tensor_slot *s, uint64_t i,
                          uint64_t n, const void *from, const char *dtype, char *room, mr_err *err)
{
    mri_param_form f[2];
    size_t forms = mri_params_forms(p, s, i, f);
    void *to[2] = { room, room + PART * sizeof(double) };
    mr_status st = mri_params_encode(f, forms, to, from, dtype, n, err);
    for (size_t k = 0; k < forms && !st; k++)
        st = mri_device_write(d, f[k].at, to[k], n * f[k].width, err);
    return st;
}

/* The next elements from i on, at most PART, that lie side by side; *held: on this rank. */
static uint64_t part_of(const mri_params *p, const mri_tensor_slot *s, uint64_t i, bool *held)
{
    uint64_t n = mri_params_span(p, s, i, held);
    return *held && n > PART ? PART : n;
}

mr_status mri_params_set_part(mri_params *p, mri_device *d, const mri_tensor_slot *s, uint64_t i,
                              uint64_t n, const void *data, const char *dtype, mr_err *err)
{
    mr_status st = 0;
    char *room = mri_alloc(2 * PART * sizeof(double));
    for (uint64_t now; n && !st; i += now, n -= now) {
        bool held;
        now = part_of(p, s, i, &held);
        now = now < n ? now : n;
        if (held)
            st = set_part(p, d, s, i, now, data, dtype, room, err);
        data = (const char *)data + now * width(dtype);
    }
    free(room);
    return st;
}

mr_status mri_params_set(mri_params *p, mri_device *d, const mri_tensor_slot *s, const void *data,
                         const char *dtype, mr_err *err)
{
    return mri_params_set_part(p, d, s, 0, s->n, data, dtype, err);
}

static mr_status join_part(mri_device *d, const mri_param_form f[2], uint64_t n, float *out,
                           mr_err *err)
{
    uint16_t *weights = mri_alloc(n * sizeof *weights);
    int16_t *rest = mri_alloc(n * sizeof *rest);
    mr_status st = 0;
    MR_TRY(mri_device_read(d, weights, f[0].at, n * 2, err));
    MR_TRY(mri_device_read(d, rest, f[1].at, n * 2, err));
    for (uint64_t k = 0; k < n; k++)
        out[k] = mri_join(weights[k], rest[k]);
out:
    free(weights);
    free(rest);
    return st;
}

mr_status mri_params_get_part(const mri_params *p, mri_device *d, const mri_tensor_slot *s,
                              uint64_t i, uint64_t n, void *out, mr_err *err)
{
    const char *dtype = mri_params_exact_dtype(p, s);
    mr_status st = 0;
    for (uint64_t now; n && !st; i += now, n -= now) {
        mri_param_form f[2];
        bool held;
        now = part_of(p, s, i, &held);
        now = now < n ? now : n;
        size_t forms = held ? mri_params_forms(p, s, i, f) : 0;
        if (!forms || (f[0].half ? forms < 2 : strcmp(f[forms - 1].dtype, dtype) != 0))
            return mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST, "the exact value of element %llu of "
                           "parameter %s is on another rank", (unsigned long long)i, s->name);
        st = f[0].half ? join_part(d, f, now, out, err)
                       : mri_device_read(d, out, f[forms - 1].at, now * f[forms - 1].width, err);
        out = (char *)out + now * width(dtype);
    }
    return st;
}

mr_status mri_params_get(const mri_params *p, mri_device *d, const mri_tensor_slot *s, void *out,
                         mr_err *err)
{
    return mri_params_get_part(p, d, s, 0, s->n, out, err);
}

/* ---- fresh weights ------------------------------------------------------------------------ */

/* By the backend's own draw, where the parameter lies. MR_E_UNSUPPORTED: it has none for it. */
static mr_status draw_there(mri_params *p, mri_device *d, const mri_tensor_slot *s, uint64_t seed,
                            mr_err *err)
{
    mr_type types[2];
    const mr_type *given[2] = { NULL, NULL };
    mr_buf in[2] = { { 0 } };
    mr_attr attr[MRI_INIT_ATTRS];
    mri_param_form f[2];
    mr_kernel_info info = { .size = sizeof info };
    void *kernel = NULL;
    bool held;
    size_t n = mri_params_forms(p, s, 0, f);
    /* half of a number alone is rounded otherwise than weights that have no other half */
    if (mri_params_span(p, s, 0, &held) < s->n || !held || (n == 1 && f[0].half))
        return MR_E_UNSUPPORTED;
    mr_status st = mri_init_attrs(&s->desc, &s->place, s->name, seed, attr, err);
    for (size_t k = 0; k < n && !st; k++) {
        /* operand 1: bf16 weights beside a master or a rest, or alone */
        int to = f[k].half ? (int)(1 - k) : !strcmp(f[k].dtype, p->acc_dtype) ? 0 : 1;
        types[to] = mr_type1(f[k].dtype, (int64_t)s->n);
        given[to] = s->f32 && to ? NULL : &types[to];
        in[to].data = f[k].at;
    }
    mr_call call = { sizeof call, 2, 0, MRI_INIT_ATTRS, given, NULL, attr };
    st = st ? st : d->ops->query(d->dev, "draw", &call, 0, &kernel, &info, err);
    if (st || info.workspace) {
        if (!st)
            d->ops->release(d->dev, kernel);
        return st ? st : MR_E_UNSUPPORTED;
    }
    st = d->ops->run(d->dev, kernel, d->stream, in, NULL, NULL, err);
    if (!st)
        st = mri_device_sync(d, err);
    d->ops->release(d->dev, kernel);
    return st;
}

/* By core's loops and copies, part after part. */
static mr_status draw_here(mri_params *p, mri_device *d, const mri_tensor_slot *s, uint64_t seed,
                           mr_err *err)
{
    float *x = mri_alloc(PART * sizeof *x);
    char *room = mri_alloc(2 * PART * sizeof(double));
    mr_status st = 0;
    for (uint64_t i = 0, n; i < s->n && !st; i += n) {
        bool held;
        n = part_of(p, s, i, &held);
        if (!held)
            continue;
        st = mri_init_fill(&s->desc, &s->place, s->name, seed, (int64_t)i, (int64_t)n, x, err);
        if (!st)
            st = set_part(p, d, s, i, n, x, "f32", room, err);
    }
    free(x);
    free(room);
    return st;
}

mr_status mri_params_init(mri_params *p, mri_device *d, uint64_t seed, mr_err *err)
{
    bool there = !strcmp(p->acc_dtype, "f32");
    mr_status st = 0;
    for (size_t i = 0; i < p->slots.n && !st; i++) {
        const mri_tensor_slot *s = &p->slots.v[i];
        st = there ? draw_there(p, d, s, seed, err) : MR_E_UNSUPPORTED;
        if (st == MR_E_UNSUPPORTED) {
            *err = (mr_err)MR_ERR_INIT;
            st = draw_here(p, d, s, seed, err);
        }
    }
    return st;
}
