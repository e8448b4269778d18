/* SPDX-License-Identifier: Apache-2.0
 *
 * source.h - the bytes of a text: one file, mapped; or a folder's files, one after another.
 *
 * Invariant: a folder's files come in one order on every machine (folders and files sorted
 * by the bytes of their names), so the same tree is the same text.
 */
#ifndef TEXT_SOURCE_H
#define TEXT_SOURCE_H
#include "mrun/data.h"

typedef struct text_source { /* {0} is a valid empty one */
    const char *p;
    uint64_t n;
    int64_t files;
    int32_t mapped; /* p came from mmap, else from malloc */
    int32_t pad;
} text_source;

/* suffixes: names that count in a folder ("txt" or ".txt"), none: every name. Hidden names
 * (a leading dot) never count. An empty text is an error. */
mr_status text_source_open(const char *path, const mr_list *suffixes, text_source *out,
                           mr_err *err);
void text_source_close(text_source *s);

#endif
