/* SPDX-License-Identifier: Apache-2.0
 *
 * captions.c - unit "data/captions": pictures with words. A sample is one sequence: what the
 * model reads for the picture, the prompt, the answer, and the id that ends a document if the
 * tokenizer has one; the loss is of answer and end alone. What is left of the S tokens counts for
 * nothing.
 *
 * Sets: "train"; "valid", a share of the items drawn by their numbers alone (so it is the same in
 * every run), or items of their own. Where the answers are classes, a set has so many choices.
 *
 * Invariants: a sample depends on configuration, seed and number alone, nothing is written after
 * create; in one epoch every item of "train" comes once; no item is in both sets.
 */
#include "../text/order.h"
#include "items.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct config {
    const char *path, *images, *labels, *valid_path, *valid_images, *valid_labels, *prompt;
    mr_list classes;
    double valid_fraction;
    int64_t valid_items;
    int32_t shuffle;
} config;

static const mr_opt options[] = {
    MR_OPT(config, MR_T_PATH, path, "path", NULL,
           "JSON Lines: {\"image\": path, \"text\": ...} or {\"image\", \"prompt\", \"answer\"}"),
    MR_OPT(config, MR_T_PATH, images, "images", NULL,
           "IDX file of pictures (bytes, three dimensions), in the place of path"),
    MR_OPT(config, MR_T_PATH, labels, "labels", NULL, "IDX file of their labels"),
    MR_OPT(config, MR_T_PATH, valid_path, "valid_path", NULL,
           "JSON Lines to validate on; unset: a share of path"),
    MR_OPT(config, MR_T_PATH, valid_images, "valid_images", NULL,
           "IDX file of pictures to validate on; unset: a share of images"),
    MR_OPT(config, MR_T_PATH, valid_labels, "valid_labels", NULL, "IDX file of their labels"),
    MR_OPT(config, MR_T_LIST, classes, "classes", NULL,
           "the answers that there are, in the order of the labels; needed with images"),
    MR_OPT(config, MR_T_STR, prompt, "prompt", "",
           "text between picture and answer, in front of an item's own prompt"),
    MR_OPT_RANGE(config, MR_T_FLOAT, valid_fraction, "valid_fraction", "0.05", 0, 0.95,
                 "share of the items that is held out, where no file of its own is given"),
    MR_OPT_RANGE(config, MR_T_INT, valid_items, "valid_items", "0", 0, 1e12,
                 "validate on the first so many held-out items; 0: all"),
    MR_OPT(config, MR_T_BOOL, shuffle, "shuffle", "true",
           "visit the items in a random order; false: as the file has them"),
};

enum { TRAIN, VALID, SETS };

typedef struct ids {
    int32_t *v;
    uint64_t n;
} ids;

typedef struct captions {
    const mr_host *host;
    const config *c;
    const mr_image_service *service;
    mr_data_env env;
    mr_tokenizer_info tok;
    items files[SETS];  /* VALID: empty where it is a share of TRAIN */
    int64_t *member[SETS]; /* items of each set; NULL: all of its file */
    mr_data_set set[SETS];
    uint32_t n_sets;
    ids prompt, *class; /* ids of the classes' names */
} captions;

/* ---- create ------------------------------------------------------------------------------- */

static mr_status encode(const captions *d, const char *text, ids *out, mr_err *err)
{
    uint64_t len = strlen(text);
    mr_status st = d->env.tokenizer->encode(d->env.tok, text, len, NULL, 0, &out->n, err);
    if (st)
        return st;
    out->v = malloc((out->n + 1) * sizeof *out->v);
    if (!out->v)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/captions: out of memory");
    return d->env.tokenizer->encode(d->env.tok, text, len, out->v, out->n, &out->n, err);
}

static void destroy(void *data)
{
    captions *d = data;
    if (!d)
        return;
    for (int i = 0; i < SETS; i++) {
        items_close(&d->files[i]);
        free(d->member[i]);
    }
    for (uint64_t i = 0; d->class && i < d->c->classes.n; i++)
        free(d->class[i].v);
    free(d->class);
    free(d->prompt.v);
    free(d);
}

static mr_status open_items(const char *path, const char *images, const char *labels,
                            const mr_list *classes, items *out, mr_err *err)
{
    if (path)
        return items_open_jsonl(path, classes, out, err);
    if (!labels || !classes->n) {
        mr_fail(err, MR_E_PROFILE_MISSING, MR_BLAME_USER, "data.captions.images needs %s",
                labels ? "classes: the labels' names" : "labels");
        mr_hint(err, "%s", labels ? "classes = name, name, ... in the order of the labels"
                                  : "labels = the IDX file beside the pictures'");
        return MR_E_PROFILE_MISSING;
    }
    return items_open_idx(images, labels, classes, out, err);
}

