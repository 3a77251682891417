// In the TSan flavour this file is compiled without -fsanitize=thread, so that the engine's own bookkeeping, which all
// fibers touch, is no race; the macro RANKFOLD_SIMT_TSAN says that the kernels are compiled with it. What TSan
// intercepts it sees all the same: while a fiber runs, the engine neither allocates nor calls memcpy and the like,
// except where it acts for the kernel (copy_async). The pragma keeps GCC from making such calls out of loops.
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#include "simt/engine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <boost/context/detail/fcontext.hpp>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <random>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(RANKFOLD_SIMT_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace simt {
namespace {

namespace context = boost::context::detail;

constexpr unsigned kLanes = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr size_t kStackStride = size_t{128} << 10;  // of which the lowest page is the guard
constexpr unsigned kMaxCopies = 1024;               // in flight, for each thread
constexpr unsigned kMaxArrays = 32;
constexpr size_t kArrayAlignment = 128;
constexpr size_t kGap = 1024;  // unused memory around each array of shared memory: what an index may be off and be seen
constexpr uint8_t kPoison = 0xff;  // NaN in each floating type, -1 in integers

// ---------------------------------------------------------------------------------------------------------------------
// Memory, and what the sanitizers are told of it

void poison([[maybe_unused]] const void* data, [[maybe_unused]] size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(data, size);
#endif
}

void unpoison([[maybe_unused]] const void* data, [[maybe_unused]] size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(data, size);
#endif
}

class Mapping {
 public:
  Mapping() = default;
  explicit Mapping(size_t size) : size_(size) {
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "simt: mmap");
    data_ = static_cast<char*>(data);
  }
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Mapping() {
    if (data_ == nullptr) return;
    unpoison(data_, size_);  // whatever gets the addresses next
    munmap(data_, size_);
  }
  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

// TSan orders what came before a release of a token before what comes after an acquire of it.
using Token = uint64_t;

void release([[maybe_unused]] Token& token) {
#if defined(RANKFOLD_SIMT_TSAN)
  __tsan_release(&token);
#endif
}

void acquire([[maybe_unused]] Token& token) {
#if defined(RANKFOLD_SIMT_TSAN)
  __tsan_acquire(&token);
#endif
}

void destroy_tsan_fibers(std::vector<void*>& fibers) {
#if defined(RANKFOLD_SIMT_TSAN)
  for (void* fiber : fibers) __tsan_destroy_fiber(fiber);
#endif
  fibers.clear();
}

// Two for each barrier, used in turn: a thread may be at the next one before all have acquired the last. They are new
// in each block, otherwise they would order the blocks of a grid.
struct Tokens {
  Token block[2];
  Token warp[kMaxThreads / kLanes][kLanes][2];
};

// ---------------------------------------------------------------------------------------------------------------------
// Threads

// cp.async on its way: it happens when it is waited for.
struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  unsigned group;
};

struct Thread {
  context::fcontext_t context = nullptr;
  Dim index;
  unsigned number = 0, warp = 0, lane = 0;

  const char* what = nullptr;  // what it waited for last, and where
  Place place;

  const uint32_t* mine = nullptr;  // handed to a collective: on the thread's stack
  unsigned source = 0;             // the lane a shuffle reads
  uint32_t shuffled[4] = {};
  const void* exchanged = nullptr;
#if defined(RANKFOLD_SIMT_TSAN)
  alignas(16) uint32_t own[kLanes * 16];  // of what was exchanged
#endif

  bool carves = false;
  unsigned taken = 0;  // arrays of shared memory
  Copy* copies = nullptr;
  unsigned copies_begun = 0, copies_done = 0, groups = 0;

  char* stack = nullptr;
  const void* stack_bottom = nullptr;  // as ASan knows them
  size_t stack_size = 0;
  void* fake_stack = nullptr;
  void* tsan_fiber = nullptr;
};

// A collective that some of its lanes have reached, kept at the lane that reached it first.
struct Collective {
  unsigned mask = 0, arrived = 0, parity = 0;
  const char* what = nullptr;
  Place place;
  unsigned lane = 0;
};

