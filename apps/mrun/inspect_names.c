/* SPDX-License-Identifier: Apache-2.0
 *
 * inspect_names.c - many tensors in few lines: names that differ in numbers only, of one dtype and
 * shape, are one pattern, which shows the range of each number. Invariant: every tensor counts in
 * exactly one pattern, found through a hash table, so that 100,000 take one pass.
 */
#include "inspect.h"
#include "core/store/dtype.h"
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MARK "\1" /* no name has one: their control characters are refused */
enum { NUMBERS = 6 }; /* of a name that are made a range; later ones stay as they are */

typedef struct pattern {
    char *key; /* the name with MARK for numbers, then the type */
    uint64_t low[NUMBERS], high[NUMBERS];
    inspect_names names;
} pattern;

uint64_t inspect_bytes(const mri_tensor *t)
{
    uint64_t bytes = 0;
    mri_type_bytes(&t->type, &bytes);
    return bytes;
}

void inspect_shape(mri_str *out, const mr_type *t)
{
    mri_str_add(out, "[");
    for (uint32_t i = 0; i < t->rank; i++)
        mri_str_fmt(out, "%s%" PRId64, i ? ", " : "", t->dim[i]);
    mri_str_add(out, "]");
}

/* A number stands between dots, or ends the name: "layers.12.", not "gate_2" or "fp8". Returns its
 * length, or 0. */
static size_t number_at(const char *name, const char *at, uint64_t *value)
{
    size_t n = strspn(at, "0123456789");
    if (!n || n > 9 || (at > name && at[-1] != '.') || (at[n] && at[n] != '.') ||
        (n > 1 && *at == '0'))
        return 0;
    *value = strtoull(at, NULL, 10);
    return n;
}

/* The key of a tensor, and its numbers; returns how many. */
static size_t read_key(const mri_tensor *t, mri_str *key, uint64_t number[NUMBERS])
{
    size_t n = 0, length;
    key->n = 0;
    for (const char *c = t->name; *c; c += length ? length : 1) {
        uint64_t value = 0;
        length = n < NUMBERS ? number_at(t->name, c, &value) : 0;
        mri_str_addn(key, length ? MARK : c, 1);
        if (length)
            number[n++] = value;
    }
    mri_str_addn(key, "\n", 1);
    mri_str_add(key, t->type.dtype);
    for (uint32_t i = 0; i < t->type.rank; i++)
        mri_str_fmt(key, ",%" PRId64, t->type.dim[i]);
    return n;
}

static char *pattern_text(const pattern *p)
{
    mri_str s = { 0 };
    size_t n = 0;
    for (const char *c = p->key; *c != '\n'; c++) {
        bool mark = *c == *MARK;
        if (!mark)
            mri_str_addn(&s, c, 1);
        else if (p->low[n] == p->high[n])
            mri_str_fmt(&s, "%" PRIu64, p->low[n]);
        else
            mri_str_fmt(&s, "[%" PRIu64 "-%" PRIu64 "]", p->low[n], p->high[n]);
        n += mark;
    }
    return mri_str_take(&s);
}

void inspect_collapse(const mri_safetensors *f, const uint8_t *only, inspect_list *out)
{
    MRI_VEC(pattern) all = { 0 };
    size_t n = mri_safetensors_count(f), size = 64, last = 0;
    mri_str key = { 0 };
    while (size < 2 * n)
        size *= 2;
    uint32_t *table = mri_alloc(size * sizeof *table); /* pattern's number + 1 */
    for (size_t i = 0; i < n; i++) {
        const mri_tensor *t = mri_safetensors_at(f, i);
        uint64_t number[NUMBERS];
        if (only && !only[i])
            continue;
        size_t numbers = read_key(t, &key, number);
        if (!all.n || strcmp(all.v[last].key, key.s)) { /* neighbours are often of one pattern */
            size_t h = (size_t)mri_hash_str(0, key.s);
            for (h ^= h >> 32; table[h & (size - 1)]; h++)
                if (!strcmp(all.v[table[h & (size - 1)] - 1].key, key.s))
                    break;
            uint32_t *e = &table[h & (size - 1)];
            if (!*e) {
                pattern p = { .key = mri_strdup(key.s), .names = { .first = t } };
                memset(p.low, 0xff, sizeof p.low);
                MRI_PUSH(&all, p);
                *e = (uint32_t)all.n;
            }
            last = *e - 1;
        }
        pattern *p = &all.v[last];
        for (size_t k = 0; k < numbers; k++) {
            p->low[k] = number[k] < p->low[k] ? number[k] : p->low[k];
            p->high[k] = number[k] > p->high[k] ? number[k] : p->high[k];
        }
        p->names.count++;
        p->names.bytes += inspect_bytes(t);
    }
    for (size_t i = 0; i < all.n; i++) {
        all.v[i].names.text = pattern_text(&all.v[i]);
        free(all.v[i].key);
        MRI_PUSH(out, all.v[i].names);
    }
    free(all.v);
    free(table);
    mri_str_free(&key);
}

void inspect_list_free(inspect_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->v[i].text);
    free(l->v);
    memset(l, 0, sizeof *l);
}
