#include "text/jinja/interpreter.h"
#include "text/jinja/jinja.h"

#include "core/check.h"

namespace rankfold::jinja {

struct Template::Tree {
  std::string name;
  Body body;
  FrameLayout layout;
};

RenderError::RenderError(const std::string& where, const std::string& reason, bool is_chosen)
    : UserError(one_line(where + reason)), reason_(one_line(reason)), is_chosen_(is_chosen) {}

Template Template::compile(std::string source, std::string name_for_errors) {
  if (source.size() > kLargest) fail(name_for_errors, ": expected a template of at most ", kLargest, " bytes");
  auto tree = std::make_shared<Tree>();
  tree->name = std::move(name_for_errors);
  tree->body = parse(std::move(source), tree->name);
  tree->layout = resolve_names(tree->body, tree->name);
  return Template(std::move(tree));
}

namespace {

Rendered rendered_from(const Text& text) {
  Rendered result;
  result.text = text.string();
  size_t begin = 0;
  uint32_t generation = 0;
  for (const auto& [end, mark] : text.runs()) {
    if (!result.origins.empty() && result.origins.back().origin == mark.origin)
      result.origins.back().end = end;
    else
      result.origins.push_back({begin, end, mark.origin});
    if (mark.generation != 0) {
      if (generation == mark.generation)
        result.generations.back().end = end;
      else
        result.generations.push_back({begin, end});
    }
    generation = mark.generation;
    begin = end;
  }
  return result;
}

}  // namespace

Rendered Template::render(const std::map<std::string, Value>& variables, const Options& options) const {
  Meter meter(options.most_steps, options.most_bytes, options.deepest);
  Interpreter interpreter(variables, options);
  const auto where = [&] { return join(tree_->name, ":", interpreter.line(), ": "); };
  try {
    const Text text = interpreter.run(tree_->body, tree_->layout);
    return rendered_from(text);
  } catch (const ChosenByTemplate& error) {
    throw RenderError(where(), error.what(), true);
  } catch (const Raised& error) {
    throw RenderError(where(), error.what(), false);
  }
}

}  // namespace rankfold::jinja