struct Warp {
  Collective collectives[kLanes];
  unsigned under_way = 0;  // lanes at which there is a collective
  unsigned left = 0;       // lanes that have left the kernel
  // Results of exchange(), in turn: no lane gets to the exchange after next before all have gone on from this one.
  unsigned parity = 0;
  alignas(kArrayAlignment) uint32_t exchanged[2][kLanes * 16];
};

struct Array {
  char* data;
  size_t count, size;
  const char* type;
};

// Literals: the same one may have several addresses.
bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

bool same(const Place& a, const Place& b) { return a.line == b.line && same(a.file, b.file); }

std::string text(const Place& place) {
  const std::string_view file = place.file;
  return std::string(file.substr(file.rfind('/') + 1)) + ':' + std::to_string(place.line);
}

std::string text(const Dim& dim) {
  return '(' + std::to_string(dim.x) + ',' + std::to_string(dim.y) + ',' + std::to_string(dim.z) + ')';
}

// From "constexpr const char* type_name() [with T = float]".
std::string_view bare(std::string_view type_name) {
  const size_t begin = type_name.find("T = ") + 4;
  return type_name.substr(begin, type_name.find_last_of(']') - begin);
}

Setting initial_setting() {
  const char* value = std::getenv("RANKFOLD_SIMT_ORDER");
  const std::string name = value == nullptr ? "forward" : value;
  if (name == "forward") return {};
  if (name == "backward") return {Order::backward, 0};
  if (name.starts_with("random:")) return {Order::random, std::stoull(name.substr(7))};
  throw std::invalid_argument("RANKFOLD_SIMT_ORDER: expected forward, backward or random:SEED, got " + name);
}

// What the whole process shares.
struct Process {
  std::mutex mutex;
  Setting setting = initial_setting();
  std::map<std::string, int64_t> launches;
};

Process& process() {
  static Process process;
  return process;
}

