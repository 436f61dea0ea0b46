// Compares the kernels of every instruction set that this processor has with csrc/reference.h, over cells, layouts,
// types, shifts and odd sizes; prints what it compared, exit status 1 and a line per difference. Blocks and inputs have
// exactly their size, so AddressSanitizer sees a read beyond them.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>

#include "reference.h"

using namespace dirnet;
using reference::Plain;
using reference::Values;

static std::mt19937 generator(1);
static int failures = 0, compared = 0;

static Values random_values(size_t size, float scale) {
  std::uniform_real_distribution<float> uniform(-scale, scale);
  Values values(size);
  for (float& v : values) v = uniform(generator);
  return values;
}

static float to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits &= 0xffff0000u;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

// A random matrix whose codes are dense (block 0) or in blocks; every seventh block column is empty.
static Plain random_matrix(int rows, int atoms, int columns, int block, bool quantised, int reach = 0,
                           bool circular = true) {
  Plain m;
  m.rows = rows, m.atoms = atoms, m.columns = columns, m.reach = reach, m.circular = circular, m.quantised = quantised;
  const auto values = [&](size_t size, int fan) {
    Values v = random_values(size, quantised ? 127.0f : 1.0f / std::sqrt(static_cast<float>(fan)));
    if (quantised)
      for (float& x : v) x = std::nearbyint(x);
    return v;
  };
  const int read = m.code_rows();
  m.dictionary = values(static_cast<size_t>(rows) * atoms, rows);
  m.codes = values(static_cast<size_t>(read) * columns, read);
  if (block)
    for (int k = 0; k < read; ++k)
      for (int j = 0; j < columns / block; ++j)
        if (j % 7 == 3 || generator() % 4)
          for (int i = 0; i < block; ++i) m.codes[k * columns + j * block + i] = 0;
  if (quantised) {
    for (int j = 0; j < atoms; ++j) m.atom_scales.push_back(to_bfloat16(0.01f / std::sqrt(static_cast<float>(rows))));
    for (int k = 0; k < (atoms ? atoms : rows); ++k)
      m.row_scales.push_back(
          to_bfloat16((0.5f + (generator() % 100) * 0.01f) / 127 / std::sqrt(static_cast<float>(read))));
  }
  m.bias = random_values(columns, 1);
  return m;
}

// ---- packing, as layer.h describes it ----

typedef std::vector<uint8_t> Bytes;

template <class T>
static void append(Bytes* to, T value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  to->insert(to->end(), bytes, bytes + sizeof value);
}

static void align(Bytes* to) { to->resize((to->size() + kAlignment - 1) / kAlignment * kAlignment); }

static void append_value(Bytes* to, float value, bool quantised) {
  quantised ? append(to, static_cast<int8_t>(value)) : append(to, value);
}

// The kept `rows` of columns `first .. first + width`, in groups of four where int8 wants it.
static void append_panel(Bytes* to, const Values& v, int pitch, const std::vector<int>& rows, int first, int width,
                         bool q) {
  const int count = static_cast<int>(rows.size()), grouped = q && width >= 4 ? count / 4 * 4 : 0;
  if (q && width < 4) {
    for (int i = 0; i < width; ++i)
      for (int k : rows) append_value(to, v[k * pitch + first + i], q);
    return;
  }
  for (int g = 0; g < grouped; g += 4)
    for (int i = 0; i < width; ++i)
      for (int k = g; k < g + 4; ++k) append_value(to, v[rows[k] * pitch + first + i], q);
  for (int k = grouped; k < count; ++k)
    for (int i = 0; i < width; ++i) append_value(to, v[rows[k] * pitch + first + i], q);
}

static void append_dense(Bytes* to, const Values& v, int rows, int columns, bool q) {
  std::vector<int> all;
  for (int k = 0; k < rows; ++k) all.push_back(k);
  for (int first = 0, width; first < columns; first += width) {
    width = panel_width(columns - first);
    append_panel(to, v, columns, all, first, width, q);
  }
}

