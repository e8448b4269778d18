/* SPDX-License-Identifier: Apache-2.0
 *
 * test_zip.c - forwards and backwards zipped at the seams of blocks: the order that docs/parallelism.md
 * tells, that every schedule of it is a whole one, and that the verifier finds pieces out of order.
 */
#include "core/schedule/schedule.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

enum { N = 4 }; /* embedding, two blocks of experts, head */
static const mri_seams seams[N] = { { 1, 1 }, { 3, 3 }, { 3, 3 }, { 1, 1 } };

/* "F1.0" a piece, "F0" a whole block, "|" where the halves change */
static void tell(const mri_schedule *s, size_t from, size_t n, char *out)
{
    uint8_t last = 255;
    *out = 0;
    for (size_t i = from; i < from + n; i++) {
        const mri_item *it = &s->items.v[i];
        if (it->kind != last && i > from)
            strcat(out, "| ");
        last = it->kind;
        sprintf(out + strlen(out), "%c%u", it->kind == MRI_ITEM_F ? 'F' : 'B', it->instance);
        if (it->pieces > 1)
            sprintf(out + strlen(out), ".%u", it->piece);
        strcat(out, " ");
    }
}

Test(zip, turns_end_where_rows_travel)
{
    mri_schedule s;
    char text[512];
    mr_err err = MR_ERR_INIT;
    mri_schedule_zipped(&s, seams, N, 3);
    cr_assert_eq(mri_schedule_verify(&s, &err), 0, "%s", err.what);
    size_t at = 0;
    while (s.items.v[at].kind != MRI_ITEM_SEED)
        at++;
    tell(&s, at + 1, 16, text);
    cr_assert_str_eq(text, "B3 B2.0 | F0 F1.0 | B2.1 | F1.1 | B2.2 B1.0 | F1.2 F2.0 | B1.1 | F2.1 | "
                           "B1.2 B0 | F2.2 F3 ");
    for (size_t i = at + 1; i < at + 17; i++) {
        bool f = s.items.v[i].kind == MRI_ITEM_F;
        cr_assert_eq(s.items.v[i].micro_batch, f);
        cr_assert_eq(s.items.v[i].slot, f);
    }
    mri_schedule_free(&s);
}

Test(zip, halves_of_unlike_length)
{
    const mri_seams uneven[3] = { { 3, 2 }, { 1, 4 }, { 2, 1 } };
    mr_err err = MR_ERR_INIT;
    for (uint32_t m = 1; m < 5; m++) {
        mri_schedule s;
        mri_schedule_zipped(&s, uneven, 3, m);
        cr_assert_eq(mri_schedule_verify(&s, &err), 0, "%u micro-batches: %s", m, err.what);
        mri_schedule_free(&s);
    }
}

Test(zip, pieces_out_of_order_are_found)
{
    mr_err err = MR_ERR_INIT;
    for (int wrong = 0; wrong < 3; wrong++) {
        mri_schedule s;
        mri_schedule_zipped(&s, seams, N, 2);
        size_t k = 0;
        while (s.items.v[k].pieces < 2 || s.items.v[k].piece != 1)
            k++;
        if (wrong == 0)
            s.items.v[k].piece = 2;
        else if (wrong == 1)
            s.items.v[k].instance = 1 + (s.items.v[k].instance == 1);
        else
            s.items.v[k].kind = s.items.v[k].kind == MRI_ITEM_F ? MRI_ITEM_B : MRI_ITEM_F;
        cr_assert_eq(mri_schedule_verify(&s, &err), MR_E_PLAN_VERIFY, "%d", wrong);
        mri_schedule_free(&s);
    }
}

/* A stage of c chunks, each of two blocks; what it reads and sends is not part of it. */
static void check_stage(const mri_pipeline *p, uint32_t stage)
{
    mri_block blocks[16] = { { 0 } };
    mri_seams cut[16];
    mr_err err = MR_ERR_INIT;
    mri_schedule s;
    for (uint32_t i = 0; i < 2 * p->o.chunks; i++) {
        blocks[i].chunk = i / 2;
        cut[i] = (mri_seams){ 3, 3 };
    }
    mri_schedule_stage(&s, p, stage, blocks, cut, 2 * p->o.chunks, false);
    cr_assert_eq(mri_schedule_verify(&s, &err), 0, "stage %u: %s", stage, err.what);
    mri_schedule_free(&s);
}

Test(zip, pipelines_pair_forwards_with_backwards_of_others)
{
    for (uint32_t s = 2; s <= 5; s++)
        for (uint32_t c = 2; c <= 4; c++)
            for (uint32_t m = s; m <= 3 * s; m += s) {
                mri_pipeline p;
                mr_err err = MR_ERR_INIT;
                mri_pipeline_options o = { .kind = MRI_PIPELINE_INTERLEAVED, .stages = s,
                                           .chunks = c, .micros = m, .zip = true };
                cr_assert_eq(mri_pipeline_make(&o, &p, &err), 0, "%u x %u, %u: %s", s, c, m,
                             err.what);
                for (uint32_t k = 0; k < s; k++) {
                    uint32_t pairs = 0, ahead = (s - 1 - k) * 2 + (c - 1) * s + 1;
                    for (size_t i = 0; i < p.stage[k].n; i++)
                        pairs += p.stage[k].v[i].pair;
                    cr_assert_eq(pairs, m * c > ahead ? m * c - ahead : 0);
                    check_stage(&p, k);
                }
                for (size_t i = 0; i < p.messages.n; i++) { /* none inside a pair */
                    const mri_message *g = &p.messages.v[i];
                    cr_assert_eq(mri_pipeline_unit(&p.stage[g->from], g->sent), g->sent);
                    cr_assert_eq(mri_pipeline_unit(&p.stage[g->to], g->posted), g->posted);
                }
                mri_pipeline_free(&p);
            }
    mri_pipeline_options plain = { .stages = 2, .chunks = 1, .micros = 4, .zip = true };
    mri_pipeline p;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_pipeline_make(&plain, &p, &err), MR_E_PROFILE_CONFLICT);
}
