#include "clean/check.h"

#include "clean/characters.h"
#include "clean/normal_text.h"
#include "core/check.h"
#include "data/row_blocks.h"
#include "text/unicode.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <numeric>
#include <utility>

namespace rankfold {
namespace {

constexpr size_t kKeptShingles = 4096;  // of a row while it waits, and of a row in the cache; others are made again
constexpr size_t kCachedRows = 1024;
constexpr uint64_t kForgetAfter = 512;  // rows that are read again
constexpr size_t kLeastColumns = 8;     // of an answer that a question may hold by chance: 4 Chinese characters

uint32_t length_of(const std::string& normal) {
  return static_cast<uint32_t>(std::min<size_t>(unicode::count_characters(normal), UINT32_MAX));
}

}  // namespace

// What is known of a row once it was read.
struct Checker::Facts {
  bool is_passed_over = false;
  bool is_ids = false;
  Encoding encoding = Encoding::kUtf8;
  RowFindings found;
  bool is_comparable = false;  // has identity and so on
  TextHash identity, asked;
  bool asks = false;
  uint32_t question_length = 0, answer_length = 0;
  std::optional<Signature> signature;
  std::vector<uint64_t> shingles;  // a set once `is_set`; empty where there are too many to keep
  bool is_set = false;
  std::array<int64_t, kPersonalKinds> masked = {}, personal = {};
  std::string text;
};

struct Checker::Block {
  std::vector<Facts> rows;
};

int64_t CheckResult::removed_rows() const { return std::accumulate(removed.begin(), removed.end(), int64_t{0}); }

Checker::Checker(const CheckConfig& config, const RowSet& rows, uint32_t training_rows,
                 std::function<bool(uint32_t)> is_held_out)
    : config_(config),
      rows_(rows),
      training_rows_(training_rows),
      is_held_out_(std::move(is_held_out)),
      source_(config.columns, config.mask, config.decode_gbk),
      near_(config.near_threshold),
      heldout_near_(config.near_threshold),
      cache_(kCachedRows) {
  RANKFOLD_CHECK(config.near_threshold > 0 && config.near_threshold <= 1,
                 "Checker: near_threshold must be in (0, 1], got ", config.near_threshold);
}

bool Checker::is_held_out(uint32_t row) const { return row >= training_rows_ || (is_held_out_ && is_held_out_(row)); }

CheckResult Checker::run(const Stop& stop, const KeepRow& keep) {
  if (training_rows_ < rows_.size() || is_held_out_) {
    leaks_text_.resize(rows_.size());
    leaks_asked_.resize(rows_.size());
    pass(/*over_held_out=*/true, stop, {});
    need_held_out();
  }
  pass(/*over_held_out=*/false, stop, keep);
  count_leaks();
  return std::move(result_);
}

void Checker::pass(bool over_held_out, const Stop& stop, const KeepRow& keep) {
  for (size_t file = 0; file < rows_.files().size(); ++file) {
    const uint32_t begin = rows_.begin(file);
    if (!over_held_out && begin >= training_rows_) continue;
    if (over_held_out && begin < training_rows_ && !is_held_out_) continue;
    const auto work = [&](int64_t index, Block& block) {
      const uint32_t row = begin + static_cast<uint32_t>(index);
      if (is_held_out(row) == over_held_out)
        block.rows.push_back(facts_of(row, static_cast<bool>(keep)));
      else
        block.rows.emplace_back().is_passed_over = true;
    };
    uint32_t row = begin;
    const auto take = [&](Block& block, int64_t) {
      leave_if(stop);
      for (Facts& facts : block.rows) {
        if (!facts.is_passed_over) over_held_out ? add_held_out(row, facts) : judge(row, facts, keep);
        ++row;
      }
    };
    for_row_blocks<Block>(rows_.files()[file], work, take);
  }
}

Checker::Facts Checker::facts_of(uint32_t row, bool wants_text) const {
  Facts facts;
  const auto [file, index] = rows_.at(row);
  ReadRow read = source_.read(*file, index);
  facts.encoding = read.encoding;
  if (!read.is_usable()) {
    const bool is_foreign =
        read.encoding != Encoding::kUtf8 && !(read.encoding == Encoding::kGbk && config_.decode_gbk);
    facts.found.add(is_foreign ? RowFinding::kWrongEncoding : RowFinding::kBadRow);
    return facts;
  }
  for (const PersonalHit& hit : read.masked) ++facts.masked[static_cast<size_t>(hit.kind)];
  for (const PersonalHit& hit : read.personal) ++facts.personal[static_cast<size_t>(hit.kind)];

  const NormalRow normal = normal_of(read.said);
  facts.question_length = length_of(normal.question);
  facts.answer_length = length_of(normal.answer);
  facts.is_ids = !read.said.parts.empty() && read.said.parts[0].kind == RowText::Kind::kIds;
  CharacterFaults faults;
  for (const RowText::Part& part : read.said.parts) faults.add(find_character_faults(part.text));
  if (faults.control > 0) facts.found.add(RowFinding::kControl);
  if (faults.replacement > 0) facts.found.add(RowFinding::kReplacement);
  if (faults.private_use > 0) facts.found.add(RowFinding::kPrivateUse);
  if (faults.is_mojibake) facts.found.add(RowFinding::kMojibake);
  if (read.said.has_empty_answer) {
    facts.found.add(RowFinding::kEmptyAnswer);
  } else {
    if (!facts.is_ids && facts.answer_length < config_.min_answer_length) facts.found.add(RowFinding::kShortAnswer);
    if (normal.question.find(normal.answer) != std::string::npos && count_columns(normal.answer) >= kLeastColumns)
      facts.found.add(RowFinding::kAnswerInQuestion);
    facts.is_comparable = true;
    facts.identity = text_hash(normal.identity);
    facts.asks = normal.asked > 0;
    if (facts.asks) facts.asked = text_hash(std::string_view(normal.identity).substr(0, normal.asked));
    if (config_.near_duplicates) {
      facts.shingles = shingles(read.said.compared());
      if (!facts.shingles.empty()) facts.signature = signature_of(facts.shingles);
      if (facts.shingles.size() > kKeptShingles) facts.shingles = {};
    }
  }
  if (wants_text) facts.text = std::move(read.text);
  return facts;
}

void Checker::add_held_out(uint32_t row, Facts& facts) {
  ++result_.heldout_rows;
  if (!facts.is_comparable) {
    const bool is_empty = facts.found.has(RowFinding::kEmptyAnswer);
    if ((is_empty ? result_.heldout_empty_rows : result_.heldout_bad_rows)++ == 0)
      (is_empty ? result_.first_empty_heldout : result_.first_bad_heldout) = row;
    return;
  }
  const auto first_of = [row](TextMap& map, const TextHash& text) {
    const uint32_t first = map.add(text, row);
    return first == TextMap::kNone ? row : first;
  };
  const uint32_t first = first_of(heldout_texts_, facts.identity);
  heldout_.push_back({row, first, facts.asks ? first_of(heldout_asked_, facts.asked) : TextMap::kNone});
  if (facts.signature && first == row) heldout_near_.add(row, *facts.signature);
}

// A comparison with nothing would find nothing.
void Checker::need_held_out() const {
  const int64_t bad = result_.heldout_bad_rows, empty = result_.heldout_empty_rows;
  if (result_.heldout_rows == 0 || bad + empty < result_.heldout_rows) return;
  const RowSet::Place first = rows_.at(std::min(result_.first_bad_heldout, result_.first_empty_heldout));
  const std::string complaint = source_.read(*first.file, first.index).complaint;
  fail(first.file->name(), ": none of ", result_.heldout_rows, " held-out rows can be compared: ", bad,
       " cannot be read, ", empty, empty == 1 ? " has" : " have",
       " no answer; the first: ", complaint.empty() ? first.text() : complaint);
}

void Checker::note(uint32_t row, RowFinding finding, uint32_t other, double jaccard) {
  ++result_.found[static_cast<size_t>(finding)];
  result_.list.push_back({row, other, static_cast<float>(jaccard), finding, false});
}

void Checker::judge(uint32_t row, Facts& facts, const KeepRow& keep) {
  const size_t first_note = result_.list.size();
  ++result_.rows;
  result_.gbk_rows += facts.encoding == Encoding::kGbk;
  RowFindings found = facts.found;
  for (const FindingWord& word : kFindingWords)
    if (found.has(word.finding)) note(row, word.finding);
  const bool is_row = !found.has(RowFinding::kBadRow) && !found.has(RowFinding::kWrongEncoding);
  if (is_row && !facts.is_ids) {
    if (facts.asks || facts.question_length > 0) result_.questions.all.push_back(facts.question_length);
    result_.answers.all.push_back(facts.answer_length);
  }
  if (facts.is_comparable) {
    compare_with_earlier(row, facts, found);
    compare_with_held_out(row, facts, found);
  }

  if (const RowFindings reasons = found.common(config_.remove); reasons.any()) {
    const RowFinding reason = reasons.first();
    ++result_.removed[static_cast<size_t>(reason)];
    for (size_t i = first_note; i < result_.list.size(); ++i)
      result_.list[i].is_removed = result_.list[i].finding == reason;
    return;
  }
  note_personal(row, facts);
  if (facts.is_comparable) remember(row, facts, found);
  if (!keep) return;
  const auto [file, index] = rows_.at(row);
  keep(*file, index, facts.text.empty() ? file->text(index) : std::string_view(facts.text));
}

// Only of rows that stay: the others are nowhere afterwards.
void Checker::note_personal(uint32_t row, const Facts& facts) {
  const auto count = [](const auto& places, auto& of) {
    for (size_t kind = 0; kind < kPersonalKinds; ++kind) of[kind] += places[kind];
    return std::accumulate(places.begin(), places.end(), int64_t{0}) > 0;
  };
  if (count(facts.personal, result_.personal)) note(row, RowFinding::kPersonal);
  if (count(facts.masked, result_.masked)) note(row, RowFinding::kMasked);
}

void Checker::compare_with_earlier(uint32_t row, Facts& facts, RowFindings& found) {
  const auto add = [&](RowFinding finding, uint32_t other, double jaccard = 0) {
    found.add(finding);
    note(row, finding, other, jaccard);
  };
  if (const uint32_t same = texts_.find(facts.identity); same != TextMap::kNone)
    return add(RowFinding::kExactDuplicate, same);
  if (facts.asks)
    if (const uint32_t same = asked_.find(facts.asked); same != TextMap::kNone) add(RowFinding::kConflict, same);
  for (const auto& [other, share] : similar(near_, row, facts, /*one_is_enough=*/true))
    add(RowFinding::kNearDuplicate, other, share);
}

void Checker::remember(uint32_t row, const Facts& facts, RowFindings found) {
  if (found.has(RowFinding::kExactDuplicate)) return;
  texts_.add(facts.identity, row);
  if (facts.asks) asked_.add(facts.asked, row);
  if (facts.signature && !found.has(RowFinding::kNearDuplicate)) near_.add(row, *facts.signature);
}

void Checker::compare_with_held_out(uint32_t row, Facts& facts, RowFindings& found) {
  if (heldout_.empty()) return;
  const auto add = [&](RowFinding finding, uint32_t other, double jaccard = 0) {
    found.add(finding);
    note(row, finding, other, jaccard);
  };
  const uint32_t same = heldout_texts_.find(facts.identity);
  const uint32_t asked = facts.asks ? heldout_asked_.find(facts.asked) : TextMap::kNone;
  if (same != TextMap::kNone) leaks_text_[same] = true;
  if (asked != TextMap::kNone) leaks_asked_[asked] = true;
  const auto alike = similar(heldout_near_, row, facts, /*one_is_enough=*/false);
  for (const auto& [other, share] : alike) leaks_text_[other] = true;
  if (same != TextMap::kNone) return add(RowFinding::kHeldOutExact, same);
  if (asked != TextMap::kNone) add(RowFinding::kHeldOutQuestion, asked);
  if (asked == TextMap::kNone && !alike.empty()) add(RowFinding::kHeldOutNear, alike[0].first, alike[0].second);
}

std::vector<std::pair<uint32_t, double>> Checker::similar(const NearIndex& index, uint32_t row, Facts& facts,
                                                          bool one_is_enough) {
  std::vector<std::pair<uint32_t, double>> found;
  if (!facts.signature) return found;
  const NearIndex::Found candidates = index.find(*facts.signature);
  for (const uint32_t other : candidates.texts) {
    if (facts.shingles.empty()) {  // there were many
      facts.shingles = shingles_of(row);
      facts.is_set = true;
    }
    if (!std::exchange(facts.is_set, true)) make_set(facts.shingles);
    if (const double share = jaccard(facts.shingles, shingles_of(other)); share >= config_.near_threshold)
      found.emplace_back(other, share);
    if (one_is_enough && !found.empty()) return found;
  }
  result_.cut_searches += candidates.is_cut;
  return found;
}

// As a set. It lies where it is until the next call.
const std::vector<uint64_t>& Checker::shingles_of(uint32_t row) {
  Cached& cached = cache_[row % kCachedRows];
  if (cached.row == row) return cached.shingles;
  const auto [file, index] = rows_.at(row);
  if (++read_again_ % kForgetAfter == 0)  // what is read here and there would all count as the process's memory
    for (const RowFile& each : rows_.files()) each.forget();
  std::vector<uint64_t> set = shingles(source_.read(*file, index).said.compared());
  make_set(set);
  if (set.size() > kKeptShingles) return large_ = std::move(set);
  cached = {row, std::move(set)};
  return cached.shingles;
}

void Checker::count_leaks() {
  for (const HeldOut& row : heldout_)
    result_.leaked_rows +=
        leaks_text_[row.first] || (row.first_asked != TextMap::kNone && leaks_asked_[row.first_asked]);
}

}  // namespace rankfold
