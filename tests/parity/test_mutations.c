/* SPDX-License-Identifier: Apache-2.0
 *
 * The comparison with transformers sees a wrong number: each value of config.json that changes the
 * function, changed a little, moves some logit by ten times what test_parity allows or more.
 */
#include "../kit.h"
#include "core/store/store.h"
#include <ftw.h>
#include <unistd.h>

static int discard(const char *path, const struct stat *s, int type, struct FTW *f)
{
    (void)s, (void)type, (void)f;
    return remove(path);
}

/* a folder with the fixture's weights, and its config.json with `from` replaced by `to` */
static char *mutant(const char *fixture, const char *from, const char *to)
{
    char *dir = mri_strdup("/tmp/mrun-mutant-XXXXXX"), *text, *path, *weights;
    mr_err err = MR_ERR_INIT;
    size_t n;
    cr_assert_not_null(mkdtemp(dir));
    path = mri_format("%s/%s/config.json", kit_source("tests/parity/fixtures"), fixture);
    kit_ok(mri_read_file(path, 1 << 20, &text, &n, &err), &err, path);
    free(path);
    char *at = strstr(text, from);
    cr_assert(at, "%s's config.json has no %s", fixture, from);
    path = mri_format("%s/config.json", dir);
    char *changed = mri_format("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    kit_ok(mri_write_file_atomic(path, changed, strlen(changed), &err), &err, path);
    free(path), free(changed), free(text);
    path = mri_format("%s/model.safetensors", dir);
    weights = mri_format("%s/%s/model.safetensors", kit_source("tests/parity/fixtures"), fixture);
    cr_assert_eq(symlink(weights, path), 0);
    free(path), free(weights);
    return dir;
}

/* largest difference of a logit, over the largest logit */
static double error(const char *fixture, const char *family, const char *from, const char *to)
{
    char *dir = mutant(fixture, from, to), *path;
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    path = mri_format("%s/%s/expect.safetensors", kit_source("tests/parity/fixtures"), fixture);
    kit_ok(mri_safetensors_open(path, &f, &err), &err, path);
    const mri_tensor *ids = mri_safetensors_find(f, "ids");
    const mri_tensor *want = mri_safetensors_find(f, "logits");
    const char *in[] = { "positions", "seq_start", "targets", "loss_weight" };
    const void *data[4];
    for (int i = 0; i < 4; i++)
        data[i] = mri_safetensors_find(f, in[i])->data;
    mri_batch b = { ids->data, data[0], data[1], data[2], NULL, data[3] };
    const mri_tensor *pixels = mri_safetensors_find(f, "pixels"); /* NULL: no pictures */
    if (pixels) {
        b.pixels = pixels->data;
        b.image_rows = mri_safetensors_find(f, "image_rows")->data;
    }
    char *images = mri_format("train.images=%lld", (long long)(pixels ? pixels->type.dim[0] : 0));
    char *hf = mri_format("model.hf=%s", dir), *plugin = mri_format("model.plugin=%s", family);
    char *seq = mri_format("train.seq=%lld", (long long)ids->type.dim[0]);
    const char *const sets[] = { hf, plugin, seq, "backend.plugin=cpu", "precision.recipe=fp32",
                                 "train.steps=1", "train.micro_batch=1", "data.text.path=unused",
                                 images, NULL };
    kit k = kit_open(NULL, sets, (mri_session_options){ .needs = MRI_NEED_EVAL });
    const mr_type *type;
    kit_ok(mri_session_init_weights(k.session, &err), &err, "weights");
    kit_ok(mri_exec_upload(k.session->eval, &b, &err), &err, "upload");
    kit_ok(mri_exec_forward(k.session->eval, &err), &err, "forward");
    const float *got = mri_exec_output(k.session->eval, "logits", &type), *x = want->data;
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < mr_numel(type); i++) {
        worst = fmax(worst, fabs(got[i] - x[i]));
        largest = fmax(largest, fabs(x[i]));
    }
    kit_close(&k);
    mri_safetensors_close(f);
    nftw(dir, discard, 8, FTW_DEPTH | FTW_PHYS);
    free(dir), free(path), free(hf), free(plugin), free(seq), free(images);
    return worst / largest;
}

static const struct {
    const char *fixture, *family, *from, *to;
} mutations[] = {
    { "deepseek-base", "kimi_k2", "\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": 1e-04" },
    { "deepseek-base", "kimi_k2", "\"routed_scaling_factor\": 2.5",
      "\"routed_scaling_factor\": 2.51" },
    { "deepseek-base", "kimi_k2", "\"norm_topk_prob\": true", "\"norm_topk_prob\": false" },
    { "deepseek-base", "kimi_k2", "\"n_group\": 2", "\"n_group\": 1" },
    { "deepseek-base", "kimi_k2", "\"factor\": 4.0", "\"factor\": 4.1" },
    { "deepseek-base", "kimi_k2", "\"mscale_all_dim\": 1.0", "\"mscale_all_dim\": 0.9" },
    { "deepseek-base", "kimi_k2", "\"mscale\": 1.0", "\"mscale\": 1.1" },
    { "deepseek-base", "kimi_k2", "\"rope_theta\": 10000.0", "\"rope_theta\": 9000.0" },
    { "deepseek-base", "kimi_k2", "\"original_max_position_embeddings\": 256",
      "\"original_max_position_embeddings\": 4096" },
    { "deepseek-groups", "kimi_k2", "\"topk_group\": 2", "\"topk_group\": 3" },
    { "llama4-base", "llama4", "\"attn_scale\": 0.1", "\"attn_scale\": 0.11" },
    { "llama4-base", "llama4", "\"floor_scale\": 4", "\"floor_scale\": 5" },
    { "llama4-base", "llama4", "\"attention_chunk_size\": 8", "\"attention_chunk_size\": 9" },
    { "llama4-base", "llama4", "\"factor\": 16.0", "\"factor\": 15.0" },
    { "llama4-vlm-tile", "vlm", "10000.0,\n      \"rope_type\": \"default\"",
      "9000.0,\n      \"rope_type\": \"default\"" },
    { "llava-clip", "vlm", "\"layer_norm_eps\": 1e-05", "\"layer_norm_eps\": 1e-03" },
    { "llava-clip", "vlm", "\"hidden_act\": \"quick_gelu\"", "\"hidden_act\": \"gelu\"" },
    { "llava-clip", "vlm", "\"vision_feature_layer\": -2", "\"vision_feature_layer\": -1" },
    { "llava-clip", "vlm", "\"projector_hidden_act\": \"gelu\"",
      "\"projector_hidden_act\": \"quick_gelu\"" },
    { "llava-siglip", "vlm", "\"hidden_act\": \"gelu_pytorch_tanh\"",
      "\"hidden_act\": \"quick_gelu\"" },
};

Test(mutations, are_all_seen)
{
    cr_assert_lt(error("deepseek-base", "kimi_k2", "", ""), 1e-5);
    cr_assert_lt(error("llama4-base", "llama4", "", ""), 1e-5);
    cr_assert_lt(error("llava-clip", "vlm", "", ""), 1e-5);
    for (size_t i = 0; i < sizeof mutations / sizeof *mutations; i++) {
        double e = error(mutations[i].fixture, mutations[i].family, mutations[i].from,
                         mutations[i].to);
        cr_assert_gt(e, 1e-4, "%s with %s: only %.2g", mutations[i].fixture, mutations[i].to, e);
    }
}
