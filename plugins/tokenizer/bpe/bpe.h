/* SPDX-License-Identifier: Apache-2.0
 *
 * bpe.h - byte-level BPE as tokenizer/hf and tokenizer/tiktoken share it:
 *
 *     text -> special tokens cut out (special.c) -> normalized (nfc.c) -> runs of UTF-8 (utf8.c)
 *          -> pieces by regular expressions (split.c) -> ids by merges (merge.c), text.c drives
 *
 * Invariant: after bp_seal() a bp_tok never changes, but for its pool of working sets, which a
 * mutex guards; so any number of threads may encode and decode at once.
 */
#ifndef TOKENIZER_BPE_H
#define TOKENIZER_BPE_H
#define PCRE2_CODE_UNIT_WIDTH 8
#include "mrun/tokenizer.h"
#include <pcre2.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

enum {
    BP_MAX_IDS = (1 << 24) - 1, /* the largest vocabulary: id + 1 has 24 bits */
    BP_MAX_TOKEN = 1 << 16,     /* bytes of one token */
    BP_MAX_STAGES = 16,         /* regular expressions one after the other */
    BP_MAX_PATTERN = 1 << 16,   /* bytes of one */
    BP_NONE = -1
};
#define BP_MAX_FILE ((uint64_t)1 << 29) /* bytes of tokenizer.json or of a rank file */

/* ---- vocab.c: tokens, and which pairs merge ------------------------------------------------- */

enum { BP_TOKEN = 1, BP_SPECIAL = 2, BP_PIECE = 4 /* may be found by its bytes */ };

typedef struct bp_entry {
    uint64_t at; /* of its bytes in the pool */
    uint32_t n, flags;
} bp_entry;

typedef struct bp_vocab {
    bp_entry *v;
    int64_t n; /* ids are in [0, n) */
    char *pool;
    uint64_t used, room;
    uint32_t *slot, mask; /* by the bytes' hash: its top 8 bits, then id + 1 */
} bp_vocab;

mr_status bp_vocab_init(bp_vocab *v, int64_t n, mr_err *err);
void bp_vocab_free(bp_vocab *v);
mr_status bp_vocab_set(bp_vocab *v, int64_t id, const char *bytes, uint64_t n, uint32_t flags,
                       mr_err *err);                /* over what the id had */
mr_status bp_vocab_index(bp_vocab *v, mr_err *err); /* once, when all BP_PIECE tokens are set */
int32_t bp_vocab_find(const bp_vocab *v, const char *bytes, uint64_t n); /* BP_NONE: none */

/* The pair (a, b) becomes `id`; of several pairs the smallest rank goes first. */
typedef struct bp_merge {
    uint32_t a, b, rank, id;
} bp_merge;

typedef struct bp_merges {
    bp_merge *slot;  /* rank UINT32_MAX: empty */
    uint64_t *maybe; /* a bit a hash: 0 says at once that a pair is none, as most are */
    uint32_t mask, maybe_mask;
} bp_merges;

mr_status bp_merges_init(bp_merges *m, uint64_t n, mr_err *err);
void bp_merges_put(bp_merges *m, bp_merge merge); /* a pair that is there already gets this one */
void bp_merges_free(bp_merges *m);

/* The last n % 8 bytes of the n at p, in one word with zeros above. */
static inline uint64_t bp_tail(const char *p, uint64_t n)
{
    uint64_t w = 0, rest = n % 8;
    if (!rest)
        return 0;
    if (n >= 8) { /* the last eight, shifted */
        memcpy(&w, p + n - 8, 8);
        return w >> 8 * (8 - rest);
    }
    if (n >= 4) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + n - 4, 4);
        return low | (uint64_t)high << 8 * (n - 4);
    }
    for (uint64_t i = 0; i < n; i++)
        w |= (uint64_t)(unsigned char)p[i] << 8 * i;
    return w;
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bp_tail() shifts little-endian words");

static inline uint64_t bp_mix(uint64_t x)
{
    x *= 0x9e3779b97f4a7c15u;
    return x ^ x >> 32;
}