/* Held out or not, by the item's number and nothing else. */
static bool held_out(int64_t i, double fraction)
{
    return (double)(order_mix((uint64_t)i ^ 0x6d72756e) >> 11) * 0x1p-53 < fraction;
}

static mr_status split(captions *d, double fraction, mr_err *err)
{
    int64_t n = d->files[TRAIN].n, taken[SETS] = { 0 };
    for (int k = 0; k < SETS; k++) {
        d->member[k] = malloc((size_t)n * sizeof *d->member[k]);
        if (!d->member[k])
            return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/captions: no memory for %lld items",
                           (long long)n);
    }
    for (int64_t i = 0; i < n; i++) {
        int k = held_out(i, fraction) ? VALID : TRAIN;
        d->member[k][taken[k]++] = i;
    }
    for (int k = 0; k < SETS; k++)
        d->set[k].samples = taken[k];
    return 0;
}

static mr_status make_sets(captions *d, mr_err *err)
{
    static const char *const names[] = { "train", "valid" };
    const config *c = d->c;
    mr_status st = 0;
    MR_TRY(open_items(c->path, c->images, c->labels, &c->classes, &d->files[TRAIN], err));
    bool own = c->valid_path || c->valid_images;
    d->n_sets = own || c->valid_fraction > 0 ? 2 : 1;
    if (own)
        MR_TRY(open_items(c->valid_path, c->valid_images, c->valid_labels, &c->classes,
                          &d->files[VALID], err));
    if (!own && d->n_sets > 1)
        MR_TRY(split(d, c->valid_fraction, err));
    else
        for (int k = 0; k < SETS; k++)
            d->set[k].samples = d->files[k].n;
    if (c->valid_items > 0 && c->valid_items < d->set[VALID].samples)
        d->set[VALID].samples = c->valid_items;
    for (uint32_t k = 0; k < d->n_sets; k++) {
        d->set[k].size = sizeof d->set[k];
        d->set[k].name = names[k];
        d->set[k].choices = (int64_t)c->classes.n;
        if (!d->set[k].samples) {
            st = mr_fail(err, MR_E_DATA_SHORT, MR_BLAME_USER, "%s has no items for the set %s",
                         d->files[TRAIN].path, names[k]);
            mr_hint(err, "add items, or change data.captions.valid_fraction");
            goto out;
        }
    }
out:
    return st;
}

static mr_status create(const mr_host *host, const mr_data_env *env, const void *config_,
                        void **data, mr_err *err)
{
    const config *c = config_;
    mr_status st = 0;
    captions *d = calloc(1, sizeof *d);
    if (!d)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/captions: out of memory");
    d->host = host;
    d->c = c;
    d->env = *env;
    d->service = MR_CAN(host, ext) ? host->ext(host->self, MR_EXT_IMAGE) : NULL;
    if (!c->path == !c->images) {
        st = mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER, "[data.captions] has %s path and "
                     "images", c->path ? "both" : "neither");
        mr_hint(err, "path = FILE.jsonl, or images and labels = IDX files");
        goto out;
    }
    if (!d->service || !MR_HAS(env, pictures) || !env->pictures || env->tiles < 1) {
        st = mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER, "data/captions has pictures, and "
                     "the model takes none");
        mr_hint(err, "choose a model that does (model/vlm), and set [train] images = 1 or more");
        goto out;
    }
    d->tok.size = sizeof d->tok;
    MR_TRY(env->tokenizer->info(env->tok, &d->tok, err));
    MR_TRY(make_sets(d, err));
    MR_TRY(encode(d, c->prompt, &d->prompt, err));
    d->class = calloc(c->classes.n + 1, sizeof *d->class);
    if (!d->class) {
        st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/captions: out of memory");
        goto out;
    }
    for (uint64_t i = 0; i < c->classes.n; i++)
        MR_TRY(encode(d, c->classes.v[i], &d->class[i], err));
    *data = d;
    d = NULL;
out:
    destroy(d);
    return st;
}

static mr_status get_set(void *data, uint32_t i, mr_data_set *out, mr_err *err)
{
    const captions *d = data;
    if (i >= d->n_sets)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "data/captions: set %u of %u", i, d->n_sets);
    uint32_t size = out->size; /* the caller's, who may know fewer fields, or more */
    memcpy(out, &d->set[i], size < sizeof *out ? size : sizeof *out);
    out->size = size;
    return MR_OK;
}

/* ---- read --------------------------------------------------------------------------------- */

typedef struct writer { /* of one sequence: token t predicts token t + 1 */
    mr_sample *out;
    int64_t seq, n; /* n: tokens of the sequence so far */
    int32_t last;
} writer;

/* Appends; `weight` is of being predicted. The first token is never predicted. */
static void put(writer *w, const int32_t *v, uint64_t n, float weight)
{
    for (uint64_t i = 0; i < n; i++, w->n++) {
        int64_t at = w->n - 1;
        if (w->n && at < w->seq) {
            w->out->tokens[at] = w->last;
            w->out->targets[at] = v[i];
            w->out->loss_weight[at] = weight;
        }
        w->last = v[i];
    }
}

