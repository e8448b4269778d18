/* SPDX-License-Identifier: Apache-2.0
 *
 * tuning.c - see tuning.h. The file: a line that says what it is, then a line a choice,
 *     machine TAB key TAB microseconds TAB 128 hexadecimal digits TAB check
 * check being FNV-1a of what stands before its tab. A line that does not check is dropped.
 */
#include "tuning.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TITLE "mrun: timed cuBLASLt choices, 1"
enum { MOST_BYTES = 4 << 20, MOST_CHOICES = 16384, LINE = 2 * CUDA_CHOICE_KEY + 256 };

struct row {
    char machine[CUDA_CHOICE_KEY], key[CUDA_CHOICE_KEY];
    struct cuda_choice choice;
    int ours; /* chosen here: what the file says of it is older */
};

struct cuda_tuning {
    char *path;
    char machine[CUDA_CHOICE_KEY];
    cuda_tuning_warn warn;
    void *self;
    struct row *rows;
    size_t n, cap;
    int foreign, warned; /* the file is not ours; something was said of it */
};

static void warn(struct cuda_tuning *t, const char *what, const char *why)
{
    char line[600];
    if (t->warned || !t->warn)
        return;
    t->warned = 1;
    snprintf(line, sizeof line, "%s %s%s%s", t->path, what, why ? ": " : "", why ? why : "");
    t->warn(t->self, line);
}

/* ---- rows ---------------------------------------------------------------------------------- */

static struct row *find(const struct cuda_tuning *t, const char *machine, const char *key)
{
    for (size_t i = 0; i < t->n; i++)
        if (!strcmp(t->rows[i].key, key) && !strcmp(t->rows[i].machine, machine))
            return &t->rows[i];
    return NULL;
}

static void put(struct cuda_tuning *t, const struct row *r)
{
    struct row *old = find(t, r->machine, r->key);
    if (old && (r->ours || !old->ours))
        *old = *r;
    if (old || t->n == MOST_CHOICES)
        return;
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 64;
        struct row *rows = realloc(t->rows, cap * sizeof *rows);
        if (!rows)
            return; /* forgotten: it will be timed again */
        t->rows = rows;
        t->cap = cap;
    }
    t->rows[t->n++] = *r;
}

/* ---- lines --------------------------------------------------------------------------------- */

static uint64_t check_of(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    return h;
}

static int write_row(const struct row *r, char *line) /* of LINE bytes; its length */
{
    int n = snprintf(line, LINE, "%s\t%s\t%.3f\t", r->machine, r->key, r->choice.us);
    for (int i = 0; i < CUDA_CHOICE_BYTES; i++)
        n += snprintf(line + n, (size_t)(LINE - n), "%02x", r->choice.algo[i]);
    return n + snprintf(line + n, (size_t)(LINE - n), "\t%016llx\n",
                        (unsigned long long)check_of(line, (size_t)n));
}

static int field(char **at, char *out, size_t cap)
{
    size_t n = strcspn(*at, "\t");
    if (!(*at)[n] || !n || n >= cap)
        return 0;
    memcpy(out, *at, n);
    out[n] = 0;
    *at += n + 1;
    return 1;
}

static int read_row(char *line, struct row *r)
{
    char us[32], hex[2 * CUDA_CHOICE_BYTES + 1], *at = line, *end, *last = strrchr(line, '\t');
    if (!last || strlen(last + 1) != 16 ||
        strtoull(last + 1, &end, 16) != check_of(line, (size_t)(last - line)) || *end)
        return 0;
    if (!field(&at, r->machine, sizeof r->machine) || !field(&at, r->key, sizeof r->key) ||
        !field(&at, us, sizeof us) || !field(&at, hex, sizeof hex) || at != last + 1 ||
        strlen(hex) != 2 * CUDA_CHOICE_BYTES)
        return 0;
    r->choice.us = strtod(us, &end);
    if (*end || !isfinite(r->choice.us) || r->choice.us < 0)
        return 0;
    for (int i = 0; i < CUDA_CHOICE_BYTES; i++) {
        char byte[3] = { hex[2 * i], hex[2 * i + 1], 0 };
        r->choice.algo[i] = (uint8_t)strtoul(byte, &end, 16);
        if (*end)
            return 0;
    }
    return 1;
}

/* ---- the file ------------------------------------------------------------------------------ */

