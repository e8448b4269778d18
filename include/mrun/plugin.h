/* SPDX-License-Identifier: Apache-2.0
 *
 * plugin.h - the contract between mrun and a plugin.
 *
 * A plugin is one shared object that exports ONE data symbol, `mrun_plugin_v1`.
 * It links nothing of ours: every host service arrives as a table of functions.
 *
 * Five rules keep old binaries loading:
 *   1. a struct that crosses the border starts with `size`, set by the side that
 *      allocated it; the reader asks MR_HAS() before it touches a field;
 *   2. fields are only ever appended, and no struct has hidden padding (this header
 *      compiles with -Werror=padded), so `size` tells exactly which fields exist;
 *   3. a size larger than we know is fine, never an error;
 *   4. arrays of growable structs are walked by the element's own `size`;
 *   5. numbers are fixed-width; anything open-ended (ops, dtypes, kinds,
 *      extensions) is a string.
 * The small structs passed in bulk on the hot path (mr_dim, mr_attr, mr_buf, mr_list)
 * carry no size: they are frozen for the life of the major version.
 *
 * Until 1.0 the ABI is 0.x: a minor may break, and the loader refuses any other 0.x.
 *
 * Every function line ends with a thread tag:
 *   [main]        only the thread that opened the plugin
 *   [any-thread]  any thread, also concurrently
 *   [instance]    any thread, but one call at a time for one instance
 *   [scan]        may run in a forked child while plugins are listed: no devices, no threads
 */
#ifndef MRUN_PLUGIN_H
#define MRUN_PLUGIN_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MR_ABI_MAJOR 0
#define MR_ABI_MINOR 1 /* newest minor that this header describes */
#ifndef MR_ABI_TARGET  /* oldest host minor the plugin still loads in. From 1.0 on the */
#define MR_ABI_TARGET MR_ABI_MINOR /* default is 0; below it, every minor stands alone */
#endif

#define MR_PLUGIN_SYMBOL mrun_plugin_v1
#define MR_PLUGIN_SYMBOL_NAME "mrun_plugin_v1"
#define MR_PLUGIN_MAGIC "MRUNPLG"

#if defined(__GNUC__)
#define MR_EXPORT __attribute__((visibility("default")))
#define MR_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define MR_UNUSED __attribute__((unused))
#else
#define MR_EXPORT
#define MR_PRINTF(fmt, args)
#define MR_UNUSED
#endif

/* Does the struct at `p`, as its writer sized it, reach to the end of `field`? */
#define MR_HAS(p, field) ((p)->size >= offsetof(__typeof__(*(p)), field) + sizeof((p)->field))
#define MR_CAN(p, fn) (MR_HAS(p, fn) && (p)->fn)

/* ---- errors ---------------------------------------------------------------------
 * The caller owns the mr_err, so nobody frees anything. A status is 0 or minus the
 * error's number; `mrun explain E0203` prints that number's page. Append only. */
#define MR_ERR_MAP(X) \
    X(PROFILE_SYNTAX, 101) X(PROFILE_KEY, 102) X(PROFILE_VALUE, 103) X(PROFILE_DUPLICATE, 104) \
    X(PROFILE_INCLUDE, 105) X(PROFILE_MISSING, 106) X(PROFILE_CONFLICT, 107) X(USAGE, 108) \
    X(PLUGIN_NOT_FOUND, 201) X(PLUGIN_LOAD, 202) X(PLUGIN_VERSION, 203) X(PLUGIN_MALFORMED, 204) \
    X(PLUGIN_CRASHED, 205) X(PLUGIN_TIMEOUT, 206) X(PLUGIN_OPEN, 207) X(PLUGIN_CONFORMANCE, 208) \
    X(DATA_OPEN, 301) X(DATA_FORMAT, 302) X(DATA_SHORT, 303) X(TOKENIZER, 304) \
    X(IMAGE_FORMAT, 305) X(IMAGE_LIMIT, 306) X(IMAGE_COUNT, 307) X(TEMPLATE, 308) \
    X(MODEL_CONFIG, 401) X(PROGRAM, 402) X(OP_UNKNOWN, 403) X(OP_SHAPE, 404) X(PLAN_VERIFY, 405) \
    X(NO_GRADIENT, 406) \
    X(NOMEM, 501) X(NONFINITE, 502) X(CANCELLED, 503) X(RUN_MISMATCH, 504) X(GUARD, 505) \
    X(DIVERGED, 506) X(EXPERT_ROOM, 507) X(FAULT_TRANSIENT, 508) X(FAULT_PERSISTENT, 509) \
    X(FAULT_UNDECIDED, 510) \
    X(STORE_IO, 601) X(STORE_FORMAT, 602) X(STORE_CHECKSUM, 603) X(STORE_MISSING, 604) \
    X(STORE_FULL, 605) X(STORE_LAYOUT, 606) \
    X(UNSUPPORTED, 701) X(DEVICE, 702) \
    X(COMM, 801) \
    X(ARG, 901) X(INTERNAL, 902)

