/* SPDX-License-Identifier: Apache-2.0
 *
 * ini.h - one INI text, line by line. inih does the sections and names; its reader is ours,
 * because builds of inih cut a long line and hand the cut value on.
 *
 * Invariant: inih only ever sees lines that fit its buffers and its 50-byte names; a value
 * never passes through it, so it arrives whole or is refused, whatever its length.
 *
 * The grammar: "[section]", "key = value", comments from ';' or '#' at the start of a line and
 * from ';' after a blank behind a value. One line, one value: no continuation lines. A value
 * in double quotes keeps blanks and ';' and knows \" \\ \n \t \r \xHH. A byte-order mark and
 * CRLF are accepted; NUL, other control characters and UTF-16 are refused.
 */
#ifndef MRI_INI_H
#define MRI_INI_H
#include "place.h"

enum { MRI_INI_MAX_LINE = 64 << 10, MRI_INI_MAX_NAME = 48 };
enum { MRI_INI_BLANK, MRI_INI_SECTION, MRI_INI_KEY };

typedef struct mri_ini_words {
    int kind;
    mri_span name, value; /* a quoted value's span includes its quotes */
} mri_ini_words;

/* Splits one line. Returns NULL, or what is wrong with it; `bad` (may be NULL) says where. */
const char *mri_ini_split(const char *line, mri_ini_words *w, mri_span *bad);

/* May this be a key (dots: also a section)? Letters, digits, '_', '-'; sections '.', '@'. */
bool mri_ini_name_ok(const char *s, size_t n, bool section);

/* Appends the value so that the reader gives it back unchanged: quoted where it must be. */
void mri_ini_quote(mri_str *out, const char *value);

/* Calls `sink` for each section header (key and value NULL) and each key, in order. The
 * origin's raw text and the words live only during the call. */
typedef mr_status (*mri_ini_sink)(void *user, const char *section, const char *key,
                                  const char *value, const mri_origin *o, mr_err *err);
mr_status mri_ini_parse(const char *file, const char *text, size_t n, mri_ini_sink sink,
                        void *user, mr_err *err);

#endif
