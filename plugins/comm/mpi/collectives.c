/* SPDX-License-Identifier: Apache-2.0
 *
 * collectives.c - MPI's own, with the types that it lacks (bf16: added in f32, rounded at each
 * step) and counts beyond its 31 bits: reductions in pieces, bytes as a type of large blocks.
 */
#include "rank.h"
#include <string.h>

enum { PIECE = 1 << 30, BLOCK = 1 << 20 }; /* elements of one call; bytes of a block */

/* ---- bf16 ------------------------------------------------------------------------------------ */

static float from_bf16(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint16_t to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

#define BF16_OP(name, expression) \
    static void name(void *in, void *inout, int *n, MPI_Datatype *type) \
    { \
        const uint16_t *a = in; \
        uint16_t *b = inout; \
        (void)type; \
        for (int i = 0; i < *n; i++) { \
            float x = from_bf16(b[i]), y = from_bf16(a[i]); \
            b[i] = to_bf16(expression); \
        } \
    }
BF16_OP(bf16_sum, x + y)
BF16_OP(bf16_max, y > x || y != y ? y : x)
BF16_OP(bf16_min, y < x || y != y ? y : x)

bool mpi_make_bf16(mpi_rank *self)
{
    return !MPI_Op_create(bf16_sum, 1, &self->bf16[MR_COMM_SUM]) &&
           !MPI_Op_create(bf16_max, 1, &self->bf16[MR_COMM_MAX]) &&
           !MPI_Op_create(bf16_min, 1, &self->bf16[MR_COMM_MIN]);
}

/* ---- types ----------------------------------------------------------------------------------- */

typedef struct kind { /* how MPI reduces elements of a type */
    MPI_Datatype type;
    MPI_Op op;
    uint64_t width;
} kind;

static mr_status kind_of(const mpi_rank *self, const char *dtype, uint32_t op, kind *out,
                         mr_err *err)
{
    const struct {
        const char *dtype;
        MPI_Datatype type;
        uint64_t width;
    } types[] = { { "f32", MPI_FLOAT, 4 },      { "f64", MPI_DOUBLE, 8 },  { "bf16", MPI_UINT16_T,
                                                                             2 },
                  { "i32", MPI_INT32_T, 4 },    { "i64", MPI_INT64_T, 8 }, { "u8", MPI_UINT8_T,
                                                                             1 } };
    const MPI_Op ops[] = { [MR_COMM_SUM] = MPI_SUM, [MR_COMM_MAX] = MPI_MAX,
                           [MR_COMM_MIN] = MPI_MIN };
    for (size_t i = 0; i < sizeof types / sizeof *types && op <= MR_COMM_MIN; i++)
        if (!strcmp(types[i].dtype, dtype)) {
            *out = (kind){ types[i].type, ops[op], types[i].width };
            if (!strcmp(dtype, "bf16"))
                out->op = self->bf16[op];
            return 0;
        }
    return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_HOST, "comm/mpi reduces no %.20s by op %u",
                   dtype,
                   op);
}

bool mpi_span(uint64_t bytes, MPI_Datatype *type, int *count, bool *made)
{
    MPI_Datatype part[2] = { MPI_DATATYPE_NULL, MPI_BYTE };
    MPI_Aint at[2] = { 0, (MPI_Aint)(bytes / BLOCK * BLOCK) };
    int lengths[2] = { (int)(bytes / BLOCK), (int)(bytes % BLOCK) };
    *type = MPI_BYTE;
    *count = (int)bytes;
    *made = bytes > PIECE;
    if (!*made)
        return true;
    *count = 1;
    bool ok = bytes / BLOCK <= INT32_MAX && !MPI_Type_contiguous(BLOCK, MPI_BYTE, &part[0]) &&
              !MPI_Type_create_struct(2, lengths, at, part, type) && !MPI_Type_commit(type);
    if (part[0] != MPI_DATATYPE_NULL)
        MPI_Type_free(&part[0]);
    return ok;
}

static mr_status no_type(uint64_t bytes, mr_err *err)
{
    return mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "MPI makes no type for %llu bytes",
                   (unsigned long long)bytes);
}

/* ---- collectives ----------------------------------------------------------------------------- */

