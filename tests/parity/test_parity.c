/* SPDX-License-Identifier: Apache-2.0
 *
 * Logits, losses and every gradient of the tiny fixtures equal what transformers computes (of
 * multi-token prediction: what the equations written out in PyTorch do), all in double, to 1e-5 of
 * the tensor's largest value in fp32, on every backend of the build.
 * A gradient that is zero in exact arithmetic (below 1e-9 of the largest) is compared on the
 * scale of all gradients.
 */
#include "../kit.h"
#include "core/store/store.h"
#include <unistd.h>

static const mri_tensor *want(const mri_safetensors *f, const char *name)
{
    const mri_tensor *t = mri_safetensors_find(f, name);
    cr_assert_not_null(t, "expect.safetensors has no %s", name);
    return t;
}

static double largest(const float *x, int64_t n)
{
    double m = 0;
    for (int64_t i = 0; i < n; i++)
        m = fabs(x[i]) > m ? fabs(x[i]) : m;
    return m;
}

static void compare(const char *what, const double *got, const mri_tensor *t, double all,
                    double tolerance)
{
    const float *x = t->data;
    int64_t n = mr_numel(&t->type);
    double own = largest(x, n), scale = own < 1e-9 * all ? all : own;
    for (int64_t i = 0; i < n; i++)
        cr_assert(fabs(got[i] - x[i]) <= tolerance * scale,
                  "%s: element %lld is %.9g, expected %.9g (scale %.3g, off by %.3g of it)", what,
                  (long long)i, got[i], x[i], scale, fabs(got[i] - x[i]) / scale);
}

static bool no_gradient(const mri_session *s, size_t slot) /* a buffer in transformers */
{
    return s->params.groups.v[s->params.slots.v[slot].group].frozen;
}

static void parity(const char *fixture, const char *family, const char *backend,
                   const char *recipe, double tolerance)
{
    char dir[4200], path[4300], hf[4300], seq[64], plugin[64], prec[64], model[4200], images[64];
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f = NULL;
    snprintf(dir, sizeof dir, "%s/%s", kit_source("tests/parity/fixtures"), fixture);
    snprintf(path, sizeof path, "%s/expect.safetensors", dir);
    kit_ok(mri_safetensors_open(path, &f, &err), &err, path);
    int64_t t = want(f, "ids")->type.dim[0], vocab = want(f, "logits")->type.dim[1];
    snprintf(hf, sizeof hf, "model.hf=%s", dir);
    snprintf(seq, sizeof seq, "train.seq=%lld", (long long)t);
    snprintf(plugin, sizeof plugin, "backend.plugin=%s", backend);
    snprintf(prec, sizeof prec, "precision.recipe=%s", recipe);
    snprintf(model, sizeof model, "model.plugin=%s%s", *family == '/' ? getenv("MRUN_BUILD") : "",
             family);
    const mri_tensor *pixels = mri_safetensors_find(f, "pixels"); /* NULL: no pictures */
    snprintf(images, sizeof images, "train.images=%lld",
             (long long)(pixels ? pixels->type.dim[0] : 0));
    const char *const sets[] = { hf, seq, plugin, prec, model, images, "train.steps=1",
                                 "train.micro_batch=1", "data.text.path=unused", NULL };
    kit k = kit_open(NULL, sets, (mri_session_options){ .needs = MRI_NEED_TRAIN | MRI_NEED_EVAL });
    mri_session *s = k.session;
    kit_ok(mri_session_init_weights(s, &err), &err, "weights");
    mri_batch b = { want(f, "ids")->data, want(f, "positions")->data, want(f, "seq_start")->data,
                    want(f, "targets")->data, NULL, want(f, "loss_weight")->data };
    if (pixels) {
        b.pixels = pixels->data;
        b.image_rows = want(f, "image_rows")->data;
    }
    mri_step_result r;
    kit_ok(mri_session_gradients_of(s, &b, &r, &err), &err, "gradients");
    double loss = r.loss;
    compare("loss", &loss, want(f, "loss"), 0, tolerance);
    const mri_tensor *mtp = mri_safetensors_find(f, "mtp_loss");
    cr_assert_eq(r.n_aux, mtp != NULL);
    if (mtp) {
        cr_assert_str_eq(r.aux_name[0], "mtp_loss");
        compare("mtp_loss", r.aux, mtp, 0, tolerance);
    }

    double all = 0;
    for (size_t i = 0; i < s->params.slots.n; i++) {
        char name[512];
        snprintf(name, sizeof name, "grad.%s", s->params.slots.v[i].name);
        if (no_gradient(s, i)) {
            cr_assert_null(mri_safetensors_find(f, name), "%s", name);
            continue;
        }
        const mri_tensor *g = want(f, name);
        all = fmax(all, largest(g->data, mr_numel(&g->type)));
    }
    for (size_t i = 0; i < s->params.slots.n; i++) {
        char name[512];
        snprintf(name, sizeof name, "grad.%s", s->params.slots.v[i].name);
        if (no_gradient(s, i))
            continue;
        double *g = kit_grad(s, &s->params.slots.v[i]);
        compare(name, g, want(f, name), all, tolerance);
        free(g);
    }

    const mr_type *type;
    kit_ok(mri_exec_upload(s->eval, &b, &err), &err, "upload");
    kit_ok(mri_exec_forward(s->eval, &err), &err, "forward");
    const void *device = mri_exec_output(s->eval, "logits", &type);
    void *raw = mri_alloc(mr_bytes(type));
    double *logits = mri_alloc((size_t)(t * vocab) * sizeof *logits);
    kit_ok(mri_device_read(&s->device, raw, device, mr_bytes(type), &err), &err, "read");
    kit_ok(mri_convert(logits, "f64", raw, type->dtype, (uint64_t)(t * vocab), &err), &err, "");
    compare("logits", logits, want(f, "logits"), 0, tolerance);
    free(raw);
    free(logits);
    mri_safetensors_close(f);
    kit_close(&k);
}

