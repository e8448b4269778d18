/* SPDX-License-Identifier: Apache-2.0
 *
 * items.h - pictures with words, by number: JSON Lines that name picture files, or a pair of IDX
 * files (pictures of one size, a label each). Files are mapped; an item is read when it is asked
 * for, so memory does not grow with the number of pictures.
 *
 * Invariant: an open set was checked: every line of a JSONL has a picture and words, every label
 * of an IDX has a name, and the sizes that the headers claim are those of the files.
 */
#ifndef CAPTIONS_ITEMS_H
#define CAPTIONS_ITEMS_H
#include "mrun/data.h"

typedef struct items {
    const char *path; /* for messages; borrowed */
    char *folder;     /* of a JSONL: pictures lie relative to it */
    const uint8_t *map, *labels_map;
    uint64_t map_bytes, labels_bytes;
    uint64_t *line; /* [n + 1]: where each line of a JSONL begins; NULL: IDX */
    int64_t n, width, height;
    const mr_list *classes;
} items; /* {0} is a valid empty one */

typedef struct item {
    char *file; /* the picture's path, or NULL: values */
    const uint8_t *values;
    char *prompt;        /* may be "" */
    const char *answer;  /* what the loss is of */
    char *owned_answer;
    int64_t class;       /* the answer's number among the classes, -1 */
} item;

/* classes: the answers that there are; for a JSONL they may be none. */
mr_status items_open_jsonl(const char *path, const mr_list *classes, items *out, mr_err *err);
mr_status items_open_idx(const char *images, const char *labels, const mr_list *classes,
                         items *out, mr_err *err);
void items_close(items *s);
mr_status items_read(const items *s, int64_t i, item *out, mr_err *err);
void item_free(item *it);

#endif
