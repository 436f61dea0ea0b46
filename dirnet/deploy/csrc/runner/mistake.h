// What the user gave does not fit: told in one line, exit status 2.
#pragma once

#include <stdexcept>
#include <string>

namespace dirnet::runner {

struct Mistake : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace dirnet::runner
