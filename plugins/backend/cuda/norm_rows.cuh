// SPDX-License-Identifier: Apache-2.0
//
// norm_rows.cuh - the kernels of norm_rows.cu: a row of a norm in registers, forward and backward.

#ifndef MRUN_CUDA_NORM_ROWS_CUH
#define MRUN_CUDA_NORM_ROWS_CUH
#include "rows.cuh"

// ---- forward: y of x, or of h = x + b ----------------------------------------------------------
template <typename F, int L, int K, int V, bool LAYER, bool ADD>
__global__ void __launch_bounds__(THREADS)
    rows_forward(const F *x, const F *b, arr w, arr bias, F *y, F *h, float *mean, float *rstd,
                 int64_t rows, int n, float eps)
{
    constexpr int G = THREADS / L;
    __shared__ __align__(16) float room[2][G][32];
    const int group = threadIdx.x / L, lane = threadIdx.x % L;
    const int64_t row = blockIdx.x * (int64_t)G + group;
    const bool on = row < rows;
    pack<F, V> p[K];
    float v[K][V], u[V], s[V] = {}, sum = 0, m = 0;
    x += row * n, y += row * n;
#pragma unroll
    for (int k = 0; k < K; k++)
        load<F, V>(p[k], x + (k * L + lane) * V, on && (k * L + lane) * V < n);
    if (ADD) {
        pack<F, V> q[K];
        b += row * n, h += row * n;
#pragma unroll
        for (int k = 0; k < K; k++)
            load<F, V>(q[k], b + (k * L + lane) * V, on && (k * L + lane) * V < n);
#pragma unroll
        for (int k = 0; k < K; k++) {
            unpack<F, V>(p[k], v[k]);
            unpack<F, V>(q[k], u);
#pragma unroll
            for (int j = 0; j < V; j++)
                v[k][j] = round_to(h, v[k][j] + u[j]);
            if (on && (k * L + lane) * V < n)
                stv<V>(h, (k * L + lane) * V, v[k]);
        }
    } else {
#pragma unroll
        for (int k = 0; k < K; k++)
            unpack<F, V>(p[k], v[k]);
    }
    if (LAYER) {
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
            for (int j = 0; j < V; j++)
                m += v[k][j];
        m = row_sum<L>(m, room[1][group], 1 + group) / (float)n;
    }
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int j = 0; j < V; j++)
            if (!LAYER)
                sum += v[k][j] * v[k][j];
            else if ((k * L + lane) * V < n)
                sum += (v[k][j] - m) * (v[k][j] - m);
    const float r = 1 / sqrtf(row_sum<L>(sum, room[0][group], 1 + group) / (float)n + eps);
    if (!on)
        return;
    if (!lane) {
        rstd[row] = r;
        if (LAYER)
            mean[row] = m;
    }
#pragma unroll
    for (int k = 0; k < K; k++) {
        const int at = (k * L + lane) * V;
        if (at >= n)
            break;
        if (w.p)
            getv<V>(w, at, u);
        if (LAYER && bias.p)
            getv<V>(bias, at, s);
#pragma unroll
        for (int j = 0; j < V; j++)
            if (LAYER) {
                v[k][j] = (v[k][j] - m) * r * u[j] + s[j];
            } else {
                v[k][j] = round_to(y, v[k][j] * r);
                v[k][j] = w.p ? v[k][j] * u[j] : v[k][j];
            }
        stv<V>(y, at, v[k]);
    }
}

// ---- backward ----------------------------------------------------------------------------------
// A thread has K times V values of each of its rows. All that a row's gradient reads is asked for
// while the row before is at work, and per value there are a dozen instructions: that is what it
// takes to keep up with the memory.
template <typename F, int K, int V> struct wanted {
    pack<F, V> d[K], x[K], h[K];
    float r, m;
};

