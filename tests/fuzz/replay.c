/* SPDX-License-Identifier: Apache-2.0
 * replay.c FOLDER...: gives a fuzz target every file of its corpus, and every beginning of the
 * short ones. A crash is the failure; a folder without files is one too. */
#include "fuzz.h"
#include <dirent.h>
#include <stdio.h>

enum { SHORT = 4096, FILE_MAX = 16 << 20 };

static void replay(const char *path)
{
    char *text = NULL;
    size_t n = 0;
    mr_err err = MR_ERR_INIT;
    if (mri_read_file(path, FILE_MAX, &text, &n, &err)) {
        fprintf(stderr, "%s\n", err.what);
        exit(1);
    }
    for (size_t k = n <= SHORT ? 0 : n; k <= n; k += k + 41 < n ? 41 : k < n ? n - k : 1) {
        uint8_t *part = malloc(k ? k : 1); /* of its exact size, so that a byte more is noticed */
        MRI_ASSERT(part);
        memcpy(part, text, k);
        LLVMFuzzerTestOneInput(part, k);
        free(part);
    }
    free(text);
}

int main(int argc, char **argv)
{
    size_t files = 0;
    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        const struct dirent *e;
        while (d && (e = readdir(d))) {
            if (*e->d_name == '.')
                continue;
            char *path = mri_format("%s/%s", argv[i], e->d_name);
            replay(path);
            free(path);
            files++;
        }
        if (d)
            closedir(d);
    }
    if (files < 3)
        fprintf(stderr, "only %zu files\n", files);
    return files < 3;
}
