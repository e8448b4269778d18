/* SPDX-License-Identifier: Apache-2.0
 *
 * validate.c - the ABI's gate: is a descriptor in memory one that this mrun may use?
 *
 * Invariant: nothing is read that its writer did not say is there. The first 24 bytes of a
 * descriptor and the first 4 of every unit, option row and table may always be read; every
 * other field only after MR_HAS(); arrays are walked by each element's own size; sizes that
 * are 0, not a multiple of a pointer, or absurd end the walk.
 */
#include "internal.h"
#include "mrun/backend.h"
#include "mrun/comm.h"
#include "mrun/data.h"
#include "mrun/model.h"
#include "mrun/optimizer.h"
#include "mrun/sink.h"
#include "mrun/graph.h"
#include "mrun/shard.h"
#include "core/config/profile.h"
#include <string.h>

enum { MAX_STRUCT = 1 << 16, MAX_UNITS = 1024, MAX_OPTIONS = 4096, MAX_NEEDS = 64 };

/* What a kind's table must hold for its 0.1 users; all are pointers. What is not listed
 * here may be absent or NULL. Kinds that are not listed are open-ended: only their table's
 * size is looked at. */
typedef struct field_row {
    const char *kind, *name;
    uint32_t offset;
} field_row;
#define ROW(kind, type, field) { kind, #field, (uint32_t)offsetof(type, field) },
#define BACKEND(f) ROW("backend", mr_backend_ops, f)
#define MODEL(f) ROW("model", mr_model_ops, f)
#define OPTIMIZER(f) ROW("optimizer", mr_optimizer_ops, f)
#define TOKENIZER(f) ROW("tokenizer", mr_tokenizer_ops, f)
#define DATA(f) ROW("data", mr_data_ops, f)
#define SINK(f) ROW("sink", mr_sink_ops, f)
#define GRAPH(f) ROW("graph", mr_graph_ops, f)
#define COMM(f) ROW("comm", mr_comm_ops, f)
#define SHARD(f) ROW("shard", mr_shard_ops, f)
#define OP(f) ROW("op", mr_op_def, f)
static const field_row required[] = {
    BACKEND(count) BACKEND(open) BACKEND(close) BACKEND(info) BACKEND(alloc) BACKEND(free)
    BACKEND(query) BACKEND(release) BACKEND(run) BACKEND(stream_create) BACKEND(stream_destroy)
    BACKEND(record) BACKEND(wait) BACKEND(event_destroy) BACKEND(sync) BACKEND(copy) BACKEND(fill)
    MODEL(create) MODEL(destroy) MODEL(info) MODEL(assemble) MODEL(build)
    OPTIMIZER(create) OPTIMIZER(destroy) OPTIMIZER(build)
    TOKENIZER(create) TOKENIZER(destroy) TOKENIZER(info) TOKENIZER(encode) TOKENIZER(decode)
    DATA(create) DATA(destroy) DATA(set) DATA(read)
    SINK(create) SINK(destroy) SINK(event)
    GRAPH(create) GRAPH(destroy) GRAPH(warmup) GRAPH(cut)
    COMM(open) COMM(close) COMM(info) COMM(split) COMM(group_free) COMM(all_reduce)
    COMM(all_gather) COMM(reduce_scatter) COMM(broadcast) COMM(all_to_all) COMM(send)
    COMM(receive)
    SHARD(create) SHARD(destroy) SHARD(plan)
    OP(id) OP(sig) OP(shape) OP(ref)
};

MR_PRINTF(3, 4)
static mr_status malformed(mr_err *err, const char *path, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    mr_fail(err, MR_E_PLUGIN_MALFORMED, MR_BLAME_PLUGIN, "%s: %s", mri_base_name(path), text);
    mr_detail(err, "file: %s", path);
    mr_hint(err, "this is the plugin's fault; its author can run: mrun check %s",
            mri_base_name(path));
    return MR_E_PLUGIN_MALFORMED;
}