/* a GPU's run, where the build has the backend and the machine the driver's device node */
static void parity_cuda(const char *fixture, const char *family)
{
#ifdef HAVE_CUDA
    if (!access("/dev/nvidiactl", F_OK)) {
        parity(fixture, family, "cuda", "fp32", 1e-5);
        return;
    }
#endif
    (void)fixture, (void)family;
    cr_skip_test("no GPU, or no backend/cuda in this build");
}

#define PARITY(name, fixture, family) \
    Test(parity, name##_fp32_cuda) { parity_cuda(fixture, family); } \
    Test(parity, name##_fp32_cpu) { parity(fixture, family, "cpu", "fp32", 1e-5); } \
    Test(parity, name##_fp32_ref) { parity(fixture, family, "ref", "fp32", 1e-5); } \
    Test(parity, name##_fp64_ref) { parity(fixture, family, "ref", "fp64", 1e-6); }

PARITY(base, "llama4-base", "llama4")
PARITY(maverick, "llama4-maverick", "llama4")
PARITY(scout, "llama4-scout", "llama4")
PARITY(top2, "llama4-top2", "llama4")
PARITY(split, "llama4-split", "llama4")
PARITY(tied, "llama4-tied", "llama4")
PARITY(pad, "llama4-pad", "llama4")
PARITY(deepseek_all, "deepseek-all", "kimi_k2")
PARITY(deepseek_base, "deepseek-base", "kimi_k2")
PARITY(kimi, "kimi", "kimi_k2")
PARITY(deepseek_direct, "deepseek-direct", "kimi_k2")
PARITY(deepseek_shared, "deepseek-shared", "kimi_k2")
PARITY(deepseek_eps, "deepseek-eps", "kimi_k2")
PARITY(deepseek_mscale, "deepseek-mscale", "kimi_k2")
PARITY(deepseek_groups, "deepseek-groups", "kimi_k2")
PARITY(mtp, "mtp", "kimi_k2")
PARITY(mtp_tied, "mtp-tied", "kimi_k2")
PARITY(llama4_vlm_tile, "llama4-vlm-tile", "vlm")
PARITY(llama4_vlm_tiles, "llama4-vlm-tiles", "vlm")
PARITY(llava_clip, "llava-clip", "llava")
PARITY(llava_siglip, "llava-siglip", "vlm")
PARITY(gpt2, "gpt2", "/tests/unit/model/gpt2.so") /* the outside family of examples/gpt2 */
