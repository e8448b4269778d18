/* SPDX-License-Identifier: Apache-2.0
 *
 * load.c - tensors of files into parameters, at the speed of the files' disk.
 *
 * The pieces are cut into chunks in file order. Threads take the chunks in turn, tell the kernel
 * what to read ahead, and convert each straight from the map: into the parameter's place where
 * the host reaches it, else into one of a ring of pinned buffers, from which the calling thread
 * (the only one that talks to the device) enqueues copies while others are filled.
 *
 * A byte is touched once by the CPU: read from the page cache, written in its final form. Beside
 * the parameters the host needs the ring and a scratch of 256 KiB a thread, whatever the model; of
 * 4 MiB where files hold a matrix transposed, whose chunks are rows gathered from all its tensors.
 * Invariant: chunk i lies in slot i % n of the ring; it is filled only after the copies of chunk
 * i - n are done, and shipped only after it was filled.
 */
#include "load.h"
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

enum {
    CHUNK = 1 << 20,   /* elements */
    BLOCK = 1 << 16,   /* elements that are dequantised at a time */
    AHEAD = 64 << 20,  /* bytes that are read ahead of the newest chunk */
    SLOTS = 16,        /* of the ring: at most, and 2 a thread */
    THREADS = 16
};

typedef struct chunk {
    const mri_stretch *piece;
    int64_t first; /* element of the piece */
    uint32_t n;
} chunk;

typedef struct loader {
    mri_params *params;
    mri_device *device;
    const mri_safetensors *set;
    MRI_VEC(chunk) chunks;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    size_t scratch;        /* elements, of a thread */
    size_t next;           /* chunk to take */
    size_t wanted;         /* chunks below it were asked of the kernel */
    size_t shipped;        /* chunks below it have left their slots */
    size_t slots;          /* 0: no ring, the host writes in place */
    size_t filled[SLOTS];  /* number of the chunk in a slot, counted from 1 */
    uint64_t slot_bytes;
    char *ring[SLOTS];
    void *done[SLOTS];     /* event: the copies from a slot */
    mr_status st;          /* of the first failure */
    mr_err err;
} loader;

/* ---- chunks ---------------------------------------------------------------------------------- */

static int in_file_order(const void *a, const void *b)
{
    const mri_tensor *x = ((const mri_stretch *)a)->from.data;
    const mri_tensor *y = ((const mri_stretch *)b)->from.data;
    return (x > y) - (x < y); /* a set lists its tensors by file and offset */
}

/* Of a turned matrix whole rows, or parts of one. */
static int64_t whole_rows(const mri_stretch *x, int64_t at, int64_t n)
{
    int64_t unit = x->turned ? x->turned->cols : 1, rest = unit - at % unit;
    return at % unit || n < unit ? (n < rest ? n : rest) : n / unit * unit;
}

static int64_t chunk_at(const mri_stretch *x, int64_t at)
{
    int64_t left = x->n - at, unit = x->turned ? x->turned->cols : 1;
    if (unit > CHUNK || at % unit) {
        left = unit - at % unit;
        unit = 1;
    }
    return left < CHUNK / unit * unit ? left : CHUNK / unit * unit;
}

/* What other ranks keep is not read. */
static void cut(loader *l, const mri_pieces *p)
{
    for (size_t i = 0; i < p->list.n; i++) {
        const mri_stretch *x = &p->list.v[i];
        l->scratch = x->turned ? CHUNK : l->scratch;
        for (int64_t at = 0, n; at < x->n; at += n) {
            bool held = true;
            uint64_t span = x->state ? (uint64_t)x->n
                                     : mri_params_span(l->params, x->slot,
                                                       x->at + (uint64_t)at, &held);
            n = held ? chunk_at(x, at) : x->n - at;
            n = (uint64_t)n < span ? n : whole_rows(x, at, (int64_t)span);
            if (held)
                MRI_PUSH(&l->chunks, ((chunk){ x, at, (uint32_t)n }));
        }
    }
}

/* Bytes of the i-th tensor that the chunk is the first (done: the last) to read; all of them, of a
 * turned matrix. NULL past the last. */
static const uint8_t *first_read(const chunk *c, uint32_t i, bool done, uint64_t *n)
{
    const mri_stored *s = mri_stretch_part(c->piece, i);
    if (!s || !c->piece->turned)
        return s ? mri_stored_bytes(s, c->first, c->n, n) : NULL;
    bool border = done ? c->first + c->n == c->piece->n : !c->first;
    return mri_stored_bytes(s, 0, border ? mr_numel(&s->type) : 0, n);
}

