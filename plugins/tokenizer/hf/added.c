/* SPDX-License-Identifier: Apache-2.0
 *
 * added.c - which words of a text are added tokens: those that are not "normalized" are looked
 * for first, in the text as it stands, the others in what the normalizer has made of it.
 */
#include "hf.h"
#include <stdlib.h>

static mr_status flag(const hf_reader *r, size_t i, const json_t *a, const char *key, bool *out)
{
    const json_t *v = json_object_get(a, key);
    if (v && !json_is_boolean(v))
        return hf_bad(r, NULL, "added_tokens", "[%zu].%s is neither true nor false", i, key);
    *out = json_is_true(v);
    return MR_OK;
}

mr_status hf_read_added(hf_reader *r)
{
    const json_t *list = json_object_get(r->root, "added_tokens"), *a;
    size_t i;
    mr_status st = MR_OK;
    json_array_foreach(list, i, a)
    {
        const json_t *content = json_object_get(a, "content");
        bool single = false, normalized = false;
        bp_added one = { .text = json_string_value(content),
                         .n = json_string_length(content),
                         .id = (int32_t)json_integer_value(json_object_get(a, "id")) };
        if ((st = flag(r, i, a, "special", &one.special)) ||
            (st = flag(r, i, a, "lstrip", &one.lstrip)) ||
            (st = flag(r, i, a, "rstrip", &one.rstrip)) ||
            (st = flag(r, i, a, "single_word", &single)) ||
            (st = flag(r, i, a, "normalized", &normalized)))
            return st;
        if (single)
            return hf_bad(r, "set it to false if the token may stand inside a word", "added_tokens",
                          "[%zu] (\"%.40s\") has single_word = true, which is not "
                          "supported",
                          i, one.text);
        char *normal = NULL;
        if (normalized && r->t->nfc && !bp_is_nfc_surely(one.text, one.n)) {
            if ((st = bp_nfc(one.text, one.n, &normal, &one.n, r->err)))
                return st;
            one.text = normal;
        }
        st = bp_set_add(normalized ? &r->t->normalized : &r->t->raw, &one, r->err);
        free(normal);
        if (st)
            return st;
    }
    return st;
}