void (*around)(bool begins) = nullptr;
struct Around {
  Around() {
    if (around) around(true);
  }
  ~Around() {
    if (around) around(false);
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// The engine of one OS thread

class Engine {
 public:
  Engine();
  ~Engine() {
    for (std::vector<void*>& fibers : tsan_fibers_) destroy_tsan_fibers(fibers);
  }
  void run(const Launch& launch, void (*thread)(const void*), const void* argument, Setting setting);

  // Called by the running thread of a kernel.
  void sync_threads(Place place);
  void sync_warp(unsigned mask, Place place);
  void shuffle(uint32_t (&value)[4], unsigned mask, unsigned source, const char* what, Place place);
  const void* exchange(const uint32_t* mine, size_t words, Place place);
  void begin_carving(Place place);
  void* take(size_t count, size_t size, const char* type, Place place);
  void copy_async(void* to, const void* from, size_t bytes, Place place);
  void commit() { ++current_->groups; }
  void wait(unsigned groups_left);
  [[noreturn]] void fail_at(const char* what, Place place);

  bool in_kernel() const { return current_ != &main_; }
  std::string where() const;

 private:
  void run_block(unsigned fibers);
  void map_memory();
  void start(Thread& thread, unsigned fibers);
  void drop_fibers(unsigned fibers);
  void check_arrays();
  [[noreturn]] static void enter(context::transfer_t from);
  [[noreturn]] void leave();
  [[noreturn]] [[gnu::cold]] [[gnu::format(printf, 2, 3)]] void fail(const char* format, ...);

  unsigned choose(unsigned mask);
  Thread& next();
  void wake(unsigned warp, unsigned lanes);
  void give_way();
  void switch_from(Thread& self, Thread& next, bool for_good);
  void arrived(context::transfer_t from);
  Collective& join(unsigned mask, const char* what, Place place);

  Setting setting_;
  uint64_t random_ = 0;
  const Launch* launch_ = nullptr;
  void (*kernel_)(const void*) = nullptr;
  const void* argument_ = nullptr;
  unsigned count_ = 0;  // threads of a block

  std::vector<Thread> threads_{kMaxThreads};
  std::vector<Warp> warps_{kMaxThreads / kLanes};
  Thread main_;  // the caller of launch()
  Thread* current_ = &main_;
  unsigned ready_warps_ = 0, ready_[kMaxThreads / kLanes] = {};  // warps with lanes that can go on, and which lanes

  unsigned at_barrier_ = 0, parity_ = 0, left_ = 0;
  Place barrier_;

  Array arrays_[kMaxArrays];
  unsigned array_count_ = 0;
  size_t carved_ = 0;  // bytes, as the device counts them

  Mapping copies_, stacks_, arena_;
  size_t stack_size_ = 0;
  Tokens* tokens_ = nullptr;                 // at the start of the arena
  char *shared_ = nullptr, *end_ = nullptr;  // shared memory: the rest of the arena
  // Kept, since making one takes 0.3 ms; two sets, since to TSan what a fiber knew in one block is before all it does
  // in another.
  std::vector<void*> tsan_fibers_[2];
  Token before_kernel_ = 0, after_kernel_ = 0;

  char failure_[512] = {};
  const Thread* failed_ = nullptr;
};

constinit thread_local Engine* engine = nullptr;

Engine& this_engine() {
  static thread_local Engine instance;
  return *(engine = &instance);
}

Engine::Engine() : copies_(kMaxThreads * kMaxCopies * sizeof(Copy)) {
  for (unsigned i = 0; i < kMaxThreads; ++i) {
    threads_[i].number = i;
    threads_[i].warp = i / kLanes;
    threads_[i].lane = i % kLanes;
    threads_[i].copies = reinterpret_cast<Copy*>(copies_.data()) + size_t{i} * kMaxCopies;
  }
}

// --- Switching: the hot path. All of it is inlined into what the kernel calls, since the returns that a processor
// predicts wrong after a jump to another stack are most of the cost.

[[gnu::always_inline]] inline unsigned Engine::choose(unsigned mask) {
  switch (setting_.order) {
    case Order::forward:
      return std::countr_zero(mask);
    case Order::backward:
      return 31 - std::countl_zero(mask);
    case Order::random:
      break;
  }
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  const unsigned turn = (random_ >> 32) % kLanes;
  return (std::countr_zero(std::rotr(mask, static_cast<int>(turn))) + turn) % kLanes;
}

// Takes the thread that goes on next out of those that can.
[[gnu::always_inline]] inline Thread& Engine::next() {
  const unsigned warp = choose(ready_warps_), lane = choose(ready_[warp]);
  ready_[warp] &= ~(1u << lane);
  if (ready_[warp] == 0) ready_warps_ &= ~(1u << warp);
  return threads_[warp * kLanes + lane];
}

[[gnu::always_inline]] inline void Engine::wake(unsigned warp, unsigned lanes) {
  ready_[warp] |= lanes;
  ready_warps_ |= 1u << warp;
}

// On the stack of the thread that goes on: the context of the one that stopped is known only now.
[[gnu::always_inline]] inline void Engine::arrived(context::transfer_t from) {
  Thread& previous = *static_cast<Thread*>(from.data);
  previous.context = from.fctx;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(current_->fake_stack, &previous.stack_bottom, &previous.stack_size);
#endif
}

[[gnu::always_inline]] inline void Engine::switch_from(Thread& self, Thread& next, [[maybe_unused]] bool for_good) {
  current_ = &next;
  threadIdx = next.index;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &self.fake_stack, next.stack_bottom, next.stack_size);
#endif
#if defined(RANKFOLD_SIMT_TSAN)
  __tsan_switch_to_fiber(next.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
  arrived(context::jump_fcontext(next.context, &self));
}

// Lets others run until this thread is woken.
[[gnu::always_inline]] inline void Engine::give_way() {
  if (ready_warps_ == 0) fail("deadlock: no thread can go on");
  Thread& then = next();
  if (&then != current_) switch_from(*current_, then, false);
}

void Engine::enter(context::transfer_t from) {
  Engine& e = *engine;
  e.arrived(from);
  acquire(e.before_kernel_);
  e.kernel_(e.argument_);
  e.leave();
}

void Engine::leave() {
  Thread& self = *current_;
  Warp& warp = warps_[self.warp];
  self.what = "the end of the kernel";
  self.place = {};
  if (self.copies_begun != self.copies_done) {
    fail("copy_async: a thread leaves the kernel with %u copies in flight", self.copies_begun - self.copies_done);
  }
  if (self.taken != array_count_) {
    fail("shared memory: threads carve differently: %u arrays here, %u in another thread", self.taken, array_count_);
  }
  if (at_barrier_ != 0) fail("barrier divergence: a thread leaves the kernel while others wait at __syncthreads");
  for (unsigned lanes = warp.under_way; lanes != 0; lanes &= lanes - 1) {
    const Collective& other = warp.collectives[std::countr_zero(lanes)];
    if (other.mask >> self.lane & 1) {
      fail("warp divergence: lane %u leaves the kernel while others wait for it at %s", self.lane, other.what);
    }
  }
  warp.left |= 1u << self.lane;
  ++left_;
  release(after_kernel_);
  if (left_ < count_ && ready_warps_ == 0) fail("deadlock: no thread can go on");
  switch_from(self, left_ == count_ ? main_ : next(), true);
  __builtin_unreachable();
}

// Back to run_block(), which throws: no exception passes through a kernel's frames.
void Engine::fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(failure_, sizeof failure_, format, arguments);
  va_end(arguments);
  failed_ = current_;
  switch_from(*current_, main_, true);
  __builtin_unreachable();
}

void Engine::fail_at(const char* what, Place place) {
  current_->what = "a check";
  current_->place = place;
  fail("%s", what);
}

// --- Barriers and warp collectives

void Engine::sync_threads(Place place) {
  Thread& self = *current_;
  self.what = "__syncthreads";
  self.place = place;
  if (left_ != 0) fail("barrier divergence: __syncthreads after a thread has left the kernel");
  if (at_barrier_ == 0) {
    barrier_ = place;
    parity_ ^= 1;
  } else if (!same(barrier_, place)) {
    fail("barrier divergence: threads at two different __syncthreads");
  }
  Token& token = tokens_->block[parity_];
  release(token);
  if (++at_barrier_ == count_) {
    at_barrier_ = 0;
    for (unsigned warp = 0; warp < count_ / kLanes; ++warp) wake(warp, ~0u);
  }
  give_way();
  acquire(token);
}

// The running thread reaches a collective, which is complete when nobody is left that has `arrived`.
[[gnu::always_inline]] inline Collective& Engine::join(unsigned mask, const char* what, Place place) {
  Thread& self = *current_;
  Warp& warp = warps_[self.warp];
  self.what = what;
  self.place = place;
  if ((mask >> self.lane & 1) == 0) fail("warp collective: lane %u is not in its own mask 0x%08x", self.lane, mask);
  if ((mask & warp.left) != 0) {
    fail("warp divergence: lanes 0x%08x of the mask have left the kernel", mask & warp.left);
  }
  Collective* c = nullptr;
  for (unsigned lanes = warp.under_way; lanes != 0; lanes &= lanes - 1) {
    Collective& other = warp.collectives[std::countr_zero(lanes)];
    if (other.mask == mask) {
      c = &other;
    } else if ((other.mask >> self.lane & 1) != 0 && (other.arrived & mask) != 0) {
      fail("warp divergence: lanes with masks 0x%08x and 0x%08x wait for each other", other.mask, mask);
    }
  }
  if (c == nullptr) {
    c = &warp.collectives[self.lane];
    *c = {.mask = mask, .arrived = 0, .parity = c->parity ^ 1, .what = what, .place = place, .lane = self.lane};
    warp.under_way |= 1u << self.lane;
  } else if (!same(c->what, what) || !same(c->place, place)) {
    fail("warp divergence: lanes at two different collectives");
  }
  c->arrived |= 1u << self.lane;
  if (c->arrived == mask) {
    c->arrived = 0;
    warp.under_way &= ~(1u << c->lane);
    wake(self.warp, mask);
  }
  return *c;
}

void Engine::sync_warp(unsigned mask, Place place) {
  const Collective& c = join(mask, "__syncwarp", place);
  Token& token = tokens_->warp[current_->warp][c.lane][c.parity];
  release(token);
  give_way();
  acquire(token);
}

void Engine::shuffle(uint32_t (&value)[4], unsigned mask, unsigned source, const char* what, Place place) {
  Thread& self = *current_;
  self.mine = value;
  self.source = source;
  const Collective& c = join(mask, what, place);
  if ((mask >> source & 1) == 0) {
    fail("warp collective: lane %u reads lane %u, which is not in the mask 0x%08x", self.lane, source, mask);
  }
  if (c.arrived == 0) {
    Thread* lanes = &threads_[self.warp * kLanes];
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
      Thread& lane = lanes[std::countr_zero(rest)];
      for (unsigned i = 0; i < 4; ++i) lane.shuffled[i] = lanes[lane.source].mine[i];
    }
  }
  give_way();
  for (unsigned i = 0; i < 4; ++i) value[i] = self.shuffled[i];
}

