/* SPDX-License-Identifier: Apache-2.0
 *
 * load.c - brings one library into this process: the only place that calls dlopen() and a
 * plugin's open().
 *
 * Invariants: a file that is not a plugin is never opened (its constructors would run);
 * flags are RTLD_NOW (a missing function shows now, not in step 1000), RTLD_LOCAL (two
 * plugins may link two versions of one library) and RTLD_NODELETE (threads and handlers of
 * vendor libraries outlive any dlclose()); open() runs only after the descriptor passed.
 */
#include "internal.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static void quiet_stage(void *user, const char *what)
{
    (void)user;
    (void)what;
}

/* dlerror() says "libx.so.2: cannot open shared object file: No such file or directory". */
static mr_status load_error(const char *path, const char *text, mr_err *err)
{
    size_t n = strlen(path);
    if (!strncmp(text, path, n) && text[n] == ':')
        text += n + 1 + (text[n + 1] == ' ');
    mr_fail(err, MR_E_PLUGIN_LOAD, MR_BLAME_ENV, "cannot load %s: %s", mri_base_name(path), text);
    mr_detail(err, "file: %s", path);
    const char *lib = strstr(text, ": cannot open shared object file");
    if (lib)
        mr_hint(err, "install the package that has %.*s, or add its folder to LD_LIBRARY_PATH",
                (int)(lib - text), text);
    else if (strstr(text, "undefined symbol"))
        mr_hint(err, "rebuild the plugin; link it with -Wl,-z,defs to see this when it is built");
    return MR_E_PLUGIN_LOAD;
}

static mr_status open_error(const mr_plugin *p, const char *path, mr_status st, const mr_err *inner,
                            mr_err *err)
{
    mr_fail(err, MR_E_PLUGIN_OPEN, inner->blame, "%s cannot start: %s", p->id,
            inner->what[0] ? inner->what : "its open() gave no reason");
    mr_detail(err, "status %d, file: %s%s%.*s", (int)st, path, inner->detail[0] ? "\n" : "", 500,
              inner->detail);
    if (inner->hint[0])
        mr_hint(err, "%s", inner->hint);
    if (err && MR_HAS(err, native))
        err->native = inner->native;
    return MR_E_PLUGIN_OPEN;
}

mr_status mri_load_file(const mr_host *host, const char *path,
                        void (*stage)(void *user, const char *what), void *user,
                        const mr_plugin **out, mr_err *err)
{
    mr_status st;
    char *full = NULL;
    if (!stage)
        stage = quiet_stage;
    MR_TRY(mri_elf_is_plugin(path, err));
    /* an absolute path: dlopen() takes a bare name to the library search path */
    full = realpath(path, NULL);
    stage(user, "while loading (in a constructor)");
    void *lib = dlopen(full ? full : path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!lib) {
        const char *text = dlerror();
        st = load_error(full ? full : path, text ? text : "unknown reason", err);
        goto out;
    }
    const mr_plugin *p = dlsym(lib, MR_PLUGIN_SYMBOL_NAME);
    if (!p) {
        st = load_error(path, "its symbol " MR_PLUGIN_SYMBOL_NAME " is empty", err);
        goto out;
    }
    stage(user, "while its descriptor was read");
    MR_TRY(mri_plugin_validate(p, path, err));
    if (MR_CAN(p, open)) {
        mr_err inner = MR_ERR_INIT;
        stage(user, "in open()");
        st = p->open(host, &inner);
        if (st) {
            st = open_error(p, path, st, &inner, err);
            goto out;
        }
    }
    *out = p;
out:
    free(full);
    return st;
}

mr_status mri_unit_needs(const mr_host *host, const mr_unit *u, const char *path, mr_err *err)
{
    if (!MR_HAS(u, needs) || !u->needs)
        return 0;
    for (const char *const *id = u->needs; *id; id++)
        if (!host->ext(host->self, *id)) {
            mr_fail(err, MR_E_PLUGIN_VERSION, MR_BLAME_ENV,
                    "%s/%s needs the host service %s, which this mrun does not offer", u->kind,
                    u->name, *id);
            mr_detail(err, "file: %s", path);
            mr_hint(err, "update mrun, or use an older version of the plugin");
            return MR_E_PLUGIN_VERSION;
        }
    return 0;
}
