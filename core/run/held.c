/* SPDX-License-Identifier: Apache-2.0
 * held.c - see held.h. */
#include "held.h"

int32_t mri_held_has(const void *held, const char *name)
{
    mri_held *h = (mri_held *)(uintptr_t)held; /* only core's side of it changes */
    mr_err ignored = MR_ERR_INIT;              /* loading the weights will tell */
    if (!h->tried && h->dir && mri_safetensors_open_folder(h->dir, &h->f, &ignored))
        h->f = NULL;
    h->tried = true;
    return h->f && mri_safetensors_find(h->f, name);
}

void mri_held_close(mri_held *h)
{
    mri_safetensors_close(h->f);
    h->f = NULL;
}
