/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz.h - what the fuzz targets share. A target is one LLVMFuzzerTestOneInput(): any bytes may
 * come, and it must neither crash, nor leak, nor read outside what it was given; it may say no.
 * replay.c gives it the files of its corpus, in every build; with -Dfuzz=true libFuzzer gives it
 * what it finds.
 */
#ifndef TEST_FUZZ_H
#define TEST_FUZZ_H
#include "core/store/internal.h"
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* the bytes as a file's map, which whoever takes it over unmaps */
MR_UNUSED static mri_map fuzz_map(const uint8_t *data, size_t n)
{
    void *p = n ? mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : NULL;
    MRI_ASSERT(p != MAP_FAILED);
    if (n)
        memcpy(p, data, n);
    return (mri_map){ p, n };
}

/* An error that is told has a code, and says something. */
MR_UNUSED static void fuzz_told(mr_status st, const mr_err *err)
{
    MRI_ASSERT(!st || (err->code == st && *err->what));
}

#endif
