// A matrix of features as numpy.save writes it: .npy, little-endian float32, rows of frames.
#pragma once

#include <string>
#include <vector>

namespace dirnet::runner {

struct Features {
  int frames = 0, size = 0;
  std::vector<float> values;
};

// The matrix in the file `path`; throws `Mistake` unless it is whole, finite and `size` wide.
Features read_features(const std::string& path, int size);

// What the calls of a whole utterance read: `context` frames of `outside` at both ends, whole calls of `step` frames.
std::vector<float> padded(const Features& features, const std::vector<float>& outside, int context, int step);

}  // namespace dirnet::runner
