/* SPDX-License-Identifier: Apache-2.0
 * sha256.h - the SHA-256 digest (FIPS 180-4) of bytes in memory, as 64 lower-case digits. */
#ifndef TEXT_SHA256_H
#define TEXT_SHA256_H
#include <stdint.h>

void sha256_hex(const void *p, uint64_t n, char hex[65]);

#endif