static inline const bp_merge *bp_merges_find(const bp_merges *m, uint32_t a, uint32_t b)
{
    uint64_t h = bp_mix((uint64_t)a << 32 | b);
    uint32_t bit = (uint32_t)(h >> 20) & m->maybe_mask, i = (uint32_t)h & m->mask;
    if (!(m->maybe[bit / 64] >> bit % 64 & 1))
        return NULL;
    for (;; i = (i + 1) & m->mask) {
        const bp_merge *s = &m->slot[i];
        if (s->rank == UINT32_MAX)
            return NULL;
        if (s->a == a && s->b == b)
            return s;
    }
}

/* ---- merge.c: a piece of text to ids -------------------------------------------------------- */

typedef struct bp_ids { /* what an encode() writes; n goes on counting past cap */
    int32_t *v;
    uint64_t cap, n;
} bp_ids;

static inline void bp_push(bp_ids *out, int32_t id)
{
    if (out->n < out->cap)
        out->v[out->n] = id;
    out->n++;
}

typedef struct bp_pair {
    uint32_t rank, id;
} bp_pair;

typedef struct bp_model {
    bp_vocab vocab;
    bp_merges merges;
    int32_t byte_id[256]; /* BP_NONE: text with that byte loses it, or gets `unk` */
    struct bp_pair *pair; /* what two neighbouring bytes make: [256][256], where most of it ends */
    int32_t unk;          /* BP_NONE: none */
    bool fuse_unk;        /* neighbouring unknown bytes make one unk */
    bool whole_first;     /* a piece that is a token is that token, whatever the merges say */
} bp_model;

typedef struct bp_scratch bp_scratch; /* of one thread: the cache of pieces, room for merging */
bp_scratch *bp_scratch_new(void);     /* NULL: out of memory */
void bp_scratch_free(bp_scratch *s);
mr_status bp_piece(const bp_model *m, bp_scratch *s, const char *p, uint64_t n, bp_ids *out,
                   mr_err *err);

/* ---- utf8.c ---------------------------------------------------------------------------------- */

/* Bytes from p that are whole UTF-8 characters. *rare: one of them is in bp_stand_in's table. */
uint64_t bp_utf8_valid(const char *p, uint64_t n, bool *rare);
uint64_t bp_utf8_invalid(const char *p, uint64_t n); /* bytes from p that begin no character */
uint32_t bp_utf8_get(const char *p, uint32_t *len);  /* of valid text */
uint32_t bp_utf8_put(uint32_t c, char *p);           /* bytes written, 1 to 4 */
bool bp_is_space(uint32_t c);                        /* Unicode's White_Space */
/* Characters that PCRE2 takes for another class than the reference libraries do are replaced by
 * one of the right class and the same length, in the copy that is matched. */
void bp_stand_in(char *p, uint64_t n);

/* ---- property.c ----------------------------------------------------------------------------- */

enum { BP_CATEGORIES = 30 };
extern const char bp_category[BP_CATEGORIES][3]; /* Lu, Ll ... */
uint32_t bp_categories(const char *name);        /* as a bit set, of "L" all its; 0: none */
/* What stands between the braces of \p{...}, as PCRE2 calls it: a script is "sc:Han". */
void bp_property(const char *raw, char name[64]);

/* ---- pattern.c, split.c: text to pieces ----------------------------------------------------- */

/* A pattern as one of these reads it, in PCRE2's words; the caller frees. */
enum { BP_RUST, BP_ONIGURUMA };
mr_status bp_pattern(const char *pattern, int dialect, const char *where, char **out, mr_err *err);

typedef struct bp_stage {
    pcre2_code *code;
    bool jit, drop_match, drop_rest;
} bp_stage;

/* `where` names the pattern in messages: "FILE: pre_tokenizer.pattern.Regex" */
mr_status bp_stage_init(bp_stage *s, const char *pattern, int dialect, const char *where,
                        mr_err *err);
mr_status bp_stage_literal(bp_stage *s, const char *text, const char *where, mr_err *err);

/* ---- special.c: added tokens ----------------------------------------------------------------- */

