#include "rankfold/tokenizer.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/file.h"
#include "core/guard.h"
#include "core/json.h"
#include "data/tokenizer_model.h"

#include <sentencepiece_processor.h>
#include <nlohmann/json.hpp>

#include <charconv>
#include <map>

namespace rankfold {
namespace fs = std::filesystem;

struct Tokenizer::State {
  sentencepiece::SentencePieceProcessor model;
  std::optional<int32_t> bos;
  int32_t eos = -1;
  uint64_t fingerprint = kChecksumSeed;
  size_t longest_text = kLongestText;
  std::map<std::string, int32_t> added;  // tokens beyond the pieces
  std::string eos_token;                 // of tokenizer_config.json
  std::string note;
  std::vector<std::string> control_tokens;

  bool is_id(int32_t id) const { return id >= 0 && id < model.GetPieceSize(); }
  // An id beyond the pieces is a padded row of the embedding.
  bool is_silent(int32_t id) const {
    return !is_id(id) || id == eos || id == model.pad_id() || model.IsControl(id) || model.IsUnknown(id);
  }
  std::optional<int32_t> id_of(const std::string& token) const {
    if (token.empty()) return std::nullopt;
    if (const int id = model.PieceToId(token); is_id(id) && model.IdToPiece(id) == token) return id;
    const auto found = added.find(token);
    return found == added.end() ? std::nullopt : std::optional(found->second);
  }
  std::string text_of(int32_t id) const {  // empty for an id of no token
    if (is_id(id)) return model.IdToPiece(id);
    for (const auto& [text, its_id] : added)
      if (its_id == id) return text;
    return "";
  }
  std::string named(int64_t id) const {
    const std::string text = text_of(static_cast<int32_t>(id));
    return join(id, " (", text.empty() ? "not in tokenizer.model" : text, ")");
  }
};

namespace {

std::string read_model(const fs::path& folder) {
  const fs::path path = folder / "tokenizer.model";
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    const bool fast = fs::exists(folder / "tokenizer.json", ignored);
    fail(path.string(), ": no such file",
         fast ? " (tokenizer.json is there, but only sentencepiece models are supported)" : "");
  }
  constexpr uint64_t kLargest = 16 << 20;  // a vocabulary of 250,000 pieces takes 5
  std::string bytes = read_text(path, kLargest);
  if (const std::string kind = foreign_kind(bytes); !kind.empty())
    fail(path.string(), ": expected a sentencepiece model, got ", kind);
  return bytes;
}

void load(const std::string& bytes, const std::string& name, sentencepiece::SentencePieceProcessor& model) {
  try {
    const auto status = model.LoadFromSerializedProto(bytes);
    if (!status.ok()) fail(name, ": not a sentencepiece model: ", status.error_message());
  } catch (const UserError&) {
    throw;
  } catch (const std::exception& error) {  // of the tries that it builds over the pieces
    fail(name, ": not a sentencepiece model: ", error.what());
  }
  // sentencepiece looks a piece of text up among the control pieces too. No harm where text is never cut into
  // "<s>", as in BPE and unigram models; but it fails in word models and for a control piece of one character.
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    std::vector<int> ids;
    if (model.IsControl(id) && !model.Encode(model.IdToPiece(id), &ids).ok())
      fail(name, ": a text that spells the control token '", model.IdToPiece(id), "' cannot be encoded");
  }
}

nlohmann::json read_object(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return nlohmann::json::object();
  nlohmann::json object = read_json(path, kLargestConfig);
  if (!object.is_object()) fail(path.string(), ": expected an object");
  return object;
}

std::optional<bool> add_bos_token(const nlohmann::json& config, const fs::path& path) {
  const auto found = config.find("add_bos_token");
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (!found->is_boolean()) fail(path.string(), ": add_bos_token: expected true or false, got ", brief(*found));
  return found->get<bool>();
}

// A text, or an object with one; empty where there is none.
std::string eos_token(const nlohmann::json& config, const fs::path& path) {
  auto found = config.find("eos_token");
  if (found == config.end() || found->is_null()) return "";
  const nlohmann::json& value = found->is_object() && found->contains("content") ? found->at("content") : *found;
  if (!value.is_string()) fail(path.string(), ": eos_token: expected a text, got ", brief(*found));
  return value.get<std::string>();
}

// {"text": id} of added_tokens.json and {"id": {"content": text}} of tokenizer_config.json, the latter first. Entries of
// another shape name no token.
std::map<std::string, int32_t> added_tokens(const nlohmann::json& config, const fs::path& folder) {
  std::map<std::string, int32_t> added;
  const auto add = [&added](const nlohmann::json& text, const nlohmann::json& id) {
    if (!text.is_string() || !id.is_number_integer() || id < 0 || id > INT32_MAX) return;
    added.emplace(text.get<std::string>(), id.get<int32_t>());
  };
  if (const auto list = config.find("added_tokens_decoder"); list != config.end() && list->is_object())
    for (const auto& [id, token] : list->items()) {
      int32_t number = -1;
      const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), number);
      if (error == std::errc() && end == id.data() + id.size() && token.is_object() && token.contains("content"))
        add(token.at("content"), number);
    }
  const nlohmann::json file = read_object(folder / "added_tokens.json");
  for (const auto& [text, id] : file.items()) add(text, id);
  return added;
}

}  // namespace

