#include "clean/row_source.h"

#include "core/check.h"
#include "core/utf8.h"
#include "text/gbk.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

namespace rankfold {
namespace {

constexpr int64_t kAnyId = INT32_MAX;  // of rows of ids: there is no model to ask

// Whether an answer is all that a row lacks which the reader has refused.
bool lacks_an_answer_alone(nlohmann::json row, const RowReader::Keys& keys, const RowReader& reader) {
  nlohmann::json& answer = row.at(keys.answer);
  if (keys.is_chat || keys.is_ready || !(answer.is_null() || answer == "")) return false;
  answer = "-";
  try {
    reader.read(row, row.dump(), "");
    return true;
  } catch (const UserError&) {
    return false;
  }
}

// Why a file of several lists of rows, such as {"train": [...], "test": [...]}, has no row.
std::string hint_at_lists(const nlohmann::json& row, const RowFile& file) {
  const auto is_list = [](const nlohmann::json& value) {
    return value.is_array() && !value.empty() && value.front().is_object();
  };
  return file.size() == 1 && std::count_if(row.begin(), row.end(), is_list) > 1
             ? "; a file has one list of rows, this object has several: make a file of each"
             : "";
}

// What a complaint quotes ends in "...", perhaps in the middle of a number or an address, which no rule finds then.
std::string without_cut_data(std::string line) {
  constexpr std::string_view kCut = "...";
  constexpr int kTelling = 5;  // digits
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  for (size_t at = 0; (at = line.find(kCut, at)) != std::string::npos; at += kCut.size()) {
    size_t begin = at;
    int digits = 0;
    bool has_sign = false;
    for (; begin > 0; --begin) {
      const char c = line[begin - 1];
      const bool is_blank = c == ' ' && begin > 1 && is_digit(line[begin - 2]);
      if (!is_blank && !std::isalnum(static_cast<unsigned char>(c)) && !std::strchr("@._+-\\", c)) break;
      digits += is_digit(c), has_sign = has_sign || c == '@';
    }
    if (digits < kTelling && !has_sign) continue;
    line.erase(begin, at - begin);
    at = begin;
  }
  return line;
}

std::string without_line_ends(std::string_view text) {
  while (!text.empty() && (text.back() == '\r' || text.back() == ' ')) text.remove_suffix(1);
  return std::string(text);
}

}  // namespace

RowSource::RowSource(const std::map<std::string, std::string>& columns, PersonalKinds mask, bool decode_gbk)
    : reader_(columns, kAnyId), mask_(mask), decode_gbk_(decode_gbk) {
  for (const PersonalWord& word : kPersonalWords)
    if (!mask.has(word.kind)) others_.add(word.kind);
}

ReadRow RowSource::read(const RowFile& file, int64_t index) const {
  ReadRow row;
  std::string_view text = file.text(index);
  try {
    if (!is_utf8(text)) {
      row.encoding = gbk::is_likely(text) ? Encoding::kGbk : Encoding::kUnknown;
      constexpr size_t kLongest = 16 << 20;  // as of other rows
      if (row.encoding == Encoding::kUnknown || !decode_gbk_ || text.size() > kLongest) {
        static_cast<void>(file[index]);  // says what is wrong, and where
        RANKFOLD_ASSERT(false);
      }
      text = row.text = *gbk::decode(text);
    }
    nlohmann::json json = row.text.empty() ? file[index] : file.read_as(index, text);
    MaskedJson masked = mask_json(text, mask_);
    for (PersonalHit& hit : masked.hits) (hit.is_key ? row.personal : row.masked).push_back(std::move(hit));
    if (!masked.text.empty()) {
      text = row.text = std::move(masked.text);
      json = file.read_as(index, text);
    }
    for (PersonalHit& hit : mask_json(text, others_).hits) row.personal.push_back(std::move(hit));

    const RowReader::Keys* keys = reader_.layout_of(json);
    if (keys) row.said = text_of(json, *keys);
    try {
      reader_.read(json, text, file.place(index));
    } catch (const UserError& error) {
      if (!keys) fail(error.what(), hint_at_lists(json, file));
      if (!lacks_an_answer_alone(std::move(json), *keys, reader_)) row.said = {};
      throw;
    }
  } catch (const UserError& error) {
    const std::string line = error.what();  // may quote the row
    row.complaint = without_cut_data(masked(line, find_personal_data(line, PersonalKinds::all())));
  }
  return row;
}

std::string RowSource::excerpt(const ReadRow& row, const RowFile& file, int64_t index) {
  constexpr size_t kLongest = 96;  // bytes of each of question and answer
  const auto cut = [](const std::string& text) {
    const size_t end = utf8_floor(text, kLongest);
    return one_line(text.substr(0, end)) + (end < text.size() ? "..." : "");
  };
  const auto plain = [&cut](const std::string& text) {
    // Masked before it is cut, of a beginning that is longer: a number must not lose its end first.
    const std::string begin = text.substr(0, utf8_floor(text, 16 * kLongest));
    return cut(masked(begin, find_personal_data(begin, PersonalKinds::all())));
  };
  if (row.is_usable() && !row.said.parts.empty()) {
    const std::string question = row.said.question(), answer = row.said.answer();
    return question.empty() ? plain(answer.empty() ? row.said.parts[0].text : answer)
                            : plain(question) + " => " + plain(answer);
  }
  const std::string_view whole = file.text(index);
  const bool is_sound = row.encoding == Encoding::kUtf8;
  std::string bytes = without_line_ends(whole.substr(0, is_sound ? utf8_floor(whole, 16 * kLongest) : 16 * kLongest));
  if (row.encoding == Encoding::kGbk)
    for (size_t size = bytes.size(); size + 1 >= bytes.size() && size > 0; --size)  // the last character may be half
      if (const std::optional<std::string> text = gbk::decode(std::string_view(bytes).substr(0, size)))
        return plain(*text);
  if (!is_sound)
    for (char& byte : bytes) byte = static_cast<unsigned char>(byte) < 0x80 ? byte : '?';
  return plain(bytes);
}

}  // namespace rankfold