static void append_matrix(Bytes* to, const Plain& m, int block, bool masked, int32_t* fields) {
  int blocks = 0, most = 0;
  if (masked) block = 0;
  if (m.atoms) align(to), append_dense(to, m.dictionary, m.rows, m.atoms, m.quantised);
  if (m.quantised) {
    align(to);
    for (const Values* scales : {&m.atom_scales, &m.row_scales})
      for (float scale : *scales) {
        uint32_t bits;
        std::memcpy(&bits, &scale, sizeof bits);
        append(to, static_cast<uint16_t>(bits >> 16));
      }
  }
  if (block) {
    const int runs = (m.code_rows() + kRun - 1) / kRun, width = m.columns / block;
    std::vector<std::vector<int>> kept(runs * width);  // rows, by run and block column
    for (int j = 0; j < width; ++j)
      for (int k = 0; k < m.code_rows(); ++k)
        for (int i = 0; i < block; ++i)
          if (m.codes[k * m.columns + j * block + i] != 0) {
            kept[k / kRun * width + j].push_back(k), ++blocks;
            break;
          }
    for (const auto& rows : kept) most = std::max(most, static_cast<int>(rows.size()));
    std::vector<int> order, histogram(runs * (most + 1));
    for (int run = 0; run < runs; ++run)
      for (int count = 0; count <= most; ++count)
        for (int j = 0; j < width; ++j)
          if (static_cast<int>(kept[run * width + j].size()) == count)
            order.push_back(j), ++histogram[run * (most + 1) + count];
    for (const auto* numbers : {&histogram, &order}) {
      align(to);
      for (int number : *numbers) append(to, static_cast<uint16_t>(number));
    }
    const auto each = [&](auto act) {
      align(to);
      for (int at = 0; at < runs * width; ++at) act(order[at], kept[at / width * width + order[at]]);
    };
    each([&](int, const std::vector<int>& rows) {
      for (int k : rows) append(to, static_cast<uint8_t>(k % kRun));
    });
    each([&](int j, const std::vector<int>& rows) {
      append_panel(to, m.codes, m.columns, rows, j * block, block, m.quantised);
    });
  } else if (masked) {
    Bytes dense, mask, kept;
    append_dense(&dense, m.codes, m.code_rows(), m.columns, m.quantised);
    const size_t width = m.quantised ? 1 : 4, places = dense.size() / width;
    mask.resize((places + 7) / 8);
    for (size_t k = 0; k < places; ++k) {
      const auto value = dense.begin() + k * width;
      if (std::all_of(value, value + width, [](uint8_t byte) { return byte == 0; })) continue;
      mask[k / 8] |= 1 << k % 8, kept.insert(kept.end(), value, value + width), ++blocks;
    }
    if (!m.quantised) kept.resize(kept.size() + kSpreadSlack * width);
    for (const Bytes& bytes : {mask, kept}) align(to), to->insert(to->end(), bytes.begin(), bytes.end());
  } else {
    align(to);
    append_dense(to, m.codes, m.code_rows(), m.columns, m.quantised);
  }
  if (!m.bias.empty()) {
    align(to);
    for (float b : m.bias) append(to, b);
  }
  const int32_t header[] = {m.rows,  m.atoms,    m.columns,       block,      blocks, most, m.quantised ? 1 : 4,
                            m.reach, m.circular, !m.bias.empty(), m.quantised, masked};
  std::memcpy(fields, header, sizeof header);
}

// A layer in memory of its own size and alignment.
struct Packed {
  Packed(const Plain& input, int input_block, const Plain& recurrent, int recurrent_block,
         bool masked = generator() % 2) {
    Bytes bytes(kHeaderBytes);
    int32_t header[2 + 2 * kMatrixFields] = {kMagic};
    append_matrix(&bytes, input, input_block, masked && input_block == 1, header + 2);
    append_matrix(&bytes, recurrent, recurrent_block, masked && recurrent_block == 1, header + 2 + kMatrixFields);
    header[1] = static_cast<int32_t>(bytes.size());
    std::memcpy(bytes.data(), header, sizeof header);
    size = bytes.size();
    memory.reset(new uint8_t[size]);
    std::memcpy(memory.get(), bytes.data(), size);
    if (!parse(memory.get(), size, &layer)) std::printf("a packed layer is refused\n"), ++failures;
  }
  size_t size;
  std::unique_ptr<uint8_t[]> memory;
  Layer layer;
};

static void compare(const char* what, const char* path, const Plain& m, int block, const Values& found,
                    const Values& expected, float limit) {
  float worst = found.size() == expected.size() ? 0.0f : INFINITY;
  for (size_t i = 0; i < found.size() && i < expected.size(); ++i) {
    const float difference = std::fabs(found[i] - expected[i]);
    if (!(difference <= worst) && worst == worst) worst = difference;
  }
  ++compared;
  if (worst <= limit) return;
  std::printf("%s of %s, %d x %d, %d atoms, block %d, reach %d, %s: differs by %g\n", what, path, m.rows, m.columns,
              m.atoms, block, m.reach, m.quantised ? "int8" : "float", worst);
  ++failures;
}

