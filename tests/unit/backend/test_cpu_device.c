/* SPDX-License-Identifier: Apache-2.0
 *
 * backend/cpu as a device: what it says of itself, its memory, what it refuses and how, and
 * results that do not depend on the number of threads where they are said not to.
 */
#include "backend_rig.h"

Test(cpu_device, describes_itself)
{
    rig r;
    rig_cpu config = { .threads = 2, .affinity = "close" };
    mr_device_info info = { .size = sizeof info };
    mr_err err = MR_ERR_INIT;
    uint32_t n = 0;
    rig_open(&r, "cpu", &config);
    cr_assert_eq(r.ops->count(&r.host, &config, &n, &err), MR_OK);
    cr_assert_eq(n, 1);
    cr_assert_eq(r.ops->info(r.dev, &info, &err), MR_OK);
    cr_assert_eq(info.threads, 2);
    cr_assert(strstr(info.name, "2 threads"), "%s", info.name);
    cr_assert_gt(info.memory_bytes, 1u << 20);
    rig_close(&r);
}

Test(cpu_device, measures_its_limits_when_asked)
{
    rig r;
    rig_cpu config = { .threads = 1 };
    rig_open(&r, "cpu", &config);
    const mr_probe *probe = r.ops->ext(r.dev, MR_EXT_PROBE);
    cr_assert(probe);
    cr_assert_gt(probe->flops_f32(r.dev), 1e8);
    cr_assert_gt(probe->read_bytes_per_s(r.dev), 1e8);
    cr_assert_geq(probe->flops_bf16(r.dev), 0);
    cr_assert(!r.ops->ext(r.dev, "no.such/1"));
    rig_close(&r);
}

Test(cpu_device, keeps_time)
{
    rig r;
    rig_cpu config = { .threads = 1 };
    mr_err err = MR_ERR_INIT;
    void *mark[3] = { NULL, NULL, NULL };
    double us = -1, none = -1;
    rig_open(&r, "cpu", &config);
    const mr_timer *timer = r.ops->ext(r.dev, MR_EXT_TIMER);
    cr_assert(timer);
    timer->push(r.dev, "a name");
    for (int i = 0; i < 3; i++)
        cr_assert_eq(timer->mark(r.dev, NULL, &mark[i], &err), MR_OK);
    void *again = mark[2];
    while (us < 1000) { /* a mark that exists is set anew */
        cr_assert_eq(timer->mark(r.dev, NULL, &mark[2], &err), MR_OK);
        cr_assert_eq(mark[2], again);
        cr_assert_eq(timer->elapsed_us(r.dev, mark[0], mark[2], &us, &err), MR_OK);
    }
    cr_assert_eq(timer->elapsed_us(r.dev, mark[0], mark[1], &none, &err), MR_OK);
    cr_assert(none >= 0 && none < us);
    timer->pop(r.dev);
    for (int i = 0; i < 3; i++)
        timer->destroy(r.dev, mark[i]);
    rig_close(&r);
}

Test(cpu_device, memory_is_zeroed_and_aligned)
{
    rig r;
    rig_cpu config = { .threads = 1 };
    const uint64_t sizes[] = { 0, 1, 65, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1 };
    mr_err err = MR_ERR_INIT;
    rig_open(&r, "cpu", &config);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *p = NULL;
        cr_assert_eq(r.ops->alloc(r.dev, sizes[i], MR_MEM_ARENA, &p, &err), MR_OK);
        cr_assert(p && (uintptr_t)p % 64 == 0);
        for (uint64_t j = 0; j < sizes[i]; j++)
            cr_assert_eq(((char *)p)[j], 0);
        cr_assert_eq(r.ops->fill(r.dev, r.stream, p, 0xab, sizes[i], &err), MR_OK);
        cr_assert(!sizes[i] || ((unsigned char *)p)[sizes[i] - 1] == 0xab);
        r.ops->free(r.dev, p, sizes[i]);
    }
    void *p = NULL;
    cr_assert_eq(r.ops->alloc(r.dev, UINT64_MAX / 2, MR_MEM_ARENA, &p, &err), MR_E_NOMEM);
    cr_assert(strstr(err.what, "bytes") && err.hint[0]);
    rig_close(&r);
}

Test(cpu_device, streams_events_and_copies_are_in_order)
{
    rig r;
    rig_cpu config = { .threads = 1 };
    mr_err err = MR_ERR_INIT;
    void *event = NULL;
    char a[5] = "abcd", b[5] = "";
    rig_open(&r, "cpu", &config);
    cr_assert_eq(r.ops->copy(r.dev, r.stream, b, a, 5, &err), MR_OK);
    cr_assert_eq(r.ops->record(r.dev, r.stream, &event, &err), MR_OK);
    cr_assert(event);
    cr_assert_eq(r.ops->wait(r.dev, r.stream, event, &err), MR_OK);
    cr_assert_eq(r.ops->sync(r.dev, r.stream, &err), MR_OK);
    cr_assert_str_eq(b, "abcd");
    r.ops->event_destroy(r.dev, event);
    rig_close(&r);
}

