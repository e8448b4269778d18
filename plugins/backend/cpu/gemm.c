/* SPDX-License-Identifier: Apache-2.0
 * gemm.c - see gemm.h. The only file that knows the library, oneDNN. Its C interface lost the
 * operation descriptors and hid the memory descriptors between 2.x and 3.x; both are served.
 * f32 goes through dnnl_sgemm, which is as fast as a plan and needs none; bf16 through plans. */
#include "gemm.h"
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdlib.h>

mr_status cpu_sgemm(int ta, int tb, int64_t M, int64_t N, int64_t K, const float *A, int64_t lda,
                    const float *B, int64_t ldb, float beta, float *C, int64_t ldc, mr_err *err)
{
    if (M == 0 || N == 0)
        return MR_OK;
    dnnl_status_t s = dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', M, N, K, 1.0f, A, lda, B, ldb,
                                 beta, C, ldc);
    if (s == dnnl_success)
        return MR_OK;
    return mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV,
                   "oneDNN's sgemm of [%lld,%lld] by [%lld,%lld] failed with status %d",
                   (long long)M, (long long)K, (long long)K, (long long)N, (int)s);
}

/* ---- the two generations of the interface ------------------------------------------------ */
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t desc; /* a handle */
#define DESC(d) (d)
#define POST_SUM(ops) dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef)
typedef const_dnnl_memory_desc_t desc_ptr;

static dnnl_status_t desc_make(desc *d, const dnnl_dims_t dims, dnnl_data_type_t t,
                               const dnnl_dims_t strides)
{
    return dnnl_memory_desc_create_with_strides(d, 2, dims, t, strides);
}

static void desc_free(desc *d)
{
    if (*d)
        dnnl_memory_desc_destroy(*d);
}

static dnnl_status_t plan_make(dnnl_primitive_desc_t *pd, dnnl_engine_t e, desc *d,
                               dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(pd, e, d[0], d[1], d[2], d[3], attr);
}
#else
typedef dnnl_memory_desc_t desc; /* a struct; no dims: none */
#define DESC(d) (&(d))
#define POST_SUM(ops) dnnl_post_ops_append_sum(ops, 1.0f)
typedef const dnnl_memory_desc_t *desc_ptr;

static dnnl_status_t desc_make(desc *d, const dnnl_dims_t dims, dnnl_data_type_t t,
                               const dnnl_dims_t strides)
{
    return dnnl_memory_desc_init_by_strides(d, 2, dims, t, strides);
}

static void desc_free(desc *d)
{
    (void)d;
}

static dnnl_status_t plan_make(dnnl_primitive_desc_t *pd, dnnl_engine_t e, desc *d,
                               dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t op;
    dnnl_status_t s = dnnl_matmul_desc_init(&op, &d[0], &d[1], d[2].ndims ? &d[2] : NULL, &d[3]);
    return s ? s : dnnl_primitive_desc_create(pd, &op, attr, e, NULL);
}
#endif

/* ---- the library ------------------------------------------------------------------------- */
struct library {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    pthread_mutex_t lock; /* a plan's memory handles are set and used by one thread at a time */
};

void *cpu_library_open(void)
{
    struct library *l = calloc(1, sizeof *l);
    if (!l || pthread_mutex_init(&l->lock, NULL)) {
        free(l);
        return NULL;
    }
    if (dnnl_engine_create(&l->engine, dnnl_cpu, 0) ||
        dnnl_stream_create(&l->stream, l->engine, dnnl_stream_default_flags)) {
        cpu_library_close(l);
        return NULL;
    }
    return l;
}

void cpu_library_close(void *library)
{
    struct library *l = library;
    if (!l)
        return;
    if (l->stream)
        dnnl_stream_destroy(l->stream);
    if (l->engine)
        dnnl_engine_destroy(l->engine);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* ---- plans ------------------------------------------------------------------------------- */
enum { A_, B_, BIAS_, C_, SCRATCH_, MEMORIES };
struct cpu_matmul {
    struct library *library;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[MEMORIES]; /* NULL: not used */
};
static const int argument[MEMORIES] = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST,
                                        DNNL_ARG_SCRATCHPAD };

