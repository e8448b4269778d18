/* SPDX-License-Identifier: Apache-2.0
 *
 * utf8.c - characters: where text is UTF-8 and where it is not, and which characters PCRE2 knows
 * as another class than the libraries that tokenizers are trained with.
 */
#define BP_STAND_INS
#include "bpe.h"
#include "unicode_tables.h"

/* Length of the character at p, by the table of well-formed sequences; 0: none begins here. */
static uint32_t char_length(const unsigned char *p, uint64_t n)
{
    unsigned char c = p[0];
    if (c < 0x80)
        return 1;
    if (c < 0xc2 || c > 0xf4)
        return 0;
    uint32_t len = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (n < len)
        return 0;
    unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    unsigned char high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < low || p[1] > high)
        return 0;
    for (uint32_t i = 2; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

uint32_t bp_utf8_get(const char *text, uint32_t *len)
{
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80)
        return *len = 1, p[0];
    if (p[0] < 0xe0)
        return *len = 2, (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    if (p[0] < 0xf0)
        return *len = 3, (p[0] & 0xfu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    return *len = 4,
           (p[0] & 7u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

uint32_t bp_utf8_put(uint32_t c, char *p)
{
    uint32_t len = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = { 0, 0, 0xc0, 0xe0, 0xf0 };
    for (uint32_t i = len; i-- > 1; c >>= 6)
        p[i] = (char)(0x80 | (c & 0x3f));
    p[0] = (char)(lead[len] | c);
    return len;
}

bool bp_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

/* ---- stand-ins ------------------------------------------------------------------------------- */

/* Characters that are newer than PCRE2's tables, and U+180E, a format character that it counts
 * among the white space. */
enum { N_STAND_INS = sizeof stand_ins / sizeof *stand_ins };

static uint32_t stand_in_of(uint32_t c)
{
    uint32_t low = 0, high = N_STAND_INS;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (c > stand_ins[mid][1])
            low = mid + 1;
        else if (c < stand_ins[mid][0])
            high = mid;
        else
            return stand_ins[mid][2];
    }
    return c;
}

void bp_stand_in(char *p, uint64_t n)
{
    uint32_t len;
    for (uint64_t i = 0; i < n; i += len) {
        uint32_t c = bp_utf8_get(p + i, &len), as = stand_in_of(c);
        if (as != c)
            bp_utf8_put(as, p + i);
    }
}

/* ---- runs ------------------------------------------------------------------------------------ */

uint64_t bp_utf8_valid(const char *text, uint64_t n, bool *rare)
{
    const unsigned char *p = (const unsigned char *)text;
    uint64_t i = 0, word;
    while (i < n) {
        if (n - i >= 8 && (memcpy(&word, p + i, 8), !(word & 0x8080808080808080u))) {
            i += 8;
            continue;
        }
        uint32_t len = char_length(p + i, n - i), same;
        if (!len)
            break;
        if (len > 2 && !*rare) {
            uint32_t c = bp_utf8_get(text + i, &same);
            *rare = stand_in_of(c) != c;
        }
        i += len;
    }
    return i;
}

uint64_t bp_utf8_invalid(const char *text, uint64_t n)
{
    uint64_t i = 0;
    while (i < n && !char_length((const unsigned char *)text + i, n - i))
        i++;
    return i;
}
