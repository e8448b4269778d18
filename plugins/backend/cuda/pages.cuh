// SPDX-License-Identifier: Apache-2.0
//
// pages.cuh - where the rows of a cache lie: in pages of `page` rows, of which a slot has those in
// its line of a table. Nothing outside the cache is ever touched: a place that is none is -1.

#ifndef MRUN_CUDA_PAGES_CUH
#define MRUN_CUDA_PAGES_CUH
#include "dev.cuh"

struct cache_view { // by value in a launch
    const int32_t *positions, *slot, *pages;
    int64_t most;           // positions of a slot
    int slots, table, page; // lines of the table, pages in a line, rows of a page
    int shift;              // page = 1 << shift; -1: no power of two
    int count;              // pages of the cache
};

// the slot of token t; -1: none, or its place is outside
DEV int slot_of(const cache_view &v, int64_t t)
{
    int b = v.slot[t], p = v.positions[t];
    return b < 0 || b >= v.slots || p < 0 || p >= v.most ? -1 : b;
}

// the row of position p of slot b, both inside; -1: the table has no page of the cache there
DEV int row_at(const cache_view &v, int b, int p)
{
    int i = v.shift >= 0 ? p >> v.shift : p / v.page;
    int page = v.pages[(int64_t)b * v.table + i];
    return page < 0 || page >= v.count ? -1 : page * v.page + (p - i * v.page);
}

// the row that token t owns; -1: none
DEV int own_row(const cache_view &v, int64_t t)
{
    int b = slot_of(v, t);
    return b < 0 ? -1 : row_at(v, b, v.positions[t]);
}

// `cache` [N,P,..] with its table [B,M]
static inline mr_status view_shape(const struct kernel *k, const mr_type *cache,
                                   const mr_type *table, cache_view *v, mr_err *err)
{
    int64_t slots = table->dim[0], line = table->dim[1];
    if (slots > INT32_MAX || cache->dim[1] < 1 || cache->dim[0] > INT32_MAX / cache->dim[1] ||
        line > INT32_MAX / cache->dim[1])
        return cuda_refuse(k, err, "a cache of more than 2^31 rows or positions");
    v->count = (int)cache->dim[0];
    v->page = (int)cache->dim[1];
    v->slots = (int)slots;
    v->table = (int)line;
    v->most = v->page * line;
    v->shift = -1;
    for (int i = 0; i < 31; i++)
        if (v->page == 1 << i)
            v->shift = i;
    return MR_OK;
}

#endif
