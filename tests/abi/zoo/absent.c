/* SPDX-License-Identifier: Apache-2.0
 * absent.c - the library that the creature "missing-library" links and never finds. */
__attribute__((visibility("default"))) int mrun_zoo_absent(void);
int mrun_zoo_absent(void)
{
    return 0;
}
