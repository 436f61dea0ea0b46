// ExecuTorch's classes that load and run a program, whether or not their headers are at hand.
//
// An installation and the wheels from 1.4 on have the headers. The wheel of 1.2 exports the functions without them:
// their signatures stand here. Objects stay where ExecuTorch makes them, so of their inside only the size must be known.
#pragma once

#include <executorch/runtime/core/data_loader.h>
#include <executorch/runtime/core/evalue.h>
#include <executorch/runtime/core/exec_aten/exec_aten.h>
#include <executorch/runtime/core/hierarchical_allocator.h>
#include <executorch/runtime/core/memory_allocator.h>
#include <executorch/runtime/core/result.h>
#include <executorch/runtime/platform/runtime.h>

#if __has_include(<executorch/runtime/executor/program.h>)
#include <executorch/runtime/executor/memory_manager.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#else
namespace executorch::runtime {

class EventTracer;
class NamedDataMap;
class LoadBackendOptionsMap;

class MemoryManager {
 public:
  MemoryManager(MemoryAllocator* method, HierarchicalAllocator* planned) : method_(method), planned_(planned) {}

 private:
  MemoryAllocator* method_;
  HierarchicalAllocator* planned_;
  MemoryAllocator* temporary_ = nullptr;
};

class MethodMeta {
 public:
  size_t num_inputs() const;
  size_t num_outputs() const;
  size_t num_memory_planned_buffers() const;
  Result<int64_t> memory_planned_buffer_size(size_t index) const;

 private:
  const void* plan_;
};

class Method {
 public:
  Method(Method&&) = delete;
  ~Method();
  Error set_input(const EValue& value, size_t index);
  Error execute();
  const EValue& get_output(size_t index) const;

 private:
  alignas(8) char inside_[144];
};

class Program {
 public:
  enum class Verification : uint8_t { Minimal, InternalConsistency };
  Program(Program&&) = delete;
  static Result<Program> load(DataLoader* loader, Verification verification);
  size_t num_methods() const;
  Result<const char*> get_method_name(size_t index) const;
  Result<MethodMeta> method_meta(const char* name) const;
  Result<Method> load_method(const char* name, MemoryManager* memory, EventTracer* tracer = nullptr,
                             const NamedDataMap* data = nullptr, const LoadBackendOptionsMap* options = nullptr) const;

 private:
  alignas(8) char inside_[152];
};

}  // namespace executorch::runtime
#endif

#if __has_include(<executorch/runtime/backend/interface.h>)
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/backend/options.h>
#define DIRNET_BACKEND_OPTIONS 1
#endif

#if __has_include(<pthreadpool.h>)
#include <executorch/extension/threadpool/threadpool.h>
#else  // the wheels have the header but not the one that it includes
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool
#endif
