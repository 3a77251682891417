#include "rankfold/tokenizer.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/file.h"
#include "core/guard.h"
#include "data/folder_tokens.h"
#include "text/sentencepiece_vocabulary.h"
#include "text/tokenizer_json.h"

#include <algorithm>
#include <set>
#include <span>

namespace rankfold {
namespace fs = std::filesystem;

struct Tokenizer::State {
  std::shared_ptr<const Vocabulary> vocabulary;
  fs::path path;
  std::vector<int32_t> prefix;
  int32_t eos = -1, own_eos = -1;  // own_eos: of tokenizer.model
  uint64_t fingerprint = kChecksumSeed;
  std::string eos_token;  // of tokenizer_config.json
  std::string note;
  std::vector<std::string> control_tokens, ends_of_turn;

  std::string file() const { return path.filename().string(); }
  bool is_id(int64_t id) const { return id >= 0 && id < vocabulary->size(); }
  std::string named(int64_t id) const {
    const std::string text = vocabulary->piece(static_cast<int32_t>(id));
    return join(id, " (", text.empty() ? "not in " + file() : text, ")");
  }
};

namespace {

// Tokens that no text of a person's becomes, beside those that the vocabulary knows itself: bos, eos, pad, ends of
// turn.
std::vector<int32_t> control_ids(const Vocabulary& vocabulary, const FolderTokens& tokens) {
  std::set<int32_t> ids;
  const auto add = [&](const std::string& text) {
    if (const auto id = vocabulary.id_of(text)) ids.insert(*id);
  };
  add(tokens.special_text("eos_token"));
  for (const char* name : {"bos_token", "pad_token"}) {  // some folders pad with a word
    const std::string text = tokens.special_text(name);
    const auto id = vocabulary.id_of(text);
    if (id && vocabulary.encode(text, Spelling::kUserText).ids != std::vector<int32_t>{*id}) ids.insert(*id);
  }
  for (const std::string& text : known_ends_of_turn()) add(text);
  for (const AddedToken& token : tokens.added)
    if (token.special) add(token.text);
  return {ids.begin(), ids.end()};
}

}  // namespace

// All but eos and what follows from it.
std::shared_ptr<Tokenizer::State> Tokenizer::read(const fs::path& folder, bool bos_by_default) {
  const auto state = std::make_shared<State>();
  const FolderTokens tokens = read_folder_tokens(folder);
  state->eos_token = tokens.special_text("eos_token");
  if (what_stands_at(folder / kTokenizerJson) != "nothing") {  // as transformers prefers it
    state->path = folder / kTokenizerJson;
    state->vocabulary = read_tokenizer_json(state->path, tokens.added);
    const std::vector<int32_t>& before = state->vocabulary->before();
    const auto bos = state->vocabulary->id_of(tokens.special_text("bos_token"));
    if (tokens.add_bos_token.value_or(!before.empty())) state->prefix = before;
    if (tokens.add_bos_token.value_or(false) && before.empty() && bos) state->prefix = {*bos};
  } else {
    if (what_stands_at(folder / kTokenizerModel) == "nothing")
      fail(folder.string(), ": expected tokenizer.json or tokenizer.model, got neither");
    state->path = folder / kTokenizerModel;
    const TokenizerModel model = read_tokenizer_model(state->path, tokens.added);
    state->vocabulary = model.vocabulary;
    state->own_eos = model.eos;
    if (tokens.add_bos_token.value_or(bos_by_default) && model.bos >= 0) state->prefix = {model.bos};
  }
  if (tokens.add_bos_token.value_or(false) && state->prefix.empty())
    fail((folder / "tokenizer_config.json").string(), ": add_bos_token: ", state->file(), " has no bos token");
  state->vocabulary = state->vocabulary->with_control(control_ids(*state->vocabulary, tokens));
  return state;
}

Tokenizer Tokenizer::with_eos(const std::shared_ptr<State>& state, int32_t eos,
                              const std::vector<int64_t>& eos_token_ids) {
  state->eos = eos;
  std::vector<int32_t> ends;
  for (const int64_t id : eos_token_ids)
    if (state->is_id(id) && !state->vocabulary->piece(static_cast<int32_t>(id)).empty())
      ends.push_back(static_cast<int32_t>(id));
  if (state->is_id(eos) && !state->vocabulary->piece(eos).empty()) ends.push_back(eos);
  state->vocabulary = state->vocabulary->with_control(ends);
  state->fingerprint = state->vocabulary->fingerprint();
  state->ends_of_turn = known_ends_of_turn();
  for (const int32_t id : ends)
    if (const std::string text = state->vocabulary->piece(id);
        !text.empty() &&
        std::find(state->ends_of_turn.begin(), state->ends_of_turn.end(), text) == state->ends_of_turn.end())
      state->ends_of_turn.push_back(text);

  constexpr size_t kMostTokens = 64;  // looked for in every text
  for (int32_t id = 0; id < state->vocabulary->size() && state->control_tokens.size() < kMostTokens; ++id)
    if (state->vocabulary->is_control(id)) state->control_tokens.push_back(state->vocabulary->piece(id));
  for (const AddedToken& token : state->vocabulary->added_tokens())
    if (!state->is_id(token.id) && state->control_tokens.size() < kMostTokens)
      state->control_tokens.push_back(token.text);

  std::vector<int32_t> decided = state->prefix;
  if (decided.empty()) decided.push_back(-1);
  decided.push_back(eos);
  state->fingerprint = checksum64(std::as_bytes(std::span(decided)), state->fingerprint);
  Tokenizer tokenizer;
  tokenizer.state_ = state;
  return tokenizer;
}

Tokenizer Tokenizer::open(const fs::path& folder, bool bos_by_default, int32_t eos_token_id) try {
  const auto state = read(folder, bos_by_default);
  const int32_t eos =
      eos_token_id >= 0 ? eos_token_id : state->vocabulary->id_of(state->eos_token).value_or(state->own_eos);
  if (eos < 0) fail(state->path.string(), ": has no eos token, and no eos_token_id is given");
  if (eos_token_id >= 0 && !state->is_id(eos))
    fail(folder.string(), ": eos_token_id: expected an id below ", state->vocabulary->size(), " (pieces of ",
         state->file(), "), got ", eos);
  return with_eos(state, eos, {});
} catch (...) {
  rethrow_as_error();
}

Tokenizer Tokenizer::of_model(const fs::path& folder, bool bos_by_default, const std::vector<int64_t>& eos_token_ids,
                              int64_t vocab_size) try {
  const auto state = read(folder, bos_by_default);
  const int32_t own = state->own_eos, said = state->vocabulary->id_of(state->eos_token).value_or(-1);
  int32_t eos = said >= 0 && said < vocab_size ? said : own;  // beyond: a token that was added to the tokenizer alone
  for (const int64_t id : eos_token_ids)
    if (eos < 0 && state->is_id(id)) eos = static_cast<int32_t>(id);
  if (eos < 0) fail(state->path.string(), ": has no eos token, and eos_token_id of the model names none of its pieces");

  std::string others;
  const auto differ = [&others](const auto&... parts) { others += (others.empty() ? "" : ", ") + join(parts...); };
  if (!eos_token_ids.empty() && eos_token_ids.front() != eos)
    differ("eos_token_id of config.json or generation_config.json is ", state->named(eos_token_ids.front()));
  if (!state->eos_token.empty() && said != eos)
    differ(
        "eos_token of tokenizer_config.json is ", state->eos_token,
        said >= 0 ? join(", id ", said, " beyond the embedding") : join(", which ", state->file(), " does not have"));
  if (own >= 0 && own != eos) differ("eos of tokenizer.model is ", state->named(own));
  if (!others.empty())
    state->note = one_line(join(folder.string(), ": rows end in ", state->named(eos), ", but ", others));
  return with_eos(state, eos, eos_token_ids);
} catch (...) {
  rethrow_as_error();
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const try {
  return state_->vocabulary->encode(text, Spelling::kUserText).ids;
} catch (...) {
  rethrow_as_error();
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids) const try {
  for (const int32_t id : ids) RANKFOLD_CHECK(id >= 0, "decode: expected ids of 0 or more, got ", id);
  std::vector<int32_t> shown = ids;  // eos may be a piece that texts have, too
  std::erase(shown, state_->eos);
  return state_->vocabulary->decode(shown);
} catch (...) {
  rethrow_as_error();
}

std::string Tokenizer::piece(int32_t id) const {
  RANKFOLD_CHECK(state_->is_id(id) || id == state_->eos, "piece: expected an id in [0, ", size(), "), got ", id);
  return state_->vocabulary->piece(id);
}

std::string Tokenizer::control_text(int32_t id) const {
  const bool is_control = id == state_->eos || state_->vocabulary->is_control(id);
  return is_control ? state_->vocabulary->piece(id) : "";
}

const std::vector<int32_t>& Tokenizer::prefix() const { return state_->prefix; }
std::optional<int32_t> Tokenizer::bos() const {
  return state_->prefix.empty() ? std::nullopt : std::optional(state_->prefix.front());
}
int32_t Tokenizer::eos() const { return state_->eos; }
int64_t Tokenizer::size() const { return state_->vocabulary->size(); }
const fs::path& Tokenizer::path() const { return state_->path; }
const Vocabulary& Tokenizer::vocabulary() const { return *state_->vocabulary; }
const std::vector<std::string>& Tokenizer::ends_of_turn() const { return state_->ends_of_turn; }
const std::string& Tokenizer::note() const { return state_->note; }
const std::vector<std::string>& Tokenizer::control_tokens() const { return state_->control_tokens; }
uint64_t Tokenizer::fingerprint() const { return state_->fingerprint; }

}  // namespace rankfold