// All but eos and what follows from it.
std::shared_ptr<Tokenizer::State> Tokenizer::read(const fs::path& folder, bool bos_by_default) {
  const auto state = std::make_shared<State>();
  const std::string bytes = read_model(folder), name = (folder / "tokenizer.model").string();
  state->longest_text = kLongestText / check_tokenizer_model(bytes, name);
  load(bytes, name, state->model);
  state->fingerprint = checksum64(std::as_bytes(std::span(bytes)));

  const fs::path config_path = folder / "tokenizer_config.json";
  const nlohmann::json config = read_object(config_path);
  const std::optional<bool> said = add_bos_token(config, config_path);
  const int32_t bos = state->model.bos_id();
  if (said.value_or(false) && bos < 0) fail(config_path.string(), ": add_bos_token: tokenizer.model has no bos token");
  if (said.value_or(bos_by_default) && bos >= 0) state->bos = bos;
  state->eos_token = eos_token(config, config_path);
  state->added = added_tokens(config, folder);

  constexpr size_t kMostTokens = 64;  // looked for in every text
  auto& tokens = state->control_tokens;
  for (int id = 0; id < state->model.GetPieceSize() && tokens.size() < kMostTokens; ++id)
    if (state->model.IsControl(id) || state->model.IsUnknown(id)) tokens.push_back(state->model.IdToPiece(id));
  for (const auto& [text, id] : state->added)
    if (!text.empty() && !state->is_id(id) && tokens.size() < kMostTokens) tokens.push_back(text);
  return state;
}

Tokenizer Tokenizer::with_eos(const std::shared_ptr<State>& state, int32_t eos) {
  state->eos = eos;
  const int32_t decided[] = {state->bos.value_or(-1), eos};
  state->fingerprint = checksum64(std::as_bytes(std::span(decided)), state->fingerprint);
  Tokenizer tokenizer;
  tokenizer.state_ = state;
  return tokenizer;
}

Tokenizer Tokenizer::open(const fs::path& folder, bool bos_by_default, int32_t eos_token_id) try {
  const auto state = read(folder, bos_by_default);
  const int32_t eos = eos_token_id >= 0 ? eos_token_id : state->id_of(state->eos_token).value_or(state->model.eos_id());
  if (eos < 0) fail((folder / "tokenizer.model").string(), ": has no eos token, and no eos_token_id is given");
  if (eos_token_id >= 0 && !state->is_id(eos))
    fail(folder.string(), ": eos_token_id: expected an id below ", state->model.GetPieceSize(),
         " (pieces of tokenizer.model), got ", eos);
  return with_eos(state, eos);
} catch (...) {
  rethrow_as_error();
}

Tokenizer Tokenizer::of_model(const fs::path& folder, bool bos_by_default, const std::vector<int64_t>& eos_token_ids,
                              int64_t vocab_size) try {
  const auto state = read(folder, bos_by_default);
  const int32_t own = state->model.eos_id(), said = state->id_of(state->eos_token).value_or(-1);
  int32_t eos = said >= 0 && said < vocab_size ? said : own;  // beyond: a token that was added to the tokenizer alone
  for (const int64_t id : eos_token_ids)
    if (eos < 0 && state->is_id(static_cast<int32_t>(id))) eos = static_cast<int32_t>(id);
  if (eos < 0)
    fail((folder / "tokenizer.model").string(),
         ": has no eos token, and eos_token_id of the model names none of its pieces");

  std::string others;
  const auto differ = [&others](const auto&... parts) { others += (others.empty() ? "" : ", ") + join(parts...); };
  if (!eos_token_ids.empty() && eos_token_ids.front() != eos)
    differ("eos_token_id of config.json or generation_config.json is ", state->named(eos_token_ids.front()));
  if (!state->eos_token.empty() && said != eos)
    differ("eos_token of tokenizer_config.json is ", state->eos_token,
           said >= 0 ? join(", id ", said, " beyond the embedding") : ", which tokenizer.model does not have");
  if (own >= 0 && own != eos) differ("eos of tokenizer.model is ", state->named(own));
  if (!others.empty())
    state->note = one_line(join(folder.string(), ": rows end in ", state->named(eos), ", but ", others));
  return with_eos(state, eos);
} catch (...) {
  rethrow_as_error();
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const try {
  const auto& model = state_->model;
  if (text.size() > state_->longest_text)
    fail("a text of ", text.size(), " bytes; at most ", state_->longest_text, " are encoded");
  std::vector<int32_t> ids;
  if (const auto status = model.Encode(text, &ids); !status.ok()) fail("tokenizer.model: ", status.error_message());
  for (const int id : ids) RANKFOLD_ASSERT(!model.IsControl(id));
  return ids;
} catch (...) {
  rethrow_as_error();
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids) const try {
  std::vector<int> printed;
  for (const int32_t id : ids) {
    RANKFOLD_CHECK(id >= 0, "decode: expected ids of 0 or more, got ", id);
    if (!state_->is_silent(id)) printed.push_back(id);
  }
  std::string text;
  if (const auto status = state_->model.Decode(printed, &text); !status.ok())
    fail("tokenizer.model: ", status.error_message());
  return text;
} catch (...) {
  rethrow_as_error();
}

std::string Tokenizer::piece(int32_t id) const {
  RANKFOLD_CHECK(state_->is_id(id) || id == state_->eos, "piece: expected an id in [0, ", size(), "), got ", id);
  return state_->text_of(id);
}

std::optional<int32_t> Tokenizer::bos() const { return state_->bos; }
int32_t Tokenizer::eos() const { return state_->eos; }
int64_t Tokenizer::size() const { return state_->model.GetPieceSize(); }
const std::string& Tokenizer::note() const { return state_->note; }
const std::vector<std::string>& Tokenizer::control_tokens() const { return state_->control_tokens; }
uint64_t Tokenizer::fingerprint() const { return state_->fingerprint; }

}  // namespace rankfold
