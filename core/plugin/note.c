/* SPDX-License-Identifier: Apache-2.0
 *
 * note.c - reads a library as a file: the text of section .mrun.note, and the names of the
 * symbols it defines. Owns nothing that outlives a call.
 *
 * Invariant: the file is not trusted. Every offset and count is checked against the file's
 * size before it is used, every size has a limit, reads go through pread() (a file that
 * shrinks meanwhile gives an error, not a SIGBUS), and text is made printable.
 */
#include "internal.h"
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_NOTE = 1 << 16, MAX_NAMES = 1 << 24, MAX_SYMBOLS = 1 << 20 };

#if __SIZEOF_POINTER__ == 8
#define MY_CLASS ELFCLASS64
#else
#define MY_CLASS ELFCLASS32
#endif
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define MY_ORDER ELFDATA2LSB
#else
#define MY_ORDER ELFDATA2MSB
#endif
#if defined(__x86_64__)
#define MY_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define MY_MACHINE EM_AARCH64
#elif defined(__riscv)
#define MY_MACHINE EM_RISCV
#elif defined(__powerpc64__)
#define MY_MACHINE EM_PPC64
#else
#define MY_MACHINE EM_NONE /* not checked */
#endif

typedef struct elf {
    const char *path;
    int fd;
    uint64_t bytes;
    ElfW(Ehdr) head;
    ElfW(Shdr) *section; /* head.e_shnum of them */
    char *names;         /* section names, NUL-ended */
    uint64_t n_names;
} elf;

static mr_status bad(const elf *f, mr_err *err, const char *why)
{
    mr_fail(err, MR_E_PLUGIN_MALFORMED, MR_BLAME_PLUGIN, "%s %s", mri_base_name(f->path), why);
    mr_detail(err, "file: %s", f->path);
    mr_hint(err, "build it again, as a shared object for this machine");
    return MR_E_PLUGIN_MALFORMED;
}

