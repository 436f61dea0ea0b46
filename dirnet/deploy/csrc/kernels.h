// The arithmetic of a compressed recurrent layer: u = D^T x, gates = Z^T u, and the cell. No framework, one thread.
//
// A file that includes this names an instruction set by the vec_*.h that it includes first, and is compiled for it:
// kLanes, kByteZero, dot4, dot, expand, pick of int8 and spread of floats come from there, all other floats are the
// compiler's own vectors. layer.h tells how matrices lie in memory.
#pragma once

#include "cell.h"
#include "mask.h"
#include "matrix_float.h"
#include "matrix_int8.h"

namespace dirnet {
namespace {

// u (F, atoms), one after the other, = D^T x of x (F, rows).
template <int F>
inline void dictionary_tile(const Matrix& m, const float* x, float* u, Scratch scratch) {
  if (m.quantised()) return int8_dictionary<F>(m, x, u, m.atoms, scratch);
  const float* frames = interleaved<F>(x, m.rows, scratch.take<float>(static_cast<size_t>(m.rows) * F));
  dense<F>(static_cast<const float*>(m.dictionary), m.rows, m.atoms, frames, nullptr, u);
}

// y (F, columns) = Z^T u + bias of floats, u interleaved.
template <int F>
inline void codes_tile(const Matrix& m, const float* u, float* y) {
  if (m.mask) return masked_tile<F>(m, u, y);
  if (m.block == 0) return dense<F>(static_cast<const float*>(m.codes), m.code_rows(), m.columns, u, m.bias, y);
  with_width(m.block, [&](auto width) { sparse_blocks<width.value, F>(m, u, y); });
}

template <int F>
inline void codes_of(const Matrix& m, const float* u, float* y, Scratch scratch) {
  if (m.quantised()) return int8_codes<F>(m, u, y, scratch);
  codes_tile<F>(m, interleaved<F>(u, m.code_rows(), scratch.take<float>(static_cast<size_t>(m.code_rows()) * F)), y);
}

// One function for any number of frames out of one for a tile.
template <class Tile, class One>
inline void in_tiles(int frames, Tile tile, One one) {
  int f = 0;
  for (; f + kTile <= frames; f += kTile) tile(f);
  for (; f < frames; ++f) one(f);
}

// u (frames, code_rows) = D^T x of x (frames, rows). <delta d, x> = sum_k d[k] x[k + shift]: with shifts every frame is
// read once per shift, moved the other way (0, 1, -1, 2, -2, ...: the order of dirnet.factorization.shift).
inline void read_dictionary(const Matrix& m, const float* x, int frames, float* u, Scratch scratch) {
  if (m.reach == 0) {
    in_tiles(
        frames, [&](int f) { dictionary_tile<kTile>(m, x + f * m.rows, u + f * m.atoms, scratch); },
        [&](int f) { dictionary_tile<1>(m, x + f * m.rows, u + f * m.atoms, scratch); });
    return;
  }
  const int shifts = m.shifts();
  float* moved = scratch.take<float>(static_cast<size_t>(shifts) * m.rows);
  for (int t = 0; t < frames; ++t) {
    const float* from = x + static_cast<size_t>(t) * m.rows;
    for (int s = 0; s < shifts; ++s) {
      const int shift = s % 2 ? (s + 1) / 2 : -s / 2;
      for (int k = 0; k < m.rows; ++k) {
        const int at = k + shift, wrapped = at < 0 ? at + m.rows : at >= m.rows ? at - m.rows : at;
        moved[s * m.rows + k] = at == wrapped || m.circular ? from[wrapped] : 0.0f;
      }
    }
    float* to = u + static_cast<size_t>(t) * m.code_rows();
    in_tiles(
        shifts, [&](int s) { dictionary_tile<kTile>(m, moved + s * m.rows, to + s * m.atoms, scratch); },
        [&](int s) { dictionary_tile<1>(m, moved + s * m.rows, to + s * m.atoms, scratch); });
  }
}

inline void project_frames(const Matrix& m, const float* x, int frames, float* y, Scratch scratch) {
  float* read = m.atoms ? scratch.take<float>(static_cast<size_t>(kTile) * m.code_rows()) : nullptr;
  const auto tile = [&](int f, int count, auto codes) {
    const float* u = x + static_cast<size_t>(f) * m.rows;
    if (m.atoms) read_dictionary(m, u, count, read, scratch), u = read;
    codes(u, y + static_cast<size_t>(f) * m.columns);
  };
  in_tiles(
      frames, [&](int f) { tile(f, kTile, [&](const float* u, float* to) { codes_of<kTile>(m, u, to, scratch); }); },
      [&](int f) { tile(f, 1, [&](const float* u, float* to) { codes_of<1>(m, u, to, scratch); }); });
}

inline void project(const Matrix& m, const float* x, int frames, float* y, void* memory) {
  Scratch scratch(memory);
  const Matrix whole = inflated(m, &scratch);
  project_frames(whole, x, frames, y, scratch);
}

inline void rnn_layer(Cell cell, const Layer& layer, const float* x, int frames, int n, bool coded, float* u,
                      float* memory, float* y, void* scratch_memory) {
  Scratch scratch(scratch_memory);
  const Matrix input = inflated(layer.input, &scratch), recurrent = inflated(layer.recurrent, &scratch);
  const int width = kGates[cell] * n, out_size = coded ? recurrent.code_rows() : n;
  float* gates = scratch.take<float>(static_cast<size_t>(kChunk) * width);
  float* returned = scratch.take<float>(width);
  float* h = recurrent.atoms ? scratch.take<float>(n) : u;
  for (int first = 0; first < frames; first += kChunk) {
    const int count = frames - first < kChunk ? frames - first : kChunk;
    project_frames(input, x + static_cast<size_t>(first) * input.rows, count, gates, scratch);
    for (int t = 0; t < count; ++t) {
      codes_of<1>(recurrent, u, returned, scratch);
      cell_step(cell, n, gates + static_cast<size_t>(t) * width, returned, h, memory);
      if (recurrent.atoms) read_dictionary(recurrent, h, 1, u, scratch);
      std::memcpy(y, coded ? u : h, out_size * sizeof(float));
      y += out_size;
    }
  }
}

}  // namespace
}  // namespace dirnet

// Ends a file: its kernels under a name of their own.
#define DIRNET_KERNELS(symbol)                               \
  namespace dirnet {                                         \
  extern const Kernels symbol;                               \
  const Kernels symbol = {kPath, parse, project, rnn_layer}; \
  }
