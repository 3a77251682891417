// What a template says: its tree.
#pragma once

#include "text/jinja/operators.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rankfold::jinja {

struct Expression;
struct Statement;
using ExpressionPointer = std::unique_ptr<Expression>;
using Body = std::vector<std::unique_ptr<Statement>>;

enum class ExpressionKind {
  kConstant,
  kName,
  kNamespaceName,  // ns.x as a target
  kTuple,
  kList,
  kDict,         // parts: key, value, key, ...
  kConditional,  // parts: test, then, otherwise (may be null)
  kOr,
  kAnd,
  kNot,
  kCompare,  // parts: one more than comparisons
  kCalculate,
  kConcatenate,
  kNegate,
  kPlus,
  kAttribute,
  kItem,
  kSlice,   // parts: value, start, stop, step (may be null)
  kCall,    // parts: what is called, arguments
  kFilter,  // parts: value (null for the text of a block), arguments
  kTest
};

// A variable: `hops` frames out from where it is read, at `slot`.
struct Place {
  uint32_t hops = 0, slot = 0;
};

struct Expression {
  ExpressionKind kind;
  size_t line;
  uint32_t depth = 1;
  std::vector<ExpressionPointer> parts;
  Value constant;
  std::string name;  // of a variable, attribute, filter or test
  Place place;
  Operator operation = Operator::kAdd;
  std::vector<Comparison> comparisons;
  std::vector<std::pair<std::string, ExpressionPointer>> named;
  ExpressionPointer more_positional, more_named;  // *x, **x
};

// How a slot of a frame is filled when the frame is entered.
struct Fill {
  enum class From { kContext, kOuter, kNothing };
  uint32_t slot;
  From from;
  std::string name;  // in the context
  Place outer;       // seen from the frame outside
};

struct FrameLayout {
  uint32_t slots = 0;
  std::vector<Fill> fills;
};

struct Parameter {
  std::string name;
  ExpressionPointer otherwise;  // null where there is no default
  uint32_t slot = 0;
};

// A macro, or the block of a call or generation tag.
struct Macro {
  std::string name;
  std::vector<Parameter> parameters;
  Body body;
  FrameLayout frame;
  bool takes_caller = false, takes_named = false, takes_more = false;  // uses `caller`, `kwargs`, `varargs`
  uint32_t caller_slot = 0, named_slot = 0, more_slot = 0;
};

enum class StatementKind {
  kOutput,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kGeneration,
  kWith,
  kBreak,
  kContinue
};

struct Branch {
  ExpressionPointer test;  // null: else
  Body body;
};

struct Loop {
  ExpressionPointer target, items, test;  // no test: null
  ExpressionPointer test_target;          // the target in the frame of the test
  Body body, otherwise;
  bool is_recursive = false, has_loop = false;
  uint32_t loop_slot = 0;
  FrameLayout frame, test_frame, otherwise_frame;
};

struct Statement {
  StatementKind kind;
  size_t line;
  std::vector<ExpressionPointer> expressions;  // output; set: target, value; with: target, value, ...; call; filter
  std::vector<Branch> branches;
  std::unique_ptr<Loop> loop;
  std::shared_ptr<Macro> macro;
  Place place;  // of a macro's name
  Body body;
  FrameLayout frame;
};

// Throws UserError "name:line: what was expected".
Body parse(std::string source, const std::string& name);

// Says where each variable is, as Jinja's compiler does, and refuses what it refuses.
FrameLayout resolve_names(Body& body, const std::string& name);

}  // namespace rankfold::jinja
