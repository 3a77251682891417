#include "fused/fake_cuda.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <sys/mman.h>

#include <unistd.h>
#include <csignal>
#include <cstring>
#include <map>
#include <mutex>
#include <string_view>

namespace rankfold::testing {
namespace {

using at::Tensor;
using torch::jit::Stack;

const at::Device kDevice(at::kCUDA, 0);

// ---- Memory: one range of addresses, its first fitting gap given out. It is there twice: where the device has it, closed
// but while a kernel runs, and open elsewhere, for ATen's operators. (To close and open it for each operator would take
// longer than the operators.)

class Memory {
 public:
  static constexpr size_t kSize = size_t{4} << 30, kAlignment = 512;

  static Memory& get() {
    static Memory memory;
    return memory;
  }
  void open() {
    const std::lock_guard lock(mutex_);
    if (open_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    const std::lock_guard lock(mutex_);
    if (--open_ == 0) protect(PROT_NONE);
  }
  void* allocate(size_t bytes) {
    const std::lock_guard lock(mutex_);
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    size_t begin = 0;
    for (const auto& [used, size] : used_) {
      if (used - begin >= bytes) break;
      begin = used + size;
    }
    TORCH_CHECK_WITH(OutOfMemoryError, begin + bytes <= kSize, "fake CUDA out of memory. Tried to allocate ", bytes);
    used_[begin] = bytes;
    held_ += bytes;
    peak_ = std::max(peak_, held_);
    return base_ + begin;
  }
  void release(void* data) {
    const std::lock_guard lock(mutex_);
    const auto block = used_.find(static_cast<size_t>(static_cast<char*>(data) - base_));
    held_ -= block->second;
    used_.erase(block);
  }
  bool contains(const void* data) const { return data >= base_ && data < base_ + kSize; }
  // Where the host finds it.
  void* host(const void* data) const { return host_ + (static_cast<const char*>(data) - base_); }
  bool is_host(const void* data) const { return data >= host_ && data < host_ + kSize; }
  size_t free() {
    const std::lock_guard lock(mutex_);
    return kSize - held_;
  }
  size_t peak() {
    const std::lock_guard lock(mutex_);
    return peak_;
  }

 private:
  Memory() {
    const int file = memfd_create("fake CUDA", MFD_CLOEXEC);
    TORCH_CHECK(file >= 0 && ftruncate(file, kSize) == 0, "fake CUDA: no memory");
    base_ = static_cast<char*>(mmap(nullptr, kSize, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file, 0));
    host_ = static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0));
    TORCH_CHECK(base_ != MAP_FAILED && host_ != MAP_FAILED, "fake CUDA: no addresses");
    ::close(file);
  }
  void protect(int protection) { TORCH_CHECK(mprotect(base_, kSize, protection) == 0, "fake CUDA: mprotect failed"); }

  std::mutex mutex_;
  char *base_ = nullptr, *host_ = nullptr;
  std::map<size_t, size_t> used_;  // begin, bytes
  size_t held_ = 0, peak_ = 0;
  int open_ = 0;
};

struct FakeAllocator : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, kDevice};
    void* data = Memory::get().allocate(bytes);
    std::memset(Memory::get().host(data), 0xff, bytes);  // a device's memory holds anything: here numbers that are none
    return {data, data, &release, kDevice};
  }
  static void release(void* data) {
    if (data) Memory::get().release(data);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(Memory::get().host(to), Memory::get().host(from), bytes);
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override { return {}; }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {}
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override { return {Memory::get().free(), Memory::kSize}; }
};
FakeAllocator allocator;

// Says what has happened, and lets the signal have its way.
void on_fault(int number, siginfo_t* info, void*) {
  if (Memory::get().contains(info->si_addr)) {
    constexpr std::string_view kLine = "the host has touched the memory of a device\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kLine.data(), kLine.size());
  }
  std::signal(number, SIG_DFL);
}

// ---- The device: one, with one stream.

struct FakeGuard : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return at::kCUDA; }
  at::Device exchangeDevice(at::Device) const override { return kDevice; }
  at::Device getDevice() const override { return kDevice; }
  void setDevice(at::Device) const override {}
  void uncheckedSetDevice(at::Device) const noexcept override {}
  c10::Stream getStream(at::Device) const override { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
FakeGuard guard;

struct FakeHooks : at::CUDAHooksInterface {
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static const at::Generator generator =
        at::detail::createCPUGenerator();  // to be seeded; random operators are the CPU's
    return generator;
  }
};

// ---- Operators

// The same elements as a CPU tensor.
Tensor on_cpu(const Tensor& x) {
  const auto options = x.options().device(at::kCPU);
  if (x.numel() == 0) return at::empty_strided(x.sizes(), x.strides(), options);
  return at::from_blob(Memory::get().host(x.const_data_ptr()), x.sizes(), x.strides(), options);
}
Tensor on_device(const Tensor& x) {
  TORCH_CHECK(!Memory::get().is_host(x.const_data_ptr()), "fake CUDA: a view that it does not know");
  Tensor y = at::empty_strided(x.sizes(), x.strides(), x.options().device(kDevice));
  if (x.numel() > 0) on_cpu(y).copy_(x);
  return y;
}

