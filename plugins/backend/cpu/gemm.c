/* SPDX-License-Identifier: Apache-2.0
 * gemm.c - see gemm.h. The only file that knows the library, oneDNN (2.x and 3.x). */
#include "gemm.h"
#include <oneapi/dnnl/dnnl.h>

mr_status cpu_sgemm(int ta, int tb, int64_t M, int64_t N, int64_t K, const float *A, int64_t lda,
                    const float *B, int64_t ldb, float beta, float *C, int64_t ldc, mr_err *err)
{
    if (M == 0 || N == 0)
        return MR_OK;
    dnnl_status_t s = dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', M, N, K, 1.0f, A, lda, B, ldb,
                                 beta, C, ldc);
    if (s == dnnl_success)
        return MR_OK;
    return mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV,
                   "oneDNN's sgemm of [%lld,%lld] by [%lld,%lld] failed with status %d",
                   (long long)M, (long long)K, (long long)K, (long long)N, (int)s);
}
