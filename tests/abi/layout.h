/* SPDX-License-Identifier: Apache-2.0
 *
 * layout.h - every struct of include/mrun, field by field, in order. test_layout.c prints it
 * as offsets and compares with abi-0.1.txt; since no struct has padding, a field that is
 * missing here shows as a gap, and a struct that is missing is found by reading the headers.
 * New structs and fields go to the end of what they extend.
 */
#ifndef ABI_LAYOUT_H
#define ABI_LAYOUT_H
#include "mrun/backend.h"
#include "mrun/model.h"
#include "mrun/optimizer.h"
#include "mrun/tokenizer.h"
#include "mrun/data.h"
#include "mrun/sink.h"
#include "mrun/graph.h"
#include "mrun/shard.h"
#include "mrun/comm.h"

#define ABI_LAYOUT(S, F) \
    S(mr_err) \
        F(mr_err, size) F(mr_err, code) F(mr_err, blame) F(mr_err, native) F(mr_err, what) \
        F(mr_err, detail) F(mr_err, hint) \
    S(mr_list) \
        F(mr_list, v) F(mr_list, n) \
    S(mr_opt) \
        F(mr_opt, size) F(mr_opt, type) F(mr_opt, flags) F(mr_opt, offset) F(mr_opt, key) \
        F(mr_opt, def) F(mr_opt, doc) F(mr_opt, choices) F(mr_opt, lo) F(mr_opt, hi) \
        F(mr_opt, was) \
    S(mr_host) \
        F(mr_host, size) F(mr_host, abi_major) F(mr_host, abi_minor) F(mr_host, pad) \
        F(mr_host, name) F(mr_host, version) F(mr_host, self) F(mr_host, log) F(mr_host, ext) \
        F(mr_host, cancelled) \
    S(mr_unit) \
        F(mr_unit, size) F(mr_unit, flags) F(mr_unit, kind) F(mr_unit, name) F(mr_unit, doc) \
        F(mr_unit, opts) F(mr_unit, n_opts) F(mr_unit, config_size) F(mr_unit, table) \
        F(mr_unit, needs) \
    S(mr_plugin) \
        F(mr_plugin, magic) F(mr_plugin, size) F(mr_plugin, abi_major) \
        F(mr_plugin, abi_minor_built) F(mr_plugin, abi_minor_needed) F(mr_plugin, id) \
        F(mr_plugin, version) F(mr_plugin, license) F(mr_plugin, doc) F(mr_plugin, units) \
        F(mr_plugin, n_units) F(mr_plugin, pad) F(mr_plugin, open) F(mr_plugin, close) \
    S(mr_part) \
        F(mr_part, size) F(mr_part, rank) F(mr_part, role) F(mr_part, dtype) F(mr_part, dim) \
    S(mr_type) \
        F(mr_type, size) F(mr_type, rank) F(mr_type, dtype) F(mr_type, layout) F(mr_type, dim) \
        F(mr_type, parts) F(mr_type, n_parts) F(mr_type, flags) \
    S(mr_buf) \
        F(mr_buf, data) F(mr_buf, parts) \
    S(mr_attr) \
        F(mr_attr, key) F(mr_attr, type) F(mr_attr, n) F(mr_attr, u) \
    S(mr_param) \
        F(mr_param, size) F(mr_param, flags) F(mr_param, type) F(mr_param, placement) \
        F(mr_param, init) F(mr_param, scale) F(mr_param, tensors) \
        F(mr_param, stored_rank) F(mr_param, pad) F(mr_param, stored) \
    S(mr_builder) \
        F(mr_builder, size) F(mr_builder, pad) F(mr_builder, param) F(mr_builder, input) \
        F(mr_builder, state) F(mr_builder, scalar) F(mr_builder, op) F(mr_builder, region) \
        F(mr_builder, end) F(mr_builder, output) F(mr_builder, loss) F(mr_builder, type) \
    S(mr_call) \
        F(mr_call, size) F(mr_call, n_in) F(mr_call, n_out) F(mr_call, n_attr) F(mr_call, in) \
        F(mr_call, out) F(mr_call, attr) \
    S(mr_cost) \
        F(mr_cost, size) F(mr_cost, pad) F(mr_cost, flops) F(mr_cost, bytes) \
    S(mr_vjp) \
        F(mr_vjp, size) F(mr_vjp, pad) F(mr_vjp, call) F(mr_vjp, in) F(mr_vjp, out) \
        F(mr_vjp, dout) F(mr_vjp, need) F(mr_vjp, din) F(mr_vjp, self) F(mr_vjp, op) \
        F(mr_vjp, acc) \
    S(mr_op_def) \
        F(mr_op_def, size) F(mr_op_def, flags) F(mr_op_def, id) F(mr_op_def, doc) \
        F(mr_op_def, sig) F(mr_op_def, attrs) F(mr_op_def, shape) F(mr_op_def, vjp) \
        F(mr_op_def, ref) F(mr_op_def, cost) F(mr_op_def, shard) F(mr_op_def, cases) \
    S(mr_ref_service) \
        F(mr_ref_service, size) F(mr_ref_service, pad) F(mr_ref_service, find) \
        F(mr_ref_service, at) \
    S(mr_kernel_info) \
        F(mr_kernel_info, size) F(mr_kernel_info, flags) F(mr_kernel_info, workspace) \
        F(mr_kernel_info, est_us) F(mr_kernel_info, impl) \
    S(mr_device_info) \
        F(mr_device_info, size) F(mr_device_info, threads) F(mr_device_info, name) \
        F(mr_device_info, memory_bytes) F(mr_device_info, peak_flops_f32) \
        F(mr_device_info, peak_flops_bf16) F(mr_device_info, peak_bytes_per_s) \
    S(mr_probe) \
        F(mr_probe, size) F(mr_probe, pad) F(mr_probe, flops_f32) F(mr_probe, flops_bf16) \
        F(mr_probe, read_bytes_per_s) \
    S(mr_timer) \
        F(mr_timer, size) F(mr_timer, pad) F(mr_timer, mark) F(mr_timer, elapsed_us) \
        F(mr_timer, destroy) F(mr_timer, push) F(mr_timer, pop) \
    S(mr_backend_ops) \
        F(mr_backend_ops, size) F(mr_backend_ops, flags) F(mr_backend_ops, count) \
        F(mr_backend_ops, open) F(mr_backend_ops, close) F(mr_backend_ops, info) \
        F(mr_backend_ops, alloc) F(mr_backend_ops, free) F(mr_backend_ops, query) \
        F(mr_backend_ops, release) F(mr_backend_ops, run) F(mr_backend_ops, stream_create) \
        F(mr_backend_ops, stream_destroy) F(mr_backend_ops, record) F(mr_backend_ops, wait) \
        F(mr_backend_ops, event_destroy) F(mr_backend_ops, sync) F(mr_backend_ops, copy) \
        F(mr_backend_ops, fill) F(mr_backend_ops, ext) F(mr_backend_ops, event_sync) \
    S(mr_model_sizes) \
        F(mr_model_sizes, size) F(mr_model_sizes, pad) F(mr_model_sizes, layers) \
        F(mr_model_sizes, hidden) F(mr_model_sizes, heads) F(mr_model_sizes, kv_heads) \
        F(mr_model_sizes, head_dim) F(mr_model_sizes, ffn_hidden) F(mr_model_sizes, vocab) \
        F(mr_model_sizes, max_positions) F(mr_model_sizes, norm_eps) \
        F(mr_model_sizes, rope_theta) F(mr_model_sizes, init_std) F(mr_model_sizes, seed) \
    S(mr_json_service) \
        F(mr_json_service, size) F(mr_json_service, pad) F(mr_json_service, number) \
        F(mr_json_service, string) F(mr_json_service, length) F(mr_json_service, has) \
        F(mr_json_service, is_null) F(mr_json_service, at) \
    S(mr_model_env) \
        F(mr_model_env, size) F(mr_model_env, pad) F(mr_model_env, sizes) \
        F(mr_model_env, hf_config) F(mr_model_env, weights) F(mr_model_env, has_tensor) \
    S(mr_model_info) \
        F(mr_model_info, size) F(mr_model_info, pad) F(mr_model_info, vocab) \
        F(mr_model_info, layers) F(mr_model_info, hidden) F(mr_model_info, max_positions) \
        F(mr_model_info, image_size) F(mr_model_info, image_tokens) \
        F(mr_model_info, image_token) F(mr_model_info, pad2) \
    S(mr_block_env) \
        F(mr_block_env, size) F(mr_block_env, pad) F(mr_block_env, mode) F(mr_block_env, tokens) \
        F(mr_block_env, slots) F(mr_block_env, max_seq) F(mr_block_env, seq) \
        F(mr_block_env, whole) F(mr_block_env, pad2) F(mr_block_env, images) \
        F(mr_block_env, pages) F(mr_block_env, page) F(mr_block_env, logit_rows) \
    S(mr_assembler) \
        F(mr_assembler, size) F(mr_assembler, pad) F(mr_assembler, instance) \
        F(mr_assembler, edge) F(mr_assembler, bind) F(mr_assembler, env) \
    S(mr_model_ops) \
        F(mr_model_ops, size) F(mr_model_ops, flags) F(mr_model_ops, create) \
        F(mr_model_ops, destroy) F(mr_model_ops, info) F(mr_model_ops, assemble) \
        F(mr_model_ops, build) F(mr_model_ops, hf_config) \
    S(mr_optimizer_ops) \
        F(mr_optimizer_ops, size) F(mr_optimizer_ops, flags) F(mr_optimizer_ops, create) \
        F(mr_optimizer_ops, destroy) F(mr_optimizer_ops, build) \
    S(mr_tokenizer_info) \
        F(mr_tokenizer_info, size) F(mr_tokenizer_info, flags) F(mr_tokenizer_info, vocab) \
        F(mr_tokenizer_info, bos) F(mr_tokenizer_info, eos) F(mr_tokenizer_info, pad) \
        F(mr_tokenizer_info, eod) \
    S(mr_tokenizer_ops) \
        F(mr_tokenizer_ops, size) F(mr_tokenizer_ops, flags) F(mr_tokenizer_ops, create) \
        F(mr_tokenizer_ops, destroy) F(mr_tokenizer_ops, info) F(mr_tokenizer_ops, encode) \
        F(mr_tokenizer_ops, decode) F(mr_tokenizer_ops, encode_as) F(mr_tokenizer_ops, decode_as) \
    S(mr_data_env) \
        F(mr_data_env, size) F(mr_data_env, pad) F(mr_data_env, seq) F(mr_data_env, seed) \
        F(mr_data_env, train_samples) F(mr_data_env, valid_samples) F(mr_data_env, tokenizer) \
        F(mr_data_env, tok) F(mr_data_env, tiles) F(mr_data_env, pictures) \
    S(mr_data_set) \
        F(mr_data_set, size) F(mr_data_set, flags) F(mr_data_set, name) F(mr_data_set, samples) \
        F(mr_data_set, tokens) F(mr_data_set, bytes_per_token) F(mr_data_set, choices) \
    S(mr_sample) \
        F(mr_sample, size) F(mr_sample, pad) F(mr_sample, tokens) F(mr_sample, targets) \
        F(mr_sample, positions) F(mr_sample, seq_start) F(mr_sample, loss_weight) \
        F(mr_sample, pixels) F(mr_sample, room) F(mr_sample, tiles) \
        F(mr_sample, choice) F(mr_sample, answer) \
    S(mr_data_ops) \
        F(mr_data_ops, size) F(mr_data_ops, flags) F(mr_data_ops, create) F(mr_data_ops, destroy) \
        F(mr_data_ops, set) F(mr_data_ops, read) F(mr_data_ops, promises) \
    S(mr_metric) \
        F(mr_metric, name) F(mr_metric, value) \
    S(mr_event) \
        F(mr_event, size) F(mr_event, n_metrics) F(mr_event, type) F(mr_event, step) \
        F(mr_event, steps) F(mr_event, time) F(mr_event, metrics) F(mr_event, text) \
    S(mr_sink_env) \
        F(mr_sink_env, size) F(mr_sink_env, resumed) F(mr_sink_env, run_dir) \
        F(mr_sink_env, from_step) \
    S(mr_sink_ops) \
        F(mr_sink_ops, size) F(mr_sink_ops, flags) F(mr_sink_ops, create) F(mr_sink_ops, destroy) \
        F(mr_sink_ops, event) \
    S(mr_probe) \
        F(mr_probe, size) F(mr_probe, pad) F(mr_probe, flops_f32) F(mr_probe, flops_bf16) \
        F(mr_probe, read_bytes_per_s) \
    S(mr_capture) \
        F(mr_capture, size) F(mr_capture, pad) F(mr_capture, begin) F(mr_capture, end) \
        F(mr_capture, launch) F(mr_capture, destroy) \
    S(mr_work_item) \
        F(mr_work_item, kind) F(mr_work_item, instance) F(mr_work_item, micro_batch) \
        F(mr_work_item, same) F(mr_work_item, label) F(mr_work_item, obstacle) \
    S(mr_work) \
        F(mr_work, size) F(mr_work, n_items) F(mr_work, mode) F(mr_work, item) \
    S(mr_graph_ops) \
        F(mr_graph_ops, size) F(mr_graph_ops, flags) F(mr_graph_ops, create) \
        F(mr_graph_ops, destroy) F(mr_graph_ops, warmup) F(mr_graph_ops, cut) \
    S(mr_model_part) \
        F(mr_model_part, size) F(mr_model_part, pad) F(mr_model_part, ops) \
        F(mr_model_part, model) F(mr_model_part, own) \
    S(mr_model_service) \
        F(mr_model_service, size) F(mr_model_service, pad) F(mr_model_service, open) \
        F(mr_model_service, close) \
    S(mr_image_grid) \
        F(mr_image_grid, size) F(mr_image_grid, pad) F(mr_image_grid, rows) \
        F(mr_image_grid, cols) F(mr_image_grid, tiles) \
    S(mr_image_service) \
        F(mr_image_service, size) F(mr_image_service, pad) F(mr_image_service, file) \
        F(mr_image_service, bytes) F(mr_image_service, ids) \
    S(mr_rendezvous) \
        F(mr_rendezvous, size) F(mr_rendezvous, pad) F(mr_rendezvous, self) \
        F(mr_rendezvous, put) F(mr_rendezvous, get) \
    S(mr_comm_env) \
        F(mr_comm_env, size) F(mr_comm_env, rank) F(mr_comm_env, world) \
        F(mr_comm_env, local_rank) F(mr_comm_env, local_world) F(mr_comm_env, pad) \
        F(mr_comm_env, launcher) F(mr_comm_env, threads) F(mr_comm_env, rendezvous) \
        F(mr_comm_env, backend) F(mr_comm_env, device) F(mr_comm_env, timeout_s) \
    S(mr_comm_info) \
        F(mr_comm_info, size) F(mr_comm_info, rank) F(mr_comm_info, world) F(mr_comm_info, pad) \
        F(mr_comm_info, version) \
    S(mr_comm_ops) \
        F(mr_comm_ops, size) F(mr_comm_ops, flags) F(mr_comm_ops, world_size) \
        F(mr_comm_ops, world_create) F(mr_comm_ops, world_destroy) F(mr_comm_ops, open) \
        F(mr_comm_ops, close) F(mr_comm_ops, info) F(mr_comm_ops, split) \
        F(mr_comm_ops, group_free) F(mr_comm_ops, all_reduce) F(mr_comm_ops, all_gather) \
        F(mr_comm_ops, reduce_scatter) F(mr_comm_ops, broadcast) F(mr_comm_ops, all_to_all) \
        F(mr_comm_ops, send) F(mr_comm_ops, receive) F(mr_comm_ops, group_begin) \
        F(mr_comm_ops, group_end) F(mr_comm_ops, host_gather) F(mr_comm_ops, check) \
        F(mr_comm_ops, abort) F(mr_comm_ops, alloc) F(mr_comm_ops, free) F(mr_comm_ops, fail) \
    S(mr_shard_part) \
        F(mr_shard_part, flags) F(mr_shard_part, instance) F(mr_shard_part, group) \
        F(mr_shard_part, ranks) F(mr_shard_part, elements) F(mr_shard_part, block) \
    S(mr_shard_model) \
        F(mr_shard_model, size) F(mr_shard_model, n_parts) F(mr_shard_model, part) \
        F(mr_shard_model, n_instances) F(mr_shard_model, micro_batches) \
        F(mr_shard_model, weight_dtype) F(mr_shard_model, grad_dtype) \
    S(mr_shard_builder) \
        F(mr_shard_builder, size) F(mr_shard_builder, pad) F(mr_shard_builder, bucket) \
        F(mr_shard_builder, buffers) F(mr_shard_builder, overlap) F(mr_shard_builder, reduce_in) \
    S(mr_shard_ops) \
        F(mr_shard_ops, size) F(mr_shard_ops, flags) F(mr_shard_ops, create) \
        F(mr_shard_ops, destroy) F(mr_shard_ops, plan)

#endif