const void* Engine::exchange(const uint32_t* mine, size_t words, Place place) {
  Thread& self = *current_;
  self.mine = mine;
  const Collective& c = join(~0u, "exchange", place);
  if (c.arrived == 0) {
    Warp& warp = warps_[self.warp];
    uint32_t* to = warp.exchanged[warp.parity ^= 1];
    Thread* lanes = &threads_[self.warp * kLanes];
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      lanes[lane].exchanged = warp.exchanged[warp.parity];
      for (size_t i = 0; i < words; ++i) *to++ = lanes[lane].mine[i];
    }
  }
  give_way();
#if defined(RANKFOLD_SIMT_TSAN)
  // TSan is slow where many threads read the same bytes.
  for (size_t i = 0; i < kLanes * words; ++i) self.own[i] = static_cast<const uint32_t*>(self.exchanged)[i];
  return self.own;
#else
  return self.exchanged;
#endif
}

// --- Shared memory and copies to it

void Engine::begin_carving(Place place) {
  Thread& self = *current_;
  if (self.carves) {
    self.what = "simt::Shared";
    self.place = place;
    fail("shared memory: a thread makes a second simt::Shared, which would start at the same memory");
  }
  self.carves = true;
}

void* Engine::take(size_t count, size_t size, const char* type, Place place) {
  Thread& self = *current_;
  self.what = "simt::Shared::take";
  self.place = place;
  const unsigned index = self.taken++;
  if (index == array_count_) {
    const size_t offset = (carved_ + 15) / 16 * 16;
    if (offset > launch_->shared_bytes || count > (launch_->shared_bytes - offset) / size) {
      fail("shared memory: array %u of %zu x %zu bytes at offset %zu, the launch gave %zu bytes", index, count, size,
           offset, launch_->shared_bytes);
    }
    if (index == kMaxArrays) fail("shared memory: more than %u arrays", kMaxArrays);
    carved_ = offset + count * size;
    const Array* last = index == 0 ? nullptr : &arrays_[index - 1];
    char* data = last == nullptr ? shared_ : last->data + last->count * last->size;
    data += kGap + (-reinterpret_cast<uintptr_t>(data)) % kArrayAlignment;
    arrays_[array_count_++] = {data, count, size, type};
    unpoison(data, count * size);
  }
  const Array& array = arrays_[index];
  if (array.count != count || array.size != size || !same(array.type, type)) {
    const std::string_view here = bare(type), there = bare(array.type);
    fail("shared memory: threads carve differently: array %u is %.*s[%zu] here, %.*s[%zu] in another thread", index,
         static_cast<int>(here.size()), here.data(), count, static_cast<int>(there.size()), there.data(), array.count);
  }
  return array.data;
}