mr_status mri_abi_check(uint32_t our_major, uint32_t our_minor, uint32_t major, uint32_t built,
                        uint32_t needed, const char *path, mr_err *err)
{
    const char *who = mri_base_name(path);
    bool fits = major == our_major &&
                (major == 0 ? built == our_minor && needed <= our_minor : needed <= our_minor);
    if (fits)
        return 0;
    bool newer = major != our_major ? major > our_major
               : major == 0         ? built > our_minor || needed > our_minor
                                    : true;
    if (newer) {
        uint32_t wants = major == 0 && built > needed ? built : needed;
        mr_fail(err, MR_E_PLUGIN_VERSION, MR_BLAME_ENV, "%s needs ABI %u.%u, this mrun has %u.%u",
                who, major, wants, our_major, our_minor);
        if (major == our_major && major)
            mr_hint(err, "update mrun, or rebuild the plugin with -DMR_ABI_TARGET=%u", our_minor);
        else
            mr_hint(err, "update mrun, or rebuild the plugin with this mrun's headers");
    } else {
        mr_fail(err, MR_E_PLUGIN_VERSION, MR_BLAME_ENV,
                "%s was built for ABI %u.%u, this mrun has %u.%u", who, major, built, our_major,
                our_minor);
        mr_hint(err, "rebuild the plugin with this mrun's headers");
    }
    mr_detail(err, "file: %s%s", path,
              our_major ? "" : "\nbefore 1.0 every minor of the ABI stands alone");
    return MR_E_PLUGIN_VERSION;
}

/* sizes that a walk can step over: a multiple of the alignment, not absurd */
static bool sane(uint32_t size, size_t least)
{
    return size >= least && size <= MAX_STRUCT && size % sizeof(void *) == 0;
}

static bool printable_name(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    return n && n < 64 && !s[n];
}

static mr_status check_table(const mr_unit *u, const char *path, mr_err *err)
{
    if (!u->table)
        return malformed(err, path, "unit %s/%s has no table", u->kind, u->name);
    uint32_t size;
    memcpy(&size, u->table, sizeof size);
    if (!sane(size, 2 * sizeof(uint32_t)))
        return malformed(err, path, "the table of unit %s/%s gives its size as %u bytes (8 to %d, "
                         "in steps of %zu)", u->kind, u->name, size, MAX_STRUCT, sizeof(void *));
    for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
        const field_row *f = &required[i];
        if (strcmp(f->kind, u->kind))
            continue;
        if (size < f->offset + sizeof(void *))
            return malformed(err, path, "the table of unit %s/%s has %u bytes and ends before %s "
                             "at %u", u->kind, u->name, size, f->name, f->offset);
        void *p;
        memcpy(&p, (const char *)u->table + f->offset, sizeof p);
        if (!p)
            return malformed(err, path, "the table of unit %s/%s has no %s", u->kind, u->name,
                             f->name);
    }
    return 0;
}

static mr_status check_options(const mr_unit *u, const char *path, mr_err *err)
{
    if (!u->n_opts)
        return 0;
    if (!u->opts || u->n_opts > MAX_OPTIONS)
        return malformed(err, path, "unit %s/%s announces %u options (limit %d)%s", u->kind,
                         u->name, u->n_opts, MAX_OPTIONS, u->opts ? "" : " and gives none");
    const mr_opt *o = u->opts;
    for (uint32_t i = 0; i < u->n_opts; i++) {
        if (!sane(o->size, offsetof(mr_opt, was) + sizeof o->was))
            return malformed(err, path, "option %u of unit %s/%s gives its size as %u bytes "
                             "(%zu to %d, in steps of %zu)", i, u->kind, u->name, o->size,
                             offsetof(mr_opt, was) + sizeof o->was, MAX_STRUCT, sizeof(void *));
        if (!o->key || !*o->key)
            return malformed(err, path, "option %u of unit %s/%s has no key", i, u->kind, u->name);
        o = (const mr_opt *)((const char *)o + o->size);
    }
    mr_err inner = MR_ERR_INIT;
    if (mri_options_check(u->opts, u->n_opts, u->config_size, &inner)) {
        malformed(err, path, "unit %s/%s: %s", u->kind, u->name, inner.what);
        if (inner.detail[0])
            mr_detail(err, "%.*s\nfile: %s", 500, inner.detail, path);
        return MR_E_PLUGIN_MALFORMED;
    }
    return 0;
}

