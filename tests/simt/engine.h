// Runs kernels that were compiled for the CPU (device.h): launch() is the host's <<<>>>.
//
// Each CUDA thread is a fiber, and a thread runs until it must wait for others. Which thread goes on then is the order:
// a kernel whose result depends on it lacks a barrier, so tests compare the outputs of several orders bit for bit.
// Several OS threads may launch at the same time; each has its own fibers.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>

#include "simt/device.h"

namespace simt {

// The first line says which kernel and block and what went wrong, the others where its threads stand.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Launch {
  const char* name;
  Dim grid, block;
  size_t shared_bytes = 0;
};

// Which of the threads that can go on does, and which block is next: the first, the last or any.
enum class Order { forward, backward, random };

struct Setting {
  Order order = Order::forward;
  uint64_t seed = 0;  // of random; each launch starts from it again
};

// For the launches to come, in the whole process; returns what held until now. At first that is what the environment
// variable RANKFOLD_SIMT_ORDER says: forward (the default), backward or random:SEED.
Setting set_order(Order order, uint64_t seed = 0);

// How often each kernel has been launched in this process.
std::map<std::string, int64_t> launches();

// From now on called around the blocks of each launch, on the thread that launches; null: nothing is. Not thread safe.
void around_launches(void (*f)(bool begins));

// Where the threads of the running block stand, a line for each place; for a debugger: `print simt::where()`.
std::string where();

namespace detail {
void run(const Launch& launch, void (*thread)(const void*), const void* argument);
}

// Runs the whole grid before it returns; throws Failure. After a failure the rest of the grid does not run, what the
// kernel has written so far stays, and the next launch starts afresh.
template <class Params>
void launch(const Launch& launch, void (*kernel)(Params), const Params& params) {
  struct Call {
    void (*kernel)(Params);
    const Params& params;
  } call{kernel, params};
  detail::run(
      launch,
      [](const void* argument) {
        const Call& call = *static_cast<const Call*>(argument);
        call.kernel(call.params);  // each thread has its copy
      },
      &call);
}

}  // namespace simt
