/* SPDX-License-Identifier: Apache-2.0
 * elsewhere.c - see elsewhere.h. Another machine may have other instructions, so its figures are
 * the same up to TOLERANCE, not to the bit. */
#include "elsewhere.h"
#include "ranks.h"
#include "core/base/json.h"
#include "core/store/store.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double TOLERANCE = 1e-3;

static char *path_of(const mri_session *s)
{
    return mri_format("%s/rerun.json", s->config->run.dir);
}

/* Where the ranks run: each one's host and device. */
static mr_status machine_of(mri_session *s, app_record *out, mr_err *err)
{
    enum { ROOM = 128 };
    uint32_t n = s->world ? s->world->mesh.world : 1;
    char mine[ROOM] = { 0 }, *all = mri_alloc((size_t)n * ROOM);
    mr_status st = 0;
    if (gethostname(out->host, sizeof out->host))
        snprintf(out->host, sizeof out->host, "unknown");
    out->host[sizeof out->host - 1] = 0;
    snprintf(mine, sizeof mine, "%s %.60s", out->host,
             s->device.info.name ? s->device.info.name : "device");
    if (mri_world_alone(s->world))
        memcpy(all, mine, ROOM);
    else
        st = mri_world_gather(s->world, mine, ROOM, all, err);
    out->machine = mri_hash(0, all, (size_t)n * ROOM);
    free(all);
    return st;
}

/* ---- the file -------------------------------------------------------------------------------- */

static json_t *bits(double x) /* exact, and JSON has no NaN */
{
    uint64_t u;
    char text[32];
    memcpy(&u, &x, sizeof u);
    snprintf(text, sizeof text, "%016llx", (unsigned long long)u);
    return json_string(text);
}

static uint64_t hex(const mri_json *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text ? strtoull(text, NULL, 16) : 0;
}

static double real(const mri_json *o, const char *key)
{
    uint64_t u = hex(o, key);
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static mr_status read_file(const mri_session *s, app_record *r, mr_err *err)
{
    char *path = path_of(s);
    mri_json *o = NULL;
    mr_status st = access(path, F_OK) ? 0 : mri_json_read(path, 1 << 16, &o, err);
    if (!st && o) {
        const char *host = json_string_value(json_object_get(o, "host"));
        r->step = json_integer_value(json_object_get(o, "step"));
        r->loss = real(o, "loss");
        r->grad_norm = real(o, "grad_norm");
        r->machine = hex(o, "machine");
        snprintf(r->host, sizeof r->host, "%s", host ? host : "another host");
    }
    mri_json_free(o);
    free(path);
    return st;
}

static mr_status write_file(const mri_session *s, const app_record *r, mr_err *err)
{
    char machine[32], *path = path_of(s);
    snprintf(machine, sizeof machine, "%016llx", (unsigned long long)r->machine);
    json_t *o = json_pack("{s:I,s:o,s:o,s:s,s:s}", "step", (json_int_t)r->step, "loss",
                          bits(r->loss), "grad_norm", bits(r->grad_norm), "host", r->host,
                          "machine", machine);
    char *text = json_dumps(o, JSON_INDENT(2));
    mr_status st = mri_write_file_atomic(path, text, strlen(text), err);
    free(text);
    json_decref(o);
    free(path);
    return st;
}

static void forget(const mri_session *s, app_record *r)
{
    char *path = path_of(s);
    if (mri_world_first(s->world))
        unlink(path);
    free(path);
    r->step = 0;
}

/* ---- question and answer --------------------------------------------------------------------- */

mr_status app_record_read(mri_session *s, app_record *r, mr_err *err)
{
    bool asks = !strcmp(s->config->run.rerun, "elsewhere");
    memset(r, 0, sizeof *r);
    mr_status st = asks && mri_world_first(s->world) ? read_file(s, r, err) : 0;
    st = mri_world_agree(s->world, st, err);
    return st ? st : app_as_first(s->world, r, sizeof *r, err);
}

mr_status app_record_write(mri_session *s, const mri_step_result *bad, app_record *r, mr_err *err)
{
    mr_status st = machine_of(s, r, err);
    r->step = bad->step;
    r->loss = bad->loss;
    r->grad_norm = bad->grad_norm;
    if (!st && mri_world_first(s->world))
        st = write_file(s, r, err);
    if ((st = mri_world_agree(s->world, st, err)))
        return st;
    mr_fail(err, MR_E_FAULT_UNDECIDED, MR_BLAME_ENV, "step %lld %s, in the same way twice on %s",
            (long long)bad->step, bad->spike ? "has a spike of the loss" : "was not finite",
            r->host);
    mr_detail(err, "loss %.17g, gradient norm %.17g", bad->loss, bad->grad_norm);
    mr_hint(err, "start the same command on another machine: it compares, and says whose fault it "
            "is");
    return MR_E_FAULT_UNDECIDED;
}

static bool alike(double a, double b)
{
    if (!isfinite(a) || !isfinite(b))
        return isnan(a) ? isnan(b) : a == b;
    return fabs(a - b) <= TOLERANCE * fmax(fabs(a), fabs(b));
}

mr_status app_record_compare(mri_session *s, app_record *r, const mri_step_result *x,
                             app_answer *answer, mr_err *err)
{
    app_record here = { 0 };
    *answer = APP_NOT_ASKED;
    if (!r->step || x->step != r->step)
        return 0;
    mr_status st = machine_of(s, &here, err);
    if (!st)
        st = app_as_first(s->world, &here, sizeof here, err);
    if (st || (here.machine == r->machine && !x->ok))
        return st;
    if (!x->ok && alike(x->loss, r->loss) && alike(x->grad_norm, r->grad_norm)) {
        *answer = APP_DATA;
        forget(s, r);
        return 0;
    }
    *answer = APP_MACHINE;
    mr_fail(err, MR_E_FAULT_PERSISTENT, MR_BLAME_ENV, "step %lld went wrong twice on %s, and comes "
            "to other figures on %s", (long long)x->step, r->host, here.host);
    mr_detail(err, "%s: loss %.17g, gradient norm %.17g\n%s: loss %.17g, gradient norm %.17g",
              r->host, r->loss, r->grad_norm, here.host, x->loss, x->grad_norm);
    mr_hint(err, "take %s out of service; the same command goes on elsewhere", r->host);
    forget(s, r);
    return MR_E_FAULT_PERSISTENT;
}
