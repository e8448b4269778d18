/* SPDX-License-Identifier: Apache-2.0
 *
 * The numbers that backend/cuda has of cuDNN's interface are the header's. Built where the
 * header is; the comparison is made by the compiler, what runs only says how many it compared.
 */
#include "plugins/backend/cuda/cudnn_abi.h"
#include <criterion/criterion.h>
#include <cudnn_graph.h>

#define SAME(name, value) \
    _Static_assert(DNN_##name == (int)CUDNN_##name, "DNN_" #name " is not CUDNN_" #name);
DNN_CONSTANTS(SAME)

#define ONE(name, value) +1
Test(cudnn_abi, numbers_are_the_headers)
{
    cr_expect_gt(0 DNN_CONSTANTS(ONE), 60);
}

/* enumerations travel as ints, handles and descriptors as pointers */
Test(cudnn_abi, types_have_the_size_we_pass)
{
    cr_expect_eq(sizeof(cudnnStatus_t), sizeof(int));
    cr_expect_eq(sizeof(cudnnDataType_t), sizeof(int));
    cr_expect_eq(sizeof(cudnnBackendAttributeName_t), sizeof(int));
    cr_expect_eq(sizeof(cudnnBackendHeurMode_t), sizeof(int));
    cr_expect_eq(sizeof(cudnnPointwiseMode_t), sizeof(int));
    cr_expect_eq(sizeof(cudnnReduceTensorOp_t), sizeof(int));
    cr_expect_eq(sizeof(cudnnHandle_t), sizeof(void *));
    cr_expect_eq(sizeof(cudnnBackendDescriptor_t), sizeof(void *));
}
