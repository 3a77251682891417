// Runs a template's tree once.
#pragma once

#include "text/jinja/frame.h"
#include "text/jinja/jinja.h"
#include "text/jinja/library.h"

#include <map>
#include <memory>
#include <string>

namespace rankfold::jinja {

class Interpreter {
 public:
  Interpreter(const std::map<std::string, Value>& variables, const Options& options);
  ~Interpreter();

  Text run(const Body& body, const FrameLayout& layout);
  size_t line() const { return line_; }
  Context& context() { return context_; }

  // The rest is for macros and loops, which call back.
  Value call_macro(const std::shared_ptr<const Macro>& macro, const FramePointer& outside, Arguments arguments);
  Text run_recursive(const Loop& loop, const FramePointer& outside, const Value& items, int64_t depth);

 private:
  enum class Flow { kNext, kBreak, kContinue };

  static constexpr int kDeepestCalls = 200;  // Python's own stack ends at about as many macros within each other

  // Statements (interpreter.cpp)
  Flow run_body(const Body& body, const FramePointer& frame, TextBuilder& out);
  Flow run_statement(const Statement& statement, const FramePointer& frame, TextBuilder& out);
  Flow run_if(const Statement& statement, const FramePointer& frame, TextBuilder& out);
  Flow run_block(const Statement& statement, const FramePointer& outside, TextBuilder& out);
  Flow run_with(const Statement& statement, const FramePointer& outside, TextBuilder& out);
  void run_set(const Statement& statement, const FramePointer& frame);
  void check_namespaces(const Expression& target, const FramePointer& frame);
  void assign(const Expression& target, Value value, const FramePointer& frame);
  void fill(Frame& frame, const FrameLayout& layout);
  Value look_up(const std::string& name);

  // loops.cpp, macros.cpp
  Flow run_loop(const Loop& loop, const FramePointer& outside, const Value& items, int64_t depth, TextBuilder& out);
  Value make_macro(const std::shared_ptr<const Macro>& macro, const FramePointer& frame);
  void run_generation(const Statement& statement, const FramePointer& frame, TextBuilder& out);

  // Expressions (evaluate.cpp)
  Value evaluate(const Expression& expression, const FramePointer& frame);
  Value evaluate_name(const Expression& expression, const FramePointer& frame);
  Value evaluate_conditional(const Expression& expression, const FramePointer& frame);
  Value evaluate_compare(const Expression& expression, const FramePointer& frame);
  Value evaluate_concatenate(const Expression& expression, const FramePointer& frame);
  Value evaluate_dict(const Expression& expression, const FramePointer& frame);
  Value evaluate_slice(const Expression& expression, const FramePointer& frame);
  Value evaluate_call(const Expression& expression, const FramePointer& frame, const Value* caller = nullptr);
  Value evaluate_filter(const Expression& expression, const FramePointer& frame, const Text* block = nullptr);
  std::vector<Value> evaluate_all(const Expression& expression, const FramePointer& frame);
  Arguments evaluate_arguments(const Expression& expression, const FramePointer& frame);

  const std::map<std::string, Value>& variables_;
  Context context_;
  uint64_t most_output_;
  size_t line_ = 1;
  uint32_t generations_ = 0;
  int calls_ = 0;
};

}  // namespace rankfold::jinja
