/* SPDX-License-Identifier: Apache-2.0
 *
 * Timed choices on a GPU: a product by the algorithm that won is the product; a second start with
 * the same file gives the same bits; a deterministic query gives those of the untimed choice. And
 * the device's timer. Skipped where there is no GPU.
 */
#include "backend_rig.h"
#include "tests/unit/config/scratch.h"

TestSuite(cuda_tuned, .init = scratch_open, .fini = scratch_close);

/* each above the size from which products are timed */
static const struct {
    const char *op, *text;
} products[] = {
    { "linear", "x=F[1024,1024] w=F[512,1024] bias=F[512]" },
    { "linear.dgrad", "dy=F[1000,776] w=F[776,1032]" },
    { "linear.wgrad", "dy=F[2048,512] x=F[2048,520] dw=S[512,520]" },
};
enum { N_PRODUCTS = sizeof products / sizeof *products };

static void open_or_skip(rig *r, const char *tuning)
{
    rig_cuda config = { .matmul = "cublaslt", .tuning = tuning };
    mr_err err = MR_ERR_INIT;
    if (rig_try_open(r, "cuda", &config, &err))
        cr_skip_test("no GPU, or no cuBLASLt");
    cr_assert_eq(r->ops->stream_create(r->dev, 0, &r->stream, &err), MR_OK);
}

/* The result of a product on that device, on the host: an output, or the operand written to. */
static mr_buf multiply(rig *r, int product, uint32_t flags, const mr_type **type, mri_case *c)
{
    const mr_op_def *def = mri_op_find(products[product].op);
    mr_kernel_info info = { .size = sizeof info };
    mr_err err = MR_ERR_INIT;
    mr_buf in[4] = { { 0 } }, out[1] = { { 0 } }, host;
    void *kernel = NULL, *ws = NULL;
    cr_assert_eq(mri_case_make(def, products[product].text, "bf16", 7, c, &err), 0, "%s", err.what);
    cr_assert_eq(r->ops->query(r->dev, def->id, &c->call, flags, &kernel, &info, &err), MR_OK, "%s",
                 err.what);
    for (uint32_t i = 0; i < c->call.n_in; i++)
        if (c->call.in[i]) {
            uint64_t n = mr_bytes(c->call.in[i]);
            cr_assert_eq(r->ops->alloc(r->dev, n, MR_MEM_ARENA, &in[i].data, &err), MR_OK);
            cr_assert_eq(r->ops->copy(r->dev, r->stream, in[i].data, c->in[i].data, n, &err),
                         MR_OK);
        }
    if (c->call.n_out)
        cr_assert_eq(r->ops->alloc(r->dev, mr_bytes(c->call.out[0]), MR_MEM_ARENA, &out[0].data,
                                   &err), MR_OK);
    if (info.workspace)
        cr_assert_eq(r->ops->alloc(r->dev, info.workspace, MR_MEM_ARENA, &ws, &err), MR_OK);
    cr_assert_eq(r->ops->run(r->dev, kernel, r->stream, in, out, ws, &err), MR_OK, "%s", err.what);
    *type = c->call.n_out ? c->call.out[0] : c->call.in[2];
    host.data = mri_alloc(mr_bytes(*type));
    cr_assert_eq(r->ops->copy(r->dev, r->stream, host.data,
                              c->call.n_out ? out[0].data : in[2].data, mr_bytes(*type), &err),
                 MR_OK);
    cr_assert_eq(r->ops->sync(r->dev, r->stream, &err), MR_OK, "%s", err.what);
    for (uint32_t i = 0; i < c->call.n_in; i++)
        if (in[i].data)
            r->ops->free(r->dev, in[i].data, mr_bytes(c->call.in[i]));
    if (out[0].data)
        r->ops->free(r->dev, out[0].data, mr_bytes(c->call.out[0]));
    if (ws)
        r->ops->free(r->dev, ws, info.workspace);
    r->ops->release(r->dev, kernel);
    return host;
}

Test(cuda_tuned, multiplies_and_remembers)
{
    rig untimed, first, second;
    open_or_skip(&untimed, "off");
    for (int i = 0; i < N_PRODUCTS; i++) {
        mri_case c[4];
        const mr_type *t;
        open_or_skip(&first, "choices.txt");
        mr_buf a = multiply(&untimed, i, 0, &t, &c[0]), b = multiply(&first, i, 0, &t, &c[1]);
        open_or_skip(&second, "choices.txt");
        mr_buf again = multiply(&second, i, 0, &t, &c[2]);
        mr_buf fixed = multiply(&second, i, MR_QUERY_DETERMINISTIC, &t, &c[3]);
        cr_assert_arr_eq(b.data, again.data, mr_bytes(t), "%s: the same choice", products[i].op);
        cr_assert_arr_eq(a.data, fixed.data, mr_bytes(t), "%s: no choice", products[i].op);
        double most = rig_largest(t, &a);
        cr_assert_gt(most, 1);
        for (int64_t j = 0; j < mr_numel(t); j++) {
            double x = mri_get(mri_at(t, &a), j), y = mri_get(mri_at(t, &b), j);
            cr_assert(fabs(x - y) <= 1e-2 * most, "%s: element %lld is %g, untimed %g",
                      products[i].op, (long long)j, y, x);
        }
        free(a.data);
        free(b.data);
        free(again.data);
        free(fixed.data);
        for (int k = 0; k < 4; k++)
            mri_case_free(&c[k]);
        rig_close(&first);
        rig_close(&second);
    }
    cr_assert_eq(access("choices.txt", R_OK), 0, "nothing was kept");
    rig_close(&untimed);
}

Test(cuda_tuned, keeps_time)
{
    enum { BYTES = 256 << 20 };
    rig r;
    mr_err err = MR_ERR_INIT;
    void *mark[2] = { NULL, NULL }, *memory = NULL;
    double us = 0;
    open_or_skip(&r, "off");
    const mr_timer *timer = r.ops->ext(r.dev, MR_EXT_TIMER);
    cr_assert_not_null(timer);
    cr_assert_eq(r.ops->alloc(r.dev, BYTES, MR_MEM_ARENA, &memory, &err), MR_OK);
    for (int again = 0; again < 2; again++) {
        timer->push(r.dev, "a range");
        cr_assert_eq(timer->mark(r.dev, r.stream, &mark[0], &err), MR_OK);
        cr_assert_eq(r.ops->fill(r.dev, r.stream, memory, 1, BYTES, &err), MR_OK);
        cr_assert_eq(timer->mark(r.dev, r.stream, &mark[1], &err), MR_OK);
        timer->pop(r.dev);
        cr_assert_eq(timer->elapsed_us(r.dev, mark[0], mark[1], &us, &err), MR_OK, "%s", err.what);
        cr_assert(us > 5 && us < 1e6, "%g us to clear %d bytes", us, BYTES);
    }
    timer->destroy(r.dev, mark[0]);
    timer->destroy(r.dev, mark[1]);
    r.ops->free(r.dev, memory, BYTES);
    rig_close(&r);
}
