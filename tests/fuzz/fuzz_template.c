/* SPDX-License-Identifier: Apache-2.0
 * A chat template of any text: it renders a conversation, or says with its line what is wrong, and
 * it ends. */
#include "core/chat/template.h"
#include "fuzz.h"

static mri_json *vars;

static void leave(void)
{
    mri_json_free(vars);
}

static void make_vars(void)
{
    static const char text[] =
        "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief. \\u00e9\"},"
        "{\"role\": \"user\", \"content\": [{\"type\": \"image\"}, {\"type\": \"text\","
        "\"text\": \"hi\"}]},"
        "{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{\"type\": \"function\","
        "\"function\": {\"name\": \"f\", \"arguments\": {\"a\": 1.5, \"b\": [true, null]}}}]},"
        "{\"role\": \"tool\", \"content\": \"{}\"}], \"tools\": [{\"type\": \"function\","
        "\"function\": {\"name\": \"f\", \"parameters\": {\"properties\": {\"a\":"
        "{\"type\": \"number\"}}}}}],"
        "\"l\": [3, 1, 2], \"bos_token\": \"<s>\", \"add_generation_prompt\": true}";
    mr_err err = MR_ERR_INIT;
    MRI_ASSERT(!mri_json_parse(text, sizeof text - 1, "vars", &vars, &err));
    atexit(leave);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    mri_template *t = NULL;
    mri_str out = { 0 };
    mr_err err = MR_ERR_INIT;
    if (!vars)
        make_vars();
    mr_status st = mri_template_parse((const char *)data, n, "template", &t, &err);
    if (!st)
        st = mri_template_render(t, vars, 0, &out, &err);
    fuzz_told(st, &err);
    MRI_ASSERT(!st || (st == MR_E_TEMPLATE && !out.n));
    mri_template_free(t);
    mri_str_free(&out);
    return 0;
}
