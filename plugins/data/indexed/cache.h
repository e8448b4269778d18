/* SPDX-License-Identifier: Apache-2.0
 *
 * cache.h - built sample indices kept in a folder, one file each, named by what they were
 * built from: the documents' lengths and every number of the request. Data sets may move or
 * be renamed; a change that matters gives another name.
 *
 * Invariant: a file with its final name is whole (written aside, synced, renamed), and it is
 * believed only if its description, size, checksum and ranges are right. Ranks may write the
 * same file at once; they write the same bytes.
 */
#ifndef INDEXED_CACHE_H
#define INDEXED_CACHE_H
#include "sampling.h"

typedef struct cache_entry { /* the memory that a sampling stands in */
    void *p;
    uint64_t n;
    int32_t mapped, pad;
} cache_entry;

/* Fills `s`: from DIR if it is there and right, else built and, if dir is not NULL, stored.
 * A cache that cannot be written is no failure: *warning then says why ("" otherwise). */
mr_status cache_sampling(const char *dir, const sampling_request *q, const sampling_plan *plan,
                         sampling *s, cache_entry *entry, char warning[400], mr_err *err);
void cache_release(cache_entry *e);

#endif
