// A recurrent layer as it lies in a program: one contiguous block of bytes, every section on a multiple of 64, in the
// order in which it is read, so nothing is repacked at load and a .pte may stay mapped. ../packing.py writes it. Only
// int8 codes with a mask get their zeros back in scratch memory, once a call (mask.h).
//
//   header     int32: magic, size in bytes, then of the input and of the recurrent matrix rows N, atoms p (0: no
//              dictionary), columns M, block (0: dense codes, with or without a mask), blocks (with a mask: codes),
//              the most blocks that a block column has in a run, bytes per value (4: float, 1: int8), reach of the
//              shifts, 1 if these are circular, 1 if there is a bias, 1 if there are scales, 1 if there is a mask;
//              zeros up to kHeaderBytes
//   of either matrix, input first:
//   dictionary (N, p) in panels
//   scales     bfloat16, of int8: of the p atoms, then of the p rows of Z; of its N rows where there is no dictionary.
//              None where the codes read what another layer's dictionary gave: the scales of Z's rows are in it
//   histogram  uint16, sparse codes only, of every run of 256 rows of Z: how many block columns have 0, 1, 2, ...
//              blocks in it
//   order      uint16, of every run: the block columns by their number of blocks, so that loops of one length follow
//              one another
//   index      uint8: which row of its run a block has, run by run, in a run column by column in that order. A pair of
//              shift s and atom j is row s * p + j of Z.
//   mask       of single codes, where that takes fewer bytes (dirnet/nn/indices.py), instead of the last three: a bit
//              for every value of dense codes in their panels, set where it is kept
//   codes      dense in panels, with a mask only what is kept of them, or block by block in the order of index; after
//              floats with a mask kSpreadSlack zeros, which a vector may read beyond the last of them
//   bias       float (M)
//
// Panels: 16 columns each, the rest in panels of 8, 4, 2, 1. A float panel (and a float block) holds its rows one after
// the other. Int8 panels of 4 and more columns, and the blocks of one block column and run together, hold groups of
// four rows as a dot product instruction reads them, (rows / 4, columns, 4), then the remaining rows one after the
// other; narrower ones hold their columns one after the other.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dirnet {

enum Cell { kLstm = 0, kGru = 1, kRnn = 2 };
constexpr int kGates[] = {4, 3, 1};

constexpr int32_t kMagic = 0x344c4e44;  // "DNL4"
constexpr size_t kAlignment = 64, kHeaderBytes = 128;
constexpr int kMatrixFields = 12, kWidestBlock = 16;
constexpr int kRun = 256;  // rows of Z that an index tells apart

constexpr size_t kInflateSlack = 64;  // bytes that may be written beyond codes whose zeros are put back
constexpr size_t kSpreadSlack = 8;

constexpr int kTile = 4;  // frames that share one pass over the weights of an input matrix
constexpr int kChunk =
    16;  // frames whose gates wait for the recurrence at a time: more would push weights out of cache

// y = Z^T u + bias of u = D^T x, or of u = x where there is no dictionary.
struct Matrix {
  int rows = 0, atoms = 0, columns = 0, block = 0, blocks = 0, most = 0, value_bytes = 4, reach = 0, circular = 0;
  const void* dictionary = nullptr;
  const uint16_t *atom_scales = nullptr, *row_scales = nullptr;  // bfloat16, int8 only
  const uint16_t *histogram = nullptr, *order = nullptr;
  const uint8_t *mask = nullptr, *index = nullptr;
  const void* codes = nullptr;
  const float* bias = nullptr;

  [[gnu::always_inline]] bool quantised() const { return value_bytes == 1; }
  [[gnu::always_inline]] int shifts() const { return 2 * reach + 1; }
  [[gnu::always_inline]] int code_rows() const { return atoms ? atoms * shifts() : rows; }
  [[gnu::always_inline]] int runs() const { return (code_rows() + kRun - 1) / kRun; }
  [[gnu::always_inline]] size_t places() const { return static_cast<size_t>(code_rows()) * columns; }
};

struct Layer {
  Matrix input, recurrent;
};

