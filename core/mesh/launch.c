/* SPDX-License-Identifier: Apache-2.0
 *
 * launch.c - who this process is, by the variables that launchers set. A launcher started inside
 * another leaves the variables of both: they must say the same, or nobody knows which is meant.
 */
#include "world.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct source { /* variables of one launcher; NULL: it has none */
    const char *name, *rank, *world, *local_rank, *local_world, *address, *port;
} source;

static const source sources[] = {
    { "torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
      "MASTER_PORT" },
    { "openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
      "OMPI_COMM_WORLD_LOCAL_SIZE", NULL, NULL },
    { "slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", NULL, NULL, NULL },
    { "pmi", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", NULL, NULL },
};
enum { N_SOURCES = sizeof sources / sizeof *sources };

static mr_status number(const char *name, const char *text, uint32_t limit, uint32_t *out,
                        mr_err *err)
{
    char *end;
    errno = 0;
    unsigned long long x = strtoull(text, &end, 10);
    if (*text && *text != '-' && !*end && !errno && x <= limit) {
        *out = (uint32_t)x;
        return 0;
    }
    mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "%s=%.60s is no number from 0 to %u", name, text, limit);
    mr_hint(err, "the launcher sets it: unset it, or start mrun by the launcher");
    return MR_E_COMM;
}

static mr_status optional(const char *name, uint32_t limit, uint32_t *out, mr_err *err)
{
    const char *text = name ? getenv(name) : NULL;
    return text ? number(name, text, limit, out, err) : 0;
}

/* Slurm sets its variables for the batch script too, and an allocation for one task is none. */
static bool set_at_all(const source *s)
{
    const char *rank = getenv(s->rank), *world = getenv(s->world);
    if (!strcmp(s->name, "slurm"))
        return rank && world && strcmp(world, "1") && getenv("SLURM_STEP_ID");
    return rank || world;
}

static mr_status read_source(const source *s, mri_launcher *l, mr_err *err)
{
    const char *rank = getenv(s->rank), *world = getenv(s->world);
    mr_status st = 0;
    if (!rank || !world) {
        mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "%s is set and %s is not", rank ? s->rank : s->world,
                rank ? s->world : s->rank);
        mr_hint(err, "%s sets both: start mrun by it, or set both by hand", s->name);
        return MR_E_COMM;
    }
    *l = (mri_launcher){ .name = s->name };
    MR_TRY(number(s->rank, rank, 1 << 20, &l->rank, err));
    MR_TRY(number(s->world, world, 1 << 20, &l->world, err));
    l->local_rank = l->rank;
    l->local_world = l->world;
    MR_TRY(optional(s->local_rank, 1 << 20, &l->local_rank, err));
    MR_TRY(optional(s->local_world, 1 << 20, &l->local_world, err));
    MR_TRY(optional(s->port, 65535, &l->port, err));
    if (l->rank >= l->world) {
        st = mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "%s=%u with %s=%u: ranks go from 0 to %s - 1",
                     s->rank, l->rank, s->world, l->world, s->world);
        goto out;
    }
    snprintf(l->source, sizeof l->source, "%s=%u %s=%u", s->rank, l->rank, s->world, l->world);
out:
    return st;
}

static mr_status contradict(const source *a, const mri_launcher *x, const source *b,
                            const mri_launcher *y, mr_err *err)
{
    bool rank = x->rank != y->rank;
    mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "%s=%u contradicts %s=%u", rank ? a->rank : a->world,
            rank ? x->rank : x->world, rank ? b->rank : b->world, rank ? y->rank : y->world);
    mr_detail(err, "%s: %s\n%s: %s", a->name, x->source, b->name, y->source);
    mr_hint(err, "unset the variables of the launcher that did not start these ranks");
    return MR_E_COMM;
}

mr_status mri_launch_find(mri_launcher *out, mr_err *err)
{
    const source *by = NULL;
    mr_status st = 0;
    *out = (mri_launcher){ .world = 1, .local_world = 1, .name = "none" };
    for (int i = 0; i < N_SOURCES; i++) {
        mri_launcher l;
        if (!set_at_all(&sources[i]))
            continue;
        MR_TRY(read_source(&sources[i], &l, err));
        if (by && (l.rank != out->rank || l.world != out->world)) {
            st = contradict(by, out, &sources[i], &l, err);
            goto out;
        }
        if (!by) {
            by = &sources[i];
            *out = l;
        }
    }
    const char *address = getenv("MASTER_ADDR");
    if (address)
        snprintf(out->address, sizeof out->address, "%s", address);
    MR_TRY(optional("MASTER_PORT", 65535, &out->port, err));
    const char *agent = getenv("TORCHELASTIC_USE_AGENT_STORE"); /* torchrun itself listens there */
    out->port += out->port && agent && !strcmp(agent, "True");
out:
    return st;
}
