/* SPDX-License-Identifier: Apache-2.0
 *
 * split.c - one regular expression that cuts text, compiled for PCRE2's JIT. Where the machine
 * has none, PCRE2 interprets: slower, with the same result.
 */
#include "bpe.h"
#include <stdlib.h>

static mr_status compile(bp_stage *s, const char *pattern, uint32_t options, const char *where,
                         mr_err *err)
{
    int code = 0;
    size_t at = 0;
    pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
    if (!cc)
        return bp_nomem(err, "a pattern", 0);
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(cc, 100);
    s->code = pcre2_compile((PCRE2_SPTR)pattern, strlen(pattern), options, &code, &at, cc);
    pcre2_compile_context_free(cc);
    if (!s->code) {
        char why[120];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        mr_fail(err, MR_E_TOKENIZER, MR_BLAME_USER, "%.100s does not compile: %.110s", where, why);
        mr_detail(err, "at byte %zu of %.600s", at, pattern);
        mr_hint(err, "correct the pattern, or fetch the file again");
        return MR_E_TOKENIZER;
    }
    s->jit = pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE) == 0;
    return MR_OK;
}

mr_status bp_stage_init(bp_stage *s, const char *pattern, int dialect, const char *where,
                        mr_err *err)
{
    char *ours = NULL;
    if (strlen(pattern) > BP_MAX_PATTERN) {
        mr_fail(err, MR_E_TOKENIZER, MR_BLAME_USER, "%.110s: a pattern of %zu bytes", where,
                strlen(pattern));
        mr_detail(err, "the limit is %d bytes", BP_MAX_PATTERN);
        mr_hint(err, "use a shorter one");
        return MR_E_TOKENIZER;
    }
    mr_status st = bp_pattern(pattern, dialect, where, &ours, err);
    if (!st)
        st = compile(s, ours, PCRE2_UTF | PCRE2_UCP | PCRE2_NO_AUTO_CAPTURE, where, err);
    free(ours);
    return st;
}

mr_status bp_stage_literal(bp_stage *s, const char *text, const char *where, mr_err *err)
{
    return compile(s, text, PCRE2_UTF | PCRE2_LITERAL, where, err);
}
