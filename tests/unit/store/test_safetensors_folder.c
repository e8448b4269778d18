/* SPDX-License-Identifier: Apache-2.0
 * A folder is its single file or the shards of its index, and the two must agree both ways. */
#include "core/store/store.h"
#include "scratch.h"

static const float data[4] = { 1, 2, 3, 4 };

static mri_tensor tensor(const char *name)
{
    return (mri_tensor){ name, mr_type1("f32", 4), data };
}

static void put_shard(const char *dir, const char *file, const char *a, const char *b)
{
    mri_tensor t[2] = { tensor(a), tensor(b ? b : "") };
    char *path = mri_format("%s/%s", dir, file);
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_write(path, t, b ? 2 : 1, NULL, &err), 0, "%s", err.what);
    free(path);
}

static void put_index(const char *dir, const char *map)
{
    char *path = mri_format("%s/model.safetensors.index.json", dir);
    char *text = mri_format("{\"metadata\": {\"total_size\": 48}, \"weight_map\": %s}", map);
    scratch_put(path, text, strlen(text));
    free(text);
    free(path);
}

Test(safetensors_folder, shards_read_as_one_set)
{
    char *dir = scratch_make();
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    put_shard(dir, "m-1.safetensors", "b", "a");
    put_shard(dir, "m-2.safetensors", "c", NULL);
    put_index(dir, "{\"a\": \"m-1.safetensors\", \"b\": \"m-1.safetensors\", "
                   "\"c\": \"m-2.safetensors\"}");
    cr_assert_eq(mri_safetensors_open_folder(dir, &f, &err), 0, "%s", err.what);
    cr_assert_eq(mri_safetensors_count(f), 3);
    cr_assert_arr_eq(mri_safetensors_find(f, "c")->data, data, sizeof data);
    mri_safetensors_close(f);

    put_shard(dir, "model.safetensors", "single", NULL); /* the single file goes first */
    cr_assert_eq(mri_safetensors_open_folder(dir, &f, &err), 0, "%s", err.what);
    cr_assert_eq(mri_safetensors_count(f), 1);
    mri_safetensors_close(f);
    scratch_drop(dir);
}

Test(safetensors_folder, index_and_shards_must_agree)
{
    static const struct {
        const char *map, *error;
    } bad[] = {
        { "{\"a\": \"m.safetensors\"}", "puts nowhere" },
        { "{\"a\": \"m.safetensors\", \"b\": \"n.safetensors\"}", "into n.safetensors" },
        { "{\"a\": \"m.safetensors\", \"b\": \"m.safetensors\", \"c\": \"m.safetensors\"}",
          "tensor c is not in" },
        { "{\"a\": \"m.safetensors\", \"b\": \"m.safetensors\", \"c\": \"gone.safetensors\"}",
          "gone.safetensors" },
        { "{\"a\": \"../m.safetensors\", \"b\": \"m.safetensors\"}", "plain file name" },
        { "{\"a\": \"/m.safetensors\", \"b\": \"m.safetensors\"}", "plain file name" },
        { "{\"a\": \"..\", \"b\": \"m.safetensors\"}", "plain file name" },
        { "{\"a\": \"\", \"b\": \"m.safetensors\"}", "plain file name" },
        { "{\"a\": 3}", "not a file name" },
        { "{}", "empty" },
        { "[]", "weight_map" },
        { "{\"a\": \"m.safetensors\", \"a\": \"m.safetensors\"}", "duplicate" },
    };
    char *dir = scratch_make();
    put_shard(dir, "m.safetensors", "a", "b");
    put_shard(dir, "n.safetensors", "x", NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mr_err err = MR_ERR_INIT;
        mri_safetensors *f;
        put_index(dir, bad[i].map);
        cr_assert_neq(mri_safetensors_open_folder(dir, &f, &err), 0, "%s", bad[i].map);
        cr_assert_null(f);
        cr_assert_not_null(strstr(err.what, bad[i].error), "%s: %s", bad[i].map, err.what);
    }
    scratch_drop(dir);
}

Test(safetensors_folder, total_size_is_that_of_the_tensors)
{
    static const struct {
        const char *total;
        bool ok;
    } row[] = { { "32", true },     { "32.0", true }, { "null", true }, { "31", false },
                { "1e300", false }, { "-1", false },  { "\"32\"", false } };
    char *dir = scratch_make(), *path = mri_format("%s/model.safetensors.index.json", dir);
    put_shard(dir, "m.safetensors", "a", "b");
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        mr_err err = MR_ERR_INIT;
        mri_safetensors *f;
        char *text = mri_format("{\"metadata\": {\"total_size\": %s}, \"weight_map\": "
                                "{\"a\": \"m.safetensors\", \"b\": \"m.safetensors\"}}",
                                row[i].total);
        scratch_put(path, text, strlen(text));
        cr_assert_eq(mri_safetensors_open_folder(dir, &f, &err) == 0, row[i].ok, "%s: %s",
                     row[i].total, err.what);
        cr_assert(row[i].ok || strstr(err.what, "hold 32 bytes"), "%s", err.what);
        mri_safetensors_close(f);
        free(text);
    }
    free(path);
    scratch_drop(dir);
}

Test(safetensors_folder, of_several_bad_shards_the_first_is_told)
{
    char *dir = scratch_make();
    mri_str map = { 0 };
    mri_str_add(&map, "{");
    for (int i = 0; i < 40; i++) {
        char *name = mri_format("m-%02d.safetensors", i), *tensor_name = mri_format("t%d", i);
        put_shard(dir, name, tensor_name, i == 7 || i == 23 ? "stray" : NULL);
        mri_str_fmt(&map, "%s\"%s\": \"%s\"", i ? ", " : "", tensor_name, name);
        free(tensor_name);
        free(name);
    }
    mri_str_add(&map, "}");
    put_index(dir, map.s);
    for (int i = 0; i < 20; i++) {
        mr_err err = MR_ERR_INIT;
        mri_safetensors *f;
        cr_assert_eq(mri_safetensors_open_folder(dir, &f, &err), MR_E_STORE_FORMAT);
        cr_assert(strstr(err.what, "m-07.safetensors holds tensor stray"), "%s", err.what);
    }
    mri_str_free(&map);
    scratch_drop(dir);
}

Test(safetensors_folder, a_folder_without_weights_says_what_was_tried)
{
    char *dir = scratch_make();
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    cr_assert_eq(mri_safetensors_open_folder(dir, &f, &err), MR_E_STORE_MISSING);
    cr_assert_not_null(strstr(err.detail, "model.safetensors.index.json"));
    scratch_drop(dir);
}
