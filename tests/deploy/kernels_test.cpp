// Compares csrc/kernels.h with csrc/reference.h over cells, layouts, block sizes and odd sizes; exit status 1 and a line
// per difference. Every array has exactly its size, so AddressSanitizer sees a read or write beyond it.
#include <cstdio>
#include <memory>
#include <random>

#include "reference.h"

using namespace dirnet;
using reference::Values;

static std::mt19937 generator(1);
static int failures = 0;

static Values random_values(size_t size, float scale) {
  std::uniform_real_distribution<float> uniform(-scale, scale);
  Values values(size);
  for (float& v : values) v = uniform(generator);
  return values;
}

struct Stored {
  Values values;
  std::vector<uint8_t> index8;
  std::vector<uint16_t> index16, counts;
  Matrix matrix;
};

static std::unique_ptr<Stored> random_matrix(int rows, int columns, int block) {
  auto s = std::make_unique<Stored>();
  size_t size = static_cast<size_t>(rows) * columns;
  if (block) {
    size = 0;
    for (int j = 0; j < columns / block; ++j) {
      s->counts.push_back(0);
      if (j % 7 == 3) continue;  // an empty column
      for (int row = 0; row < rows; ++row)
        if (generator() % 4 == 0) {
          ++s->counts.back();
          rows <= 256 ? s->index8.push_back(static_cast<uint8_t>(row)) : s->index16.push_back(static_cast<uint16_t>(row));
          size += block;
        }
    }
  }
  s->values = random_values(size, 1.0f / std::sqrt(static_cast<float>(rows)));
  s->matrix.rows = rows;
  s->matrix.columns = columns;
  s->matrix.block = block;
  s->matrix.values = s->values.data();
  s->matrix.index8 = rows <= 256 ? s->index8.data() : nullptr;
  s->matrix.index16 = s->index16.data();
  s->matrix.counts = s->counts.data();
  return s;
}

static void compare(const char* what, int a, int b, int c, const Values& found, const Values& expected, float limit) {
  float worst = found.size() == expected.size() ? 0.0f : INFINITY;
  for (size_t i = 0; i < found.size() && i < expected.size(); ++i) {
    const float difference = std::fabs(found[i] - expected[i]);
    if (!(difference <= worst)) worst = difference;
  }
  if (worst <= limit) return;
  std::printf("%s %d %d %d: differs by %g\n", what, a, b, c, worst);
  ++failures;
}

int main() {
  for (int block : {0, 1, 2, 4, 8, 16})
    for (int rows : {1, 3, 158, 256, 257, 300})
      for (int columns : {16, 48, 79}) {
        if (block && columns % block) continue;
        const auto m = random_matrix(rows, columns, block);
        const Values bias = random_values(columns, 1);
        for (int frames : {1, 3, 4, 9}) {
          const Values x = random_values(static_cast<size_t>(frames) * rows, 1);
          Values y(static_cast<size_t>(frames) * columns), scratch(static_cast<size_t>(rows) * kTile);
          const float* b = frames == 3 ? nullptr : bias.data();
          multiply(m->matrix, x.data(), frames, b, y.data(), scratch.data());
          compare("multiply", block, rows, columns, y, reference::multiply(m->matrix, x.data(), frames, b), 2e-5f);
        }
      }

  for (Cell cell : {kLstm, kGru, kRnn})
    for (int n : {1, 16, 37, 48})
      for (int atoms : {0, 5, 33})
        for (bool coded : {false, true})
          for (int block : {0, 1, 8}) {
            const int width = kGates[cell] * n, frames = 6;
            if (block && width % block) continue;
            const int read = atoms ? atoms : n;
            const auto dictionary = random_matrix(n, read, 0), codes = random_matrix(read, width, block);
            const Matrix* d = atoms ? &dictionary->matrix : nullptr;
            const Values gates = random_values(static_cast<size_t>(frames) * width, 3), bias = random_values(width, 1);
            Values u = random_values(read, 1), memory = random_values(n, 1), u2 = u, memory2 = memory;
            Values y(static_cast<size_t>(frames) * (coded ? read : n)), scratch(static_cast<size_t>(width) + n);
            rnn_layer(cell, d, codes->matrix, gates.data(), frames, n, bias.data(), coded, u.data(), memory.data(),
                      y.data(), scratch.data());
            const Values expected = reference::rnn_layer(cell, d, codes->matrix, gates.data(), frames, n, bias.data(),
                                                         coded, &u2, &memory2);
            compare("y", cell, n, block, y, expected, 2e-5f);
            compare("u", cell, n, block, u, u2, 2e-5f);
            compare("memory", cell, n, block, memory, memory2, 2e-5f);
          }

  float worst = 0;
  for (float x = -12; x < 12; x += 1e-4f) worst = std::fmax(worst, std::fabs(fast_tanh(x) - std::tanh(x)));
  if (!(worst < 4e-7f) || !std::isnan(fast_tanh(NAN))) std::printf("tanh: differs by %g\n", worst), ++failures;

  const Values x = random_values(14 * 3, 1), mean = random_values(3, 1), istd = random_values(3, 1);
  Values y(2 * 15), expected;  // 2 outputs, stride 5, context 2
  splice(x.data(), mean.data(), istd.data(), 2, 3, 2, 5, y.data());
  for (int t : {0, 5})
    for (int k = 0; k < 15; ++k) expected.push_back((x[t * 3 + k] - mean[k % 3]) * istd[k % 3]);
  compare("splice", 2, 3, 5, y, expected, 1e-6f);

  std::printf("%s\n", failures ? "FAILED" : "all equal");
  return failures != 0;
}
