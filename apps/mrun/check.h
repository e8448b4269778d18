/* SPDX-License-Identifier: Apache-2.0
 *
 * check.h - the conformance suite's own border: what a test gets, how it answers, and the
 * tables that hold the tests. To add one, add a row to a table; its name is a kebab-case
 * claim, its doc is what `--list` prints.
 */
#ifndef MRUN_CHECK_H
#define MRUN_CHECK_H
#include "app.h"
#include "mrun/backend.h"
#include "mrun/model.h"

typedef struct check {
    app *a;
    const char *path;        /* the file                                                    */
    const mr_plugin *plugin; /* loaded and opened in this process; NULL in tests of the file */
    const mr_unit *unit;     /* NULL in tests of the file or the whole plugin               */
    uint64_t seed;
    const app_args *args; /* for --set                                                      */
    enum { CHECK_PASS, CHECK_FAIL, CHECK_SKIP } verdict;
    mri_str said; /* the reason; also what a passing test wants to tell                     */
} check;

enum { CHECK_FILE, CHECK_GATE, CHECK_PLUGIN, CHECK_UNIT };
typedef struct check_row {
    const char *name, *doc;
    int level; /* FILE: once, nothing is loaded; GATE: the same, and nothing else runs if it
                  fails; PLUGIN: once, loaded; UNIT: once a unit                           */
    const char *kind; /* of the unit; NULL: every kind that has instances                  */
    int limit_s;
    void (*run)(check *c);
} check_row;

/* name NULL ends each */
extern const check_row check_static_rows[], check_life_rows[], check_kind_rows[];

/* The verdict; a test returns after either. Failing twice keeps both reasons. */
MR_PRINTF(2, 3) void check_fail(check *c, const char *fmt, ...);
MR_PRINTF(2, 3) void check_skip(check *c, const char *fmt, ...);
MR_PRINTF(2, 3) void check_say(check *c, const char *fmt, ...);
void check_fail_err(check *c, const char *doing, const mr_err *err);

/* ---- instances (check_life.c) --------------------------------------------------------- */
/* The unit's config from defaults and --set; NULL after a verdict (a required option: skip). */
void *check_config(check *c);
/* One instance by the unit's own create() or open(), with small settings. False after a
 * verdict: skipped where the settings are to blame, failed otherwise. */
bool check_make(check *c, void **instance);
void check_drop(check *c, void *instance);
void check_graph_cuts(check *c);  /* rows of check_kind_rows: check_graph.c, */
void check_shard_plans(check *c); /* check_shard.c                           */

/* ---- a builder that only notes what it was asked (check_build.c) ------------------------ */
typedef struct check_program check_program;
check_program *check_program_new(void);
void check_program_free(check_program *p);
extern const mr_builder check_builder;
const char *check_program_error(const check_program *p); /* NULL: none */
size_t check_program_ops(const check_program *p);
bool check_program_reads(const check_program *p, const char *name); /* does some op read it? */
size_t check_program_outputs(const check_program *p); /* losses count */
bool check_program_balanced(const check_program *p);   /* every region was closed */

/* ---- check_backend.c --------------------------------------------------------------------
 * The cross-backend table: every op of the catalogue, every sample case, f32 and bf16, against
 * the reference loops, on an open device. One line an op goes to `out`. */
typedef struct check_table {
    uint32_t ops, cases, unsupported, failed;
} check_table;
void app_check_backend(const mr_backend_ops *ops, void *dev, uint64_t seed, check_table *sum,
                       mri_str *out);

#endif
