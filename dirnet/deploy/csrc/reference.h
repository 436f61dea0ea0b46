// kernels.h once more, as slowly and plainly as it can be said; the tests compare the two.
#pragma once

#include <cmath>
#include <vector>

#include "kernels.h"

namespace dirnet::reference {

using Values = std::vector<float>;

// The dense (rows, columns) matrix of a stored one.
inline Values unpack(const Matrix& m) {
  Values dense(static_cast<size_t>(m.rows) * m.columns, 0.0f);
  const float* value = m.values;
  if (m.block == 0) {
    for (int first = 0, width = 16; first < m.columns; first += width) {
      while (first + width > m.columns) width /= 2;
      for (int row = 0; row < m.rows; ++row)
        for (int i = 0; i < width; ++i) dense[row * m.columns + first + i] = *value++;
    }
    return dense;
  }
  int k = 0;
  for (int j = 0; j < m.columns / m.block; ++j)
    for (int b = 0; b < m.counts[j]; ++b, ++k) {
      const int row = m.index8 ? m.index8[k] : m.index16[k];
      for (int i = 0; i < m.block; ++i) dense[row * m.columns + j * m.block + i] = *value++;
    }
  return dense;
}

inline Values multiply(const Matrix& m, const float* x, int frames, const float* bias) {
  const Values dense = unpack(m);
  Values y(static_cast<size_t>(frames) * m.columns);
  for (int t = 0; t < frames; ++t)
    for (int j = 0; j < m.columns; ++j) {
      double sum = bias ? bias[j] : 0.0;
      for (int k = 0; k < m.rows; ++k) sum += static_cast<double>(x[t * m.rows + k]) * dense[k * m.columns + j];
      y[t * m.columns + j] = static_cast<float>(sum);
    }
  return y;
}

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

inline void cell_step(Cell cell, int n, const float* x, const float* r, float* h, float* memory) {
  for (int i = 0; i < n; ++i) {
    const auto sum = [&](int gate) { return static_cast<double>(x[gate * n + i]) + r[gate * n + i]; };
    if (cell == kLstm) {
      memory[i] = static_cast<float>(sigmoid(sum(1)) * memory[i] + sigmoid(sum(0)) * std::tanh(sum(2)));
      h[i] = static_cast<float>(sigmoid(sum(3)) * std::tanh(memory[i]));
    } else if (cell == kGru) {
      const double candidate = std::tanh(x[2 * n + i] + sigmoid(sum(0)) * r[2 * n + i]);
      h[i] = memory[i] = static_cast<float>(candidate + sigmoid(sum(1)) * (memory[i] - candidate));
    } else {
      h[i] = memory[i] = static_cast<float>(std::tanh(sum(0)));
    }
  }
}

inline Values rnn_layer(Cell cell, const Matrix* dictionary, const Matrix& codes, const float* gates, int frames, int n,
                        const float* bias, bool coded, Values* u, Values* memory) {
  Values y, h(n);
  for (int t = 0; t < frames; ++t) {
    const Values recurrent = multiply(codes, u->data(), 1, bias);
    reference::cell_step(cell, n, gates + t * codes.columns, recurrent.data(), h.data(), memory->data());
    *u = dictionary ? multiply(*dictionary, h.data(), 1, nullptr) : h;
    const Values& out = coded ? *u : h;
    y.insert(y.end(), out.begin(), out.end());
  }
  return y;
}

}  // namespace dirnet::reference