Test(cpu_device, refuses_what_it_is_not)
{
    rig r;
    rig_cpu config = { .threads = 1 };
    mr_err err = MR_ERR_INIT;
    void *dev = NULL;
    rig_open(&r, "cpu", &config);
    cr_assert_eq(r.ops->open(&r.host, &config, 1, &dev, &err), MR_E_DEVICE);
    config.isa = "avx1024";
    cr_assert_eq(r.ops->open(&r.host, &config, 0, &dev, &err), MR_E_UNSUPPORTED);
    cr_assert(strstr(err.what, "avx1024"), "%s", err.what);
    if (!__builtin_cpu_supports("x86-64-v4")) {
        config.isa = "avx512";
        cr_assert_eq(r.ops->open(&r.host, &config, 0, &dev, &err), MR_E_UNSUPPORTED);
    }
    rig_close(&r);
}

static mr_status ask(rig *r, const char *op, const mr_type *in, const mr_type *out, mr_err *err)
{
    mr_call call = { .size = sizeof call, .n_in = 1, .n_out = 1, .in = &in, .out = &out };
    mr_kernel_info info = { .size = sizeof info };
    void *kernel = NULL;
    mr_status st = r->ops->query(r->dev, op, &call, 0, &kernel, &info, err);
    cr_assert((st == MR_OK) == (kernel != NULL));
    if (kernel)
        r->ops->release(r->dev, kernel);
    return st;
}

Test(cpu_device, refuses_ops_and_types_with_a_reason)
{
    rig r;
    rig_cpu config = { .threads = 1 };
    mr_err err = MR_ERR_INIT;
    mr_type f32 = mr_type2("f32", 3, 4), f64 = mr_type2("f64", 3, 4), tiled = f32;
    tiled.layout = "tiled16";
    rig_open(&r, "cpu", &config);
    cr_assert_eq(ask(&r, "gelu", &f32, &f32, &err), MR_OK);
    cr_assert_eq(ask(&r, "no.such.op", &f32, &f32, &err), MR_E_UNSUPPORTED);
    cr_assert(strstr(err.what, "no.such.op"), "%s", err.what);
    cr_assert_eq(ask(&r, "gelu", &f64, &f64, &err), MR_E_UNSUPPORTED);
    cr_assert(strstr(err.what, "f64"), "%s", err.what);
    cr_assert_eq(ask(&r, "gelu", &tiled, &f32, &err), MR_E_UNSUPPORTED);
    cr_assert_eq(ask(&r, "gelu", NULL, &f32, &err), MR_E_UNSUPPORTED);
    cr_assert_eq(ask(&r, "linear", &f32, &f32, &err), MR_E_UNSUPPORTED); /* no weight */
    rig_close(&r);
}

/* ---- data that is wrong: an error that names it, as the reference gives, no stray access ---- */
static void fails_alike(rig *r, const char *op, const char *text)
{
    mr_err err = MR_ERR_INIT, ours = MR_ERR_INIT;
    const mr_op_def *def = mri_op_find(op);
    mri_case c;
    void *kernel = NULL;
    mr_kernel_info info = { .size = sizeof info };
    cr_assert_eq(mri_case_make(def, text, "f32", 7, &c, &err), MR_OK, "%s: %s", text, err.what);
    cr_assert_neq(def->ref(&c.call, c.in, c.out, &err), MR_OK, "%s %s", op, text);
    cr_assert_eq(r->ops->query(r->dev, op, &c.call, 0, &kernel, &info, &ours), MR_OK);
    char *ws = aligned_alloc(64, (info.workspace + 64) / 64 * 64);
    cr_assert_eq(r->ops->run(r->dev, kernel, r->stream, c.in, c.out, ws, &ours), MR_E_ARG, "%s %s",
                 op, text);
    cr_assert(ours.what[0]);
    r->ops->release(r->dev, kernel);
    free(ws);
    mri_case_free(&c);
}