typedef struct bp_added {
    const char *text; /* only read by bp_set_add() */
    uint64_t n;
    int32_t id;
    bool special, lstrip, rstrip;
} bp_added;

typedef struct bp_node {
    uint32_t child, sibling; /* 0: none */
    int32_t added;           /* index of the token that ends here; BP_NONE */
    uint8_t byte;
} bp_node;

typedef struct bp_set {
    bp_node *node; /* a trie; node 0 is its root */
    uint32_t n_nodes, node_room;
    bp_added *added;
    uint32_t n_added, added_room;
    uint32_t first[256]; /* the root's children */
} bp_set;

typedef struct bp_found {
    uint64_t from, to; /* with the spaces that the token takes along */
    int32_t id;
} bp_found;

mr_status bp_set_add(bp_set *s, const bp_added *a, mr_err *err);
void bp_set_free(bp_set *s);
/* The first token at or after `from`; `plain`: special tokens are text. */
bool bp_set_find(const bp_set *s, const char *p, uint64_t n, uint64_t from, bool plain,
                 bp_found *out);

/* ---- nfc.c ----------------------------------------------------------------------------------- */

bool bp_is_nfc_surely(const char *p, uint64_t n); /* quick: false says nothing */
mr_status bp_nfc(const char *p, uint64_t n, char **out, uint64_t *out_n, mr_err *err);

/* ---- text.c: a tokenizer --------------------------------------------------------------------- */

typedef struct bp_work bp_work;

typedef struct bp_tok {
    const char *unit; /* "tokenizer/hf", for messages */
    bp_model model;
    bp_set raw;        /* added tokens, looked for in the text as it is */
    bp_set normalized; /* and in what the normalizer makes of it */
    bp_stage stage[BP_MAX_STAGES];
    uint32_t n_stages;
    bool nfc, special; /* special: the text of a special token is that token, unless asked else */
    mr_tokenizer_info info;
    pthread_mutex_t lock; /* guards `free` */
    bp_work *free;        /* working sets that nobody uses now */
} bp_tok;

bp_tok *bp_new(const char *unit);
mr_status bp_seal(bp_tok *t, mr_err *err); /* the last step of making one */

/* rows of mr_tokenizer_ops; `tok` is a bp_tok */
void bp_destroy(void *tok);
mr_status bp_info(void *tok, mr_tokenizer_info *out, mr_err *err);
mr_status bp_encode(void *tok, const char *text, uint64_t n, int32_t *ids, uint64_t cap,
                    uint64_t *n_ids, mr_err *err);
mr_status bp_decode(void *tok, const int32_t *ids, uint64_t n, char *text, uint64_t cap,
                    uint64_t *n_text, mr_err *err);
mr_status bp_encode_as(void *tok, uint32_t flags, const char *text, uint64_t n, int32_t *ids,
                       uint64_t cap, uint64_t *n_ids, mr_err *err);
mr_status bp_decode_as(void *tok, uint32_t flags, const int32_t *ids, uint64_t n, char *text,
                       uint64_t cap, uint64_t *n_text, mr_err *err);

/* ---- files.c: what stands beside the vocabulary ---------------------------------------------- */

mr_status bp_nomem(mr_err *err, const char *what, uint64_t bytes);
/* A whole file of at most BP_MAX_FILE bytes, NUL-ended; the caller frees. */
mr_status bp_read(const char *unit, const char *path, char **text, uint64_t *n, mr_err *err);
bool bp_exists(const char *path);
char *bp_beside(const char *path, const char *name); /* a file in the same folder; caller frees */

typedef struct json_t bp_json;
mr_status bp_json_read(const char *unit, const char *path, bp_json **out, mr_err *err);

typedef struct bp_special_options { /* the options that both plugins have */
    const char *bos, *eos, *pad, *eod;
} bp_special_options;
/* info.bos, eos, pad and eod: from the options, else from tokenizer_config.json (may be NULL).
 * `begins`: the id that the tokenizer itself puts first, or BP_NONE. */
mr_status bp_name_specials(bp_tok *t, const bp_special_options *o, const bp_json *config,
                           int32_t begins, mr_err *err);
#endif