static void advise(const loader *l, const chunk *c, int what)
{
    const uint8_t *p;
    uint64_t n;
    for (uint32_t i = 0; (p = first_read(c, i, what == MRI_DONE, &n)); i++)
        if (what != MRI_READ || !c->piece->turned)
            mri_safetensors_advise(l->set, p, n, what);
}

/* Asks for the chunks that are to come after chunk i, each once. Under the lock; only tells. */
static void read_ahead(loader *l, size_t i)
{
    uint64_t ahead = 0, n;
    for (size_t k = i; k < l->chunks.n && ahead < AHEAD; k++) {
        for (uint32_t part = 0; first_read(&l->chunks.v[k], part, false, &n); part++)
            ahead += n;
        if (k >= l->wanted) {
            advise(l, &l->chunks.v[k], MRI_WANT);
            l->wanted = k + 1;
        }
    }
}

/* What element `i` of a piece and those after it become. */
static size_t forms_of(const loader *l, const mri_stretch *x, int64_t i, mri_param_form f[2])
{
    size_t width = mr_dtype_bytes(x->from.type.dtype);
    if (!x->state)
        return mri_params_forms(l->params, x->slot, x->at + (uint64_t)i, f);
    f[0] = (mri_param_form){ x->state + (size_t)i * width, x->from.type.dtype, width, false };
    return 1;
}

/* The chunk in its final forms: in place, or in its slot. */
static mr_status fill(loader *l, size_t i, float *scratch, mr_err *err)
{
    const chunk *c = &l->chunks.v[i];
    const mri_stretch *x = c->piece;
    mri_param_form f[2];
    size_t n_forms = forms_of(l, x, c->first, f);
    char *to[2];
    mr_status st = 0;
    for (size_t k = 0; k < n_forms; k++)
        to[k] = !l->slots ? f[k].at
                          : l->ring[i % l->slots] + (k ? (size_t)CHUNK * f[0].width : 0);
    advise(l, c, MRI_READ);
    int64_t step = x->from.rule && !x->turned ? BLOCK : c->n;
    const char *dtype = x->turned ? "f32" : x->from.type.dtype;
    for (int64_t at = 0; at < c->n && !st; at += step) {
        int64_t n = c->n - at < step ? c->n - at : step;
        uint64_t ignored;
        const void *from = scratch;
        void *part[2] = { n_forms > 0 ? to[0] + (size_t)at * f[0].width : NULL,
                          n_forms > 1 ? to[1] + (size_t)at * f[1].width : NULL };
        if (x->turned)
            st = mri_turned_read(x->turned, c->first, n, scratch, err);
        else if (x->from.rule)
            mri_stored_read(&x->from, c->first + at, n, scratch);
        else
            from = mri_stored_bytes(&x->from, c->first + at, n, &ignored);
        if (!st)
            st = mri_params_encode(f, n_forms, part, from, dtype, (uint64_t)n, err);
    }
    advise(l, c, MRI_DONE);
    return st;
}

/* ---- threads --------------------------------------------------------------------------------- */

static void failed(loader *l, mr_status st, const mr_err *err)
{
    if (st && !l->st) {
        l->st = st;
        l->err = *err;
    }
}

static void *work(void *arg)
{
    loader *l = arg;
    float *scratch = mri_alloc(l->scratch * sizeof *scratch);
    pthread_mutex_lock(&l->lock);
    while (!l->st && l->next < l->chunks.n) {
        if (l->slots && l->next - l->shipped >= l->slots) {
            pthread_cond_wait(&l->moved, &l->lock);
            continue;
        }
        size_t i = l->next++;
        mr_err err = MR_ERR_INIT;
        read_ahead(l, i);
        pthread_mutex_unlock(&l->lock);
        mr_status st = fill(l, i, scratch, &err);
        pthread_mutex_lock(&l->lock);
        failed(l, st, &err);
        if (l->slots)
            l->filled[i % l->slots] = i + 1;
        pthread_cond_broadcast(&l->moved);
    }
    pthread_mutex_unlock(&l->lock);
    free(scratch);
    return NULL;
}

static size_t processors(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    return n < 1 ? 1 : n < THREADS ? (size_t)n : THREADS;
}

/* ---- to a device that the host does not reach ------------------------------------------------ */

