/* SPDX-License-Identifier: Apache-2.0
 *
 * tensorboard.c - sink "tensorboard": an event file that TensorBoard opens, one a start of
 * the run: RUN/events.out.tfevents.TIME.HOST.
 *
 * A file is a row of records: u64 length, masked CRC32C of these 8 bytes, the payload, masked
 * CRC32C of the payload; all little-endian. A payload is a protobuf message Event
 *   1 double wall_time, 2 int64 step, 3 string file_version | 5 Summary | 7 SessionLog
 *   Summary: 1 repeated Value { 1 string tag, 2 float simple_value }; SessionLog: 1 status
 * written here by hand. Invariant: each record is one write(), so a killed run leaves at most
 * a torn tail, which readers skip. On resume a SessionLog START tells TensorBoard to drop the
 * points of earlier files from that step on.
 */
#include "mrun/sink.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct config {
    const char *dir;
    int32_t fsync, pad;
} config;

typedef struct bytes { /* a message being built; `bad` once memory ran out */
    uint8_t *p;
    size_t n, cap;
    int bad;
} bytes;

typedef struct sink {
    char *path;
    int fd;
    int32_t fsync;
    uint32_t crc_table[256];
    bytes event, summary, value, record;
} sink;

/* ---- CRC32C (Castagnoli, reflected polynomial 0x82f63b78), one byte a step -------------- */
static void crc_init(uint32_t table[256])
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = (c >> 1) ^ (c & 1 ? 0x82f63b78u : 0);
        table[i] = c;
    }
}

/* rotated and offset, so that a CRC of data that holds CRCs stays sound */
static uint32_t crc_masked(const uint32_t table[256], const uint8_t *p, size_t n)
{
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++)
        c = table[(c ^ p[i]) & 0xff] ^ (c >> 8);
    c = ~c;
    return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

/* ---- protobuf --------------------------------------------------------------------------- */
enum { VARINT = 0, FIXED64 = 1, LENGTH = 2, FIXED32 = 5 }; /* wire types */

static void put(bytes *b, const void *p, size_t n)
{
    if (b->n + n > b->cap) {
        size_t cap = 2 * (b->n + n) + 64;
        uint8_t *q = realloc(b->p, cap);
        if (!q) {
            b->bad = 1;
            return;
        }
        b->p = q;
        b->cap = cap;
    }
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void put_little(bytes *b, uint64_t v, int n)
{
    uint8_t c[8];
    for (int i = 0; i < n; i++)
        c[i] = (uint8_t)(v >> (8 * i));
    put(b, c, (size_t)n);
}

static void put_varint(bytes *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        put_little(b, (v & 0x7f) | 0x80, 1);
    put_little(b, v, 1);
}

static void put_key(bytes *b, uint32_t field, uint32_t wire)
{
    put_varint(b, field << 3 | wire);
}

static void put_double(bytes *b, uint32_t field, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, 8);
    put_key(b, field, FIXED64);
    put_little(b, bits, 8);
}

static void put_float(bytes *b, uint32_t field, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    put_key(b, field, FIXED32);
    put_little(b, bits, 4);
}

static void put_int(bytes *b, uint32_t field, int64_t v)
{
    put_key(b, field, VARINT);
    put_varint(b, (uint64_t)v);
}

static void put_block(bytes *b, uint32_t field, const void *p, size_t n)
{
    put_key(b, field, LENGTH);
    put_varint(b, n);
    put(b, p, n);
}

/* ---- the file --------------------------------------------------------------------------- */
static mr_status fail(sink *s, const char *doing, mr_err *err)
{
    int e = errno;
    mr_status st = e == ENOSPC || e == EDQUOT ? MR_E_STORE_FULL : MR_E_STORE_IO;
    mr_fail(err, st, MR_BLAME_ENV, "cannot %s %s: %s", doing, s->path, strerror(e));
    if (err && MR_HAS(err, native))
        err->native = e;
    return st;
}

static mr_status write_record(sink *s, const bytes *payload, mr_err *err)
{
    bytes *r = &s->record;
    r->n = 0;
    put_little(r, payload->n, 8);
    if (!r->bad)
        put_little(r, crc_masked(s->crc_table, r->p, 8), 4);
    put(r, payload->p, payload->n);
    put_little(r, crc_masked(s->crc_table, payload->p, payload->n), 4);
    if (r->bad || payload->bad || s->summary.bad || s->value.bad)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "tensorboard: no memory for a record");
    ssize_t n = write(s->fd, r->p, r->n);
    if (n != (ssize_t)r->n) {
        if (n >= 0)
            errno = ENOSPC; /* what a short write to a file means */
        return fail(s, "write", err);
    }
    return s->fsync && fsync(s->fd) ? fail(s, "fsync", err) : 0;
}

