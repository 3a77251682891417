#include "rankfold/tokenizer.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/file.h"
#include "core/guard.h"
#include "core/json.h"
#include "data/tokenizer_model.h"

#include <sentencepiece_processor.h>
#include <nlohmann/json.hpp>

namespace rankfold {
namespace fs = std::filesystem;

struct Tokenizer::State {
  sentencepiece::SentencePieceProcessor model;
  std::optional<int32_t> bos;
  int32_t eos = -1;
  uint64_t fingerprint = kChecksumSeed;
  size_t longest_text = kLongestText;

  bool is_id(int32_t id) const { return id >= 0 && id < model.GetPieceSize(); }
  // An id beyond the pieces is a padded row of the embedding.
  bool is_silent(int32_t id) const {
    return !is_id(id) || id == eos || id == model.pad_id() || model.IsControl(id) || model.IsUnknown(id);
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

std::optional<bool> add_bos_token(const fs::path& config_path) {
  std::error_code ignored;
  if (!fs::exists(config_path, ignored)) return std::nullopt;
  const nlohmann::json config = read_json(config_path, kLargestConfig);
  if (!config.is_object()) fail(config_path.string(), ": expected an object");
  const auto found = config.find("add_bos_token");
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (!found->is_boolean()) fail(config_path.string(), ": add_bos_token: expected true or false, got ", found->dump());
  return found->get<bool>();
}

}  // namespace

Tokenizer Tokenizer::open(const fs::path& folder, bool bos_by_default, int32_t eos_token_id) try {
  const auto state = std::make_shared<State>();
  const std::string bytes = read_model(folder), name = (folder / "tokenizer.model").string();
  state->longest_text = kLongestText / check_tokenizer_model(bytes, name);
  load(bytes, name, state->model);

  const fs::path config_path = folder / "tokenizer_config.json";
  const std::optional<bool> said = add_bos_token(config_path);
  const int32_t bos = state->model.bos_id();
  if (said.value_or(false) && bos < 0) fail(config_path.string(), ": add_bos_token: tokenizer.model has no bos token");
  if (said.value_or(bos_by_default) && bos >= 0) state->bos = bos;

  state->eos = eos_token_id >= 0 ? eos_token_id : state->model.eos_id();
  if (state->eos < 0) fail(name, ": has no eos token, and no eos_token_id is given");
  if (!state->is_id(state->eos))
    fail(folder.string(), ": eos_token_id: expected an id below ", state->model.GetPieceSize(),
         " (pieces of tokenizer.model), got ", state->eos);

  const int32_t decided[] = {state->bos.value_or(-1), state->eos};
  state->fingerprint = checksum64(std::as_bytes(std::span(decided)), checksum64(std::as_bytes(std::span(bytes))));

  Tokenizer tokenizer;
  tokenizer.state_ = state;
  return tokenizer;
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
  RANKFOLD_CHECK(state_->is_id(id), "piece: expected an id in [0, ", size(), "), got ", id);
  return state_->model.IdToPiece(id);
}

std::optional<int32_t> Tokenizer::bos() const { return state_->bos; }
int32_t Tokenizer::eos() const { return state_->eos; }
int64_t Tokenizer::size() const { return state_->model.GetPieceSize(); }
uint64_t Tokenizer::fingerprint() const { return state_->fingerprint; }

}  // namespace rankfold
