/* SPDX-License-Identifier: Apache-2.0
 *
 * decode.c - one description for training and inference: what core makes of a block in mode decode.
 * Where it says `attention` of whole sequences, the same numbers come from attention.paged over
 * what the sequences have cached. Its caches are states of the block, k_cache and v_cache, which
 * core declares; a block with more than one attention has more of them, numbered from 2. And a
 * head that gives logits also gives the likeliest id of each row, so that greedy generation takes
 * four bytes a row from the device.
 */
#include "program.h"
#include <string.h>

static mr_val cache(mr_prog *p, const char *what, mr_val of)
{
    char name[32];
    mr_net net = { &mri_builder, p };
    snprintf(name, sizeof name, p->caches > 1 ? "%s.%u" : "%s", what, p->caches);
    return mr_paged_state(net, p->decode, name, mr_last(mri_builder.type(p, of)));
}

mr_val mri_prog_paged(mr_prog *p, const mr_val *in, const mr_attr *attr, uint32_t n_attr,
                      mr_val *out, uint32_t n_out, const char *file, int32_t line)
{
    mr_net net = { &mri_builder, p };
    mr_type t = mr_type1("i32", p->decode->tokens);
    mr_val q = in[0], k = in[1], v = in[2], o = 0;
    p->caches++;
    mr_val paged[] = { q, k, v, mri_builder.input(p, "positions", &t),
                       mri_builder.input(p, "slot", &t), mr_fed_pages(net, p->decode),
                       cache(p, "k_cache", k), cache(p, "v_cache", v) };
    mri_builder.op(p, "attention.paged", paged, 8, attr, n_attr, &o, 1, file, line);
    if (n_out && out) { /* there is no lse: nothing goes back through a cache */
        memset(out, 0, n_out * sizeof *out);
        out[0] = o;
    }
    return o;
}

void mri_prog_greedy(mr_prog *p)
{
    mr_val logits = mri_port_find(&p->outputs, "logits");
    if (p->failed || !logits || mri_port_find(&p->outputs, "next") || !mri_op_find("argmax"))
        return;
    mr_net net = { &mri_builder, p };
    mri_builder.output(p, "next", MR_OP(net, "argmax", MR_IN(logits), MR_NOAT));
}