static void begin_event(bytes *b, double time, int64_t step)
{
    b->n = 0;
    put_double(b, 1, time);
    put_int(b, 2, step);
}

/* Makes a file that no earlier start made; two starts in one second get .1, .2 ... */
static mr_status open_new(sink *s, const config *c, const char *run_dir, mr_err *err)
{
    char host[128] = "localhost";
    long long now = (long long)time(NULL);
    const char *top = *c->dir == '/' ? "" : run_dir;
    gethostname(host, sizeof host - 1);
    for (int i = 0; i < 1000; i++) {
        char suffix[16] = "";
        if (i)
            snprintf(suffix, sizeof suffix, ".%d", i);
        free(s->path);
        if (asprintf(&s->path, "%s/%s/events.out.tfevents.%lld.%s%s", top, c->dir, now, host,
                     suffix) < 0) {
            s->path = NULL;
            return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "tensorboard: no memory");
        }
        s->fd = open(s->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (s->fd >= 0 || errno != EEXIST)
            break;
    }
    return s->fd < 0 ? fail(s, "create", err) : 0;
}

static void sink_destroy(void *self)
{
    sink *s = self;
    if (s->fd >= 0)
        close(s->fd);
    free(s->event.p);
    free(s->summary.p);
    free(s->value.p);
    free(s->record.p);
    free(s->path);
    free(s);
}

static mr_status write_head(sink *s, const mr_sink_env *env, mr_err *err)
{
    static const char version[] = "brain.Event:2";
    double now = (double)time(NULL);
    mr_status st = 0;
    begin_event(&s->event, now, 0);
    put_block(&s->event, 3, version, sizeof version - 1);
    MR_TRY(write_record(s, &s->event, err));
    if (env->resumed) {
        enum { START = 1 };
        s->summary.n = 0;
        put_int(&s->summary, 1, START);
        begin_event(&s->event, now, env->from_step + 1);
        put_block(&s->event, 7, s->summary.p, s->summary.n);
        MR_TRY(write_record(s, &s->event, err));
    }
out:
    return st;
}

static mr_status sink_create(const mr_host *host, const mr_sink_env *env, const void *conf,
                             void **out, mr_err *err)
{
    sink *s = calloc(1, sizeof *s);
    mr_status st = 0;
    const config *c = conf;
    (void)host;
    if (!s)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "tensorboard: no memory");
    s->fd = -1;
    s->fsync = c->fsync;
    crc_init(s->crc_table);
    MR_TRY(open_new(s, c, env->run_dir, err));
    MR_TRY(write_head(s, env, err));
out:
    if (st)
        sink_destroy(s);
    else
        *out = s;
    return st;
}

static mr_status sink_event(void *self, const mr_event *e, mr_err *err)
{
    sink *s = self;
    if (!e->n_metrics || (strcmp(e->type, "step") && strcmp(e->type, "eval")))
        return 0;
    s->summary.n = 0;
    for (uint32_t i = 0; i < e->n_metrics; i++) {
        s->value.n = 0;
        put_block(&s->value, 1, e->metrics[i].name, strlen(e->metrics[i].name));
        put_float(&s->value, 2, (float)e->metrics[i].value);
        put_block(&s->summary, 1, s->value.p, s->value.n);
    }
    begin_event(&s->event, e->time, e->step);
    put_block(&s->event, 5, s->summary.p, s->summary.n);
    return write_record(s, &s->event, err);
}

static const mr_opt options[] = {
    MR_OPT(config, MR_T_STR, dir, "dir", ".",
           "existing folder for the event files, relative to the run's folder"),
    MR_OPT(config, MR_T_BOOL, fsync, "fsync", "false",
           "force every record to the disk: survives a power cut, costs milliseconds a step"),
};

static const mr_sink_ops ops = { sizeof ops, 0, sink_create, sink_destroy, sink_event };

static const mr_unit units[] = {
    { sizeof(mr_unit), 0, "sink", "tensorboard", "event files that TensorBoard opens", options,
      sizeof options / sizeof *options, sizeof(config), &ops, NULL },
};

MR_PLUGIN_NOTE("org.mrun.sink.tensorboard", "0.1.0", "sink/tensorboard");
MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER, "org.mrun.sink.tensorboard", "0.1.0", "Apache-2.0",
    "curves of a run for TensorBoard", units, 1, 0, NULL, NULL,
};
