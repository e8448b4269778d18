/* SPDX-License-Identifier: Apache-2.0
 * A manifest with a right checksum and wrong content (another version's, or a bug's) is
 * refused by name, and never leads out of its folder. */
#include "core/store/digest.h"
#include "core/store/internal.h"
#include "scratch.h"

#define HEAD "\"format\": \"mrun-checkpoint\", \"version\": 1, "
#define NUMBERS "\"step\": 1, \"samples\": 2, \"tokens\": 3, "
#define SUM "\"xxh64\": \"0123456789abcdef\""

/* `body` and the sealing last line */
static void put_sealed(const char *path, const char *body)
{
    mri_str b = { 0 };
    mri_str_fmt(&b, "{%s\n", body);
    mri_str_fmt(&b, "  \"manifest_xxh64\": \"%016llx\"\n}\n",
                (unsigned long long)mri_digest_of(b.s, b.n));
    scratch_put(path, b.s, b.n);
    mri_str_free(&b);
}

static const struct {
    const char *body, *error;
    mr_status status;
} zoo[] = {
    { "", "not an mrun checkpoint", MR_E_STORE_FORMAT },
    { "\"format\": \"other\", \"version\": 1,", "not an mrun checkpoint", MR_E_STORE_FORMAT },
    { "\"format\": \"mrun-checkpoint\", \"version\": 3,",
      "version 3; this mrun reads versions 1 and 2",
      MR_E_STORE_FORMAT },
    { "\"format\": \"mrun-checkpoint\", \"version\": \"1\",", "not an mrun", MR_E_STORE_FORMAT },
    { HEAD "\"step\": 1.5,", "\"step\"", MR_E_STORE_CHECKSUM },
    { HEAD "\"step\": 1, \"samples\": 1,", "\"tokens\"", MR_E_STORE_CHECKSUM },
    { HEAD NUMBERS "\"counters\": {\"a\": true},", "counter a", MR_E_STORE_CHECKSUM },
    { HEAD NUMBERS "\"counters\": {\"a\": \"one\"},", "counter a", MR_E_STORE_CHECKSUM },
    { HEAD NUMBERS "\"files\": [3],", "entry 0", MR_E_STORE_CHECKSUM },
    { HEAD NUMBERS "\"files\": [{\"file\": \"../x\", \"bytes\": 1, " SUM "}],", "entry 0",
      MR_E_STORE_CHECKSUM },
    { HEAD NUMBERS "\"files\": [{\"file\": \"/etc/x\", \"bytes\": 1, " SUM "}],", "entry 0",
      MR_E_STORE_CHECKSUM },
    { HEAD NUMBERS "\"files\": [{\"file\": \"x\", \"bytes\": -1, " SUM "}],", "entry 0",
      MR_E_STORE_CHECKSUM },
    { HEAD NUMBERS "\"files\": [{\"file\": \"x\", \"bytes\": 1, \"xxh64\": \"12\"}],", "entry 0",
      MR_E_STORE_CHECKSUM },
    { HEAD NUMBERS "\"files\": [{\"file\": \"x\", \"bytes\": 1, \"xxh64\": \"0123456789abcdeg\"}],",
      "entry 0", MR_E_STORE_CHECKSUM },
    { HEAD NUMBERS "\"step\": 2,", "duplicate", MR_E_STORE_FORMAT },
    { HEAD NUMBERS ",", "manifest.json:", MR_E_STORE_FORMAT },
};

Test(manifest, wrong_content_under_a_right_checksum_is_refused_by_name)
{
    char *dir = scratch_make(), *path = mri_format("%s/manifest.json", dir);
    for (size_t i = 0; i < sizeof zoo / sizeof *zoo; i++) {
        mri_manifest m;
        mr_err err = MR_ERR_INIT;
        put_sealed(path, zoo[i].body);
        cr_assert_eq(mri_manifest_read(path, &m, &err), zoo[i].status, "%s: %s", zoo[i].body,
                     err.what);
        cr_assert_not_null(strstr(err.what, zoo[i].error), "%s: %s", zoo[i].body, err.what);
        cr_assert_not_null(strstr(err.what, path));
    }
    free(path);
    scratch_drop(dir);
}

Test(manifest, text_and_structure_round_trip)
{
    char *dir = scratch_make(), *path = mri_format("%s/manifest.json", dir);
    mri_manifest m = { .meta = { .step = INT64_MAX, .samples = 0, .tokens = -1 } }, back;
    mri_manifest_file f = { (char *)"g", (char *)"g.safetensors", INT64_MAX, UINT64_MAX };
    mr_err err = MR_ERR_INIT;
    MRI_PUSH(&m.meta.counters, mr_ai("a \"key\"", -5));
    MRI_PUSH(&m.files, f);
    char *text = mri_manifest_text(&m);
    scratch_put(path, text, strlen(text));
    cr_assert_eq(mri_manifest_read(path, &back, &err), 0, "%s", err.what);
    cr_assert_eq(back.meta.step, INT64_MAX);
    cr_assert_eq(back.meta.tokens, -1);
    cr_assert_str_eq(back.meta.counters.v[0].key, "a \"key\"");
    cr_assert_eq(back.files.v[0].bytes, INT64_MAX);
    cr_assert_eq(back.files.v[0].sum, UINT64_MAX);
    char *again = mri_manifest_text(&back);
    cr_assert_str_eq(again, text);
    mri_manifest_free(&back);
    free(m.meta.counters.v);
    free(m.files.v);
    free(again);
    free(text);
    free(path);
    scratch_drop(dir);
}
