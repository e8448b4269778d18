/* SPDX-License-Identifier: Apache-2.0
 *
 * unicode.h - UTF-8 by characters, and the properties of characters that Python's string methods
 * ask for. Bytes that are no UTF-8 count as characters of their own, so that nothing here reads
 * past an end. Letter case comes from the C library's C.UTF-8 locale.
 */
#ifndef MRI_CHAT_UNICODE_H
#define MRI_CHAT_UNICODE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

size_t mri_utf8_len(const char *s, size_t n); /* bytes of the character at s, 1 to 4; n > 0 */
size_t mri_utf8_chars(const char *s, size_t n);
size_t mri_utf8_at(const char *s, size_t n, size_t chars); /* bytes of the first `chars` of them */
uint32_t mri_utf8_get(const char *s, size_t n, size_t *len);
size_t mri_utf8_put(uint32_t c, char out[4]);

enum { MRI_U_SPACE, MRI_U_UPPER, MRI_U_LOWER, MRI_U_ALPHA, MRI_U_DIGIT, MRI_U_PRINT };
bool mri_unicode_is(uint32_t c, int property);
uint32_t mri_unicode_upper(uint32_t c);
uint32_t mri_unicode_lower(uint32_t c);

#endif
