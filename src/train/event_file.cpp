#include "train/event_file.h"

#include "core/check.h"
#include "core/file.h"
#include "core/write.h"
#include "report/event_records.h"
#include "train/log_row.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace rankfold {
namespace fs = std::filesystem;
namespace {

constexpr const char* kEventFolder = "runs/rankfold";
constexpr std::string_view kEventFile = "events.out.tfevents.", kEventFileEnd = ".rankfold";

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string record_of(const LogRow& row, double wall_time) {
  std::vector<Scalar> scalars;
  for (const Metric& metric : row.metrics)
    scalars.push_back({tag_of(metric.name), std::visit([](auto x) { return static_cast<double>(x); }, metric.value)});
  return scalars_record(wall_time, row.step, scalars);
}

std::vector<fs::path> event_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with(kEventFile) && name.ends_with(kEventFileEnd)) files.push_back(entry->path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// What cannot be read has no times.
std::vector<EventTime> times_in(const fs::path& path) {
  try {
    return event_times(read_text(path));
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

std::string tag_of(const std::string& metric) {
  if (is_of_training(metric)) return "train/" + metric;
  constexpr std::string_view kEval = "eval_";
  return metric.starts_with(kEval) ? "eval/" + metric.substr(kEval.size()) : metric;
}

EventFile::EventFile(const fs::path& folder, std::function<void(const std::string&)> say)
    : folder_(folder / kEventFolder), say_(std::move(say)) {}

void EventFile::begin(const std::vector<LogRow>& rows) {
  const std::vector<fs::path> old = event_files(folder_);
  const std::vector<EventTime> before = old.empty() ? std::vector<EventTime>() : times_in(old.back());
  times_.clear();
  for (size_t i = 0; i < rows.size(); ++i)
    times_.push_back(i < before.size() && before[i].step == rows[i].step ? before[i].wall_time : now());
  auto second = static_cast<int64_t>(now());
  for (const fs::path& file : old)  // also where the clock was turned back
    second = std::max(second, int64_t{1} + std::atoll(file.filename().string().c_str() + kEventFile.size()));
  path_ = folder_ / join(kEventFile, second, kEventFileEnd);
  attempt([&] { write_all(rows); });
}

void EventFile::write_all(const std::vector<LogRow>& rows) {
  std::string bytes = file_version_record(times_.empty() ? now() : times_.front());
  for (size_t i = 0; i < rows.size(); ++i) bytes += record_of(rows[i], times_[i]);
  prepare_folder(folder_);
  write_text(path_, bytes);
  for (const fs::path& file : event_files(folder_))
    if (file != path_) remove_file(file);
}

void EventFile::add(const std::vector<LogRow>& rows) {
  times_.push_back(now());
  attempt([&] {
    if (is_behind_)
      write_all(rows);
    else
      append_bytes(path_, record_of(rows.back(), times_.back()));
  });
}

void EventFile::attempt(const std::function<void()>& write) {
  try {
    write();
    is_behind_ = false;
  } catch (const Error& error) {
    if (!is_behind_) say_(join("going on without the event file: ", error.what()));
    is_behind_ = true;
  }
}

}  // namespace rankfold
