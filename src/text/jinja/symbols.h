// The names that a body of a template has: which it sets, and which come from outside.
#pragma once

#include "text/jinja/syntax.h"

#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold::jinja {

// Where a variable has its value from when its frame is entered.
enum class Load { kParameter, kContext, kOuter, kNothing };

// The variables of a frame, or those that a branch adds to it.
struct Symbols {
  Symbols* parent = nullptr;        // of the frame outside
  const Symbols* before = nullptr;  // of a branch: what its frame has where the branch begins
  std::map<std::string, Load> loads;
  std::set<std::string> stores;

  bool has(const std::string& name) const { return loads.contains(name) || (before != nullptr && before->has(name)); }
  bool sets(const std::string& name) const {
    return stores.contains(name) || (before != nullptr && before->sets(name));
  }
  bool is_outside(const std::string& name) const {
    return parent != nullptr && (parent->has(name) || parent->is_outside(name));
  }

  void parameter(const std::string& name) {
    stores.insert(name);
    loads[name] = Load::kParameter;
  }
  void store(const std::string& name) {
    stores.insert(name);
    if (!has(name)) loads[name] = is_outside(name) ? Load::kOuter : Load::kNothing;
  }
  void load(const std::string& name) {
    if (!has(name) && !is_outside(name)) loads[name] = Load::kContext;
  }
  void merge(const std::vector<Symbols>& branches) {
    std::set<std::string> stored;
    for (const Symbols& branch : branches)
      for (const std::string& name : branch.stores)
        if (!sets(name)) stored.insert(name);
    for (const Symbols& branch : branches) {
      for (const auto& [name, its_load] : branch.loads) loads[name] = its_load;
      stores.insert(branch.stores.begin(), branch.stores.end());
    }
    for (const std::string& name : stored) loads[name] = is_outside(name) ? Load::kOuter : Load::kContext;
  }
};

// Meets the names of one frame in Jinja's order; bodies of frames within are not entered.
class Collector {
 public:
  explicit Collector(Symbols& symbols) : symbols_(&symbols) {}
  void expression(const Expression* expression);  // may be null
  void target(const Expression& target, bool as_parameter);
  void body(const Body& statements);

 private:
  void statement(const Statement& statement);
  void branches(const std::vector<Branch>& all);
  Symbols branch(const std::function<void()>& meet);

  Symbols* symbols_;
};

// Whether a body reads a name before it sets it, bodies within included.
bool reads(const Body& statements, std::string_view name);

}  // namespace rankfold::jinja