static mr_status check_needs(const mr_unit *u, const char *path, mr_err *err)
{
    if (!MR_HAS(u, needs) || !u->needs)
        return 0;
    for (uint32_t i = 0; i < MAX_NEEDS; i++)
        if (!u->needs[i])
            return 0;
    return malformed(err, path, "unit %s/%s needs more than %d services: is its list NULL-ended?",
                     u->kind, u->name, MAX_NEEDS);
}

const mr_unit *mri_plugin_unit(const mr_plugin *p, uint32_t i)
{
    const char *u = (const char *)p->units;
    while (i--)
        u += ((const mr_unit *)u)->size;
    return (const mr_unit *)u;
}

static mr_status check_unit(const mr_plugin *p, uint32_t i, const char *path, mr_err *err)
{
    mr_status st;
    const mr_unit *u = mri_plugin_unit(p, i);
    if (!sane(u->size, offsetof(mr_unit, table) + sizeof u->table))
        return malformed(err, path, "unit %u gives its size as %u bytes (%zu to %d, in steps "
                         "of %zu)", i, u->size, offsetof(mr_unit, table) + sizeof u->table,
                         MAX_STRUCT, sizeof(void *));
    if (!u->kind || !u->name)
        return malformed(err, path, "unit %u has no %s", i, u->kind ? "name" : "kind");
    if (!printable_name(u->kind) || !printable_name(u->name))
        return malformed(err, path, "unit %u has a bad kind or name: \"%.40s/%.40s\" (letters, "
                         "digits, '_', '-', '.')", i, u->kind, u->name);
    for (uint32_t j = 0; j < i; j++) {
        const mr_unit *v = mri_plugin_unit(p, j);
        if (!strcmp(u->kind, v->kind) && !strcmp(u->name, v->name))
            return malformed(err, path, "units %u and %u are both %s/%s", j, i, u->kind, u->name);
    }
    MR_TRY(check_table(u, path, err));
    MR_TRY(check_options(u, path, err));
    MR_TRY(check_needs(u, path, err));
out:
    return st;
}

mr_status mri_plugin_validate(const mr_plugin *p, const char *path, mr_err *err)
{
    if (memcmp(p->magic, MR_PLUGIN_MAGIC, sizeof p->magic))
        return malformed(err, path, "its descriptor does not start with the magic \"%s\"",
                         MR_PLUGIN_MAGIC);
    mr_status st = mri_abi_check(MR_ABI_MAJOR, MR_ABI_MINOR, p->abi_major, p->abi_minor_built,
                                 p->abi_minor_needed, path, err);
    if (st)
        return st;
    if (!sane(p->size, offsetof(mr_plugin, n_units) + sizeof p->n_units))
        return malformed(err, path, "its descriptor gives its size as %u bytes (%zu to %d, in "
                         "steps of %zu)", p->size, offsetof(mr_plugin, pad) + sizeof p->pad,
                         MAX_STRUCT, sizeof(void *));
    if (!p->id || !*p->id || !p->version || !*p->version)
        return malformed(err, path, "its descriptor has no %s",
                         p->id && *p->id ? "version" : "id");
    if (!p->n_units || !p->units)
        return malformed(err, path, "it offers no unit");
    if (p->n_units > MAX_UNITS)
        return malformed(err, path, "it announces %u units (limit %d)", p->n_units, MAX_UNITS);
    for (uint32_t i = 0; i < p->n_units; i++)
        MR_TRY(check_unit(p, i, path, err));
out:
    return st;
}
