/* SPDX-License-Identifier: Apache-2.0
 *
 * special.c - added tokens: words that are cut out of a text before anything else reads it. The
 * leftmost is taken, of several at one place the longest; what is taken overlaps nothing.
 *
 * Cost: a byte that begins no token costs one look into a table; any other at most the length
 * of the longest token.
 */
#include "bpe.h"
#include <stdlib.h>

static mr_status new_node(bp_set *s, uint8_t byte, uint32_t *at, mr_err *err)
{
    if (s->n_nodes == s->node_room) {
        uint32_t room = s->node_room ? 2 * s->node_room : 256;
        bp_node *node = realloc(s->node, room * sizeof *node);
        if (!node)
            return bp_nomem(err, "added tokens", room * sizeof *node);
        s->node = node;
        s->node_room = room;
    }
    s->node[s->n_nodes] = (bp_node) { 0, 0, BP_NONE, byte };
    *at = s->n_nodes++;
    return MR_OK;
}

static uint32_t child_of(const bp_set *s, uint32_t at, uint8_t byte)
{
    if (!at)
        return s->first[byte];
    uint32_t c = s->node[at].child;
    while (c && s->node[c].byte != byte)
        c = s->node[c].sibling;
    return c;
}

mr_status bp_set_add(bp_set *s, const bp_added *a, mr_err *err)
{
    uint32_t at = 0, next;
    mr_status st = MR_OK;
    if (!s->n_nodes)
        MR_TRY(new_node(s, 0, &next, err));
    for (uint64_t i = 0; i < a->n; i++, at = next) {
        uint8_t byte = (uint8_t)a->text[i];
        next = child_of(s, at, byte);
        if (next)
            continue;
        MR_TRY(new_node(s, byte, &next, err));
        if (!at) {
            s->first[byte] = next;
        } else {
            s->node[next].sibling = s->node[at].child;
            s->node[at].child = next;
        }
    }
    if (s->n_added == s->added_room) {
        uint32_t room = s->added_room ? 2 * s->added_room : 64;
        bp_added *added = realloc(s->added, room * sizeof *added);
        if (!added)
            return bp_nomem(err, "added tokens", room * sizeof *added);
        s->added = added;
        s->added_room = room;
    }
    s->added[s->n_added] = *a;
    s->added[s->n_added].text = NULL; /* the caller's, and only read here */
    s->node[at].added = (int32_t)s->n_added++;
out:
    return st;
}

void bp_set_free(bp_set *s)
{
    free(s->node);
    free(s->added);
    memset(s, 0, sizeof *s);
}

/* The longest token at p[at]; BP_NONE. */
static int32_t longest(const bp_set *s, const char *p, uint64_t n, uint64_t at)
{
    int32_t found = BP_NONE;
    for (uint32_t node = 0; at < n; at++) {
        node = child_of(s, node, (uint8_t)p[at]);
        if (!node)
            break;
        if (s->node[node].added != BP_NONE)
            found = s->node[node].added;
    }
    return found;
}

/* White space that ends before `at`, not going below `floor`. */
static uint64_t spaces_before(const char *p, uint64_t floor, uint64_t at)
{
    while (at > floor) {
        uint64_t start = at - 1;
        bool rare = false;
        while (start > floor && ((unsigned char)p[start] & 0xc0) == 0x80)
            start--;
        uint32_t len;
        if (bp_utf8_valid(p + start, at - start, &rare) != at - start ||
            !bp_is_space(bp_utf8_get(p + start, &len)))
            break;
        at = start;
    }
    return at;
}

static uint64_t spaces_after(const char *p, uint64_t n, uint64_t at)
{
    while (at < n) {
        uint64_t room = n - at < 4 ? n - at : 4;
        bool rare = false;
        uint32_t len = 0;
        uint64_t ok = bp_utf8_valid(p + at, room, &rare);
        uint32_t c = ok ? bp_utf8_get(p + at, &len) : 0;
        if (!ok || !bp_is_space(c))
            break;
        at += len;
    }
    return at;
}

bool bp_set_find(const bp_set *s, const char *p, uint64_t n, uint64_t from, bool plain,
                 bp_found *out)
{
    if (!s->n_added)
        return false;
    for (uint64_t at = from; at < n;) {
        if (!s->first[(uint8_t)p[at]]) {
            at++;
            continue;
        }
        int32_t found = longest(s, p, n, at);
        if (found == BP_NONE) {
            at++;
            continue;
        }
        const bp_added *a = &s->added[found];
        if (plain && a->special) { /* its words are text, and hide no other token */
            at += a->n;
            continue;
        }
        out->id = a->id;
        out->from = a->lstrip ? spaces_before(p, from, at) : at;
        out->to = at + a->n;
        if (a->rstrip)
            out->to = spaces_after(p, n, out->to);
        return true;
    }
    return false;
}