// sums[block][column]: this block's share of dw, and (plain) of dbias; NULL where not wanted.
// With g = dy w and c = rstd² mean(g n):  dx = rstd g - c x + (c mean - rstd mean(g)).
template <typename F, int L, int K, int V, bool LAYER, int B, int MIN>
__global__ void __launch_bounds__(B, MIN)
    rows_backward(const F *dh, const F *dy, const F *x, arr w, const float *mean,
                  const float *rstd, F *dx, float *sums, float *plain, int64_t rows, int n)
{
    constexpr int G = B / L;
    __shared__ __align__(16) float2 room[2][G][32];
    __shared__ float share[B * V];
    const int group = threadIdx.x / L, lane = threadIdx.x % L;
    const int64_t step = gridDim.x * (int64_t)G;
    float sw[K][V] = {}, sb[K][V] = {}, u[K][V];
    int turn = 0;
#pragma unroll
    for (int k = 0; k < K; k++) {
#pragma unroll
        for (int j = 0; j < V; j++)
            u[k][j] = 1;
        if (w.p && (k * L + lane) * V < n)
            getv<V>(w, (k * L + lane) * V, u[k]);
    }
    auto ask = [&](wanted<F, K, V> &a, int64_t row) {
        a.r = row < rows ? rstd[row] : 0;
        a.m = LAYER && row < rows ? mean[row] : 0;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int at = (k * L + lane) * V;
            const bool there = at < n && row < rows;
            load<F, V>(a.d[k], dy + row * n + at, there);
            load<F, V>(a.x[k], x + row * n + at, there);
            if (dh)
                load<F, V>(a.h[k], dh + row * n + at, there);
        }
    };
    wanted<F, K, V> next;
    ask(next, blockIdx.x * (int64_t)G + group);
    for (int64_t row = blockIdx.x * (int64_t)G + group; row - group < rows; row += step) {
        const wanted<F, K, V> now = next;
        const float r = now.r, mr = now.m * r;
        float d[V], v[V];
        float2 s = { 0, 0 }; // of g n and of g; past the row's end d is 0
        ask(next, row + step);
#pragma unroll
        for (int k = 0; k < K; k++) {
            unpack<F, V>(now.d[k], d);
            unpack<F, V>(now.x[k], v);
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float hat = LAYER ? v[j] * r - mr : v[j] * r, g = d[j] * u[k][j];
                sw[k][j] += d[j] * hat;
                if (LAYER)
                    sb[k][j] += d[j], s.y += g;
                s.x += g * hat;
            }
        }
        s = row_sum_pair<L, LAYER>(s, room[turn][group], 1 + group);
        const float c = r * r * (s.x / (float)n);
        const float shift = LAYER ? c * now.m - r * (s.y / (float)n) : 0;
        turn ^= 1;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int at = (k * L + lane) * V;
            if (at >= n || row >= rows)
                break;
            unpack<F, V>(now.d[k], d);
            unpack<F, V>(now.x[k], v);
#pragma unroll
            for (int j = 0; j < V; j++)
                d[j] = r * (d[j] * u[k][j]) - c * v[j] + shift;
            if (dh) {
                unpack<F, V>(now.h[k], v);
#pragma unroll
                for (int j = 0; j < V; j++)
                    d[j] += v[j];
            }
            stv<V>(dx + row * n, at, d);
        }
    }
    next_may_start(); // who adds the shares up, as blocks end
#pragma unroll
    for (int what = 0; what < (LAYER ? 2 : 1); what++) {
        float *to = what ? plain : sums;
        if (!to)
            continue;
#pragma unroll
        for (int k = 0; k < K; k++) {
            __syncthreads();
#pragma unroll
            for (int j = 0; j < V; j++)
                share[threadIdx.x * V + j] = what ? sb[k][j] : sw[k][j];
            __syncthreads();
            // the rows' lanes of a column, in their order
            for (int i = threadIdx.x; i < L * V && k * L * V + i < n; i += B) {
                float s = 0;
                for (int l = 0; l < G; l++)
                    s += share[l * L * V + i];
                to[blockIdx.x * (int64_t)n + k * L * V + i] = s;
            }
        }
    }
}

#endif
