// The cells, from gate pre-activations to the next h.
#pragma once

#include "layer.h"

namespace dirnet {
namespace {

// tanh as a ratio of polynomials of degree 13 and 6 (the coefficients are Eigen's): error below 3e-7, NaN stays NaN.
// Kept as a ratio p / q: a cell needs two divisions instead of one per gate.
struct Ratio {
  float p, q;
};

inline Ratio tanh_ratio(float x) {
  constexpr float limit = 7.90531110763549805f;
  x = x < -limit ? -limit : x;
  x = x > limit ? limit : x;
  const float s = x * x;
  float p = -2.76076847742355e-16f * s + 2.00018790482477e-13f;
  p = p * s - 8.60467152213735e-11f;
  p = p * s + 5.12229709037114e-08f;
  p = p * s + 1.48572235717979e-05f;
  p = p * s + 6.37261928875436e-04f;
  p = p * s + 4.89352455891786e-03f;
  float q = 1.19825839466702e-06f * s + 1.18534705686654e-04f;
  q = q * s + 2.26843463243900e-03f;
  q = q * s + 4.89352518554385e-03f;
  return {x * p, q};
}

inline Ratio sigmoid_ratio(float x) {  // (1 + tanh(x / 2)) / 2
  const Ratio t = tanh_ratio(0.5f * x);
  return {0.5f * (t.q + t.p), t.q};
}

inline float fast_tanh(float x) {
  const Ratio t = tanh_ratio(x);
  return t.p / t.q;
}

// One step of the cell from the two halves of its gate pre-activations (biases included), gates in torch's order.
// h (n) is written; memory (n) is c of an LSTM, else the last h. Not inlined: there the compiler forgets __restrict.
[[gnu::noinline]] inline void cell_step(Cell cell, int n, const float* __restrict x, const float* __restrict r,
                                        float* __restrict h, float* __restrict memory) {
  switch (cell) {
    case kLstm:
#pragma omp simd
      for (int i = 0; i < n; ++i) {
        const Ratio in = sigmoid_ratio(x[i] + r[i]), forget = sigmoid_ratio(x[n + i] + r[n + i]);
        const Ratio cand = tanh_ratio(x[2 * n + i] + r[2 * n + i]), out = sigmoid_ratio(x[3 * n + i] + r[3 * n + i]);
        const float written = in.q * cand.q, c = forget.p * memory[i] * written + in.p * cand.p * forget.q;
        memory[i] = c / (forget.q * written);
        const Ratio shown = tanh_ratio(memory[i]);
        h[i] = out.p * shown.p / (out.q * shown.q);
      }
      break;
    case kGru:
#pragma omp simd
      for (int i = 0; i < n; ++i) {
        const Ratio reset = sigmoid_ratio(x[i] + r[i]), update = sigmoid_ratio(x[n + i] + r[n + i]);
        const Ratio cand = tanh_ratio(x[2 * n + i] + reset.p / reset.q * r[2 * n + i]);
        const float kept = update.p * memory[i] * cand.q + (update.q - update.p) * cand.p;
        memory[i] = h[i] = kept / (update.q * cand.q);
      }
      break;
    case kRnn:
#pragma omp simd
      for (int i = 0; i < n; ++i) memory[i] = h[i] = fast_tanh(x[i] + r[i]);
      break;
  }
}

}  // namespace
}  // namespace dirnet