namespace {  // every file compiles its own copies: they may use other instructions

// The columns of one panel of a dense matrix of which `left` columns are left.
inline int panel_width(int left) {
  int width = kWidestBlock;
  while (width > left) width /= 2;
  return width;
}

// The largest of `count` numbers, 0 of none; a loop that compilers make vectors of, as every call checks its weights.
template <class T>
inline size_t largest(const T* numbers, size_t count) {
  T most = 0;
  for (size_t k = 0; k < count; ++k) most = numbers[k] > most ? numbers[k] : most;
  return most;
}

// Whether `mask` has `count` bits among its first `places`, and none beyond them.
inline bool has_bits(const uint8_t* mask, size_t places, size_t count) {
  const size_t bytes = (places + 7) / 8;
  size_t sums[4] = {}, k = 0;  // in one chain every sum would wait for the last
  for (uint64_t bits[4]; k + sizeof bits <= bytes; k += sizeof bits) {
    __builtin_memcpy(bits, mask + k, sizeof bits);
    for (int i = 0; i < 4; ++i) sums[i] += __builtin_popcountll(bits[i]);
  }
  size_t found = sums[0] + sums[1] + sums[2] + sums[3];
  for (; k < bytes; ++k) found += __builtin_popcount(mask[k]);
  return found == count && !(places % 8 && mask[bytes - 1] >> places % 8);
}

// Views of the matrices of `size` bytes at `bytes`; false if they are not such a block, so that no kernel reads beyond.
inline bool parse(const uint8_t* bytes, size_t size, Layer* layer) {
  const auto* header = reinterpret_cast<const int32_t*>(bytes);
  if (size < kHeaderBytes || header[0] != kMagic || static_cast<size_t>(header[1]) != size) return false;
  size_t at = kHeaderBytes;
  bool fits = true;
  const auto section = [&](bool there, size_t count, size_t width) -> const uint8_t* {
    if (!there || !fits) return nullptr;
    at = (at + kAlignment - 1) / kAlignment * kAlignment;
    const uint8_t* start = bytes + at;
    at += count * width;
    fits = at <= size;
    return start;
  };
  for (int half = 0; half < 2; ++half) {
    Matrix* m = half ? &layer->recurrent : &layer->input;
    const int32_t* field = header + 2 + half * kMatrixFields;
    for (int i = 0; i < kMatrixFields; ++i)
      if (field[i] < 0 || field[i] > (1 << 24)) return false;
    *m = Matrix();
    m->rows = field[0], m->atoms = field[1], m->columns = field[2], m->block = field[3], m->blocks = field[4];
    m->most = field[5], m->value_bytes = field[6], m->reach = field[7], m->circular = field[8];
    const int bias = field[9], scaled = field[10], masked = field[11];
    const int b = m->block;
    if (!m->rows || !m->columns || !(b == 0 || b == 1 || b == 2 || b == 4 || b == 8 || b == 16)) return false;
    if ((b && m->columns % b) || (m->value_bytes != 1 && m->value_bytes != 4)) return false;
    if ((m->quantised() && m->atoms && !scaled) || m->shifts() > m->rows) return false;
    const size_t rows = m->atoms ? static_cast<size_t>(m->atoms) * m->shifts() : m->rows;
    if (rows > 65536) return false;
    if (masked && b) return false;
    const size_t slack = masked && !m->quantised() ? kSpreadSlack : 0;
    const size_t stored = masked ? m->blocks + slack : b ? static_cast<size_t>(m->blocks) * b : rows * m->columns;
    m->dictionary = section(m->atoms, static_cast<size_t>(m->rows) * m->atoms, m->value_bytes);
    const uint8_t* scales = section(scaled, m->atoms ? 2 * m->atoms : m->rows, sizeof(uint16_t));
    m->atom_scales = m->atoms ? reinterpret_cast<const uint16_t*>(scales) : nullptr;
    m->row_scales = reinterpret_cast<const uint16_t*>(scales) + (scales ? m->atoms : 0);
    const size_t block_columns = b ? m->columns / b : 0, runs = m->runs(), counts = m->most + 1;
    m->histogram = reinterpret_cast<const uint16_t*>(section(b, runs * counts, sizeof(uint16_t)));
    m->order = reinterpret_cast<const uint16_t*>(section(b, runs * block_columns, sizeof(uint16_t)));
    m->index = section(b, m->blocks, 1);
    m->mask = section(masked, (rows * m->columns + 7) / 8, 1);
    m->codes = section(true, stored, m->value_bytes);
    m->bias = reinterpret_cast<const float*>(section(bias, m->columns, sizeof(float)));
    if (!fits || (masked && !has_bits(m->mask, rows * m->columns, m->blocks))) return false;
    if (!b) continue;
    size_t before = 0;  // blocks
    for (size_t run = 0; run < runs; ++run) {
      size_t columns = 0, blocks = 0;
      for (size_t count = 0; count < counts; ++count) {
        const size_t number = m->histogram[run * counts + count];
        columns += number, blocks += number * count;
      }
      if (columns != block_columns || blocks > m->blocks - before) return false;
      if (blocks && largest(m->index + before, blocks) >= rows - run * kRun) return false;
      before += blocks;
    }
    if (before != static_cast<size_t>(m->blocks)) return false;
    if (largest(m->order, runs * block_columns) >= block_columns) return false;
  }
  return true;
}

}  // namespace

// The kernels compiled for one instruction set. All arrays are float32, row after row.
struct Kernels {
  const char* name;
  // As above.
  bool (*parse)(const uint8_t* bytes, size_t size, Layer* layer);
  // y (frames, columns) = Z^T D^T x + bias of x (frames, rows).
  void (*project)(const Matrix& m, const float* x, int frames, float* y, void* scratch);
  // The recurrence over x (frames, input.rows). `u` (recurrent.code_rows()) is what the recurrent codes read, `memory`
  // (n) is c of an LSTM, else h; both come in and go out. y[t] is u_t if `coded`, for a consumer that shares the
  // dictionary (one D^T h serves both), else h_t (n).
  void (*rnn_layer)(Cell cell, const Layer& layer, const float* x, int frames, int n, bool coded, float* u,
                    float* memory, float* y, void* scratch);
};

// Bytes of scratch memory that `project` or `rnn_layer` may use for any number of frames.
size_t scratch_bytes(const Matrix& m);
size_t scratch_bytes(const Layer& layer);

// The kernels of this processor, the fastest first, ended by one without a name; the last one runs everywhere.
const Kernels* available_kernels();

}  // namespace dirnet
