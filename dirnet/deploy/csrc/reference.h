// kernels.h once more, as slowly and plainly as it can be said, on dense matrices; the tests compare the two.
#pragma once

#include <cmath>
#include <vector>

#include "layer.h"

namespace dirnet::reference {

using Values = std::vector<float>;

// What a Matrix stands for. With int8, the values of D and Z are integers, their scales stand beside them.
struct Plain {
  int rows = 0, atoms = 0, columns = 0, reach = 0;
  bool circular = false, quantised = false;
  Values dictionary, codes, atom_scales, row_scales, bias;  // (rows, atoms), (code_rows, columns), ..., empty: none

  int shifts() const { return 2 * reach + 1; }
  int code_rows() const { return atoms ? atoms * shifts() : rows; }
};

// x in steps of max |x| / 127 as int8 holds it; anything else as it is.
inline Values rounded(const Values& x, bool quantised, double* step) {
  *step = 1;
  if (!quantised) return x;
  float largest = 0;
  for (float v : x) largest = std::fmax(largest, std::fabs(v));
  *step = largest / 127.0;
  Values steps;
  for (float v : x) steps.push_back(largest > 1e-30f ? std::nearbyint(v * (127.0f / largest)) : 0.0f);
  return steps;
}

// u = D^T x for every shift of the atoms, in the order 0, 1, -1, 2, -2, ...
inline Values read(const Plain& m, const Values& x) {
  if (!m.atoms) return x;
  Values u;
  for (int s = 0; s < m.shifts(); ++s) {
    const int shift = s % 2 ? (s + 1) / 2 : -s / 2;
    for (int j = 0; j < m.atoms; ++j) {
      double step, sum = 0;
      Values moved(m.rows, 0.0f);  // delta^T x
      for (int k = 0; k < m.rows; ++k)
        if (m.circular || (k + shift >= 0 && k + shift < m.rows)) moved[k] = x[(k + shift + m.rows) % m.rows];
      const Values bytes = rounded(moved, m.quantised, &step);
      for (int k = 0; k < m.rows; ++k) sum += static_cast<double>(m.dictionary[k * m.atoms + j]) * bytes[k];
      u.push_back(static_cast<float>(sum * step * (m.quantised ? m.atom_scales[j] * m.row_scales[j] : 1.0f)));
    }
  }
  return u;
}

// y = Z^T u + bias
inline Values write(const Plain& m, Values u) {
  if (m.quantised && !m.atoms)
    for (int k = 0; k < m.rows; ++k) u[k] *= m.row_scales[k];
  double step;
  u = rounded(u, m.quantised, &step);
  Values y;
  for (int j = 0; j < m.columns; ++j) {
    double sum = 0;
    for (int k = 0; k < m.code_rows(); ++k) sum += static_cast<double>(u[k]) * m.codes[k * m.columns + j];
    y.push_back(static_cast<float>(sum * step + (m.bias.empty() ? 0.0f : m.bias[j])));
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

inline Values rnn_layer(Cell cell, const Plain& input, const Plain& recurrent, const Values& x, int n, bool coded,
                        Values* u, Values* memory) {
  Values y, h(n);
  for (size_t at = 0; at < x.size(); at += input.rows) {
    const Values gates = write(input, read(input, Values(&x[at], &x[at] + input.rows)));
    const Values returned = write(recurrent, *u);
    reference::cell_step(cell, n, gates.data(), returned.data(), h.data(), memory->data());
    *u = read(recurrent, h);
    const Values& out = coded ? *u : h;
    y.insert(y.end(), out.begin(), out.end());
  }
  return y;
}

}  // namespace dirnet::reference
