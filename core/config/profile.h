/* SPDX-License-Identifier: Apache-2.0
 *
 * profile.h - an INI profile, resolved: every value with its origin.
 *
 * Invariant: after mri_profile_load(), an entry (section, key) exists at most once; the
 * last writer in the order includes < file < --set won, and its origin says where it
 * stands. Filling a config struct from option rows (mri_profile_fill) is the only way a
 * value becomes typed; a value that no fill ever asked for is an error (mri_profile_finish).
 */
#ifndef MRI_PROFILE_H
#define MRI_PROFILE_H
#include "core/base/base.h"

typedef struct mri_origin {
    const char *file; /* NULL: default, environment or command line */
    int line;         /* 0 when file is NULL                         */
    const char *how;  /* "file" "default" "--set"                    */
    const char *raw;  /* the line as written, the --set text, or NULL */
} mri_origin;

typedef struct mri_entry {
    const char *section, *key, *value;
    mri_origin origin;
    bool used;     /* some option row asked for it */
} mri_entry;

typedef struct mri_profile mri_profile;

/* path NULL: an empty profile. sets: "section.key=value" (the last dot before '=' splits
 * section from key; the value is taken as it is, without quotes or comments). `include` is the
 * one key before the first section: files separated by blanks, relative to the including
 * file; cycles and depth over 16 are errors; lines over 64 KiB are refused; a duplicate key
 * in one file is an error that names both lines. */
mr_status mri_profile_load(const char *path, const char *const *sets, size_t n_sets,
                           mri_profile **out, mr_err *err);
void mri_profile_free(mri_profile *p);
mr_status mri_profile_set(mri_profile *p, const char *set, mr_err *err);

const mri_entry *mri_profile_get(const mri_profile *p, const char *section, const char *key);
size_t mri_profile_count(const mri_profile *p);
const mri_entry *mri_profile_at(const mri_profile *p, size_t i); /* stays where it is */
/* sections in first-seen order, also those without a key; NULL: past the last */
const char *mri_profile_section(const mri_profile *p, size_t i);
bool mri_profile_was_filled(const mri_profile *p, const char *section);
/* Gives a key a computed default (origin "default") unless it has a value already. */
void mri_profile_default(mri_profile *p, const char *section, const char *key, const char *value);

/* Parses section's values by the rows into `config` (config_size bytes, zeroed first),
 * marks them used, and records defaults as entries of origin "default". Rows are walked by
 * their own size. Strings live as long as the profile.
 *   PATH    relative to the file that holds it (--set, defaults: to the working folder) and
 *           made absolute; "~/" and ${ENV} expand; the entry's value becomes that path
 *   choices of a type other than ENUM: words also accepted. The i-th word (from 0) stores -i
 *           for a number ("auto" -> 0), -1-i for BOOL; STR and PATH keep the word itself;
 *           a LIST whose only item is the word "none" is empty
 *   ""      an empty value leaves STR, PATH and LIST unset, as if the key were not there    */
mr_status mri_profile_fill(mri_profile *p, const char *section, const mr_opt *opts, uint32_t n,
                           void *config, uint32_t config_size, mr_err *err);

/* Do the defaults of the rows parse and satisfy their own ranges, are the docs there, do the
 * offsets fit? (used by the loader's malformed checks and by `mrun check PLUGIN.so`) */
mr_status mri_options_check(const mr_opt *opts, uint32_t n, uint32_t config_size, mr_err *err);

/* A section that exists but was never filled, or a key that no row knows, is an error with
 * file:line, the line, a caret and the nearest known word (of the section, then of any
 * section: "that key belongs to [x]"). Sections named kind.NAME of known kinds whose plugin
 * is not the selected one are kept unread: `known` lists them ("backend.cuda"). */
mr_status mri_profile_finish(mri_profile *p, const char *const *known, size_t n_known, mr_err *err);

/* Old spellings (mr_opt.was) in use and other things that run but deserve a look: one line
 * each. Returns their number. */
size_t mri_profile_doubts(const mri_profile *p, mri_str *out);

/* A profile again: [section], then "key = value   ; origin", sections in first-seen order.
 * Loading what was printed gives the same values. */
void mri_profile_print(const mri_profile *p, bool origins, mri_str *out);
/* keys whose values differ: lines "section.key: a | b"; keys in `ignore` (NULL-ended
 * "section" or "section.key") are skipped. Values that a fill typed are compared as such
 * (1000 is 1e3). Returns the number of differences. */
size_t mri_profile_diff(const mri_profile *a, const mri_profile *b, const char *const *ignore,
                        mri_str *out);

/* One option's page line for `mrun explain`; and the parser for one value. A STR, PATH, ENUM
 * or LIST is stored as one block that the caller frees. */
void mri_option_print(const mr_opt *o, mri_str *out);
mr_status mri_option_parse(const mr_opt *o, const char *text, const char *base_dir, void *config,
                           mr_err *err);

#endif
