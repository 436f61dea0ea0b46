#include "program.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "mistake.h"

namespace dirnet::runner {

namespace et = executorch::runtime;
using et::Error;
using et::EValue;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;

namespace {

constexpr size_t kAlignment = 64;

std::string again(const std::string& what) { return what + "; copy or export it again"; }

// The header's own word for how long the file must be; 0 without one.
uint64_t expected_bytes(const uint8_t* data) {
  auto word = [data](int at) {
    uint64_t value;
    std::memcpy(&value, data + at, sizeof value);
    return value;
  };
  if (std::memcmp(data + 8, "eh00", 4) != 0) return 0;
  const uint64_t program = word(16), base = word(24), segments = data[12] >= 32 ? word(32) : 0;
  return base ? base + segments : program;
}

// A tensor over `data`, which it does not own.
EValue tensor(TensorImpl& impl) { return EValue(Tensor(&impl)); }

void check(Error error, const char* what) {
  if (error != Error::Ok)
    throw Mistake(std::string(what) + " failed with ExecuTorch error " + std::to_string(static_cast<int>(error)) +
                  "; export the model with the ExecuTorch of this runner");
}

}  // namespace

// The program file, mapped as an app would map it: weights that a kernel reads in place cost no second copy.
class MappedFile : public et::DataLoader {
 public:
  explicit MappedFile(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (file < 0 || fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
      if (file >= 0) close(file);
      throw Mistake("program " + path + " is not there or cannot be read; give a .pte file");
    }
    size_ = static_cast<size_t>(status.st_size);
    if (size_ >= 64) data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (size_ < 64 || data_ == MAP_FAILED || std::memcmp(bytes() + 4, "ET", 2) != 0)
      throw Mistake(again("program " + path + " is not an ExecuTorch program"));
    if (const uint64_t expected = expected_bytes(bytes()); size_ < expected)
      throw Mistake(again("program " + path + " has " + std::to_string(size_) + " bytes, expected " +
                          std::to_string(expected) + ": truncated"));
  }
  ~MappedFile() override {
    if (data_ != MAP_FAILED) munmap(data_, size_);
  }

  et::Result<et::FreeableBuffer> load(size_t offset, size_t size, const SegmentInfo&) const override {
    if (offset > size_ || size > size_ - offset) return Error::InvalidArgument;
    return et::FreeableBuffer(bytes() + offset, size, nullptr);
  }
  et::Error load_into(size_t offset, size_t size, const SegmentInfo&, void* buffer) const override {
    if (offset > size_ || size > size_ - offset) return Error::InvalidArgument;
    std::memcpy(buffer, bytes() + offset, size);
    return Error::Ok;
  }
  et::Result<size_t> size() const override { return size_; }

 private:
  const uint8_t* bytes() const { return static_cast<const uint8_t*>(data_); }
  void* data_ = MAP_FAILED;
  size_t size_ = 0;
};

class LoadedMethod::Heap : public et::MemoryAllocator {
 public:
  Heap() : MemoryAllocator(0, nullptr) {}
  ~Heap() override {
    for (void* block : blocks_) std::free(block);
  }
  void* allocate(size_t size, size_t alignment = kDefaultAlignment) override {
    void* block = nullptr;
    if (posix_memalign(&block, alignment > kAlignment ? alignment : kAlignment, size ? size : 1) != 0) return nullptr;
    blocks_.push_back(block);
    return block;
  }

