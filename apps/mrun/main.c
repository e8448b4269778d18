/* SPDX-License-Identifier: Apache-2.0
 * main.c - the command line: picks the command, prints errors, chooses the exit code. */
#include "core/base/base.h"

int main(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    puts("mrun " MRI_VERSION);
    return 0;
}
