/* SPDX-License-Identifier: Apache-2.0
 *
 * token_file.h - Megatron's indexed data set: PREFIX.idx says where the sequences of tokens
 * stand in PREFIX.bin. Both are mapped.
 *
 * The .idx, little endian and without alignment: 9 bytes "MMIDIDX\0\0"; u64 version 1; u8
 * dtype; u64 sequences; u64 boundaries (documents + 1); i32 length of each sequence; i64
 * offset in bytes of each sequence; i64 boundaries, the first 0, the last = sequences; then,
 * if multimodal, an i8 mode of each sequence. The .bin is the tokens, one sequence after
 * another.
 *
 * Invariant: once open, every sequence lies inside the .bin and none overlaps another, so
 * that reading checks nothing but its own arguments.
 */
#ifndef INDEXED_TOKEN_FILE_H
#define INDEXED_TOKEN_FILE_H
#include "mrun/data.h"

typedef struct token_file { /* {0} is a valid closed one */
    const char *prefix;     /* borrowed */
    const unsigned char *idx, *bin;
    uint64_t idx_size, bin_size;
    const unsigned char *lengths, *offsets; /* in idx */
    const struct token_dtype *dtype;
    int64_t sequences;
} token_file;

mr_status token_file_open(const char *prefix, token_file *out, mr_err *err);
void token_file_close(token_file *f);

const char *token_file_dtype(const token_file *f); /* "u16" ... */
int32_t token_file_length(const token_file *f, int64_t sequence);
/* i32 number i of an unaligned little-endian array: the lengths */
int32_t token_file_i32(const unsigned char *array, int64_t i);
/* token `at` of a sequence; at < its length */
int64_t token_file_get(const token_file *f, int64_t sequence, int64_t at);

#endif
