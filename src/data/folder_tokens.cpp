#include "data/folder_tokens.h"

#include "core/check.h"
#include "core/file.h"
#include "core/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>

namespace rankfold {
namespace fs = std::filesystem;
namespace {

// Those that transformers hands to a chat template.
constexpr std::array<const char*, 7> kSpecialTokens = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                       "pad_token", "cls_token", "mask_token"};

nlohmann::json read_object(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return nlohmann::json::object();
  nlohmann::json object = read_json(path, kLargestConfig);
  if (!object.is_object()) fail(path.string(), ": expected an object");
  return object;
}

// A text, or an object with one; empty where there is none.
std::string text_of_token(const nlohmann::json& config, const char* key, const fs::path& path) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return "";
  const nlohmann::json& value = found->is_object() && found->contains("content") ? found->at("content") : *found;
  if (!value.is_string()) fail(path.string(), ": ", key, ": expected a text, got ", brief(*found));
  return value.get<std::string>();
}

std::optional<bool> add_bos_token(const nlohmann::json& config, const fs::path& path) {
  const auto found = config.find("add_bos_token");
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (!found->is_boolean()) fail(path.string(), ": add_bos_token: expected true or false, got ", brief(*found));
  return found->get<bool>();
}

std::vector<AddedToken> added_tokens(const nlohmann::json& config, const nlohmann::json& file, const fs::path& folder) {
  std::map<std::string, AddedToken> added;
  const auto add = [&](const nlohmann::json& text, int64_t id, const nlohmann::json& flags) {
    if (!text.is_string() || text.empty() || id < 0 || id > INT32_MAX) return;
    const auto flag = [&flags](const char* name, bool otherwise) {
      const auto found = flags.find(name);
      return found != flags.end() && found->is_boolean() ? found->get<bool>() : otherwise;
    };
    const auto content = text.get<std::string>();
    constexpr size_t kLongest = 512;  // as in tokenizer.json
    if (content.size() > kLongest)
      fail(folder.string(), ": an added token of ", content.size(), " bytes (id ", id, "); at most ", kLongest);
    const bool special = flag("special", false);
    added.emplace(content, AddedToken{.id = static_cast<int32_t>(id),
                                      .text = content,
                                      .special = special,
                                      .single_word = flag("single_word", false),
                                      .lstrip = flag("lstrip", false),
                                      .rstrip = flag("rstrip", false),
                                      .normalized = flag("normalized", !special)});
  };
  if (const auto list = config.find("added_tokens_decoder"); list != config.end() && list->is_object())
    for (const auto& [id, token] : list->items()) {
      int32_t number = -1;
      const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), number);
      if (error == std::errc() && end == id.data() + id.size() && token.is_object() && token.contains("content"))
        add(token.at("content"), number, token);
    }
  for (const auto& [text, id] : file.items())
    if (id.is_number_integer() && !(id.is_number_unsigned() && id.get<uint64_t>() > INT32_MAX))
      add(text, id.get<int64_t>(), nlohmann::json::object());
  std::vector<AddedToken> tokens;
  for (auto& [text, token] : added) tokens.push_back(std::move(token));
  std::stable_sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return tokens;
}

std::map<std::string, std::string> chat_templates(const nlohmann::json& config, const fs::path& path) {
  std::map<std::string, std::string> sources;
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return sources;
  const auto refuse = [&](const nlohmann::json& value) {
    fail(path.string(), ": chat_template: expected a text, or a list of {\"name\", \"template\"}, got ", brief(value));
  };
  if (found->is_string()) return {{"default", found->get<std::string>()}};
  if (!found->is_array()) refuse(*found);
  for (const nlohmann::json& entry : *found) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("template") || !entry["name"].is_string() ||
        !entry["template"].is_string())
      refuse(entry);
    sources[entry["name"].get<std::string>()] = entry["template"].get<std::string>();
  }
  return sources;
}

}  // namespace

std::string FolderTokens::special_text(const char* name) const {
  const auto found = special.find(name);
  return found == special.end() ? "" : found->second;
}

FolderTokens read_folder_tokens(const fs::path& folder) {
  const fs::path config_path = folder / "tokenizer_config.json", map_path = folder / "special_tokens_map.json";
  const nlohmann::json config = read_object(config_path), map = read_object(map_path);
  FolderTokens tokens;
  for (const char* name : kSpecialTokens) {
    std::string text = text_of_token(config, name, config_path);
    if (text.empty()) text = text_of_token(map, name, map_path);
    if (!text.empty()) tokens.special[name] = text;
  }
  tokens.add_bos_token = add_bos_token(config, config_path);
  tokens.added = added_tokens(config, read_object(folder / "added_tokens.json"), folder);
  tokens.chat_templates = chat_templates(config, config_path);
  return tokens;
}

const std::vector<std::string>& known_ends_of_turn() {
  static const std::vector<std::string> texts = {"<|im_end|>",
                                                 "<|eot_id|>",
                                                 "<|eom_id|>",
                                                 "<|eot|>",
                                                 "<|eom|>",
                                                 "<|end|>",
                                                 "<|return|>",
                                                 "<|call|>",
                                                 "<end_of_turn>",
                                                 "<|end_of_turn|>",
                                                 "<|endoftext|>",
                                                 "<|end_of_text|>",
                                                 "</s>",
                                                 "<eos>",
                                                 "<|END_OF_TURN_TOKEN|>",
                                                 "<\uFF5Cend\u2581of\u2581sentence\uFF5C>",
                                                 "<|end_of_sentence|>",
                                                 "<|eos|>"};
  return texts;
}

}  // namespace rankfold
