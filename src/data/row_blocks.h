// The rows of a file on all cores, handed over in the file's order.
#pragma once

#include "data/rows.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace rankfold {

// Calls work(row, block) for each row, from any thread, and take(block, rows) for each block of neighbouring rows, in
// order and one at a time, from any thread; `rows` is how many rows of the file have been taken with it. Only a few
// blocks are under way at once: memory does not grow with the file. Throws what `work` throws at the first broken row,
// once the rows of its block before it were taken, or what `take` throws; later blocks are not handed over.
template <class Block>
void for_row_blocks(const RowFile& file, const std::function<void(int64_t, Block&)>& work,
                    const std::function<void(Block&, int64_t)>& take) {
  constexpr int64_t kRows = 64;
  struct Done {
    Block block;
    std::exception_ptr failure;  // of the row after the block's last one
  };
  const int64_t count = file.size(), block_count = (count + kRows - 1) / kRows;
  const int64_t cores = std::max<int64_t>(2, std::thread::hardware_concurrency()), under_way = 4 * cores;
  std::atomic<int64_t> next = 0, taken = 0;  // blocks
  std::vector<std::optional<Done>> waiting(static_cast<size_t>(under_way));
  const auto place_of = [&](int64_t block) -> auto& { return waiting[static_cast<size_t>(block % under_way)]; };
  std::exception_ptr failure;
  std::mutex mutex;
  FilePass pass = file.pass();

  // Whoever brings the block that is next in the file hands over all that now follow one another.
  const auto deliver = [&](int64_t number, Done done) {
    const std::lock_guard lock(mutex);
    place_of(number) = std::move(done);
    for (int64_t first = taken; !failure && place_of(first); taken = ++first) {
      try {
        Done ready = std::move(*std::exchange(place_of(first), std::nullopt));
        const int64_t rows = std::min((first + 1) * kRows, count);
        take(ready.block, rows);
        if (ready.failure) std::rethrow_exception(ready.failure);
        pass.reached(file.end(rows - 1));
      } catch (...) {
        failure = std::current_exception();
        next = first = block_count;  // no more are begun, and nobody waits
      }
    }
    taken.notify_all();
  };
  const auto work_on = [&] {
    for (int64_t number; (number = next++) < block_count;) {
      for (int64_t now; (now = taken) + under_way <= number;) taken.wait(now);
      Done done;
      try {
        for (int64_t i = number * kRows; i < std::min((number + 1) * kRows, count); ++i) work(i, done.block);
      } catch (...) {
        done.failure = std::current_exception();
      }
      deliver(number, std::move(done));
    }
  };
  {
    std::vector<std::jthread> helpers;
    try {
      for (int64_t i = 1; i < std::min(cores, block_count); ++i) helpers.emplace_back(work_on);
    } catch (const std::system_error&) {  // a limit on threads: those that are there do it
    }
    work_on();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace rankfold
