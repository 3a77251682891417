#include "data/encode.h"

#include "core/check.h"
#include "data/row_blocks.h"
#include "data/template.h"
#include "rankfold/batch.h"
#include "rankfold/tokenizer.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <mutex>
#include <optional>

namespace rankfold {

void RowEncoder::operator()(int64_t index, Block& block) const {
  const std::string place = file_.place(index);
  std::optional<Example> example;
  std::exception_ptr not_the_rows;
  try {
    std::variant<Prompted, Example, Conversation> content =
        reader_.read(file_[index], file_.text(index), place, &block.unused);
    if (Example* ready = std::get_if<Example>(&content)) {
      example = std::move(*ready);
    } else if (tokenizer_) {
      if (const Conversation* chat = std::get_if<Conversation>(&content)) {
        try {
          chat_template(place);
        } catch (...) {
          not_the_rows = std::current_exception();
        }
        if (!not_the_rows) example = encode(*chat, place, block);
      } else {
        example = encode(std::get<Prompted>(content), place, block);
      }
    }
  } catch (const UserError& error) {
    if (!config_.skip_bad_rows) throw;
    block.rows.push_back({.fate = Fate::kBad});
    block.complaints.push_back(error.what());
    return;
  }
  if (not_the_rows) std::rethrow_exception(not_the_rows);
  if (!example) fail(place, ": a text needs a tokenizer, and there is none (only rows of input_ids do without)");
  for (const int32_t id : example->input_ids)
    if (id >= vocab_size_)
      fail(place, ": token id ", id, " is beyond the ", vocab_size_,
           " rows of the embedding: the tokenizer is larger than the model");
  Block::Row row = cut(*example, place);
  row.begin = row.end = block.ids.size();
  if (row.fate == Fate::kKept) {
    row.end += example->input_ids.size();
    block.ids.insert(block.ids.end(), example->input_ids.begin(), example->input_ids.end());
    block.labels.insert(block.labels.end(), example->labels.begin(), example->labels.end());
  }
  block.rows.push_back(row);
}

const ChatTemplate& RowEncoder::chat_template(const std::string& place) const {
  const std::lock_guard lock(opening_);
  if (!chat_template_) try {
      chat_template_ = ChatTemplate::open(*tokenizer_, config_);
    } catch (const UserError& error) {
      fail(place, ": a conversation: ", error.what());
    }
  return *chat_template_;
}

Example RowEncoder::encode(const Conversation& chat, const std::string& place, Block& block) const {
  ChatExample encoded;
  try {
    encoded = ChatEncoder(*chat_template_, config_)(chat);
  } catch (const UserError& error) {
    fail(place, ": ", error.what());
  }
  if (encoded.example.input_ids.empty()) fail(place, ": the chat template writes nothing of it");
  ++block.conversations;
  block.without_end += encoded.lacks_end;
  for (const std::string& what : encoded.left_out) block.left_out.add(what);
  for (const std::string& token : tokenizer_->control_tokens())
    if (std::any_of(chat.messages.begin(), chat.messages.end(),
                    [&](const Message& message) { return message.spells(token); }))
      block.spelled.add(token);
  return std::move(encoded.example);
}

Example RowEncoder::encode(const Prompted& said, const std::string& place, Block& block) const {
  ++block.questions;
  Example example;
  auto& [ids, labels] = example;
  std::vector<int32_t> answer;
  try {
    if (said.has_prompt) {
      ids = encode_prompt(*tokenizer_, config_.prompt_template, said.prompt_question);
    } else {
      ids = tokenizer_->prefix();
    }
    answer = tokenizer_->encode(said.answer);
  } catch (const UserError& error) {
    fail(place, ": ", error.what());
  }
  for (const std::string& token : tokenizer_->control_tokens())
    if (said.prompt_question.find(token) != std::string::npos || said.answer.find(token) != std::string::npos)
      block.spelled.add(token);
  const size_t prompt_length = ids.size();
  ids.insert(ids.end(), answer.begin(), answer.end());
  ids.push_back(tokenizer_->eos());

  labels = ids;
  const size_t masked = config_.train_on_prompt ? tokenizer_->prefix().size() : prompt_length;
  std::fill_n(labels.begin(), masked, static_cast<int32_t>(kIgnoreIndex));
  return example;
}

Block::Row RowEncoder::cut(Example& example, const std::string& place) const {
  auto& [ids, labels] = example;
  Block::Row row;
  row.length = static_cast<int64_t>(ids.size());
  if (row.length > config_.max_length) {
    const Overlong fate = meaning_of(kOverlongs, config_.truncation_strategy);
    if (fate == Overlong::kError) fail(place, ": ", row.length, " tokens > max_length ", config_.max_length);
    if (fate == Overlong::kDrop) {
      row.fate = Fate::kDropped;
      return row;
    }
    row.truncated = true;
    ids.resize(static_cast<size_t>(config_.max_length));
    labels.resize(static_cast<size_t>(config_.max_length));
  }
  // Nothing comes before the first token, so its label predicts nothing.
  if (std::all_of(labels.begin() + 1, labels.end(), [](int32_t x) { return x == kIgnoreIndex; }))
    row.fate = Fate::kWithoutLabels;
  return row;
}

void encode_rows(const RowFile& file, const RowEncoder& encode, const std::function<void(const Block&)>& take) {
  for_row_blocks<Block>(
      file, [&](int64_t index, Block& block) { encode(index, block); },
      [&](const Block& block, int64_t) { take(block); });
}

}  // namespace rankfold
