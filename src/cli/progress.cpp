#include "cli/progress.h"

#include "cli/console.h"
#include "core/number_text.h"
#include "train/memory_plan.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string_view>
#include <vector>

namespace rankfold {
namespace {

constexpr auto kBetweenDraws = std::chrono::milliseconds(50);
constexpr size_t kPipeTakes = 4096;  // at once, where it is ready
constexpr size_t kWidestBar = 40, kNarrowestBar = 5;

// A line is cut at the right edge instead of going on below, whatever width a terminal gives a character; and back.
constexpr const char *kNoWrap = "\x1b[?7l", *kWrap = "\x1b[?7h", *kClear = "\r\x1b[K";

std::string clock_text(double seconds) {
  const long s = std::isfinite(seconds) ? std::lround(std::clamp(seconds, 0.0, 3.6e6)) : 0;
  return s < 3600 ? printed("%02ld:%02ld", s / 60, s % 60) : printed("%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
}

// As the C library reads the environment, which the programs leave at the locale "C".
bool is_utf8_locale() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"})
    if (const char* value = std::getenv(name); value && *value) {
      std::string locale = value;
      std::transform(locale.begin(), locale.end(), locale.begin(), [](unsigned char c) { return std::tolower(c); });
      return locale.find("utf-8") != std::string::npos || locale.find("utf8") != std::string::npos;
    }
  return false;
}

std::string bar_of(double share, size_t width, bool unicode) {
  if (!unicode) {
    const auto filled = static_cast<size_t>(share * static_cast<double>(width - 2));
    return "[" + std::string(filled, '#') + std::string(width - 2 - filled, '.') + "]";
  }
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const auto eighths = static_cast<size_t>(share * static_cast<double>(8 * width));
  std::string bar;
  for (size_t i = 0; i < width; ++i) {
    const size_t here = eighths > 8 * i ? std::min<size_t>(8, eighths - 8 * i) : 0;
    bar += here == 8 ? "█" : here > 0 ? kEighths[here] : "░";
  }
  return bar;
}

// A part of the line; those of a higher rank are left out first.
struct Part {
  std::string text;
  int rank;
};

size_t width_of_parts(const std::vector<Part>& parts, int rank) {
  size_t width = 0;
  for (const Part& part : parts)
    if (part.rank <= rank && !part.text.empty()) width += 2 + part.text.size();
  return width;
}

}  // namespace

std::string bar_line(const BarState& state, size_t columns, bool unicode) {
  const Progress& now = state.progress;
  const double share = now.total_steps > 0
                           ? std::clamp(static_cast<double>(now.step) / static_cast<double>(now.total_steps), 0.0, 1.0)
                           : 0;
  const std::string percent = printed("%3d%%", static_cast<int>(share * 100));
  const std::vector<Part> parts = {
      {with_commas(now.step) + "/" + with_commas(now.total_steps), 1},
      {printed("epoch %.2f", now.epoch), 6},
      {state.loss ? printed("loss %.4f", *state.loss) : "", 1},
      {with_commas(std::llround(std::clamp(now.tokens_per_second, 0.0, 1e15))) + " tokens/s", 3},
      {state.peak_memory_bytes > 0 ? bytes_text(state.peak_memory_bytes) : "", 5},
      {clock_text(now.seconds_elapsed), 4},
      {clock_text(now.seconds_left) + " left", 2},
  };
  const size_t room = columns > 1 ? columns - 1 : 0;  // the last column makes some terminals wrap
  // The time that is left counts more than the bar, which counts more than the rest.
  const auto fits = [&](int rank) {
    return percent.size() + (rank > 2 ? 1 + kNarrowestBar : 0) + width_of_parts(parts, rank) <= room;
  };
  int rank = 6;
  while (rank > 1 && !fits(rank)) --rank;
  std::string tail;
  for (const Part& part : parts)
    if (part.rank <= rank && !part.text.empty()) tail += "  " + part.text;
  const size_t used = percent.size() + 1 + tail.size();
  const std::string bar =
      used + kNarrowestBar <= room ? " " + bar_of(share, std::min(kWidestBar, room - used), unicode) : "";
  const std::string line = percent + bar + tail;
  return bar.empty() ? line.substr(0, room) : line;
}

ProgressDisplay::ProgressDisplay() : has_unicode_(is_utf8_locale()) {
  const char* terminal = std::getenv("TERM");
  is_terminal_ = ::isatty(STDOUT_FILENO) == 1 && terminal && *terminal && std::string_view(terminal) != "dumb";
}

ProgressDisplay::~ProgressDisplay() { end_bar(); }

// A reader that has stopped reading must not hold up the run: what it would block on it does not get.
bool ProgressDisplay::is_heard() {
  pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
  return ::poll(&out, 1, 0) == 1 && (out.revents & POLLOUT);
}

void ProgressDisplay::show(const Progress& progress) {
  if (!is_heard()) return;
  const LogRow* row = progress.logged;
  if (row) state_.loss = row->loss, state_.peak_memory_bytes = row->peak_memory_bytes;
  state_.progress = progress;
  state_.progress.logged = nullptr;
  const bool is_last = progress.step == progress.total_steps;
  if (is_terminal_) {
    const auto now = std::chrono::steady_clock::now();
    if (!row && !is_last && is_drawn_ && now - drawn_ < kBetweenDraws) return;
    drawn_ = now;
    draw();
    if (is_last) end_bar();
  } else if (row) {
    std::cout << printed("step %lld/%lld  epoch %.2f  loss %.4f  grad_norm %.3f  lr %.3e  %.0f tokens/s  ",
                         static_cast<long long>(row->step), static_cast<long long>(progress.total_steps), row->epoch,
                         row->loss, row->grad_norm, row->learning_rate, progress.tokens_per_second)
              << clock_text(progress.seconds_left) << " left  " << clock_text(progress.seconds_elapsed) << " so far  "
              << bytes_text(row->peak_memory_bytes) << std::endl;
  }
}

void ProgressDisplay::draw() {
  std::cout << kNoWrap << "\r" << bar_line(state_, terminal_columns(80), has_unicode_) << "\x1b[K" << kWrap
            << std::flush;
  is_drawn_ = true;
}

void ProgressDisplay::message(const std::string& text) {
  if (!is_heard()) return;
  const bool was_drawn = is_drawn_;
  if (is_drawn_) std::cout << kClear;
  is_drawn_ = false;
  const std::string line = text.ends_with('\n') ? text : text + "\n";
  for (size_t at = 0; at < line.size() && is_heard(); at += kPipeTakes)
    std::cout << line.substr(at, kPipeTakes) << std::flush;
  if (was_drawn && is_heard()) draw();
}

void ProgressDisplay::end_bar() {
  if (is_drawn_ && is_heard()) std::cout << "\n" << std::flush;
  is_drawn_ = false;
}

}  // namespace rankfold
