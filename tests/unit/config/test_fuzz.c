/* SPDX-License-Identifier: Apache-2.0
 * No bytes crash the reader: a few thousand mutated profiles load or fail with a message, and
 * those that load print to a text that loads to the same values. */
#include "core/config/sections.h"
#include "core/plugin/registry.h"
#include "scratch.h"

TestSuite(fuzz, .init = scratch_open, .fini = scratch_close);

static uint64_t state = 20240229;

static uint32_t below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % n);
}

static const char seed_text[] =
    "; a profile\n[run]\nseed = 1\nthreads = auto\n[train]\nsteps = 1_000 ; many\nseq=64\n"
    "recompute = core_attn, mlp\nsample_prompt = \" It \\x41 is; \\\"a\\\" \\n truth\"\n"
    "[model]\nplugin = llama4\nlayers = 2\n[optimizer]\nlr = 3e-4\n[optimizer.adamw]\nbeta1 = 0.9\n"
    "[backend.cpu]\narena = 1.5GiB\ntimeout = 250ms\ncores = 1,2,3\n[backend.cuda]\narena = 1MiB\n"
    "[data.text]\npath = ~/x\n[sink]\nplugin = console\n";
static const char bits[] = "[]=;#\"\\\n\r\t .,_-@${}~/%e0123456789\0\x01\x7f\x80\xc3\xff";

static size_t mutate(char *text, size_t n, size_t cap)
{
    uint32_t edits = 1 + below(6);
    while (edits--) {
        size_t at = below((uint32_t)n + 1), len = below(12);
        switch (below(4)) {
        case 0: /* overwrite */
            if (at < n)
                text[at] = bits[below(sizeof bits)];
            break;
        case 1: /* insert */
            if (n + 1 < cap) {
                memmove(text + at + 1, text + at, n - at);
                text[at] = bits[below(sizeof bits)];
                n++;
            }
            break;
        case 2: /* delete */
            if (at + len <= n) {
                memmove(text + at, text + at + len, n - at - len);
                n -= len;
            }
            break;
        default: /* repeat a piece */
            if (at + len <= n && n + len < cap) {
                memmove(text + at + len, text + at, n - at);
                n += len;
            }
        }
    }
    return n;
}

static void prints_and_loads_again(const mri_profile *p)
{
    mri_str b = { 0 };
    mr_err err = MR_ERR_INIT;
    mri_profile *q;
    mri_profile_print(p, true, &b);
    write_bytes("q.ini", b.s ? b.s : "", b.n);
    cr_assert_eq(mri_profile_load("q.ini", NULL, 0, &q, &err), 0, "%s\n%s", err.what, b.s);
    for (size_t i = 0; i < mri_profile_count(p); i++) {
        const mri_entry *e = mri_profile_at(p, i);
        cr_assert_str_eq(value_of(q, e->section, e->key), e->value);
    }
    mri_profile_free(q);
    mri_str_free(&b);
}

static bool clean(const char *s, bool newlines)
{
    for (; *s; s++)
        if (((unsigned char)*s < 0x20 && !(newlines && *s == '\n')) || *s == 0x7f)
            return false;
    return true;
}

Test(fuzz, mutated_profiles_load_or_fail_with_a_message)
{
    mri_registry *reg = mri_registry_create(NULL);
    size_t loaded = 0, resolved = 0;
    for (int i = 0; i < 4000; i++) {
        char text[4096];
        memcpy(text, seed_text, sizeof seed_text - 1);
        size_t n = mutate(text, sizeof seed_text - 1, sizeof text);
        write_bytes("f.ini", text, n);
        mr_err err = MR_ERR_INIT;
        mri_profile *p = NULL;
        if (mri_profile_load("f.ini", NULL, 0, &p, &err)) {
            cr_assert(err.code <= -101 && err.code >= -105, "%d %s", err.code, err.what);
            cr_assert(*err.what && clean(err.what, false) && clean(err.detail, true));
            continue;
        }
        loaded++;
        prints_and_loads_again(p);
        mri_profile_free(p);
        const char *sets[] = { "run.seed=2" };
        mri_config *c = NULL;
        if (!mri_config_load(reg, "f.ini", sets, 1, &c, &err)) {
            resolved++;
            mri_config_free(c);
        } else {
            cr_assert(err.code < 0 && *err.what && clean(err.what, false));
        }
    }
    /* else the mutations are too wild to reach the code behind the reader */
    cr_assert(loaded > 400 && resolved > 20, "%zu of 4000 loaded, %zu resolved", loaded, resolved);
    mri_registry_free(reg);
}

Test(fuzz, random_bytes_never_crash)
{
    for (int i = 0; i < 2000; i++) {
        char text[256];
        size_t n = below(sizeof text);
        for (size_t j = 0; j < n; j++)
            text[j] = below(3) ? bits[below(sizeof bits)] : (char)below(256);
        write_bytes("f.ini", text, n);
        mr_err err = MR_ERR_INIT;
        mri_profile *p = NULL;
        mr_status st = mri_profile_load("f.ini", NULL, 0, &p, &err);
        cr_assert_eq(st == 0, p != NULL);
        mri_profile_free(p);
        char *set = mri_strndup(text, strnlen(text, n));
        const char *sets[] = { set };
        if (!mri_profile_load(NULL, sets, 1, &p, &err)) {
            prints_and_loads_again(p);
            mri_profile_free(p);
        }
        free(set);
    }
}

Test(fuzz, random_values_never_crash)
{
    static const uint32_t types[] = { MR_T_BOOL, MR_T_INT, MR_T_FLOAT, MR_T_SIZE, MR_T_TIME,
                                      MR_T_STR, MR_T_PATH, MR_T_ENUM, MR_T_LIST };
    static const char parts[] = "0123456789._-+eEKMGiBsmhd ,|~/${}autonex";
    for (int i = 0; i < 20000; i++) {
        char text[24];
        size_t n = below(sizeof text);
        for (size_t j = 0; j < n; j++)
            text[j] = parts[below(sizeof parts - 1)];
        text[n] = 0;
        mr_opt o = { sizeof o, types[below(9)], 0, 0, "key", NULL, "doc", "auto|none", 0, 0, NULL };
        mr_list v = { NULL, 0 };
        mr_err err = MR_ERR_INIT;
        mr_status st = mri_option_parse(&o, text, "/", &v, &err);
        cr_assert(!st || (st == MR_E_PROFILE_VALUE && *err.what), "%s", text);
        if (!st && o.type >= MR_T_STR)
            free((void *)v.v);
    }
}
