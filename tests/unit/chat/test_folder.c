/* SPDX-License-Identifier: Apache-2.0
 * A folder's chat template wherever it stands, the special tokens in both spellings, and messages
 * as transformers hands them to templates. */
#include "core/chat/chat.h"
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char dir[] = "/tmp/mrun-chat-XXXXXX";

static void make(void)
{
    cr_assert_not_null(mkdtemp(dir));
}

static void drop(void)
{
    char *command = mri_format("rm -rf '%s'", dir);
    cr_assert_eq(system(command), 0);
    free(command);
}

static void put(const char *name, const char *text)
{
    char *path = mri_format("%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    cr_assert(f && fputs(text, f) >= 0 && !fclose(f));
    free(path);
}

static char *say(const char *messages, const char *tools, bool answer)
{
    mr_err err = MR_ERR_INIT;
    mri_chat *c;
    mri_str out = { 0 };
    cr_assert_eq(mri_chat_open(dir, NULL, &c, &err), 0, "%s", err.what);
    mri_chat_request q = { json_loads(messages, 0, NULL), tools ? json_loads(tools, 0, NULL) : NULL,
                           NULL, answer, 0 };
    if (mri_chat_text(c, &q, &out, &err)) {
        out.n = 0;
        mri_str_fmt(&out, "error: %s", err.what);
    }
    mri_chat_free(c);
    json_decref((json_t *)(uintptr_t)q.messages);
    json_decref((json_t *)(uintptr_t)q.tools);
    return mri_str_take(&out);
}

#define HI "[{\"role\":\"user\",\"content\":\"hi\"}]"
#define TOOL "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"

TestSuite(folder, .init = make, .fini = drop);

Test(folder, the_jinja_file_goes_before_the_member)
{
    put("tokenizer_config.json", "{\"chat_template\":\"member\",\"bos_token\":\"<s>\","
                                 "\"eos_token\":{\"content\":\"</s>\",\"lstrip\":false},"
                                 "\"pad_token\":null}");
    cr_assert_str_eq(say(HI, NULL, false), "member");
    put("chat_template.jinja", "{{ bos_token }}{% for m in messages %}{{ m.content }}"
                               "{{ eos_token }}{% endfor %}"
                               "{{ 'A:' if add_generation_prompt }}{{ pad_token }}"
                               "{{ tools is none }}{{ documents is none }}");
    cr_assert_str_eq(say(HI, NULL, true), "<s>hi</s>A:TrueTrue");
    cr_assert_str_eq(say(HI, NULL, false), "<s>hi</s>TrueTrue");
}

Test(folder, a_named_template_is_for_tools)
{
    put("tokenizer_config.json",
        "{\"chat_template\":[{\"name\":\"default\",\"template\":\"plain\"},"
        "{\"name\":\"rag\",\"template\":\"other\"},"
        "{\"name\":\"tool_use\",\"template\":\"with {{ tools[0].function.name }}\"}]}");
    cr_assert_str_eq(say(HI, NULL, false), "plain");
    cr_assert_str_eq(say(HI, TOOL, false), "with f");
}

Test(folder, further_files_hold_a_template)
{
    char *more = mri_format("%s/additional_chat_templates", dir);
    put("chat_template.json", "{\"chat_template\":\"of the processor\"}");
    put("special_tokens_map.json", "{\"bos_token\":\"<b>\"}");
    cr_assert_str_eq(say(HI, NULL, false), "of the processor");
    put("chat_template.jinja", "{{ bos_token }}plain");
    cr_assert_eq(mkdir(more, 0777), 0);
    put("additional_chat_templates/tool_use.jinja", "tools");
    cr_assert_str_eq(say(HI, NULL, false), "<b>plain");
    cr_assert_str_eq(say(HI, TOOL, false), "tools");
    free(more);
}

Test(folder, messages_lose_nulls_and_show_their_reasoning)
{
    put("chat_template.jinja", "{{ messages }}");
    cr_assert_str_eq(say("[{\"role\":\"assistant\",\"content\":null,\"reasoning\":\"so\"}]", NULL,
                         0),
                     "[{'thinking': 'so', 'role': 'assistant', 'reasoning': 'so', "
                     "'reasoning_content': 'so'}]");
    cr_assert_str_eq(say("[{\"role\":\"x\",\"reasoning_content\":\"a\",\"thinking\":\"b\"}]", NULL,
                         0),
                     "[{'thinking': 'b', 'role': 'x', 'reasoning_content': 'a'}]");
}

Test(folder, what_is_no_chat_is_refused)
{
    mr_err err = MR_ERR_INIT;
    mri_chat *c;
    cr_assert_eq(mri_chat_open(dir, NULL, &c, &err), MR_E_STORE_MISSING);
    cr_assert_not_null(strstr(err.what, "has no chat template"), "%s", err.what);
    cr_assert_not_null(strstr(err.hint, "--chat-template"), "%s", err.hint);
    put("chat_template.jinja", "x\n{% if %}");
    cr_assert_eq(mri_chat_open(dir, NULL, &c, &err), MR_E_TEMPLATE);
    cr_assert_not_null(strstr(err.what, "chat_template.jinja:2:"), "%s", err.what);
    put("chat_template.jinja", "{{ raise_exception('roles must alternate') }}");
    cr_assert_not_null(strstr(say(HI, NULL, 0), "roles must alternate"));
    cr_assert_not_null(strstr(say("[]", NULL, 0), "one object or more"));
    cr_assert_not_null(strstr(say("[3]", NULL, 0), "messages[0] is no JSON object"));
    cr_assert_not_null(strstr(say(HI, "{}", 0), "the tools must be"));
}