void Engine::copy_async(void* to, const void* from, size_t bytes, Place place) {
  Thread& self = *current_;
  self.what = "copy_async";
  self.place = place;
  if (bytes != 4 && bytes != 8 && bytes != 16) fail("copy_async: %zu bytes, can be 4, 8 or 16", bytes);
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0) {
    fail("copy_async: misaligned: %zu bytes from %p to %p", bytes, from, to);
  }
  const char* begin = static_cast<const char*>(to);
  if (std::none_of(arrays_, arrays_ + array_count_, [&](const Array& array) {
        return begin >= array.data && begin + bytes <= array.data + array.count * array.size;
      })) {
    fail("copy_async: the destination %p is in no array of shared memory", to);
  }
  if (self.copies_begun - self.copies_done == kMaxCopies) fail("copy_async: more than %u in flight", kMaxCopies);
  self.copies[self.copies_begun++ % kMaxCopies] = {to, from, bytes, self.groups};
  std::memset(to, kPoison, bytes);  // a write of the kernel's thread, for TSan too: the copy may happen from now on
}

void Engine::wait(unsigned groups_left) {
  Thread& self = *current_;
  while (self.copies_done != self.copies_begun) {
    const Copy& copy = self.copies[self.copies_done % kMaxCopies];
    if (copy.group + groups_left >= self.groups) break;
    std::memcpy(copy.to, copy.from, copy.bytes);
    ++self.copies_done;
  }
}