enum {
    MR_OK = 0,
#define MR_ERR_ENUM(name, number) MR_E_##name = -(number),
    MR_ERR_MAP(MR_ERR_ENUM)
#undef MR_ERR_ENUM
    MR_E_MIN = -9999
};
typedef int32_t mr_status;

enum { MR_BLAME_UNKNOWN = 0, MR_BLAME_USER, MR_BLAME_ENV, MR_BLAME_PLUGIN, MR_BLAME_HOST };

typedef struct mr_err {
    uint32_t size;
    mr_status code;
    uint32_t blame;   /* MR_BLAME_*                                             */
    int32_t native;   /* errno, cudaError_t, ncclResult_t ... or 0              */
    char what[240];   /* one line: what failed, with the thing and its value    */
    char detail[800]; /* the numbers: sizes, limits, file:line; may be empty    */
    char hint[240];   /* what to do next; may be empty                          */
} mr_err;

#define MR_ERR_INIT { sizeof(mr_err), 0, 0, 0, "", "", "" }

/* ---- typed options ---------------------------------------------------------------
 * One row gives an INI key, its C storage, its page in `mrun explain`, its completion.
 * The host parses the profile and fills the unit's config struct; a plugin parses
 * nothing. Storage at `offset` by type:
 *   BOOL int32_t | INT SIZE int64_t | FLOAT TIME double (seconds)
 *   STR PATH ENUM const char * (lives as long as the profile; NULL if unset)
 *   LIST mr_list of strings                                                          */
enum {
    MR_T_BOOL = 1, MR_T_INT, MR_T_FLOAT, MR_T_SIZE, MR_T_TIME,
    MR_T_STR, MR_T_PATH, MR_T_ENUM, MR_T_LIST
};
enum { MR_OPT_REQUIRED = 1, MR_OPT_HIDDEN = 2 };

typedef struct mr_list {
    const char *const *v;
    uint64_t n;
} mr_list;

typedef struct mr_opt {
    uint32_t size, type, flags, offset;
    const char *key;
    const char *def;     /* INI text, parsed as the file is; NULL: unset (0, NULL)     */
    const char *doc;     /* one line; the unit in parentheses where there is one       */
    const char *choices; /* ENUM: "a|b|c"; other types: words also accepted, or NULL   */
    double lo, hi;       /* lo < hi: inclusive range of a number; else no range        */
    const char *was;     /* deprecated spelling, still accepted; or NULL               */
} mr_opt;

#define MR_OPT(kind, type_, field, key_, def_, doc_) \
    { sizeof(mr_opt), type_, 0, (uint32_t)offsetof(kind, field), key_, def_, doc_, 0, 0, 0, 0 }
#define MR_OPT_RANGE(kind, type_, field, key_, def_, lo_, hi_, doc_) \
    { sizeof(mr_opt), type_, 0, (uint32_t)offsetof(kind, field), key_, def_, doc_, 0, lo_, hi_, 0 }
#define MR_OPT_CHOICE(kind, field, key_, def_, choices_, doc_) \
    { sizeof(mr_opt), MR_T_ENUM, 0, (uint32_t)offsetof(kind, field), key_, def_, doc_, choices_, 0, 0, 0 }