// Float sums differ in their order. A byte may fall to the other side of a half, which moves a result by one step of
// one weight: 127 * 0.012 / sqrt(rows) steps of at most 1 / 127 (int8 weights are about as large as float ones here).
static float limit_of(const Plain& m) { return m.quantised ? 0.02f : 3e-5f; }

static void test_project(const Kernels& kernels, const Plain& m, int block) {
  const Packed packed(m, block, m, block);
  for (int frames : {1, 3, 4, 9}) {
    const Values x = random_values(static_cast<size_t>(frames) * m.rows, 1);
    Values y(static_cast<size_t>(frames) * m.columns), expected;
    std::vector<char> scratch(scratch_bytes(packed.layer.input));
    kernels.project(packed.layer.input, x.data(), frames, y.data(), scratch.data());
    for (int t = 0; t < frames; ++t) {
      const Values row = write(m, read(m, Values(&x[t * m.rows], &x[t * m.rows] + m.rows)));
      expected.insert(expected.end(), row.begin(), row.end());
    }
    compare("project", kernels.name, m, block, y, expected, limit_of(m));
  }
}

static void test_layer(const Kernels& kernels, Cell cell, int n, int atoms, int block, bool quantised, bool coded) {
  const int inputs = 21, width = kGates[cell] * n, frames = 19;
  const Plain input = random_matrix(inputs, atoms ? 9 : 0, width, block, quantised);
  const Plain recurrent = random_matrix(n, atoms, width, block, quantised, atoms == 5 && n > 2 ? 1 : 0, n % 2);
  const Packed packed(input, block, recurrent, block);
  const Values x = random_values(static_cast<size_t>(frames) * inputs, 1);
  Values u = random_values(recurrent.code_rows(), 1), memory = random_values(n, 1), u2 = u, memory2 = memory;
  Values y(static_cast<size_t>(frames) * (coded ? u.size() : n));
  std::vector<char> scratch(scratch_bytes(packed.layer));
  kernels.rnn_layer(cell, packed.layer, x.data(), frames, n, coded, u.data(), memory.data(), y.data(), scratch.data());
  const Values expected = reference::rnn_layer(cell, input, recurrent, x, n, coded, &u2, &memory2);
  const float limit = limit_of(recurrent) * (quantised ? 3 : 1);
  compare("layer", kernels.name, recurrent, block, y, expected, limit);
  compare("u", kernels.name, recurrent, block, u, u2, limit);
  compare("memory", kernels.name, recurrent, block, memory, memory2, limit);
}

// parse never reads beyond its bytes and refuses what does not fit; what passes makes no kernel read beyond them.
static void test_damage(const Kernels& kernels, const Packed& packed) {
  const size_t header = (2 + 2 * kMatrixFields) * sizeof(int32_t);
  int refused = 0;
  for (int k = 0; k < 800; ++k) {
    const bool whole = k % 4, counted = k < 400;
    const size_t size = whole ? packed.size : generator() % packed.size;
    std::unique_ptr<uint8_t[]> bytes(new uint8_t[size]);
    std::memcpy(bytes.get(), packed.memory.get(), size);
    if (whole) bytes[generator() % (counted ? header : size)] ^= 1 << generator() % 8;
    Layer layer;
    const bool taken = kernels.parse(bytes.get(), size, &layer);
    refused += counted && !taken;
    for (const Matrix* m = &layer.input; taken && m <= &layer.recurrent; ++m) {
      const Values x(static_cast<size_t>(kTile) * m->rows, 0.5f);
      Values y(static_cast<size_t>(kTile) * m->columns);
      std::vector<char> scratch(scratch_bytes(*m));
      for (int frames : {1, kTile}) kernels.project(*m, x.data(), frames, y.data(), scratch.data());
    }
  }
  if (refused < 300) std::printf("%s refuses only %d of 400 damaged layers\n", kernels.name, refused), ++failures;
}

// A row beyond Z in its last run, a block column that is none, runs that have more columns than there are or fewer.
static void test_damaged_runs(const Kernels& kernels, int rows) {
  const Plain m = random_matrix(rows, 0, 48, 8, false);
  const Packed packed(m, 8, m, 8);
  const Matrix& input = packed.layer.input;
  Layer layer;
  const auto taken = [&] { return kernels.parse(packed.memory.get(), packed.size, &layer); };
  auto* index = const_cast<uint8_t*>(input.index) + input.blocks - 1;  // in the last run
  const uint8_t last = *index;
  int wrong = !taken();
  *index = (m.code_rows() - 1) % kRun, wrong += !taken();
  *index = (m.code_rows() - 1) % kRun + 1, wrong += taken();
  *index = last;
  auto* order = const_cast<uint16_t*>(input.order) + 48 / 8 * input.runs() - 1;
  *order += 6, wrong += taken();
  *order -= 6;
  auto* histogram = const_cast<uint16_t*>(input.histogram);
  histogram[0] += 1, histogram[input.most + 1] -= 1, wrong += taken();
  if (wrong) std::printf("%s takes %d damaged runs\n", kernels.name, wrong), ++failures;
}