static bool read_at(const elf *f, uint64_t at, void *to, uint64_t n)
{
    if (at > f->bytes || n > f->bytes - at)
        return false;
    for (char *p = to; n;) {
        ssize_t got = pread(f->fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        p += got;
        at += (uint64_t)got;
        n -= (uint64_t)got;
    }
    return true;
}

/* a section's bytes with a zero behind them; NULL if it is too large or not all there */
static char *read_section(const elf *f, const ElfW(Shdr) *s, uint64_t limit)
{
    if (s->sh_type == SHT_NOBITS || s->sh_size > limit || s->sh_offset > f->bytes ||
        s->sh_size > f->bytes - s->sh_offset)
        return NULL;
    char *p = mri_alloc(s->sh_size + 1);
    if (read_at(f, s->sh_offset, p, s->sh_size))
        return p;
    free(p);
    return NULL;
}

static void elf_close(elf *f)
{
    free(f->section);
    free(f->names);
    if (f->fd >= 0)
        close(f->fd);
}

static mr_status elf_open(const char *path, elf *f, mr_err *err)
{
    struct stat st;
    memset(f, 0, sizeof *f);
    f->path = path;
    f->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (f->fd < 0 || fstat(f->fd, &st)) {
        int e = errno;
        mr_fail(err, MR_E_PLUGIN_NOT_FOUND, MR_BLAME_USER, "cannot read %s: %s", path, strerror(e));
        if (err && MR_HAS(err, native))
            err->native = e;
        return MR_E_PLUGIN_NOT_FOUND;
    }
    f->bytes = S_ISREG(st.st_mode) && st.st_size > 0 ? (uint64_t)st.st_size : 0;
    ElfW(Ehdr) *h = &f->head;
    if (!read_at(f, 0, h, sizeof *h) || memcmp(h->e_ident, ELFMAG, SELFMAG))
        return bad(f, err, "is not an ELF file");
    if (h->e_ident[EI_CLASS] != MY_CLASS || h->e_ident[EI_DATA] != MY_ORDER ||
        (MY_MACHINE != EM_NONE && h->e_machine != MY_MACHINE))
        return bad(f, err, "was built for another kind of machine");
    if (h->e_type != ET_DYN)
        return bad(f, err, "is not a shared object");
    if (!h->e_shnum || h->e_shentsize != sizeof *f->section || h->e_shstrndx >= h->e_shnum)
        return bad(f, err, "has no usable section table");
    uint64_t n = (uint64_t)h->e_shnum * sizeof *f->section;
    if (h->e_shoff > f->bytes || n > f->bytes - h->e_shoff)
        return bad(f, err, "is cut short: its section table lies past its end");
    f->section = mri_alloc(n);
    if (!read_at(f, h->e_shoff, f->section, n))
        return bad(f, err, "cannot be read to its end");
    f->names = read_section(f, &f->section[h->e_shstrndx], MAX_NAMES);
    if (!f->names)
        return bad(f, err, "has broken section names");
    f->n_names = f->section[h->e_shstrndx].sh_size;
    return 0;
}

static const ElfW(Shdr) *find_section(const elf *f, const char *name)
{
    for (uint32_t i = 0; i < f->head.e_shnum; i++)
        if (f->section[i].sh_name < f->n_names && !strcmp(f->names + f->section[i].sh_name, name))
            return &f->section[i];
    return NULL;
}

char *mri_note_read(const char *path)
{
    elf f;
    char *text = NULL;
    if (!elf_open(path, &f, NULL)) {
        const ElfW(Shdr) *s = find_section(&f, ".mrun.note");
        text = s ? read_section(&f, s, MAX_NOTE) : NULL;
    }
    elf_close(&f);
    for (char *c = text; c && *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127)
            *c = '?';
    return text;
}

/* Calls `each` for every defined dynamic symbol; a true answer ends the walk. */
static mr_status each_export(const char *path, bool (*each)(void *user, const char *name),
                             void *user, mr_err *err)
{
    elf f;
    char *symbols = NULL, *names = NULL;
    mr_status st = elf_open(path, &f, err);
    if (st)
        goto out;
    const ElfW(Shdr) *table = find_section(&f, ".dynsym"), *strings = NULL;
    if (table && table->sh_link < f.head.e_shnum)
        strings = &f.section[table->sh_link];
    if (!strings || table->sh_entsize != sizeof(ElfW(Sym))) {
        st = bad(&f, err, "has no dynamic symbol table");
        goto out;
    }
    symbols = read_section(&f, table, (uint64_t)MAX_SYMBOLS * sizeof(ElfW(Sym)));
    names = read_section(&f, strings, MAX_NAMES);
    if (!symbols || !names) {
        st = bad(&f, err, "has a broken dynamic symbol table");
        goto out;
    }
    for (uint64_t i = 0; i < table->sh_size / sizeof(ElfW(Sym)); i++) {
        ElfW(Sym) s;
        memcpy(&s, symbols + i * sizeof s, sizeof s);
        uint32_t bind = s.st_info >> 4; /* the same in both ELF classes */
        if (s.st_shndx == SHN_UNDEF ||
            (bind != STB_GLOBAL && bind != STB_WEAK && bind != STB_GNU_UNIQUE) ||
            s.st_name >= strings->sh_size || !names[s.st_name])
            continue;
        if (each(user, names + s.st_name))
            break;
    }
out:
    free(symbols);
    free(names);
    elf_close(&f);
    return st;
}

typedef MRI_VEC(char *) name_list;

static bool collect(void *user, const char *name)
{
    name_list *l = user;
    char *copy = mri_strdup(name);
    MRI_PUSH(l, copy);
    return false;
}

mr_status mri_elf_exports(const char *path, char ***names, size_t *n, mr_err *err)
{
    name_list l = { 0 };
    mr_status st = each_export(path, collect, &l, err);
    *names = l.v;
    *n = l.n;
    return st;
}

static bool is_entry(void *user, const char *name)
{
    return *(bool *)user = !strcmp(name, MR_PLUGIN_SYMBOL_NAME);
}

mr_status mri_elf_is_plugin(const char *path, mr_err *err)
{
    bool found = false;
    mr_status st = each_export(path, is_entry, &found, err);
    if (!st && !found) {
        st = mr_fail(err, MR_E_PLUGIN_MALFORMED, MR_BLAME_PLUGIN,
                     "%s is not a plugin: it does not export %s", mri_base_name(path),
                     MR_PLUGIN_SYMBOL_NAME);
        mr_detail(err, "file: %s", path);
        mr_hint(err, "define `MR_EXPORT const mr_plugin %s`; `mrun new` writes an example",
                MR_PLUGIN_SYMBOL_NAME);
    }
    return st;
}

/* ---- the note in parts: "mrun-plugin id=X version=Y abi=0.1 units=kind/name kind/name" ---- */

static char *cut(char *text, const char *key)
{
    char *p = strstr(text, key);
    return p ? p + strlen(key) : NULL;
}

bool mri_note_parse(const char *path, mri_note *out)
{
    memset(out, 0, sizeof *out);
    out->text = mri_note_read(path);
    if (!out->text || strncmp(out->text, "mrun-plugin ", 12))
        goto bad;
    /* units= comes last and may hold blanks: find all before cutting any */
    char *id = cut(out->text, " id="), *version = cut(out->text, " version=");
    char *abi = cut(out->text, " abi="), *units = cut(out->text, " units=");
    if (!id || !version || !abi || !units ||
        sscanf(abi, "%9u.%9u", &out->major, &out->minor) != 2)
        goto bad;
    id[strcspn(id, " ")] = 0;
    version[strcspn(version, " ")] = 0;
    out->id = id;
    out->version = version;
    out->units = units;
    return true;
bad:
    mri_note_free(out);
    return false;
}

void mri_note_free(mri_note *n)
{
    free(n->text);
    memset(n, 0, sizeof *n);
}

bool mri_note_next(const char **rest, char *kind, size_t kind_cap, char *name, size_t name_cap)
{
    char mark[MRI_NOTE_MARK];
    return mri_note_next_marked(rest, kind, kind_cap, name, name_cap, mark);
}

bool mri_note_next_marked(const char **rest, char *kind, size_t kind_cap, char *name,
                          size_t name_cap, char mark[MRI_NOTE_MARK])
{
    const char *p = *rest;
    while (*p) {
        p += strspn(p, " ");
        size_t n = strcspn(p, "@ "), k = strcspn(p, "/@ ");
        const char *word = p;
        p += n;
        size_t marked = *p == '@' ? strcspn(++p, " ") : 0;
        snprintf(mark, MRI_NOTE_MARK, "%.*s", (int)(marked < MRI_NOTE_MARK ? marked : 0), p);
        p += marked;
        if (k && k + 1 < n && k < kind_cap && n - k - 1 < name_cap) {
            memcpy(kind, word, k);
            kind[k] = 0;
            memcpy(name, word + k + 1, n - k - 1);
            name[n - k - 1] = 0;
            *rest = p;
            return true;
        }
    }
    *rest = p;
    return false;
}

bool mri_note_has(const mri_note *n, const char *kind, const char *name)
{
    char k[64], m[128];
    for (const char *rest = n->units; mri_note_next(&rest, k, sizeof k, m, sizeof m);)
        if (!strcmp(k, kind) && !strcmp(m, name))
            return true;
    return false;
}