// Runs an operator on CPU tensors that share the memory of the device's.
class OnHost {
 public:
  OnHost(const c10::OperatorHandle& op, Stack* stack) : op_(op), stack_(stack) {}

  void run() {
    const size_t arguments = op_.schema().arguments().size(), results = op_.schema().returns().size();
    for (size_t i = 0; i < arguments; ++i) {
      c10::IValue& value = (*stack_)[stack_->size() - arguments + i];
      const at::AliasInfo* alias = op_.schema().arguments()[i].alias_info();
      value = argument(value, alias && alias->isWrite());
    }
    op_.callBoxed(stack_);
    for (const auto& [tensor, shared] : shared_) keep_resized(tensor, shared);
    for (size_t i = stack_->size() - results; i < stack_->size(); ++i) (*stack_)[i] = result((*stack_)[i]);
  }

 private:
  Tensor argument(const Tensor& x, bool is_written) {
    if (!x.defined()) return x;
    if (!x.is_cuda()) {
      TORCH_CHECK(x.dim() == 0 && !is_written, op_.schema().name(), ": expected all tensors on the device, got one on ",
                  x.device());
      return x;  // a number
    }
    for (const auto& [tensor, shared] : shared_)
      if (tensor.is_same(x)) return shared;
    shared_.emplace_back(x, on_cpu(x));
    return shared_.back().second;
  }
  c10::IValue argument(const c10::IValue& x, bool is_written) {
    if (x.isTensor()) return argument(x.toTensor(), is_written);
    if (x.isDevice()) return at::Device(at::kCPU);
    if (x.isTensorList()) {
      std::vector<Tensor> all;
      for (const Tensor& one : x.toTensorVector()) all.push_back(argument(one, is_written));
      return all;
    }
    if (x.isOptionalTensorList()) {  // indices, which may be the host's
      c10::List<std::optional<Tensor>> all;
      for (const std::optional<Tensor>& one : x.toOptionalTensorList())
        all.push_back(one && one->is_cuda() ? std::optional<Tensor>(argument(*one, false)) : one);
      return all;
    }
    return x;
  }
  Tensor result(const Tensor& x) {
    if (!x.defined()) return x;
    for (const auto& [tensor, shared] : shared_)
      if (shared.is_same(x)) return tensor;
    return on_device(x);
  }
  c10::IValue result(const c10::IValue& x) {
    if (x.isTensor()) return result(x.toTensor());
    if (!x.isTensorList()) return x;
    std::vector<Tensor> all;
    for (const Tensor& one : x.toTensorVector()) all.push_back(result(one));
    return all;
  }
  // An empty result that the operator was to make as large as it needs.
  static void keep_resized(const Tensor& tensor, const Tensor& shared) {
    if (tensor.sizes() == shared.sizes()) return;
    const Tensor moved = on_device(shared);
    tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(moved.storage());
    tensor.unsafeGetTensorImpl()->set_sizes_and_strides(moved.sizes(), moved.strides());
  }

  const c10::OperatorHandle& op_;
  Stack* stack_;
  std::vector<std::pair<Tensor, Tensor>> shared_;  // of the device, of the CPU
};

void on_host(const c10::OperatorHandle& op, Stack* stack) { OnHost(op, stack).run(); }

Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   dtype.value_or(at::kFloat), format);
}
Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                           dtype.value_or(at::kFloat));
}
Tensor& copy(Tensor& to, const Tensor& from, bool) {
  const auto here = [](const Tensor& x) { return x.is_cuda() ? on_cpu(x) : x; };
  here(to).copy_(here(from));
  return to;
}

}  // namespace

OpenMemory::OpenMemory() { Memory::get().open(); }
OpenMemory::~OpenMemory() { Memory::get().close(); }

int64_t fake_cuda_peak() { return static_cast<int64_t>(Memory::get().peak()); }

void install_fake_cuda() {
  Memory::get();
  struct sigaction action {};
  action.sa_sigaction = &on_fault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, nullptr);
  c10::SetAllocator(at::kCUDA, &allocator);
  at::CUDAHooksRegistry()->Register("CUDAHooks", [](at::CUDAHooksArgs) -> std::unique_ptr<at::CUDAHooksInterface> {
    return std::make_unique<FakeHooks>();
  });
  static const c10::impl::DeviceGuardImplRegistrar registrar(at::kCUDA, &guard);
  static torch::Library fallback(torch::Library::IMPL, "_", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  fallback.fallback(torch::CppFunction::makeFromBoxedFunction<&on_host>());
  static torch::Library operators(torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  operators.impl("empty.memory_format", &empty);
  operators.impl("empty_strided", &empty_strided);
  operators.impl("copy_", &copy);
  operators.impl("as_strided", &at::native::as_strided_tensorimpl);
  operators.impl("view", TORCH_FN(static_cast<Tensor (*)(const Tensor&, at::IntArrayRef)>(&at::native::view)));
  operators.impl("_reshape_alias", &at::native::_reshape_alias);
}

}  // namespace rankfold::testing