// Any one bit more or less, also beyond the end, and one there instead of another.
static void test_damaged_mask(const Kernels& kernels, int rows, int columns, bool quantised) {
  const Plain m = random_matrix(rows, 0, columns, 1, quantised);
  const Packed packed(m, 1, m, 1, true);
  auto* mask = const_cast<uint8_t*>(packed.layer.input.mask);
  Layer layer;
  const auto parsed = [&] { return kernels.parse(packed.memory.get(), packed.size, &layer); };
  const int places = rows * columns, bits = (places + 7) / 8 * 8;
  int taken = !parsed();
  for (int bit = 0; bit < bits; ++bit) {
    mask[bit / 8] ^= 1 << bit % 8;
    taken += parsed();
    mask[bit / 8] ^= 1 << bit % 8;
  }
  if (bits > places) {  // as many bits as before, but one beyond the end
    int first = 0;
    while (!(mask[first / 8] >> first % 8 & 1)) ++first;
    mask[first / 8] ^= 1 << first % 8, mask[bits / 8 - 1] ^= 128;
    taken += parsed();
  }
  if (taken) std::printf("%s takes %d damaged masks\n", kernels.name, taken), ++failures;
}

int main(int argc, char**) {
  const bool quick = argc > 1;  // any argument: fewer shapes, for an emulated processor
  for (const Kernels* kernels = available_kernels(); kernels->name; ++kernels) {
    compared = 0;
    for (bool quantised : {false, true}) {
      for (int block : {0, 1, 2, 4, 8, 16})
        for (int rows : {1, 3, 63, 100, 158, 254, 256, 257, 300, 512, 600})
          for (int columns : {16, 48, 79}) {
            if ((block && columns % block) || (quick && (rows == 3 || rows == 100 || rows == 254 || columns == 48)))
              continue;
            test_project(*kernels, random_matrix(rows, 0, columns, block, quantised), block);
          }
      for (int block : {0, 1, 8, 16})
        for (int atoms : {1, 5, 42, 158})
          for (int reach : {0, 1, 3}) {
            test_project(*kernels, random_matrix(61, atoms, 48, block, quantised, reach, false), block);
            test_project(*kernels, random_matrix(60, atoms, 48, block, quantised, reach, true), block);
          }
      for (int block : {1, 8, 16})
        for (int empty : {0, 1, 2}) {
          Plain m = random_matrix(kRun * 2 + 88, 0, 48, block, quantised);
          const int last = std::min(empty * kRun + kRun, m.rows);
          std::fill(m.codes.begin() + empty * kRun * 48, m.codes.begin() + last * 48, 0.0f);
          test_project(*kernels, m, block);
        }
      for (Cell cell : {kLstm, kGru, kRnn})
        for (int n : {272, 528})
          for (int block : {1, 8, 16})
            if (!quick || (cell == kGru && n == 528)) test_layer(*kernels, cell, n, 0, block, quantised, false);
      for (Cell cell : {kLstm, kGru, kRnn})
        for (int n : {1, 16, 37, 48})
          for (int atoms : {0, 5, 33})
            for (bool coded : {false, true})
              for (int block : {0, 1, 8})
                if (!block || kGates[cell] * n % block == 0)
                  test_layer(*kernels, cell, n, atoms, block, quantised, coded);
    }
    for (int block : {0, 8}) {
      const Plain m = random_matrix(60, 33, 48, block, block == 8);
      test_damage(*kernels, Packed(m, block, m, block));
    }
    for (bool quantised : {false, true}) {
      const Plain m = random_matrix(60, 33, 79, 1, quantised);
      test_damage(*kernels, Packed(m, 1, m, 1, true));
    }
    for (int rows : {300, 600}) {
      const Plain m = random_matrix(rows, 0, 48, 8, rows == 600);
      test_damage(*kernels, Packed(m, 8, m, 8));
      test_damaged_runs(*kernels, rows);
    }
    for (int rows : {7, 60, 259})
      for (int columns : {3, 48})
        for (bool quantised : {false, true}) test_damaged_mask(*kernels, rows, columns, quantised);
    std::printf("%s: %d comparisons\n", kernels->name, compared);
  }
  std::printf("%s\n", failures ? "FAILED" : "all equal");
  return failures != 0;
}