// --- The grid

void Engine::run(const Launch& launch, void (*kernel)(const void*), const void* argument, Setting setting) {
  launch_ = &launch;
  kernel_ = kernel;
  argument_ = argument;
  setting_ = setting;
  std::mt19937_64 generator(setting.seed);
  random_ = generator() | 1;
  count_ = launch.block.x * launch.block.y * launch.block.z;
  gridDim = launch.grid;
  blockDim = launch.block;
  std::vector<unsigned> blocks(size_t{launch.grid.x} * launch.grid.y * launch.grid.z);
  std::iota(blocks.begin(), blocks.end(), 0u);
  if (setting.order == Order::backward) std::reverse(blocks.begin(), blocks.end());
  if (setting.order == Order::random) std::shuffle(blocks.begin(), blocks.end(), generator);
  for (const unsigned block : blocks) {
    blockIdx = {block % launch.grid.x, block / launch.grid.x % launch.grid.y, block / launch.grid.x / launch.grid.y};
    run_block(std::popcount(block) % 2);  // so that at any distance there are blocks with different fibers
    if (failure_[0] != 0) break;
  }
  acquire(after_kernel_);  // only now, so that blocks are not ordered
  if (failure_[0] == 0) return;
  const std::string what = failure_;
  failure_[0] = 0;
  throw Failure(std::string("kernel '") + launch.name + "' block " + text(blockIdx) + ": " + what + '\n' + where());
}

void Engine::run_block(unsigned fibers) {
  map_memory();
  at_barrier_ = left_ = array_count_ = 0;
  carved_ = 0;
  failed_ = nullptr;
  std::fill(std::begin(ready_), std::end(ready_), 0u);
  ready_warps_ = 0;
  for (unsigned i = 0; i < count_; ++i) start(threads_[i], fibers);
  for (unsigned warp = 0; warp < count_ / kLanes; ++warp) {
    wake(warp, ~0u);
    warps_[warp].under_way = warps_[warp].left = 0;
    for (Collective& collective : warps_[warp].collectives) collective.arrived = 0;
  }
#if defined(RANKFOLD_SIMT_TSAN)
  main_.tsan_fiber = __tsan_get_current_fiber();
#endif
  release(before_kernel_);
  switch_from(main_, next(), false);
  if (failure_[0] == 0) {
    check_arrays();
  } else {
    drop_fibers(fibers);
  }
}