Test(cpu_device, reports_indices_that_are_out_of_range)
{
    rig r;
    rig_cpu config = { .threads = 2 };
    rig_open(&r, "cpu", &config);
    fails_alike(&r, "embedding", "ids=i32[3]{0,5,1} table=F[5,4]");
    fails_alike(&r, "embedding.bwd", "dy=F[3,4] ids=i32[3]{0,-1,1} dtable=S[5,4]");
    fails_alike(&r, "grouped_linear", "x=F[6,4] w=F[2,4,3] offsets=i32[3]{0,4,7}");
    fails_alike(&r, "grouped_linear", "x=F[6,4] w=F[2,4,3] offsets=i32[3]{0,4,3}");
    fails_alike(&r, "grouped_linear.wgrad",
                "x=F[6,4] dy=F[6,3] offsets=i32[3]{-1,4,6} dw=S[2,4,3]");
    fails_alike(&r, "route_plan", "index=i32[3,1]{0,4,1} @experts=4");
    fails_alike(&r, "attention", "q=F[3,4] k=F[3,4] v=F[3,4] seq_start=i32[3]{0,2,0} @heads=1 "
                                 "@kv_heads=1 @head_dim=4");
    static const char *const places[] = { "positions=i32[1]{6} slot=i32[1]{0}",
                                          "positions=i32[1]{-1} slot=i32[1]{0}",
                                          "positions=i32[1]{0} slot=i32[1]{1}",
                                          "positions=i32[1]{2} slot=i32[1]{0}",
                                          "positions=i32[1]{4} slot=i32[1]{0}" };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char text[300];
        snprintf(text, sizeof text, "q=F[1,4] k=F[1,4] v=F[1,4] %s pages=i32[1,3]{1,2,-1} "
                 "k_cache=F[2,2,4] v_cache=F[2,2,4] @heads=1 @kv_heads=1 @head_dim=4", places[i]);
        fails_alike(&r, "attention.paged", text);
        snprintf(text, sizeof text, "q=F[1,3] c=F[1,1] kr=F[1,2] w=F[2,1] %s "
                 "pages=i32[1,3]{1,2,-1} cache=F[2,2,3] @heads=1 @nope_dim=1 @inv_freq=1",
                 places[i]);
        fails_alike(&r, "mla_attention.paged", text);
    }
    rig_close(&r);
}

/* The catalogue fixes the order of an update's operations, so that checkpoints agree bit by bit. */
Test(cpu_device, updates_weights_with_the_references_bits)
{
    static const char *const isas[] = { "auto", "x86-64-v2" };
    for (int i = 0; i < 2; i++) {
        rig r;
        rig_cpu config = { .threads = 2, .isa = isas[i] };
        rig_open(&r, "cpu", &config);
        r.tol_f32 = 0;
        rig_case(&r, "adamw",
                 "master=f32[40003] exp_avg=f32[40003] exp_avg_sq=f32[40003]pos grad=f32[40003] "
                 "lr=f32[1]pos weight_decay=f32[1]pos step=f32[1]{3} grad_scale=f32[1]pos "
                 "ok=f32[1]pos", "f32");
        rig_case(&r, "sgd",
                 "master=f32[23] momentum=f32[23] grad=f32[23] lr=f32[1]pos weight_decay=f32[1]pos "
                 "grad_scale=f32[1]pos ok=f32[1]pos @momentum=0.9 @nesterov=1", "f32");
        rig_close(&r);
    }
}

/* ---- threads ------------------------------------------------------------------------------ */
static void with_threads(const char *op, const char *text, const char *dtype, rig_bufs *got,
                         mri_case *c, int threads)
{
    rig r;
    rig_cpu config = { .threads = threads, .matmul = "own" };
    mr_err err = MR_ERR_INIT;
    const mr_op_def *def = mri_op_find(op);
    cr_assert_eq(mri_case_make(def, text, dtype, 7, c, &err), MR_OK, "%s", err.what);
    *got = rig_copy(&c->call, c->in);
    rig_open(&r, "cpu", &config);
    rig_run(&r, op, def, &c->call, got);
    rig_close(&r);
}

Test(cpu_device, products_attention_and_norms_of_gradients_do_not_depend_on_threads)
{
    static const char *const cases[][2] = {
        { "linear", "x=F[130,100] w=F[70,100] bias=F[70]" },
        { "linear", "x=F[3,300] w=F[700,300]" },
        { "linear.wgrad", "dy=F[1100,40] x=F[1100,33] dw=S[40,33]" },
        { "grouped_linear", "x=F[70,40] w=F[5,40,600] offsets=i32[6]{0,0,65,65,70,70}" },
        { "attention", "q=F[150,128] k=F[150,64] v=F[150,64] seq_start=i32[150]start:100 @heads=2 "
                       "@kv_heads=1 @head_dim=64" },
        { "cross_entropy", "logits=F[70,2048] targets=i32[70]<2048 weight=S[70]pos" },
        { "embedding.bwd", "dy=F[300,200] ids=i32[300]<7 dtable=S[7,200]" },
        { "sumsq", "x=f32[70001] acc=f32[1]pos" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig_bufs one, four;
        mri_case c, d;
        with_threads(cases[i][0], cases[i][1], "f32", &one, &c, 1);
        with_threads(cases[i][0], cases[i][1], "f32", &four, &d, 4);
        rig_same_bits(cases[i][0], &c.call, &one, &four);
        rig_free(&one);
        rig_free(&four);
        mri_case_free(&c);
        mri_case_free(&d);
    }
}