static dnnl_status_t make_attr(dnnl_primitive_attr_t *attr, int add)
{
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t s = dnnl_primitive_attr_create(attr);
    if (!s)
        s = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (s || !add)
        return s;
    s = dnnl_post_ops_create(&ops);
    if (!s)
        s = POST_SUM(ops);
    if (!s)
        s = dnnl_primitive_attr_set_post_ops(*attr, ops);
    if (ops)
        dnnl_post_ops_destroy(ops);
    return s;
}

static dnnl_status_t make_descs(const struct cpu_product *p, desc *d)
{
    const dnnl_data_type_t type[2] = { dnnl_f32, dnnl_bf16 };
    dnnl_status_t s = desc_make(&d[A_], (dnnl_dims_t){ p->m, p->k }, type[p->in_bf],
                                (dnnl_dims_t){ p->a_rs, p->a_cs });
    if (!s)
        s = desc_make(&d[B_], (dnnl_dims_t){ p->k, p->n }, type[p->in_bf],
                      (dnnl_dims_t){ p->b_rs, p->b_cs });
    if (!s && p->has_bias)
        s = desc_make(&d[BIAS_], (dnnl_dims_t){ 1, p->n }, type[p->bias_bf],
                      (dnnl_dims_t){ p->n, 1 });
    if (!s)
        s = desc_make(&d[C_], (dnnl_dims_t){ p->m, p->n }, type[p->c_bf],
                      (dnnl_dims_t){ p->n, 1 });
    return s;
}

struct cpu_matmul *cpu_matmul_make(void *library, const struct cpu_product *p, uint64_t *scratch)
{
    struct library *l = library;
    struct cpu_matmul *m = l && p->m && p->n && p->k ? calloc(1, sizeof *m) : NULL;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    desc d[4];
    memset(d, 0, sizeof d);
    if (!m)
        return NULL;
    m->library = l;
    dnnl_status_t s = make_descs(p, d);
    if (!s)
        s = make_attr(&attr, p->add);
    if (!s)
        s = plan_make(&pd, l->engine, d, attr);
    if (!s)
        s = dnnl_primitive_create(&m->primitive, pd);
    if (!s) {
        desc_ptr room = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
        *scratch = room ? dnnl_memory_desc_get_size(room) : 0;
        if (*scratch)
            s = dnnl_memory_create(&m->memory[SCRATCH_], room, l->engine, DNNL_MEMORY_NONE);
    }
    for (int i = 0; i < 4 && !s; i++)
        if (i != BIAS_ || p->has_bias)
            s = dnnl_memory_create(&m->memory[i], DESC(d[i]), l->engine, DNNL_MEMORY_NONE);
    for (int i = 0; i < 4; i++)
        desc_free(&d[i]);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    if (!s)
        return m;
    cpu_matmul_free(m);
    return NULL;
}

void cpu_matmul_free(struct cpu_matmul *m)
{
    if (!m)
        return;
    for (int i = 0; i < MEMORIES; i++)
        if (m->memory[i])
            dnnl_memory_destroy(m->memory[i]);
    if (m->primitive)
        dnnl_primitive_destroy(m->primitive);
    free(m);
}

mr_status cpu_matmul_run(struct cpu_matmul *m, void *a, void *b, void *bias, void *c, void *scratch,
                         mr_err *err)
{
    void *data[MEMORIES] = { a, b, bias, c, scratch };
    dnnl_exec_arg_t args[MEMORIES];
    int n = 0;
    dnnl_status_t s = dnnl_success;
    pthread_mutex_lock(&m->library->lock);
    for (int i = 0; i < MEMORIES && !s; i++)
        if (m->memory[i]) {
            s = dnnl_memory_set_data_handle(m->memory[i], data[i]);
            args[n++] = (dnnl_exec_arg_t){ argument[i], m->memory[i] };
        }
    if (!s)
        s = dnnl_primitive_execute(m->primitive, m->library->stream, n, args);
    if (!s)
        s = dnnl_stream_wait(m->library->stream);
    pthread_mutex_unlock(&m->library->lock);
    if (s == dnnl_success)
        return MR_OK;
    return mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV, "oneDNN's matmul failed with status %d", (int)s);
}