/* NULL: there is none to read, which is told unless it simply is not there */
static char *read_whole(struct cuda_tuning *t, size_t *n)
{
    FILE *f = fopen(t->path, "rb");
    char *text = NULL;
    struct stat sb;
    *n = 0;
    if (!f && errno != ENOENT && errno != ENOTDIR)
        warn(t, "cannot be read", strerror(errno));
    if (!f)
        return NULL;
    if (fstat(fileno(f), &sb) || !S_ISREG(sb.st_mode) || sb.st_size > MOST_BYTES) {
        t->foreign = 1;
        warn(t, "is no file of timed choices, it is left alone", NULL);
    } else if ((text = malloc((size_t)sb.st_size + 1))) {
        *n = fread(text, 1, (size_t)sb.st_size, f);
        text[*n] = 0;
    }
    fclose(f);
    return text;
}

/* Takes in what the file has, but for what was chosen here. */
static void load(struct cuda_tuning *t)
{
    const size_t title = strlen(TITLE "\n");
    size_t n, bad = 0;
    char *text = read_whole(t, &n), *end = text ? text + n : NULL, why[64];
    if (text && n && (n < title || memcmp(text, TITLE "\n", title))) {
        t->foreign = 1;
        warn(t, "is no file of timed choices, it is left alone", NULL);
    }
    for (char *at = text + title; text && n && !t->foreign && at < end;) {
        struct row r;
        char *stop = memchr(at, '\n', (size_t)(end - at));
        memset(&r, 0, sizeof r);
        if (stop)
            *stop = 0;
        if (stop && (size_t)(stop - at) == strlen(at) && read_row(at, &r))
            put(t, &r);
        else
            bad++;
        at = stop ? stop + 1 : end;
    }
    snprintf(why, sizeof why, "%zu of them, timed anew where needed", bad);
    if (bad)
        warn(t, "has damaged lines", why);
    free(text);
}

static void make_folders(const char *path)
{
    char *p = strdup(path);
    for (char *s = p ? strchr(p + 1, '/') : NULL; s; s = strchr(s + 1, '/')) {
        *s = 0;
        mkdir(p, 0777);
        *s = '/';
    }
    free(p);
}

static void save(struct cuda_tuning *t)
{
    char line[LINE], temporary[4096];
    int n = snprintf(temporary, sizeof temporary, "%s.%ld", t->path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof temporary)
        return;
    make_folders(t->path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
    int bad = !f || fputs(TITLE "\n", f) < 0;
    for (size_t i = 0; i < t->n && !bad; i++) {
        int len = write_row(&t->rows[i], line);
        bad = fwrite(line, 1, (size_t)len, f) != (size_t)len;
    }
    if (f)
        bad |= fclose(f) != 0;
    else if (fd >= 0)
        close(fd);
    if (!bad)
        bad = rename(temporary, t->path) != 0;
    if (!bad)
        return;
    warn(t, "cannot be written", strerror(errno));
    if (fd >= 0)
        unlink(temporary);
}

/* ---- what others call ---------------------------------------------------------------------- */

char *cuda_tuning_path(const char *setting)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char path[4096];
    int n;
    if (!setting || !*setting || !strcmp(setting, "off"))
        return NULL;
    if (strcmp(setting, "auto"))
        return strdup(setting);
    if (cache && *cache == '/')
        n = snprintf(path, sizeof path, "%s/mrun/cublaslt-choices.txt", cache);
    else if (home && *home == '/')
        n = snprintf(path, sizeof path, "%s/.cache/mrun/cublaslt-choices.txt", home);
    else
        return NULL;
    return n < 0 || (size_t)n >= sizeof path ? NULL : strdup(path);
}

struct cuda_tuning *cuda_tuning_open(const char *path, const char *machine,
                                     cuda_tuning_warn warn_fn, void *self)
{
    struct cuda_tuning *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->warn = warn_fn;
    t->self = self;
    snprintf(t->machine, sizeof t->machine, "%s", machine);
    t->path = path ? strdup(path) : NULL;
    if (t->path)
        load(t);
    return t;
}

void cuda_tuning_close(struct cuda_tuning *t)
{
    if (!t)
        return;
    free(t->path);
    free(t->rows);
    free(t);
}

int cuda_tuning_find(const struct cuda_tuning *t, const char *key, struct cuda_choice *out)
{
    const struct row *r = find(t, t->machine, key);
    if (r)
        *out = r->choice;
    return r != NULL;
}

void cuda_tuning_keep(struct cuda_tuning *t, const char *key, const struct cuda_choice *c)
{
    struct row r;
    memset(&r, 0, sizeof r);
    if (strlen(key) >= sizeof r.key)
        return;
    snprintf(r.machine, sizeof r.machine, "%s", t->machine);
    snprintf(r.key, sizeof r.key, "%s", key);
    r.choice = *c;
    r.ours = 1;
    put(t, &r);
    if (!t->path)
        return;
    load(t); /* another process may have added some */
    if (!t->foreign)
        save(t);
}
