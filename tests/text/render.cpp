// Renders templates for the oracle tests:  rankfold-render CASES.json OUT.json
//
// CASES is a list of {"template", "variables": JSON as text, so that its numbers stay as they are}. All text of
// messages[k] gets origin k. OUT is a list of {"text", "origins", "generations"} or {"error", "chosen"}.
#include "rankfold/error.h"
#include "text/jinja/jinja.h"

#include <nlohmann/json.hpp>

#include <fstream>
#include <iostream>
#include <map>
#include <string>

using nlohmann::json;
using rankfold::jinja::Value;

namespace {

Value marked_messages(const Value& messages) {
  if (!messages.is_list()) return messages;
  std::vector<Value> marked;
  for (const Value& message : messages.items()) marked.push_back(message.marked(static_cast<int32_t>(marked.size())));
  return Value::list(std::move(marked));
}

std::map<std::string, Value> variables_of(const json& given) {
  std::map<std::string, Value> variables;
  const Value all = rankfold::jinja::from_json(given.get<std::string>(), "variables");
  for (const auto& [name, value] : all.mapping().entries()) {
    const std::string key = name.text().string();
    variables[key] = key == "messages" ? marked_messages(value) : value;
  }
  return variables;
}

json render(const json& given) {
  try {
    rankfold::jinja::Options options;
    options.now = {.year = 2024, .month = 7, .day = 26, .hour = 13, .minute = 5, .second = 9, .microsecond = 123};
    const auto result = rankfold::jinja::Template::compile(given.at("template"), "template")
                            .render(variables_of(given.at("variables")), options);
    json origins = json::array(), generations = json::array();
    for (const auto& [begin, end, origin] : result.origins) origins.push_back({begin, end, origin});
    for (const auto& [begin, end] : result.generations) generations.push_back({begin, end});
    return {{"text", result.text}, {"origins", origins}, {"generations", generations}};
  } catch (const rankfold::jinja::RenderError& error) {
    return {{"error", error.reason()}, {"chosen", error.is_chosen_by_template()}};
  } catch (const rankfold::UserError& error) {
    return {{"error", error.what()}, {"chosen", false}};
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: rankfold-render CASES.json OUT.json\n";
    return 2;
  }
  json results = json::array();
  for (const json& one : json::parse(std::ifstream(argv[1]))) results.push_back(render(one));
  std::ofstream(argv[2]) << results.dump() << "\n";
}
