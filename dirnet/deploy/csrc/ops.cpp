// The ExecuTorch operators dirnet::splice and dirnet::rnn_layer: argument checks around the kernels. Their schemas,
// their shapes and a plain torch reference are in ../ops.py.
#include <executorch/runtime/kernel/kernel_includes.h>
#include <executorch/runtime/kernel/operator_registry.h>

#include <cstring>
#include <memory>

#include "layer.h"

namespace {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::Span;

#define DIRNET_CHECK(condition, what) ET_KERNEL_CHECK_MSG(context, condition, InvalidArgument, , "dirnet: %s", what)

// Aligned memory of this thread for the time of one call.
void* scratch(size_t bytes) {
  thread_local std::unique_ptr<char[]> memory;
  thread_local size_t size = 0;
  if (size < bytes + dirnet::kAlignment) memory.reset(new char[size = bytes + dirnet::kAlignment]);
  const auto start = reinterpret_cast<uintptr_t>(memory.get());
  return reinterpret_cast<void*>((start + dirnet::kAlignment - 1) / dirnet::kAlignment * dirnet::kAlignment);
}

const float* floats(const Tensor& t) { return t.const_data_ptr<float>(); }

bool resize(const Tensor& out, std::initializer_list<SizesType> sizes) {
  return executorch::runtime::resize_tensor(out, {sizes.begin(), sizes.size()}) == Error::Ok;
}

// splice(features (frames, size), mean (size), istd (size), context, stride) -> (T, (2 * context + 1) * size): the
// normalised frames around every stride-th one, side by side.
void splice_out(KernelRuntimeContext& context, Span<EValue*> args) {
  const Tensor& x = args[0]->toTensor();
  const int around = static_cast<int>(args[3]->toInt()), stride = static_cast<int>(args[4]->toInt());
  const Tensor& out = args[5]->toTensor();
  const int size = static_cast<int>(x.size(1)), window = 2 * around + 1;
  const int frames = (static_cast<int>(x.size(0)) - 2 * around) / stride;
  DIRNET_CHECK(frames >= 1 && args[1]->toTensor().numel() == size, "splice: too few frames or another feature size");
  DIRNET_CHECK(resize(out, {frames, window * size}), "splice: more frames than the program allows");
  const float *mean = floats(args[1]->toTensor()), *istd = floats(args[2]->toTensor());
  float* y = out.mutable_data_ptr<float>();
  for (int t = 0; t < frames; ++t)
    for (int k = 0; k < window; ++k)
      for (int i = 0; i < size; ++i) *y++ = (floats(x)[(t * stride + k) * size + i] - mean[i]) * istd[i];
}

// rnn_layer(x (T, inputs), u (1, p), memory (1, n), weights, cell, coded) -> y (T, p if coded else n), u, memory
void rnn_layer_out(KernelRuntimeContext& context, Span<EValue*> args) {
  static const dirnet::Kernels& kernels = *dirnet::available_kernels();
  const Tensor &x = args[0]->toTensor(), &u = args[1]->toTensor(), &cells = args[2]->toTensor();
  const Tensor& weights = args[3]->toTensor();
  const auto cell = static_cast<dirnet::Cell>(args[4]->toInt());
  const bool coded = args[5]->toBool();
  const Tensor &y = args[6]->toTensor(), &u_out = args[7]->toTensor(), &cells_out = args[8]->toTensor();
  const int frames = static_cast<int>(x.size(0)), n = static_cast<int>(cells.numel()), p = static_cast<int>(u.numel());
  dirnet::Layer layer;
  DIRNET_CHECK(cell >= dirnet::kLstm && cell <= dirnet::kRnn, "rnn_layer: unknown cell");
  DIRNET_CHECK(weights.scalar_type() == ScalarType::Byte &&
                   kernels.parse(weights.const_data_ptr<uint8_t>(), weights.numel(), &layer),
               "rnn_layer: damaged weights, or those of another version");
  const dirnet::Matrix &input = layer.input, &recurrent = layer.recurrent;
  DIRNET_CHECK(input.rows == x.size(1) && input.columns == dirnet::kGates[cell] * n, "rnn_layer: input matrix");
  DIRNET_CHECK(recurrent.rows == n && recurrent.columns == input.columns, "rnn_layer: recurrent matrix");
  DIRNET_CHECK(recurrent.code_rows() == p, "rnn_layer: state u has another size than what the codes read");
  DIRNET_CHECK(resize(y, {frames, coded ? p : n}) && resize(u_out, {1, p}) && resize(cells_out, {1, n}),
               "rnn_layer: more frames than the program allows");
  float *u_now = u_out.mutable_data_ptr<float>(), *cells_now = cells_out.mutable_data_ptr<float>();
  std::memcpy(u_now, floats(u), p * sizeof(float));
  std::memcpy(cells_now, floats(cells), n * sizeof(float));
  kernels.rnn_layer(cell, layer, floats(x), frames, n, coded, u_now, cells_now, y.mutable_data_ptr<float>(),
                    scratch(dirnet::scratch_bytes(layer)));
}

const executorch::runtime::Kernel kernels[] = {
    executorch::runtime::Kernel("dirnet::splice.out", splice_out),
    executorch::runtime::Kernel("dirnet::rnn_layer.out", rnn_layer_out),
};
[[maybe_unused]] const Error registered = executorch::runtime::register_kernels({kernels, kernels + 2});

}  // namespace
