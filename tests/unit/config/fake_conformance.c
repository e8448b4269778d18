/* SPDX-License-Identifier: Apache-2.0
 * fake_conformance.c - links the program where the conformance suite is absent: says so. */
#include "apps/mrun/app.h"

int app_check_plugin(app *a, const char *what, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return app_usage(a, "this build has no conformance suite to check '%.60s' with", what);
}
