#include "text/post_processor.h"

namespace rankfold {
namespace {

// The ids of a special token that a template names.
void append_ids(const JsonNode& part, const JsonNode& tokens, int32_t size, std::vector<int32_t>& ids) {
  const JsonNode token = tokens[part["id"].text().c_str()];
  token.expect_only({"id", "ids", "tokens"});
  for (const JsonNode& id : token["ids"].list()) ids.push_back(static_cast<int32_t>(id.number(0, size - 1)));
}

void read_template(const JsonNode& node, int32_t size, BeforeAndAfter& result) {
  node.expect_only({"type", "single", "pair", "special_tokens"});
  BeforeAndAfter found;
  bool has_text = false;
  for (const JsonNode& part : node["single"].list()) {
    part.expect_only({"SpecialToken", "Sequence"});
    if (part["Sequence"].is_null()) {
      append_ids(part["SpecialToken"], node["special_tokens"], size, has_text ? found.after : found.before);
    } else {
      if (part["Sequence"]["id"].text() != "A" || has_text) part.refuse("the text A, once");
      has_text = true;
    }
  }
  if (!has_text) node["single"].refuse("the text A, once");
  found.after.insert(found.after.end(), result.after.begin(), result.after.end());
  found.before.insert(found.before.begin(), result.before.begin(), result.before.end());
  result = std::move(found);
}

void read(const JsonNode& node, int32_t size, BeforeAndAfter& result) {
  const std::string type = node["type"].text();
  if (type == "Sequence") {
    node.expect_only({"type", "processors"});
    for (const JsonNode& one : node["processors"].list()) read(one, size, result);
  } else if (type == "TemplateProcessing") {
    read_template(node, size, result);
  } else if (type != "ByteLevel") {  // which changes offsets only
    node["type"].refuse("TemplateProcessing, ByteLevel or Sequence");
  }
}

}  // namespace

BeforeAndAfter BeforeAndAfter::of(const JsonNode& node, int32_t size) {
  BeforeAndAfter result;
  if (!node.is_null()) read(node, size, result);
  return result;
}

}  // namespace rankfold