 private:
  std::vector<void*> blocks_;
};

LoadedMethod::LoadedMethod(const et::Program& program, const std::string& name)
    : heap_(std::make_unique<Heap>()), hierarchy_({}), memory_(heap_.get(), &hierarchy_) {
  auto meta = program.method_meta(name.c_str());
  check(meta.error(), ("looking for method " + name).c_str());
  for (size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
    const auto size = meta->memory_planned_buffer_size(i);
    check(size.error(), "reading a buffer's size");
    auto* block = size.get() < 0 ? nullptr : static_cast<uint8_t*>(heap_->allocate(static_cast<size_t>(size.get())));
    if (!block) throw Mistake("method " + name + " wants a buffer of " + std::to_string(size.get()) + " bytes");
    planned_.push_back({block, static_cast<size_t>(size.get())});
  }
  hierarchy_ = et::HierarchicalAllocator({planned_.data(), planned_.size()});
  method_.reset(new et::Result<et::Method>(program.load_method(name.c_str(), &memory_)));
  check(method_->error(), ("loading method " + name).c_str());
}

LoadedMethod::~LoadedMethod() = default;

Program::Program(const std::string& path) : file_(std::make_unique<MappedFile>(path)) {
  et::runtime_init();
#ifdef DIRNET_BACKEND_OPTIONS
  et::BackendOptions<1> options;  // XNNPACK packs a weight once, however often unrolled time steps use it;
  if (options.set_option("weight_cache_enabled", true) == Error::Ok)  // until 1.2 a choice of ExecuTorch's build
    (void)et::set_option("XnnpackBackend", options.view());
#endif
  program_.reset(new et::Result<et::Program>(
      et::Program::load(file_.get(), et::Program::Verification::InternalConsistency)));
  if (!program_->ok())
    throw Mistake(again("program " + path + " is damaged or of another ExecuTorch (error " +
                        std::to_string(static_cast<int>(program_->error())) + ")"));
  if (number("feature_size") < 1 || number("stride") < 1 || number("context") < 0 || number("chunk") < 1)
    throw Mistake(again("program " + path + " has impossible constants"));
  for (double value : numbers("cmvn_mean")) mean_.push_back(static_cast<float>(value));
  if (mean_.size() != number("feature_size")) throw Mistake(again("program " + path + " has impossible constants"));
  for (double size : numbers("state_sizes")) states_.emplace_back(static_cast<size_t>(size));
  const auto meta = (*program_)->method_meta("forward");
  check(meta.error(), "looking for method forward");
  if (meta->num_inputs() != states_.size() + 1 || meta->num_outputs() != states_.size() + 1)
    throw Mistake(again("program " + path + " has other inputs than its constants tell"));
  forward_ = std::make_unique<LoadedMethod>(program_->get(), "forward");
}

Program::~Program() = default;

size_t Program::bytes() const { return file_->size().get(); }

std::string Program::text(const std::string& name) const {
  LoadedMethod constant(program_->get(), name);
  check((*constant).execute(), name.c_str());
  const EValue& value = (*constant).get_output(0);
  if (!value.isString()) throw Mistake(again("constant " + name + " of the program is no text"));
  const auto view = value.toString();
  return {view.data(), view.size()};
}

double Program::number(const std::string& name) const {
  const auto values = numbers(name);
  if (values.size() != 1) throw Mistake(again("constant " + name + " of the program is no number"));
  return values[0];
}

std::vector<double> Program::numbers(const std::string& name) const {
  LoadedMethod constant(program_->get(), name);
  check((*constant).execute(), name.c_str());
  const EValue& value = (*constant).get_output(0);
  if (value.isInt()) return {static_cast<double>(value.toInt())};
  if (value.isDouble()) return {value.toDouble()};
  std::vector<double> values;
  if (value.isTensor()) {
    const Tensor& list = value.toTensor();
    for (ssize_t i = 0; i < list.numel(); ++i)
      values.push_back(list.scalar_type() == ScalarType::Int ? list.const_data_ptr<int32_t>()[i]
                                                             : list.const_data_ptr<float>()[i]);
  }
  return values;
}

void Program::reset() {
  for (auto& state : states_) std::fill(state.begin(), state.end(), 0.0f);
}

void Program::prepare(const float* window, int frames) {
  auto input = [this](size_t index, float* data, int rows, int columns) {
    TensorImpl::SizesType sizes[] = {rows, columns};
    TensorImpl::DimOrderType order[] = {0, 1};
    TensorImpl::StridesType strides[] = {columns, 1};
    TensorImpl impl(ScalarType::Float, 2, sizes, data, order, strides);
    check((**forward_).set_input(tensor(impl), index), "handing over an input");
  };
  input(0, const_cast<float*>(window), frames, static_cast<int>(mean_.size()));
  for (size_t i = 0; i < states_.size(); ++i) input(i + 1, states_[i].data(), 1, static_cast<int>(states_[i].size()));
}

void Program::execute() { check((**forward_).execute(), "running the program"); }

const float* Program::finish(int* rows, int* columns) {
  for (size_t i = 0; i < states_.size(); ++i) {
    const Tensor& state = (**forward_).get_output(i + 1).toTensor();
    if (static_cast<size_t>(state.numel()) != states_[i].size()) throw Mistake(again("a state changed its size"));
    std::memcpy(states_[i].data(), state.const_data_ptr<float>(), state.nbytes());
  }
  const Tensor& logits = (**forward_).get_output(0).toTensor();
  *rows = static_cast<int>(logits.size(0));
  *columns = static_cast<int>(logits.size(1));
  return logits.const_data_ptr<float>();
}

}  // namespace dirnet::runner