static mr_status put_picture(const captions *d, const items *s, const item *it, writer *w,
                             mr_err *err)
{
    mr_image_grid grid = { .size = sizeof grid };
    const void *how = d->env.pictures;
    mr_sample *x = w->out;
    bool wanted = MR_HAS(x, tiles) && x->pixels;
    int64_t room = wanted ? x->room : d->env.tiles;
    int32_t *v = NULL;
    uint64_t n = 0;
    mr_status st = 0;
    MR_TRY(it->file ? d->service->file(how, it->file, wanted ? x->pixels : NULL, room, &grid, err)
                    : d->service->bytes(how, it->values, s->width, s->height, 1,
                                        wanted ? x->pixels : NULL, room, &grid, err));
    if (wanted)
        x->tiles = grid.tiles;
    MR_TRY(d->service->ids(how, &grid, NULL, 0, &n, err));
    v = malloc((n + 1) * sizeof *v);
    if (!v) {
        st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/captions: out of memory");
        goto out;
    }
    MR_TRY(d->service->ids(how, &grid, v, n, &n, err));
    put(w, v, n, 0);
out:
    free(v);
    return st;
}

static mr_status put_text(const captions *d, const char *text, writer *w, float weight, mr_err *err)
{
    ids x = { 0 };
    mr_status st = encode(d, text, &x, err);
    if (!st)
        put(w, x.v, x.n, weight);
    free(x.v);
    return st;
}

static int64_t item_of(const captions *d, uint32_t set, int64_t sample)
{
    int64_t n = d->set[set].samples, i = sample;
    if (set == TRAIN) {
        i = sample % n;
        if (d->c->shuffle)
            i = order_place(order_key(d->env.seed, sample / n), n, i);
    }
    return d->member[set] ? d->member[set][i] : i;
}

static void blank(mr_sample *x, int64_t from, int64_t seq)
{
    for (int64_t i = from; i < seq; i++) {
        x->tokens[i] = x->targets[i] = 0;
        x->loss_weight[i] = 0;
    }
}

static mr_status read_sample(void *data, uint32_t set, int64_t sample, mr_sample *x, mr_err *err)
{
    const captions *d = data;
    if (set >= d->n_sets || sample < 0)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "data/captions: sample %lld of set %u",
                       (long long)sample, set);
    int64_t seq = d->env.seq, asked = MR_HAS(x, answer) ? x->choice : 0;
    for (int64_t i = 0; i < seq; i++) {
        x->positions[i] = (int32_t)i;
        x->seq_start[i] = 0;
    }
    if (set == VALID && sample >= d->set[VALID].samples) { /* past the last: nothing counts */
        blank(x, 0, seq);
        return MR_OK;
    }
    const items *s = &d->files[d->files[set].n ? set : TRAIN];
    int64_t number = item_of(d, set, sample);
    writer w = { .out = x, .seq = seq };
    item it = { 0 };
    mr_status st = 0;
    MR_TRY(items_read(s, number, &it, err));
    if (d->tok.bos >= 0)
        put(&w, &d->tok.bos, 1, 0);
    MR_TRY(put_picture(d, s, &it, &w, err));
    put(&w, d->prompt.v, d->prompt.n, 0);
    MR_TRY(put_text(d, it.prompt, &w, 0, err));
    if (asked > 0 && asked <= d->set[set].choices)
        put(&w, d->class[asked - 1].v, d->class[asked - 1].n, 1);
    else
        MR_TRY(put_text(d, it.answer, &w, 1, err));
    if (d->tok.eod >= 0)
        put(&w, &d->tok.eod, 1, 1);
    if (MR_HAS(x, answer))
        x->answer = it.class + 1;
    if (w.n - 1 > seq) {
        st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s: item %lld is %lld tokens long with "
                     "its picture, a sequence holds %lld", s->path, (long long)number + 1,
                     (long long)w.n - 1, (long long)seq);
        mr_hint(err, "raise [train] seq (and [model] max_positions), or shorten the words");
        goto out;
    }
    blank(x, w.n - 1, seq);
out:
    item_free(&it);
    return st;
}

static uint32_t promises(const void *config_)
{
    (void)config_;
    return MR_DATA_WHOLE;
}

static const mr_data_ops table = { sizeof(mr_data_ops), 0, create, destroy, get_set, read_sample,
                                   promises };

static const mr_unit units[] = {
    { sizeof(mr_unit), 0, "data", "captions", "pictures with captions, or with classes to tell",
      options, sizeof options / sizeof *options, sizeof(config), &table, NULL },
};

MR_PLUGIN_NOTE("org.mrun.captions", "0.1.0", "data/captions");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER, "org.mrun.captions", "0.1.0", "Apache-2.0",
    "data sets of pictures with words", units, 1, 0, NULL, NULL
};
