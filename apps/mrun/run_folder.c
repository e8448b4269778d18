/* SPDX-License-Identifier: Apache-2.0
 * run_folder.c - see run_folder.h. */
#include "run_folder.h"
#include "core/run/shares.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

mr_status run_folder_make(const char *path, mr_err *err)
{
    char *p = mri_strdup(path);
    for (char *c = p + 1;; c++) {
        if (*c && *c != '/')
            continue;
        char keep = *c;
        *c = 0;
        if (mkdir(p, 0777) && errno != EEXIST) {
            int e = errno;
            free(p);
            return mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "cannot make the folder %s: %s", path,
                           strerror(e));
        }
        *c = keep;
        if (!keep)
            break;
    }
    free(p);
    return 0;
}

/* Keys that may change between the runs of one folder without changing what is computed. The
 * first is taken only where the learning rate does not hang on the number of steps. */
static const char *const free_keys[] = {
    "train.steps", "run.dir", "run.fork", "run.threads", "checkpoint.every", "checkpoint.keep",
    "checkpoint.save_at_end", "sink", "sink.console", "sink.tensorboard", "sink.jsonl", "debug",
    "generate", "score", "train.log_every", "train.sample_prompt", "train.sample_tokens",
    "train.recompute", "mesh", "comm", "comm.sim", "comm.mpi", "comm.fake", "shard",
    "shard.distopt", "shard.fsdp", "checkpoint.format", "checkpoint.async",
    "checkpoint.local_dir", "checkpoint.local_every", "run.check_replicas", "run.rerun",
    "comm.nccl", NULL };

static const char *const *keys_to_ignore(const mri_config *c)
{
    bool fixed = c->optimizer.decay_steps > 0 || !strcmp(c->optimizer.schedule, "constant");
    return fixed ? free_keys : free_keys + 1;
}

mr_status run_folder_check(const mri_config *c, bool *fork, mr_err *err)
{
    char *path = mri_format("%s/profile.resolved.ini", c->run.dir);
    mri_profile *old = NULL;
    mri_str differences = { 0 };
    mr_status st = run_folder_make(c->run.dir, err);
    *fork = false;
    if (st)
        goto out;
    if (access(path, F_OK) == 0) {
        MR_TRY(mri_profile_load(path, NULL, 0, &old, err));
        size_t n = mri_profile_diff(old, c->profile, keys_to_ignore(c), &differences);
        if (n && !c->run.fork) {
            st = mr_fail(err, MR_E_RUN_MISMATCH, MR_BLAME_USER,
                         "the folder %s holds a run of a different profile", c->run.dir);
            mr_detail(err, "%s", differences.s);
            mr_hint(err, "choose another run.dir, or --set run.fork=true to start a new run from "
                         "its weights");
            goto out;
        }
        *fork = n != 0;
    }
out:
    free(path);
    mri_profile_free(old);
    mri_str_free(&differences);
    return st;
}

mr_status run_folder_claim(const mri_config *c, mr_err *err)
{
    char *path = mri_format("%s/profile.resolved.ini", c->run.dir);
    mri_str text = { 0 };
    mri_profile_print(c->profile, false, &text);
    mr_status st = mri_write_file_atomic(path, text.s, text.n, err);
    free(path);
    mri_str_free(&text);
    return st;
}

static mr_status move(const char *from, const char *to, mr_err *err)
{
    if (!rename(from, to))
        return 0;
    return mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "cannot rename %s to %s: %s", from, to,
                   strerror(errno));
}

/* The old run's log goes aside under the name of its checkpoints: log.jsonl.before-fork-1. */
static mr_status keep_log(const mri_config *c, const char *suffix, mr_err *err)
{
    char *from = mri_format("%s/log.jsonl", c->run.dir), *to = mri_format("%s%s", from, suffix);
    mr_status st = access(from, F_OK) == 0 ? move(from, to, err) : 0;
    free(from);
    free(to);
    return st;
}

static mr_status change_places(mri_session *s, const char *checkpoints, const char *next, bool old,
                               mr_err *err)
{
    char *aside = NULL;
    mr_status st = 0;
    for (int i = 1; !aside; i++) { /* the first free name */
        aside = mri_format("%s.before-fork-%d", checkpoints, i);
        if (access(aside, F_OK) == 0) {
            free(aside);
            aside = NULL;
        }
    }
    if (old)
        MR_TRY(move(checkpoints, aside, err));
    MR_TRY(keep_log(s->config, strrchr(aside, '.'), err));
    MR_TRY(move(next, checkpoints, err)); /* over the empty folder, where there was no old one */
out:
    free(aside);
    return st;
}

/* A fork has checkpoints of its own from its first moment, or the next start would take the old
 * run's newest for its own: the weights that it starts from become its step 0 in a folder beside
 * the old one, and the two change places. Killed between the two renames it finds that folder. */
mr_status run_folder_fork(mri_session *s, const char *checkpoints, int64_t *saved_at, mr_err *err)
{
    char *next = mri_format("%s.fork", checkpoints);
    mri_checkpoint *old = NULL, *begun = NULL;
    const mri_peers p = mri_session_peers(s);
    mr_status st = 0;
    MR_TRY(mri_checkpoint_open_newest_with(&p, checkpoints, &old, err));
    MR_TRY(mri_checkpoint_open_newest_with(&p, next, &begun, err));
    if (!old && !begun) {
        st = mri_session_init_weights(s, err); /* the old run never saved */
        goto out;
    }
    MR_TRY(mri_session_load(s, old ? old : begun, true, err));
    if (old || !begun) {
        MR_TRY(mri_peers_agree(&p, p.rank ? 0 : run_folder_make(next, err), err));
        MR_TRY(mri_session_save(s, next, 0, err));
    }
    *saved_at = 0;
    if (p.rank == 0)
        st = change_places(s, checkpoints, next, old != NULL, err);
    st = mri_peers_agree(&p, st, err);
out:
    mri_checkpoint_close(old);
    mri_checkpoint_close(begun);
    free(next);
    return st;
}