// Memory of a block. TSan must not see what a block's fibers left in the memory of the block before (the accesses to
// stacks and shared memory would be races, and tokens would order the blocks); it forgets what is unmapped.
void Engine::map_memory() {
  const size_t arena_size = sizeof(Tokens) + launch_->shared_bytes + (kMaxArrays + 1) * (kGap + kArrayAlignment);
#if defined(RANKFOLD_SIMT_TSAN)
  const bool fresh = true;
#else
  const bool fresh = false;
#endif
  if (fresh || stacks_.size() < count_ * kStackStride) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    stack_size_ = kStackStride - page;
    stacks_ = Mapping();
    stacks_ = Mapping(count_ * kStackStride);
    for (unsigned i = 0; i < count_; ++i) {
      threads_[i].stack = stacks_.data() + i * kStackStride + page;
      mprotect(threads_[i].stack - page, page, PROT_NONE);
    }
  }
  if (fresh || arena_.size() < arena_size) {
    arena_ = Mapping();
    arena_ = Mapping(arena_size);
  }
  tokens_ = reinterpret_cast<Tokens*>(arena_.data());
  shared_ = arena_.data() + sizeof(Tokens);
  end_ = arena_.data() + arena_size;
  unpoison(shared_, static_cast<size_t>(end_ - shared_));
  std::memset(shared_, kPoison, static_cast<size_t>(end_ - shared_));
  poison(shared_, static_cast<size_t>(end_ - shared_));
}

void Engine::start(Thread& thread, [[maybe_unused]] unsigned fibers) {
  const Dim& block = launch_->block;
  thread.index = {thread.number % block.x, thread.number / block.x % block.y, thread.number / block.x / block.y};
  thread.what = nullptr;
  thread.place = {};
  thread.carves = false;
  thread.taken = thread.copies_begun = thread.copies_done = thread.groups = 0;
  thread.stack_bottom = thread.stack;
  thread.stack_size = stack_size_;
  thread.fake_stack = nullptr;
  unpoison(thread.stack, stack_size_);
  // Tops at the same place in all pages would share a few lines of the first-level cache.
  const size_t used = stack_size_ - thread.number % 8 * 512;
  thread.context = context::make_fcontext(thread.stack + used, used, &Engine::enter);
#if defined(RANKFOLD_SIMT_TSAN)
  if (tsan_fibers_[fibers].size() <= thread.number) tsan_fibers_[fibers].push_back(__tsan_create_fiber(0));
  thread.tsan_fiber = tsan_fibers_[fibers][thread.number];
#endif
}

// After a failure. A kernel's frames own nothing, so they are simply forgotten; TSan must learn that whatever they did
// was before what comes next.
void Engine::drop_fibers([[maybe_unused]] unsigned fibers) {
#if defined(RANKFOLD_SIMT_TSAN)
  for (unsigned i = 0; i < count_; ++i) {
    __tsan_switch_to_fiber(threads_[i].tsan_fiber, __tsan_switch_to_fiber_no_sync);
    release(after_kernel_);
    __tsan_switch_to_fiber(main_.tsan_fiber, __tsan_switch_to_fiber_no_sync);
  }
  destroy_tsan_fibers(tsan_fibers_[fibers]);  // they hold the frames
#endif
}

void Engine::check_arrays() {
  unpoison(shared_, static_cast<size_t>(end_ - shared_));
  const char* begin = shared_;
  for (unsigned i = 0; i <= array_count_; ++i) {
    const char* end = i < array_count_ ? arrays_[i].data : end_;
    const char* written = std::find_if(begin, end, [](char byte) { return static_cast<uint8_t>(byte) != kPoison; });
    if (written != end && i == 0) {
      std::snprintf(failure_, sizeof failure_, "shared memory: written %td bytes before the first array",
                    end - written);
      return;
    }
    if (written != end) {
      const Array& array = arrays_[i - 1];
      const std::string_view type = bare(array.type);
      std::snprintf(failure_, sizeof failure_, "shared memory: written %td bytes past the end of array %u, %.*s[%zu]",
                    written - begin, i - 1, static_cast<int>(type.size()), type.data(), array.count);
      return;
    }
    if (i < array_count_) begin = end + arrays_[i].count * arrays_[i].size;
  }
}