/* ---- what the host gives ---------------------------------------------------------- */
enum { MR_LOG_ERROR = 0, MR_LOG_WARN, MR_LOG_INFO, MR_LOG_DEBUG };

typedef struct mr_host {
    uint32_t size, abi_major, abi_minor, pad;
    const char *name, *version; /* "mrun", "0.1.0"                                    */
    void *self;
    void (*log)(void *self, uint32_t level, const char *unit, const char *msg); /* [any-thread] */
    const void *(*ext)(void *self, const char *id);  /* a service or NULL          [any-thread] */
    int32_t (*cancelled)(void *self); /* the user asked to stop                    [any-thread] */
} mr_host;

/* ---- what the plugin gives -------------------------------------------------------- */
typedef struct mr_unit { /* one thing that a profile can name: [KIND] plugin = NAME */
    uint32_t size, flags;
    const char *kind, *name, *doc;
    const mr_opt *opts; /* rows for section [KIND.NAME]                              */
    uint32_t n_opts, config_size;
    const void *table; /* the kind's table (mr_backend_ops, mr_model_ops ...)        */
    const char *const *needs; /* NULL-ended extension ids the host must offer, or NULL */
} mr_unit;

typedef struct mr_plugin {
    /* frozen for ever: the first 24 bytes */
    char magic[8]; /* MR_PLUGIN_MAGIC and a zero */
    uint32_t size, abi_major, abi_minor_built, abi_minor_needed;
    /* append below */
    const char *id, *version, *license, *doc; /* id: reverse domain, "org.mrun.cpu" */
    const mr_unit *units;
    uint32_t n_units, pad;
    mr_status (*open)(const mr_host *host, mr_err *err); /* before any unit; may be NULL [scan] */
    void (*close)(void); /* at exit; may be NULL                                         [main] */
} mr_plugin;

#define MR_PLUGIN_HEADER \
    { 'M', 'R', 'U', 'N', 'P', 'L', 'G', 0 }, sizeof(mr_plugin), MR_ABI_MAJOR, MR_ABI_MINOR, \
        MR_ABI_TARGET

/* Text that the host reads without dlopen(), so that a plugin is listed even when a
 * library it needs is missing. `units` is "kind/name kind/name". What in a model's folder asks for
 * a unit stands behind an @: a key of config.json for a model that is not found by its model_type
 * ("model/vlm@vision_config"), a file for a tokenizer ("tokenizer/hf@tokenizer.json"). */
#define MR_STR_(x) #x
#define MR_STR(x) MR_STR_(x)
#define MR_PLUGIN_NOTE(id, version, units) \
    __attribute__((used, section(".mrun.note"))) static const char mr_note_[] = \
        "mrun-plugin id=" id " version=" version " abi=" MR_STR(MR_ABI_MAJOR) "." MR_STR( \
            MR_ABI_MINOR) " units=" units

/* Fill `e` (may be NULL) and return `code`, so that `return mr_fail(...)` reads well. */
MR_PRINTF(4, 5) MR_UNUSED static inline mr_status
mr_fail(mr_err *e, mr_status code, uint32_t blame, const char *fmt, ...)
{
    if (e && MR_HAS(e, hint)) {
        va_list ap;
        e->code = code;
        e->blame = blame;
        e->native = 0;
        e->detail[0] = e->hint[0] = 0;
        va_start(ap, fmt);
        vsnprintf(e->what, sizeof e->what, fmt, ap);
        va_end(ap);
    }
    return code;
}

/* Add the numbers, or the next step, to an error just made. */
MR_PRINTF(2, 3) MR_UNUSED static inline void mr_detail(mr_err *e, const char *fmt, ...)
{
    if (e && MR_HAS(e, hint)) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(e->detail, sizeof e->detail, fmt, ap);
        va_end(ap);
    }
}

MR_PRINTF(2, 3) MR_UNUSED static inline void mr_hint(mr_err *e, const char *fmt, ...)
{
    if (e && MR_HAS(e, hint)) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(e->hint, sizeof e->hint, fmt, ap);
        va_end(ap);
    }
}

/* The one error path: acquire top-down, `goto out` on failure, release bottom-up. */
#define MR_TRY(expr) \
    do { \
        st = (expr); \
        if (st) \
            goto out; \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
