/* SPDX-License-Identifier: Apache-2.0
 * A tokenizer.json, or a rank file, of any bytes: it makes a tokenizer, whose ids are all below its
 * vocabulary and decode, or says what is wrong. Ranks that made one give each text back. */
#include "core/config/sections.h"
#include "core/plugin/registry.h"
#include "fuzz.h"
#include "mrun/tokenizer.h"
#include <fcntl.h>
#include <unistd.h>

/* letters, digits, marks, CJK, white space, bytes of no character, words of special tokens */
static const char text[] = "It's 1234 A\xcc\x81 caf\xc3\xa9 \xe4\xbd\xa0\xe5\xa5\xbd"
                           "\xf0\x9f\x98\x80  \t\r\n\n x_y \xff\xc3 <|end|> [INST] 's'S";

typedef struct reader { /* one kind of file */
    const mr_tokenizer_ops *ops;
    mri_config *config; /* whose file is /proc/self/fd/N */
    bool gives_back;    /* every text: nothing is normalised */
} reader;

static mri_registry *reg;
static reader readers[2];
static int fd = -1;

static void leave(void)
{
    for (size_t i = 0; i < 2; i++)
        mri_config_free(readers[i].config);
    mri_registry_free(reg);
    close(fd);
}

static void open_readers(void)
{
    static const char *const names[2] = { "hf", "tiktoken" };
    mr_err err = MR_ERR_INIT;
    reg = mri_registry_create(NULL);
    fd = memfd_create("tokenizer", MFD_CLOEXEC);
    MRI_ASSERT(fd >= 0);
    for (size_t i = 0; i < 2; i++) {
        char *plugin = mri_format("tokenizer.plugin=%s", names[i]);
        char *file = mri_format("tokenizer.%s.file=/proc/self/fd/%d", names[i], fd);
        const char *sets[] = { "job.run=tokenize", plugin, file,
                               "tokenizer.tiktoken.pattern=llama4" };
        MRI_ASSERT(!mri_config_load(reg, NULL, sets, i ? 4 : 3, &readers[i].config, &err));
        readers[i].ops = mri_config_choice(readers[i].config, "tokenizer", 0)->unit->table;
        readers[i].gives_back = i == 1;
        free(plugin);
        free(file);
    }
    atexit(leave);
}

static void use(const reader *r, void *tok)
{
    mr_tokenizer_info info = { .size = sizeof info };
    int32_t ids[512];
    char back[4096];
    uint64_t n = 0, length = 0;
    mr_err err = MR_ERR_INIT;
    MRI_ASSERT(!r->ops->info(tok, &info, &err));
    mr_status st = r->ops->encode_as(tok, MR_TOK_PLAIN, text, sizeof text - 1, ids, 512, &n, &err);
    fuzz_told(st, &err);
    if (st || n > 512)
        return;
    for (uint64_t i = 0; i < n; i++)
        MRI_ASSERT(ids[i] >= 0 && ids[i] < info.vocab);
    st = r->ops->decode(tok, ids, n, back, sizeof back, &length, &err);
    fuzz_told(st, &err);
    if (!st && r->gives_back)
        MRI_ASSERT(length == sizeof text - 1 && !memcmp(back, text, length));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (!reg)
        open_readers();
    MRI_ASSERT(!ftruncate(fd, 0) && pwrite(fd, data, n, 0) == (ssize_t)n);
    for (size_t i = 0; i < 2; i++) {
        void *tok = NULL;
        mr_err err = MR_ERR_INIT;
        mr_status st = readers[i].ops->create(
            mri_registry_host(reg), mri_config_choice(readers[i].config, "tokenizer", 0)->config,
            &tok, &err);
        fuzz_told(st, &err);
        if (st)
            continue;
        use(&readers[i], tok);
        readers[i].ops->destroy(tok);
    }
    return 0;
}
