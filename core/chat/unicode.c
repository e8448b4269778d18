/* SPDX-License-Identifier: Apache-2.0
 * unicode.c - see unicode.h. */
#include "unicode.h"
#include <locale.h>
#include <pthread.h>
#include <wctype.h>

size_t mri_utf8_len(const char *s, size_t n)
{
    unsigned char c = (unsigned char)*s;
    size_t want = c < 0xc2 || c > 0xf4 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (want > n)
        return 1;
    for (size_t i = 1; i < want; i++)
        if (((unsigned char)s[i] & 0xc0) != 0x80)
            return 1;
    return want;
}

size_t mri_utf8_chars(const char *s, size_t n)
{
    size_t chars = 0;
    for (size_t i = 0; i < n; chars++)
        i += (unsigned char)s[i] < 0x80 ? 1 : mri_utf8_len(s + i, n - i);
    return chars;
}

size_t mri_utf8_at(const char *s, size_t n, size_t chars)
{
    size_t i = 0;
    for (; i < n && chars; chars--)
        i += mri_utf8_len(s + i, n - i);
    return i;
}

uint32_t mri_utf8_get(const char *s, size_t n, size_t *len)
{
    static const unsigned char first[] = { 0, 0x7f, 0x1f, 0x0f, 0x07 };
    *len = mri_utf8_len(s, n);
    uint32_t c = (unsigned char)*s;
    if (*len > 1)
        c &= first[*len];
    for (size_t i = 1; i < *len; i++)
        c = c << 6 | ((unsigned char)s[i] & 0x3f);
    return c;
}

size_t mri_utf8_put(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = { 0, 0, 0xc0, 0xe0, 0xf0 };
    for (size_t i = n; --i; c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(lead[n] | c);
    return n;
}

static locale_t utf8;

static void open_locale(void)
{
    utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
}

/* (locale_t)0: a C library without C.UTF-8; only ASCII has case there */
static locale_t table(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_locale);
    return utf8;
}

static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

/* What repr() shows as it is: not control, format, private and separator characters. */
static bool is_print(uint32_t c)
{
    if (c < 0x7f)
        return c >= 0x20;
    bool hidden = c < 0xa1 || c == 0xad || (c >= 0x600 && c <= 0x605) || c == 0x61c ||
                  c == 0x6dd || c == 0x70f || c == 0x180e || (c >= 0x200b && c <= 0x200f) ||
                  (c >= 0x202a && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) ||
                  (c >= 0xe000 && c <= 0xf8ff) || c == 0xfeff || (c >= 0xfff0 && c <= 0xfffb) ||
                  (c & 0xfffe) == 0xfffe || c >= 0xe0000;
    return !hidden && !is_space(c) && (!table() || iswprint_l((wint_t)c, table()));
}

bool mri_unicode_is(uint32_t c, int property)
{
    switch (property) {
    case MRI_U_SPACE:
        return is_space(c);
    case MRI_U_PRINT:
        return is_print(c);
    case MRI_U_DIGIT: /* C has only ASCII's: the letters that are digits in other scripts */
        return (c >= '0' && c <= '9') || (c >= 0x660 && c <= 0x669) ||
               (c >= 0x6f0 && c <= 0x6f9) || (c >= 0x966 && c <= 0x96f) ||
               (c >= 0xff10 && c <= 0xff19);
    case MRI_U_UPPER:
        return c < 0x80 || !table() ? c >= 'A' && c <= 'Z' : iswupper_l((wint_t)c, table());
    case MRI_U_LOWER:
        return c < 0x80 || !table() ? c >= 'a' && c <= 'z' : iswlower_l((wint_t)c, table());
    default:
        if (c < 0x80 || !table())
            return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        return iswalpha_l((wint_t)c, table()) && !mri_unicode_is(c, MRI_U_DIGIT);
    }
}

uint32_t mri_unicode_upper(uint32_t c)
{
    if (c < 0x80 || !table())
        return c >= 'a' && c <= 'z' ? c - 32 : c;
    return (uint32_t)towupper_l((wint_t)c, table());
}

uint32_t mri_unicode_lower(uint32_t c)
{
    if (c < 0x80 || !table())
        return c >= 'A' && c <= 'Z' ? c + 32 : c;
    return (uint32_t)towlower_l((wint_t)c, table());
}