mr_status mpi_all_reduce(void *group, void *stream, const void *in, void *out, uint64_t n,
                         const char *dtype, uint32_t op, mr_err *err)
{
    mpi_group *g = group;
    kind k;
    mr_status st = 0;
    (void)stream;
    MR_TRY(mpi_usable(g->self, err));
    MR_TRY(kind_of(g->self, dtype, op, &k, err));
    for (uint64_t at = 0; at < n; at += PIECE) {
        int count = (int)(n - at < PIECE ? n - at : PIECE);
        const void *from = in == out ? MPI_IN_PLACE : (const char *)in + at * k.width;
        MPI_Request r;
        int rc = MPI_Iallreduce(from, (char *)out + at * k.width, count, k.type, k.op, g->comm, &r);
        MR_TRY(mpi_check(g->self, rc, "all_reduce", g->name, err));
        MR_TRY(mpi_wait(g->self, &r, 1, "all_reduce", g->name, err));
    }
out:
    return st;
}

/* Beyond 31 bits: each part summed to its owner, in pieces. */
static mr_status reduce_parts(mpi_group *g, const void *in, void *out, uint64_t n, const kind *k,
                              mr_err *err)
{
    mr_status st = 0;
    for (uint32_t root = 0; root < g->n; root++)
        for (uint64_t at = 0; at < n; at += PIECE) {
            int count = (int)(n - at < PIECE ? n - at : PIECE);
            const char *from = (const char *)in + (root * n + at) * k->width;
            char *to = (char *)out + at * k->width;
            MPI_Request r;
            int rc = MPI_Ireduce(from, to, count, k->type, k->op, (int)root, g->comm, &r);
            MR_TRY(mpi_check(g->self, rc, "reduce_scatter", g->name, err));
            MR_TRY(mpi_wait(g->self, &r, 1, "reduce_scatter", g->name, err));
        }
out:
    return st;
}

mr_status mpi_reduce_scatter(void *group, void *stream, const void *in, void *out, uint64_t n,
                             const char *dtype, uint32_t op, mr_err *err)
{
    mpi_group *g = group;
    kind k;
    MPI_Request r;
    mr_status st = 0;
    (void)stream;
    MR_TRY(mpi_usable(g->self, err));
    MR_TRY(kind_of(g->self, dtype, op, &k, err));
    if (n > PIECE / g->n)
        return reduce_parts(g, in, out, n, &k, err);
    MR_TRY(mpi_check(g->self, MPI_Ireduce_scatter_block(in, out, (int)n, k.type, k.op, g->comm, &r),
                     "reduce_scatter", g->name, err));
    MR_TRY(mpi_wait(g->self, &r, 1, "reduce_scatter", g->name, err));
out:
    return st;
}

static mr_status gather(mpi_rank *self, MPI_Comm comm, const char *name, const char *what,
                        uint32_t index, const void *in, void *out, uint64_t bytes, mr_err *err)
{
    MPI_Datatype type;
    MPI_Request r;
    int count;
    bool made;
    const void *from = in == (char *)out + index * bytes ? MPI_IN_PLACE : in;
    mr_status st = 0;
    MR_TRY(mpi_usable(self, err));
    if (!mpi_span(bytes, &type, &count, &made))
        return no_type(bytes, err);
    MR_TRY(mpi_check(self, MPI_Iallgather(from, count, type, out, count, type, comm, &r), what,
                     name,
                     err));
    MR_TRY(mpi_wait(self, &r, 1, what, name, err));
    if (made)
        MPI_Type_free(&type);
out:
    return st;
}

mr_status mpi_all_gather(void *group, void *stream, const void *in, void *out, uint64_t n,
                         const char *dtype, mr_err *err)
{
    mpi_group *g = group;
    kind k;
    (void)stream;
    mr_status st = kind_of(g->self, dtype, MR_COMM_SUM, &k, err);
    return st ? st : gather(g->self, g->comm, g->name, "all_gather", g->index, in, out, n * k.width,
                            err);
}

mr_status mpi_host_gather(void *comm, const void *mine, uint64_t bytes, void *all, mr_err *err)
{
    mpi_rank *self = comm;
    return gather(self, self->world, "world", "gather", self->rank, mine, all, bytes, err);
}

mr_status mpi_broadcast(void *group, void *stream, void *data, uint64_t n, const char *dtype,
                        uint32_t root, mr_err *err)
{
    mpi_group *g = group;
    kind k;
    MPI_Datatype type;
    MPI_Request r;
    int count;
    bool made;
    mr_status st = 0;
    (void)stream;
    MR_TRY(mpi_usable(g->self, err));
    MR_TRY(kind_of(g->self, dtype, MR_COMM_SUM, &k, err));
    if (!mpi_span(n * k.width, &type, &count, &made))
        return no_type(n * k.width, err);
    MR_TRY(mpi_check(g->self, MPI_Ibcast(data, count, type, (int)root, g->comm, &r), "broadcast",
                     g->name, err));
    MR_TRY(mpi_wait(g->self, &r, 1, "broadcast", g->name, err));
    if (made)
        MPI_Type_free(&type);
out:
    return st;
}