std::string Engine::where() const {
  std::vector<std::pair<std::string, std::vector<unsigned>>> groups;
  for (unsigned i = 0; i < count_; ++i) {
    const Thread& thread = threads_[i];
    const bool runs = &thread == current_ || &thread == failed_, ready = ready_[thread.warp] >> thread.lane & 1;
    std::string stands = "left the kernel";
    if ((warps_[thread.warp].left >> thread.lane & 1) == 0) {
      stands = runs ? "runs" : thread.what == nullptr ? "not started" : ready ? "can go on from" : "waits at";
      if (runs && thread.what != nullptr) stands += ", last at";
      if (thread.what != nullptr) stands += std::string(" ") + thread.what;
      if (thread.place.line != 0) stands += ' ' + text(thread.place);
    }
    auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == stands; });
    if (group == groups.end()) group = groups.insert(group, {stands, {}});
    group->second.push_back(i);
  }
  std::string result;
  for (const auto& [stands, threads] : groups) {
    result += "  " + stands + ": threads";
    for (size_t begin = 0, end; begin < threads.size(); begin = end) {
      for (end = begin + 1; end < threads.size() && threads[end] == threads[end - 1] + 1;) ++end;
      result += (begin == 0 ? " " : ", ") + std::to_string(threads[begin]);
      if (end - begin > 1) result += "-" + std::to_string(threads[end - 1]);
    }
    result += "\n";
  }
  return result;
}

void check(const Launch& launch) {
  const auto refuse = [&](const std::string& what) {
    throw Failure(std::string("kernel '") + launch.name + "': " + what);
  };
  const Dim &block = launch.block, &grid = launch.grid;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (block.x > kMaxThreads || block.y > kMaxThreads || block.z > 64 || threads == 0 || threads > kMaxThreads ||
      threads % kLanes != 0) {
    refuse("block " + text(block) + ": expected a multiple of 32 threads, at most 1024");
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > INT32_MAX || grid.y > UINT16_MAX || grid.z > UINT16_MAX) {
    refuse("grid " + text(grid) + ": expected 1 to 2^31 - 1 blocks in x, 1 to 65535 in y and z");
  }
}

}  // namespace

namespace detail {

void sync_threads(Place place) { engine->sync_threads(place); }

void sync_warp(unsigned mask, Place place) { engine->sync_warp(mask, place); }

void shuffle(Register& value, unsigned mask, unsigned source, const char* what, Place place) {
  engine->shuffle(value, mask, source, what, place);
}

const void* exchange(const uint32_t* mine, size_t words, Place place) { return engine->exchange(mine, words, place); }

void begin_carving(Place place) { engine->begin_carving(place); }

void* take(size_t count, size_t size, const char* type, Place place) { return engine->take(count, size, type, place); }

void wait(unsigned groups_left) { engine->wait(groups_left); }

void run(const Launch& launch, void (*thread)(const void*), const void* argument) {
  check(launch);
  Setting setting;
  {
    const std::lock_guard lock(process().mutex);
    setting = process().setting;
    ++process().launches[launch.name];
  }
  const Around entered;
  this_engine().run(launch, thread, argument, setting);
}

}  // namespace detail

void around_launches(void (*f)(bool begins)) { around = f; }

void fail(const char* what, Place place) {
  if (engine == nullptr || !engine->in_kernel()) throw Failure(what);
  engine->fail_at(what, place);
}

void copy_async(void* shared_destination, const void* global_source, size_t bytes, Place place) {
  engine->copy_async(shared_destination, global_source, bytes, place);
}

void commit() { engine->commit(); }

Setting set_order(Order order, uint64_t seed) {
  const std::lock_guard lock(process().mutex);
  return std::exchange(process().setting, {order, seed});
}

std::map<std::string, int64_t> launches() {
  const std::lock_guard lock(process().mutex);
  return process().launches;
}

std::string where() { return engine == nullptr ? "" : engine->where(); }

}  // namespace simt