static mr_status ship_chunk(loader *l, size_t i, mr_err *err)
{
    mri_device *d = l->device;
    const chunk *c = &l->chunks.v[i];
    const char *from = l->ring[i % l->slots];
    mri_param_form f[2];
    size_t n = forms_of(l, c->piece, c->first, f);
    mr_status st = 0;
    for (size_t k = 0; k < n; k++)
        MR_TRY(d->ops->copy(d->dev, d->stream, f[k].at, from + (k ? (size_t)CHUNK * f[0].width : 0),
                            c->n * f[k].width, err));
    MR_TRY(d->ops->record(d->dev, d->stream, &l->done[i % l->slots], err));
out:
    return st;
}

/* Half of the ring is being copied, half is being filled. */
static void ship(loader *l)
{
    size_t lag = l->slots / 2;
    for (size_t i = 0; i < l->chunks.n + lag; i++) {
        mr_err err = MR_ERR_INIT;
        mr_status st = 0;
        pthread_mutex_lock(&l->lock);
        while (!l->st && i < l->chunks.n && l->filled[i % l->slots] != i + 1)
            pthread_cond_wait(&l->moved, &l->lock);
        bool stop = l->st != 0;
        pthread_mutex_unlock(&l->lock);
        if (stop)
            return;
        if (i < l->chunks.n)
            st = ship_chunk(l, i, &err);
        if (!st && i >= lag && i - lag < l->chunks.n)
            st = mri_device_wait(l->device, l->done[(i - lag) % l->slots], &err);
        pthread_mutex_lock(&l->lock);
        failed(l, st, &err);
        l->shipped = i >= lag ? i - lag + 1 : 0;
        pthread_cond_broadcast(&l->moved);
        pthread_mutex_unlock(&l->lock);
    }
}

/* Slots hold a chunk in all its forms, of whichever piece. */
static mr_status make_ring(loader *l, size_t threads, mr_err *err)
{
    mri_device *d = l->device;
    mr_status st = 0;
    size_t want = 2 * threads < SLOTS ? 2 * threads : SLOTS;
    for (size_t i = 0; i < l->chunks.n; i++) {
        mri_param_form f[2];
        size_t width = 0, n = forms_of(l, l->chunks.v[i].piece, l->chunks.v[i].first, f);
        while (n)
            width += f[--n].width;
        l->slot_bytes = CHUNK * width > l->slot_bytes ? CHUNK * width : l->slot_bytes;
    }
    while (!st && l->slots < want && l->slot_bytes) {
        st = d->ops->alloc(d->dev, l->slot_bytes, MR_MEM_PINNED, (void **)&l->ring[l->slots], err);
        l->slots += !st;
    }
    return st;
}

static void free_ring(loader *l)
{
    mri_device *d = l->device;
    for (size_t k = 0; k < l->slots; k++) {
        d->ops->free(d->dev, l->ring[k], l->slot_bytes);
        if (l->done[k])
            d->ops->event_destroy(d->dev, l->done[k]);
    }
}

/* ---- all ------------------------------------------------------------------------------------- */

mr_status mri_load(mri_params *p, mri_device *d, const mri_safetensors *f, mri_pieces *pieces,
                   mr_err *err)
{
    loader l = { .params = p, .device = d, .set = f, .scratch = BLOCK,
                 .err = MR_ERR_INIT };
    pthread_t thread[THREADS];
    size_t want = processors(), n = 0;
    mr_status st = 0;
    if (pieces->list.n)
        qsort(pieces->list.v, pieces->list.n, sizeof *pieces->list.v, in_file_order);
    cut(&l, pieces);
    want = want < l.chunks.n ? want : l.chunks.n;
    pthread_mutex_init(&l.lock, NULL);
    pthread_cond_init(&l.moved, NULL);
    if (!d->host_memory)
        MR_TRY(make_ring(&l, want ? want : 1, err));
    want -= !l.slots && want; /* in place the caller works too */
    while (n < want && !pthread_create(&thread[n], NULL, work, &l))
        n++;
    if (l.slots && want && !n)
        st = mr_fail(err, MR_E_INTERNAL, MR_BLAME_ENV, "no thread can be started to read with");
    else if (l.slots)
        ship(&l);
    else
        work(&l);
    while (n)
        pthread_join(thread[--n], NULL);
    if (l.st) {
        st = l.st;
        if (err)
            *err = l.err;
    }
    if (l.slots && mri_device_sync(d, st ? NULL : err) && !st)
        st = MR_E_DEVICE;
out:
    free_ring(&l);
    pthread_cond_destroy(&l.moved);
    pthread_mutex_destroy(&l.lock);
    free(l.chunks.v);
    return st;
}
