#include "features.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

#include "mistake.h"

namespace dirnet::runner {

Features read_features(const std::string& path, int size) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw Mistake("features " + path + " are not there or cannot be read; give a .npy file");
  const std::string content{std::istreambuf_iterator<char>(stream), {}};
  const Mistake wrong("features " + path + " are no whole .npy file of float32 (frames, " + std::to_string(size) +
                      "); save one with numpy.save");
  // magic, version (2), header length (2 bytes in version 1, 4 later), header, data
  if (content.size() < 12 || content.compare(0, 6, "\x93NUMPY") != 0) throw wrong;
  const auto byte = [&content](size_t at) { return static_cast<size_t>(static_cast<uint8_t>(content[at])); };
  const bool old = content[6] == 1;
  const size_t start = old ? 10 : 12;
  size_t length = byte(8) | byte(9) << 8;
  if (!old) length |= byte(10) << 16 | byte(11) << 24;
  if (length > content.size() - start) throw wrong;
  const std::string header = content.substr(start, length);
  const size_t shape = header.find("'shape': (");
  Features features;
  if (header.find("'descr': '<f4'") == std::string::npos || header.find("'fortran_order': False") == std::string::npos ||
      shape == std::string::npos ||
      std::sscanf(header.c_str() + shape, "'shape': (%d, %d)", &features.frames, &features.size) != 2)
    throw wrong;
  if (features.size != size)
    throw Mistake("features " + path + " are " + std::to_string(features.size) + " wide, the program reads " +
                  std::to_string(size));
  const size_t bytes = content.size() - start - length, row = sizeof(float) * static_cast<size_t>(size);
  if (features.frames < 1 || bytes / row != static_cast<size_t>(features.frames) || bytes % row != 0) throw wrong;
  features.values.resize(bytes / sizeof(float));
  std::memcpy(features.values.data(), content.data() + start + length, bytes);
  for (float value : features.values)
    if (!std::isfinite(value)) throw Mistake("features " + path + " hold a value that is not finite");
  return features;
}

std::vector<float> padded(const Features& features, const std::vector<float>& outside, int context, int step) {
  const int after = context + (step - features.frames % step) % step;
  std::vector<float> frames;
  frames.reserve(features.values.size() + outside.size() * static_cast<size_t>(context + after));
  for (int i = 0; i < context; ++i) frames.insert(frames.end(), outside.begin(), outside.end());
  frames.insert(frames.end(), features.values.begin(), features.values.end());
  for (int i = 0; i < after; ++i) frames.insert(frames.end(), outside.begin(), outside.end());
  return frames;
}

}  // namespace dirnet::runner
