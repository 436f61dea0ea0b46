// The ExecuTorch operators dirnet::splice, dirnet::project and dirnet::rnn_layer: argument checks around kernels.h.
// Their schemas, their shapes and a plain torch reference are in ../ops.py.
#include <executorch/runtime/kernel/kernel_includes.h>
#include <executorch/runtime/kernel/operator_registry.h>

#include <vector>

#include "kernels.h"

namespace {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::Span;

#define DIRNET_CHECK(condition, what) ET_KERNEL_CHECK_MSG(context, condition, InvalidArgument, , "dirnet: %s", what)

float* scratch(size_t floats) {
  thread_local std::vector<float> memory;
  if (memory.size() < floats) memory.resize(floats);
  return memory.data();
}

const float* floats(const Tensor& t) { return t.const_data_ptr<float>(); }
const float* floats_or_null(const EValue& value) { return value.isNone() ? nullptr : floats(value.toTensor()); }

bool resize(const Tensor& out, std::initializer_list<SizesType> sizes) {
  return executorch::runtime::resize_tensor(out, {sizes.begin(), sizes.size()}) == Error::Ok;
}

// A matrix of `rows` rows from its stored tensors; false if they do not fit together.
bool matrix_from(int rows, const Tensor& values, const EValue& index, const EValue& counts, int64_t block,
                 dirnet::Matrix* m) {
  m->rows = rows;
  m->block = static_cast<int>(block);
  m->values = floats(values);
  if (block == 0) {
    m->columns = rows ? static_cast<int>(values.numel() / rows) : 0;
    return m->columns > 0 && values.numel() == static_cast<ssize_t>(m->columns) * rows;
  }
  if (index.isNone() || counts.isNone() || !(block == 1 || block == 2 || block == 4 || block == 8 || block == 16))
    return false;
  const Tensor& row = index.toTensor();
  if (row.scalar_type() == ScalarType::Byte)
    m->index8 = row.const_data_ptr<uint8_t>();
  else
    m->index16 = row.const_data_ptr<uint16_t>();
  m->counts = counts.toTensor().const_data_ptr<uint16_t>();
  m->columns = static_cast<int>(counts.toTensor().numel() * block);
  int64_t total = 0;
  for (ssize_t j = 0; j < counts.toTensor().numel(); ++j) total += m->counts[j];
  return total == row.numel() && total * block == values.numel();
}

// splice(features (frames, size), mean (size), istd (size), context, stride) -> (T, (2 * context + 1) * size)
void splice_out(KernelRuntimeContext& context, Span<EValue*> args) {
  const Tensor& x = args[0]->toTensor();
  const int around = static_cast<int>(args[3]->toInt()), stride = static_cast<int>(args[4]->toInt());
  const Tensor& out = args[5]->toTensor();
  const int size = static_cast<int>(x.size(1)), frames = (static_cast<int>(x.size(0)) - 2 * around) / stride;
  DIRNET_CHECK(frames >= 1 && args[1]->toTensor().numel() == size, "splice: too few frames or another feature size");
  DIRNET_CHECK(resize(out, {frames, (2 * around + 1) * size}), "splice: more frames than the program allows");
  dirnet::splice(floats(x), floats(args[1]->toTensor()), floats(args[2]->toTensor()), frames, size, around, stride,
                 out.mutable_data_ptr<float>());
}

// project(x (T, N), dictionary?, values, index?, counts?, bias?, block) -> (T, M)
void project_out(KernelRuntimeContext& context, Span<EValue*> args) {
  const Tensor& x = args[0]->toTensor();
  const Tensor& out = args[7]->toTensor();
  const int frames = static_cast<int>(x.size(0));
  const float* input = floats(x);
  dirnet::Matrix dictionary, codes;
  int rows = static_cast<int>(x.size(1));
  if (!args[1]->isNone()) {
    DIRNET_CHECK(matrix_from(rows, args[1]->toTensor(), *args[3], *args[4], 0, &dictionary), "project: dictionary");
    rows = dictionary.columns;
  }
  DIRNET_CHECK(matrix_from(rows, args[2]->toTensor(), *args[3], *args[4], args[6]->toInt(), &codes), "project: codes");
  DIRNET_CHECK(args[5]->isNone() || args[5]->toTensor().numel() == codes.columns, "project: bias");
  DIRNET_CHECK(resize(out, {frames, codes.columns}), "project: more frames than the program allows");
  const size_t tile = static_cast<size_t>(x.size(1) > rows ? x.size(1) : rows) * dirnet::kTile;
  float* memory = scratch(tile + static_cast<size_t>(frames) * rows);
  if (dictionary.values) {
    dirnet::multiply(dictionary, input, frames, nullptr, memory + tile, memory);
    input = memory + tile;
  }
  dirnet::multiply(codes, input, frames, floats_or_null(*args[5]), out.mutable_data_ptr<float>(), memory);
}

// rnn_layer(gates (T, G*n), u (1, p), memory (1, n), dictionary?, values, index?, counts?, bias?, block, cell, coded)
// -> y (T, p if coded else n), u, memory
void rnn_layer_out(KernelRuntimeContext& context, Span<EValue*> args) {
  const Tensor& gates = args[0]->toTensor();
  const Tensor &u = args[1]->toTensor(), &cells = args[2]->toTensor();
  const auto cell = static_cast<dirnet::Cell>(args[9]->toInt());
  const bool coded = args[10]->toBool();
  const Tensor &y = args[11]->toTensor(), &u_out = args[12]->toTensor(), &cells_out = args[13]->toTensor();
  const int frames = static_cast<int>(gates.size(0)), n = static_cast<int>(cells.numel()), p = static_cast<int>(u.numel());
  DIRNET_CHECK(cell >= dirnet::kLstm && cell <= dirnet::kRnn, "rnn_layer: unknown cell");
  dirnet::Matrix dictionary, codes;
  const bool has_dictionary = !args[3]->isNone();
  if (has_dictionary)
    DIRNET_CHECK(matrix_from(n, args[3]->toTensor(), *args[5], *args[6], 0, &dictionary), "rnn_layer: dictionary");
  DIRNET_CHECK((has_dictionary ? dictionary.columns : n) == p, "rnn_layer: state u has another size than the codes");
  DIRNET_CHECK(matrix_from(p, args[4]->toTensor(), *args[5], *args[6], args[8]->toInt(), &codes), "rnn_layer: codes");
  DIRNET_CHECK(codes.columns == dirnet::kGates[cell] * n && gates.size(1) == codes.columns, "rnn_layer: gates");
  DIRNET_CHECK(args[7]->isNone() || args[7]->toTensor().numel() == codes.columns, "rnn_layer: bias");
  DIRNET_CHECK(resize(y, {frames, coded ? p : n}) && resize(u_out, {1, p}) && resize(cells_out, {1, n}),
               "rnn_layer: more frames than the program allows");
  float *u_now = u_out.mutable_data_ptr<float>(), *cells_now = cells_out.mutable_data_ptr<float>();
  for (int i = 0; i < p; ++i) u_now[i] = floats(u)[i];
  for (int i = 0; i < n; ++i) cells_now[i] = floats(cells)[i];
  dirnet::rnn_layer(cell, has_dictionary ? &dictionary : nullptr, codes, floats(gates), frames, n,
                    floats_or_null(*args[7]), coded, u_now, cells_now, y.mutable_data_ptr<float>(),
                    scratch(static_cast<size_t>(codes.columns) + n));
}

const executorch::runtime::Kernel kernels[] = {
    executorch::runtime::Kernel("dirnet::splice.out", splice_out),
    executorch::runtime::Kernel("dirnet::project.out", project_out),
    executorch::runtime::Kernel("dirnet::rnn_layer.out", rnn_layer_out),
};
[[maybe_unused]] const Error registered = executorch::runtime::register_kernels({kernels, kernels + 3});

}  // namespace
