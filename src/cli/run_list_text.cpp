#include "cli/run_list.h"

#include "cli/console.h"
#include "cli/text_columns.h"
#include "core/check.h"
#include "core/config.h"
#include "core/number_text.h"
#include "core/utf8.h"
#include "rankfold/config.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <ostream>
#include <set>

namespace rankfold {
namespace {

constexpr size_t kNameColumns = 24;

// Of at most so many columns, the end of a long text, which tells names apart.
std::string shortened(const std::string& text, size_t columns) {
  std::string shown = one_line(text);
  if (columns_of(shown) <= columns) return shown;
  while (columns_of(shown) > columns - 2) {
    shown.erase(0, 1);
    while (!shown.empty() && (shown[0] & 0xC0) == 0x80) shown.erase(0, 1);
  }
  return ".." + shown;
}

std::string loss_text(const std::optional<double>& loss) {
  if (!loss) return "-";
  return printed(std::abs(*loss) < 100 ? "%.4f" : "%.3g", *loss);
}

std::string time_text(std::time_t time) {
  std::tm local = {}, now = {};
  const std::time_t today = std::time(nullptr);
  if (time == 0 || !::localtime_r(&time, &local) || !::localtime_r(&today, &now)) return "-";
  char text[32];
  const char* pattern = local.tm_year == now.tm_year ? "%m-%d %H:%M" : "%Y-%m-%d";
  return std::strftime(text, sizeof text, pattern, &local) > 0 ? text : "-";
}

const char* word_of(RunState state) {
  switch (state) {
    case RunState::kFinished:
      return "finished";
    case RunState::kStopped:
      return "stopped";
    case RunState::kRunning:
      return "running";
    case RunState::kCheckpoint:
      return "checkpoint";
  }
  return "";
}

std::string steps_text(const ListedRun& run) {
  const std::string step = with_commas(run.step);
  return run.total_steps && *run.total_steps != run.step ? step + "/" + with_commas(*run.total_steps) : step;
}

// Runs under their parents; what a parent is not among them stands at the first level.
class Tree {
 public:
  explicit Tree(const std::vector<ListedRun>& runs) : runs_(runs), children_(runs.size()) {
    std::map<std::string, size_t> by_id;
    for (size_t i = 0; i < runs.size(); ++i)
      if (runs[i].problem.empty()) by_id.emplace(runs[i].run_id, i);
    for (size_t i = 0; i < runs.size(); ++i) {
      const auto parent = by_id.find(runs[i].parent_id);
      if (!runs[i].parent_id.empty() && parent != by_id.end() && parent->second != i)
        children_[parent->second].push_back(i);
      else
        roots_.push_back(i);
    }
  }

  // Calls line(run, what is drawn before its name) for each. Runs that claim to be each other's parents come last.
  void walk(const std::function<void(size_t, const std::string&)>& line) {
    for (const size_t root : roots_) visit(root, "", "", line);
    for (size_t i = 0; i < runs_.size(); ++i) visit(i, "", "", line);
  }

 private:
  void visit(size_t run, const std::string& drawn, const std::string& below,
             const std::function<void(size_t, const std::string&)>& line) {
    if (!seen_.insert(run).second) return;
    line(run, drawn);
    const auto& children = children_[run];
    for (size_t i = 0; i < children.size(); ++i) {
      const bool is_last = i + 1 == children.size();
      visit(children[i], below + (is_last ? "└─ " : "├─ "), below + (is_last ? "   " : "│  "), line);
    }
  }

