// A deployed acoustic model in ExecuTorch's runtime: its constants, and calls with the states going round.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "executor.h"

namespace dirnet::runner {

class MappedFile;

// A method with the memory that it was planned for.
class LoadedMethod {
 public:
  LoadedMethod(const executorch::runtime::Program& program, const std::string& name);
  ~LoadedMethod();
  executorch::runtime::Method& operator*() { return method_->get(); }

 private:
  class Heap;
  std::unique_ptr<Heap> heap_;
  std::vector<executorch::runtime::Span<uint8_t>> planned_;
  executorch::runtime::HierarchicalAllocator hierarchy_;
  executorch::runtime::MemoryManager memory_;
  std::unique_ptr<executorch::runtime::Result<executorch::runtime::Method>> method_;
};

class Program {
 public:
  // Loads the program at `path`; throws `Mistake` if it is absent, cut off, of another kind or another ExecuTorch.
  explicit Program(const std::string& path);
  ~Program();

  // Constants of the program. `text` and `number` throw `Mistake` where there is none.
  std::string text(const std::string& name) const;
  double number(const std::string& name) const;
  const std::vector<float>& cmvn_mean() const { return mean_; }
  size_t bytes() const;

  // The states before an utterance.
  void reset();
  // One call is prepare and execute: what is timed. `window` has `frames` rows of `feature_size`.
  void prepare(const float* window, int frames);
  void execute();
  // After a call: takes over the new states; `rows` x `columns` logits, valid until the next call.
  const float* finish(int* rows, int* columns);

 private:
  std::vector<double> numbers(const std::string& name) const;

  std::unique_ptr<MappedFile> file_;
  std::unique_ptr<executorch::runtime::Result<executorch::runtime::Program>> program_;
  std::unique_ptr<LoadedMethod> forward_;
  std::vector<float> mean_;
  std::vector<std::vector<float>> states_;
};

}  // namespace dirnet::runner
