/* SPDX-License-Identifier: Apache-2.0
 * Whatever size a struct claims, nothing behind it is read: each one is put at the end of a
 * page whose successor cannot be touched, with every size from 0 to its own. */
#include "core/plugin/registry.h"
#include "mrun/backend.h"
#include "mrun/data.h"
#include "mrun/model.h"
#include "mrun/optimizer.h"
#include "mrun/sink.h"
#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* `n` bytes (of which the first `always` exist at any size) that end where memory ends; up
 * to 7 bytes lie between, so that the struct stays aligned, and they hold rubbish. */
static void *at_the_edge(const void *from, size_t n, size_t always)
{
    static char *page;
    size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    if (!page) {
        page = mmap(NULL, 2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        cr_assert_neq(page, MAP_FAILED);
        cr_assert_eq(mprotect(page + bytes, bytes, PROT_NONE), 0);
    }
    if (n < always)
        n = always;
    cr_assert_leq(n, bytes);
    char *at = page + bytes - (n + 7) / 8 * 8;
    memset(page, 0xa5, bytes);
    memcpy(at, from, n);
    return at;
}

static void set_size(void *p, size_t offset, uint32_t size)
{
    memcpy((char *)p + offset, &size, sizeof size);
}

static const mr_opt option = { sizeof option, MR_T_INT, 0, 0, "level", "1", "how much", NULL, 0, 5,
                               NULL };
static void any(void)
{
}
static const char *const no_needs[] = { NULL };

/* A table of any kind: its size, then pointers to something. */
static const union {
    struct {
        uint32_t size, flags;
        void (*fn[40])(void);
    } t;
    mr_op_def op;
} full_table = { .t = { sizeof full_table.t, 0, { any, any, any, any, any, any, any, any, any, any,
                                                  any, any, any, any, any, any, any, any, any, any,
                                                  any, any, any, any } } };

static const struct {
    const char *kind;
    size_t size, least; /* least: up to the last function that a 0.1 plugin must have */
} kinds[] = {
    { "backend", sizeof(mr_backend_ops), offsetof(mr_backend_ops, ext) },
    { "model", sizeof(mr_model_ops), offsetof(mr_model_ops, hf_config) },
    { "optimizer", sizeof(mr_optimizer_ops), sizeof(mr_optimizer_ops) },
    { "tokenizer", sizeof(mr_tokenizer_ops), offsetof(mr_tokenizer_ops, encode_as) },
    { "data", sizeof(mr_data_ops), offsetof(mr_data_ops, promises) },
    { "sink", sizeof(mr_sink_ops), sizeof(mr_sink_ops) },
    { "op", sizeof(mr_op_def), offsetof(mr_op_def, cost) },
    { "something-new", 64, 8 },
};

static mr_unit unit_of(const char *kind, const void *table)
{
    mr_unit u = { sizeof u, 0, kind, "x", "doc", &option, 1, 8, table, no_needs };
    return u;
}

static mr_plugin plugin_of(const mr_unit *u)
{
    mr_plugin p = { MR_PLUGIN_HEADER, "org.example.x", "1", "Apache-2.0", "doc", u, 1, 0, NULL,
                    NULL };
    return p;
}

/* Does validation pass exactly where the claimed size reaches `least` and can be walked? */
static void judge(mr_status st, const mr_err *err, size_t size, size_t least, const char *what)
{
    bool fine = size >= least && size % 8 == 0;
    cr_assert_eq(st, fine ? 0 : MR_E_PLUGIN_MALFORMED, "%s of size %zu: %d %s", what, size, st,
                 err->what);
}

Test(truncation, descriptor)
{
    mr_unit u = unit_of("tokenizer", &full_table);
    mr_plugin p = plugin_of(&u);
    for (uint32_t n = 0; n <= sizeof p; n++) {
        mr_err err = MR_ERR_INIT;
        mr_plugin *q = at_the_edge(&p, n, 24);
        q->size = n;
        judge(mri_plugin_validate(q, "x.so", &err), &err, n, offsetof(mr_plugin, pad),
              "descriptor");
    }
}

Test(truncation, unit)
{
    mr_unit u = unit_of("tokenizer", &full_table);
    for (uint32_t n = 0; n <= sizeof u; n++) {
        mr_err err = MR_ERR_INIT;
        mr_unit *v = at_the_edge(&u, n, 4);
        set_size(v, 0, n);
        mr_plugin p = plugin_of(v);
        judge(mri_plugin_validate(&p, "x.so", &err), &err, n, offsetof(mr_unit, needs), "unit");
    }
}

Test(truncation, option_row)
{
    for (uint32_t n = 0; n <= sizeof option; n++) {
        mr_err err = MR_ERR_INIT;
        mr_opt *o = at_the_edge(&option, n, 4);
        set_size(o, 0, n);
        mr_unit u = unit_of("tokenizer", &full_table);
        u.opts = o;
        mr_plugin p = plugin_of(&u);
        judge(mri_plugin_validate(&p, "x.so", &err), &err, n, sizeof(mr_opt), "option");
    }
}

Test(truncation, table_of_every_kind)
{
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (uint32_t n = 0; n <= kinds[k].size; n++) {
            mr_err err = MR_ERR_INIT;
            void *t = at_the_edge(&full_table, n, 4);
            set_size(t, 0, n);
            mr_unit u = unit_of(kinds[k].kind, t);
            mr_plugin p = plugin_of(&u);
            judge(mri_plugin_validate(&p, "x.so", &err), &err, n, kinds[k].least, kinds[k].kind);
        }
}

/* a refusal is told to an old, short mr_err without writing past it */
Test(truncation, error)
{
    mr_err whole = MR_ERR_INIT;
    mr_unit u = unit_of("tokenizer", NULL);
    mr_plugin p = plugin_of(&u);
    for (uint32_t n = 0; n <= sizeof whole; n++) {
        mr_err *err = at_the_edge(&whole, n, 4);
        set_size(err, 0, n);
        cr_assert_eq(mri_plugin_validate(&p, "x.so", err), MR_E_PLUGIN_MALFORMED);
        cr_assert_eq(mri_plugin_load(NULL, "/nonexistent/x.so", NULL, err), MR_E_PLUGIN_NOT_FOUND);
        if (n == sizeof whole)
            cr_assert_not_null(strstr(err->what, "/nonexistent/x.so"));
    }
}

/* a unit of a newer header is longer: the walk steps by what it says */
Test(truncation, longer_units_are_walked_by_their_own_size)
{
    struct newer {
        mr_unit u;
        const char *later[3];
    } units[2] = { { unit_of("tokenizer", &full_table), { "a", "b", "c" } },
                   { unit_of("sink", &full_table), { "a", "b", "c" } } };
    units[0].u.size = units[1].u.size = sizeof units[0];
    mr_plugin p = plugin_of(&units[0].u);
    p.n_units = 2;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_plugin_validate(&p, "x.so", &err), 0, "%s", err.what);
    cr_assert_str_eq(mri_plugin_unit(&p, 1)->kind, "sink");
}