  const std::vector<ListedRun>& runs_;
  std::vector<std::vector<size_t>> children_;
  std::vector<size_t> roots_;
  std::set<size_t> seen_;
};

// The run with the least loss on held-out rows; null where none has one.
const ListedRun* best_of(const std::vector<ListedRun>& runs, std::optional<double> ListedRun::*loss) {
  const ListedRun* best = nullptr;
  for (const ListedRun& run : runs)
    if (run.*loss && std::isfinite(*(run.*loss)) && (!best || *(run.*loss) < *(best->*loss))) best = &run;
  return best;
}

void print_table(std::ostream& out, const std::vector<ListedRun>& runs, const ListedRun* best) {
  out << left("run", kNameColumns) << " " << left("how", 4) << " " << right("steps", 13) << " " << right("loss", 7)
      << " " << right("eval", 7) << " " << right("best", 7) << " " << right("size", 6) << "  " << left("changed", 11)
      << " state\n";
  Tree(runs).walk([&](size_t i, const std::string& drawn) {
    const ListedRun& run = runs[i];
    const size_t room = kNameColumns - std::min(kNameColumns - 6, columns_of(drawn));
    const std::string name = shortened(run.name, room);
    if (!run.problem.empty()) return print_wrapped(out, left(drawn + name, kNameColumns) + " ", one_line(run.problem));
    out << left(drawn + name, kNameColumns) << " " << left(run.method.empty() ? "-" : run.method, 4) << " "
        << right(steps_text(run), 13) << " " << right(loss_text(run.loss), 7) << " "
        << right(loss_text(run.eval_loss), 7) << " " << right(loss_text(run.best_eval_loss), 7) << " "
        << right(size_text(run.bytes), 6) << "  " << left(time_text(run.changed), 11) << " " << word_of(run.state)
        << (&run == best ? " *" : "") << "\n";
  });
}

// Settings that decide what is trained. Where a run goes and how it is watched are no difference between two.
std::set<std::string> compared_settings() {
  std::set<std::string> names = {"eval_dataset"};
  for (const Resume kind : {Resume::kSame, Resume::kSameResult, Resume::kMayChange}) {
    const auto values = values_of(RunConfig{}, kind);
    for (const auto& [name, value] : values.items()) names.insert(name);
  }
  return names;
}

void print_differences(std::ostream& out, const std::vector<ListedRun>& runs) {
  std::vector<const ListedRun*> known;
  for (const ListedRun& run : runs)
    if (run.problem.empty() && run.settings.is_object()) known.push_back(&run);
  if (known.size() < 2) return;
  bool is_first = true;
  for (const std::string& key : compared_settings()) {
    std::vector<std::pair<std::string, std::string>> values;  // and the runs that have them
    for (const ListedRun* run : known) {
      const std::string value = run->settings.contains(key) ? run->settings[key].dump() : "not said";
      const auto at = std::find_if(values.begin(), values.end(), [&](const auto& pair) { return pair.first == value; });
      if (at == values.end())
        values.emplace_back(value, shortened(run->name, 40));
      else
        at->second += ", " + shortened(run->name, 40);
    }
    if (values.size() < 2) continue;
    if (is_first) out << "\nsettings that differ:\n";
    is_first = false;
    std::string text;
    for (const auto& [value, names] : values)
      text += (text.empty() ? "" : "; ") + shortened(value, 40) + " (" + names + ")";
    print_wrapped(out, left("  " + key + " ", 32), text);
  }
  if (is_first) out << "\nno settings differ\n";
}

}  // namespace

void print_runs(std::ostream& out, const std::filesystem::path& folder, const std::vector<ListedRun>& runs) {
  if (runs.empty()) {
    out << "no runs below " << one_line(folder.string()) << " (folders at most " << kDeepestRun << " deep)\n";
    return;
  }
  const ListedRun* best = best_of(runs, &ListedRun::best_eval_loss);
  print_table(out, runs, best);
  std::set<std::string> ids;
  for (const ListedRun& run : runs) ids.insert(run.run_id);
  for (const ListedRun& run : runs)
    if (!run.parent_path.empty() && (run.parent_id.empty() || !ids.contains(run.parent_id)))
      print_wrapped(
          out, "",
          shortened(run.name, 40) + " started from " + shortened(run.parent_path, 40) + ", which is not listed");
  if (best)
    out << "\nbest: * " << shortened(best->name, 60) << ", eval_loss " << loss_text(best->best_eval_loss) << " at step "
        << with_commas(best->best_step) << "\n";
  else if (const ListedRun* least = best_of(runs, &ListedRun::loss))
    out << "\nno run was evaluated on held-out rows; the least training loss: " << shortened(least->name, 40) << ", "
        << loss_text(least->loss) << "\n";
  print_differences(out, runs);
}

}  // namespace rankfold
