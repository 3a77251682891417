#include "clean/report.h"

#include "clean/clean.h"
#include "clean/normal_text.h"
#include "core/check.h"
#include "core/file.h"
#include "core/number_text.h"
#include "core/utf8.h"
#include "core/write.h"
#include "text/unicode.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>
#include <utility>

namespace rankfold {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string on_one_line(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string rows_of(int64_t rows) { return with_commas(rows) + (rows == 1 ? " row" : " rows"); }

// "data.json:12", and the row's number where several may stand in a line.
std::string place_of(const RowSet::Place& place) {
  return place.text() + (place.file->is_array() ? join(" (row ", place.index + 1, ")") : "");
}

const char* verb_of(RowFinding finding) {
  switch (finding) {
    case RowFinding::kExactDuplicate:
      return "repeats";
    case RowFinding::kNearDuplicate:
    case RowFinding::kHeldOutNear:
      return "is much like";
    case RowFinding::kConflict:
      return "answers otherwise than";
    case RowFinding::kHeldOutExact:
      return "is the same as the held-out";
    case RowFinding::kHeldOutQuestion:
      return "asks the same as the held-out";
    default:
      return "";
  }
}

const std::vector<PersonalHit>& hits_of(const ReadRow& row, RowFinding finding) {
  return finding == RowFinding::kMasked ? row.masked : row.personal;
}

bool is_unreadable(RowFinding finding) {
  return finding == RowFinding::kBadRow || finding == RowFinding::kWrongEncoding;
}

bool is_of_places(RowFinding finding) { return finding == RowFinding::kMasked || finding == RowFinding::kPersonal; }

// "mobile in question at character 12"
std::string hit_text(const PersonalHit& hit) {
  return join(word_of(hit.kind).word, " in ", one_line(hit.field), " at character ", hit.character);
}

// Two near duplicates that differ in their numbers may both be wanted: doses, exercises.
std::string numbers_of(const std::string& text) {
  std::string numbers;
  for (size_t at = 0; at < text.size();) {
    const uint32_t c = unicode::next_character(text, at);
    const bool is_digit = (c >= '0' && c <= '9') || (c >= 0xFF10 && c <= 0xFF19);
    if (is_digit)
      numbers.push_back(static_cast<char>('0' + (c & 0xF)));
    else if (!numbers.empty() && numbers.back() != ' ')
      numbers.push_back(' ');
  }
  while (!numbers.empty() && numbers.back() == ' ') numbers.pop_back();
  return numbers;
}

class Describer {
 public:
  explicit Describer(const ReportOf& of) : of_(of), rows_(of.checker.rows()), source_(of.checker.source()) {}

  std::string line(const FoundRow& found) const {
    const RowSet::Place place = rows_.at(found.row);
    const ReadRow row = source_.read(*place.file, place.index);
    std::string text = place_of(place);
    if (found.other != TextMap::kNone) text += join(" ", verb_of(found.finding), " ", place_of(rows_.at(found.other)));
    if (found.jaccard > 0)
      text += printed(" (%.2f%s)", found.jaccard, numbers_differ(row, found.other) ? ", other numbers" : "");
    if (is_unreadable(found.finding)) text = row.complaint;
    if (is_of_places(found.finding)) {
      std::string list;
      for (const PersonalHit& hit : hits_of(row, found.finding))
        if (list.size() < 200) list += (list.empty() ? "" : ", ") + hit_text(hit);
      return text + ": " + list;
    }
    return text + ": " + RowSource::excerpt(row, *place.file, place.index);
  }

  // One line of JSON for each finding, or for each place of personal data.
  std::string json_lines(const FoundRow& found, const char* separator) const {
    const RowSet::Place place = rows_.at(found.row);
    const ReadRow row = source_.read(*place.file, place.index);
    OrderedJson common = {{"finding", word_of(found.finding).word}};
    add_place("", place, common);
    if (is_of_places(found.finding)) {
      std::string lines;
      for (const PersonalHit& hit : hits_of(row, found.finding)) {
        OrderedJson line = common;
        add_hit(hit, line);
        lines += (lines.empty() ? "" : separator) + on_one_line(line);
      }
      return lines;
    }
    if (of_.checker.config().remove.any()) common["removed"] = found.is_removed;
    if (found.other != TextMap::kNone) add_place("other_", rows_.at(found.other), common);
    if (found.jaccard > 0) {
      common["jaccard"] = std::round(found.jaccard * 1e4) / 1e4;
      common["numbers_differ"] = numbers_differ(row, found.other);
    }
    if (is_unreadable(found.finding)) common["reason"] = row.complaint;
    if (found.finding == RowFinding::kWrongEncoding)
      common["encoding"] = row.encoding == Encoding::kGbk ? "gbk" : "unknown";
    common["excerpt"] = RowSource::excerpt(row, *place.file, place.index);
    return on_one_line(common);
  }

  static void add_hit(const PersonalHit& hit, OrderedJson& line) {
    line["kind"] = word_of(hit.kind).word;
    line["field"] = hit.field;
    line["offset"] = hit.character;
    if (hit.is_key) line["is_key"] = true;
  }

 private:
  static void add_place(const std::string& prefix, const RowSet::Place& place, OrderedJson& line) {
    line[prefix + "file"] = place.file->name();
    line[prefix + "line"] = place.file->line(place.index);
    line[prefix + "row"] = place.index + 1;
  }

  bool numbers_differ(const ReadRow& row, uint32_t other) const {
    const auto [file, index] = rows_.at(other);
    return numbers_of(row.said.compared()) != numbers_of(source_.read(*file, index).said.compared());
  }

  const ReportOf& of_;
  const RowSet& rows_;
  const RowSource& source_;
};

struct Spread {
  uint32_t least, median, high, most;  // the least that half of the rows, that 95 % of them do not pass
};

Spread spread_of(std::vector<uint32_t> all) {
  std::sort(all.begin(), all.end());
  const auto at = [&all](size_t percent) { return all[(all.size() * percent + 99) / 100 - 1]; };
  return {all.front(), at(50), at(95), all.back()};
}

// Rows by length, in steps of powers of two: 0, 1, 2 to 3, 4 to 7 ...
OrderedJson histogram_of(const std::vector<uint32_t>& all) {
  std::array<int64_t, 34> counts = {};
  size_t last = 0;
  for (const uint32_t length : all) {
    size_t step = 0;
    while (step < 33 && uint64_t{length} >> step != 0) ++step;
    ++counts[step];
    last = std::max(last, step);
  }
  OrderedJson steps = OrderedJson::array();
  for (size_t step = 0; step <= last; ++step) {
    const uint64_t from = step == 0 ? 0 : uint64_t{1} << (step - 1), to = step == 0 ? 0 : (uint64_t{1} << step) - 1;
    steps.push_back({{"from", from}, {"to", to}, {"rows", counts[step]}});
  }
  return steps;
}

OrderedJson lengths_json(const Lengths& lengths) {
  if (lengths.all.empty()) return nullptr;
  const Spread spread = spread_of(lengths.all);
  return {{"rows", lengths.all.size()},   {"least", spread.least}, {"median", spread.median},
          {"percentile_95", spread.high}, {"most", spread.most},   {"histogram", histogram_of(lengths.all)}};
}

void print_lengths(std::ostream& out, const char* what, const Lengths& lengths) {
  if (lengths.all.empty()) return;
  const Spread spread = spread_of(lengths.all);
  out << what << ", in characters: " << with_commas(spread.least) << " to " << with_commas(spread.most) << ", median "
      << with_commas(spread.median) << ", 95 % up to " << with_commas(spread.high) << "\n";
}

OrderedJson personal_json(const std::array<int64_t, kPersonalKinds>& places) {
  OrderedJson counts;
  for (const PersonalWord& word : kPersonalWords) counts[word.word] = places[static_cast<size_t>(word.kind)];
  return counts;
}

std::string personal_text(const std::array<int64_t, kPersonalKinds>& places) {
  std::string text;
  for (const PersonalWord& word : kPersonalWords)
    if (const int64_t count = places[static_cast<size_t>(word.kind)]; count > 0)
      text += join(text.empty() ? "" : ", ", with_commas(count), " ", word.word);
  return text;
}

bool is_held_out(RowFinding finding) {
  return finding >= RowFinding::kHeldOutExact && finding <= RowFinding::kHeldOutNear;
}

// Of held-out rows that were compared with nothing: how many, and the first.
std::vector<std::string> uncompared_lines(const ReportOf& of) {
  std::vector<std::string> lines;
  const auto add = [&](int64_t rows, uint32_t first, const char* one, const char* many) {
    if (rows == 0) return;
    const RowSet::Place place = of.checker.rows().at(first);
    const std::string complaint = of.checker.source().read(*place.file, place.index).complaint;
    lines.push_back(
        join(with_commas(rows), " of ", with_commas(of.result.heldout_rows), " held-out rows ", rows == 1 ? one : many,
             " not compared; the first: ", complaint.empty() ? one_line(place.text()) : one_line(complaint)));
  };
  add(of.result.heldout_bad_rows, of.result.first_bad_heldout, "cannot be read and was", "cannot be read and were");
  add(of.result.heldout_empty_rows, of.result.first_empty_heldout, "has no answer and was", "have no answer and were");
  return lines;
}

void print_files(std::ostream& out, const ReportOf& of) {
  const RowSet& rows = of.checker.rows();
  for (size_t i = 0; i < rows.files().size(); ++i) {
    const RowFile& file = rows.files()[i];
    out << one_line(file.name()) << ": " << rows_of(file.size())
        << (file.is_array() ? " of an array" : " of JSON Lines")
        << (rows.begin(i) >= of.training_rows ? ", held out" : "")
        << (file.before(0).starts_with(kByteOrderMark) ? ", begins with a byte order mark" : "") << "\n";
  }
}

void print_counts(std::ostream& out, const ReportOf& of) {
  const CheckResult& result = of.result;
  bool found_any = false;
  for (const FindingWord& word : kFindingWords) {
    const int64_t count = result.count(word.finding);
    if (count == 0) continue;
    found_any = true;
    out << printed("%11s  %-22s  ", with_commas(count).c_str(), word.word) << word.meaning;
    if (word.finding == RowFinding::kWrongEncoding && !of.checker.config().decode_gbk)
      out << " (GBK: " << with_commas(result.gbk_rows) << ")";
    if (word.finding == RowFinding::kPersonal) out << ": " << personal_text(result.personal);
    if (word.finding == RowFinding::kMasked) out << ": " << personal_text(result.masked);
    out << "\n";
  }
  if (!of.masked_around.empty())
    out << "masked around the rows: " << with_commas(static_cast<int64_t>(of.masked_around.size()))
        << (of.masked_around.size() == 1 ? " place\n" : " places\n");
  if (!found_any && of.masked_around.empty()) out << "nothing found\n";
  if (of.checker.config().decode_gbk && result.gbk_rows > 0)
    out << rows_of(result.gbk_rows) << " in GBK read, and written in UTF-8\n";
  if (result.leaked_rows > 0)
    out << with_commas(result.leaked_rows) << " of " << with_commas(result.heldout_rows)
        << " held-out rows are known from rows that train\n";
  for (const std::string& line : uncompared_lines(of)) out << line << "\n";
  if (result.cut_searches > 0)
    out << rows_of(result.cut_searches) << " had more candidates for near duplicates than were compared\n";
}

void print_examples(std::ostream& out, const ReportOf& of, int64_t examples) {
  const Describer describe(of);
  for (const FindingWord& word : kFindingWords) {
    const int64_t count = of.result.count(word.finding);
    if (count == 0 || examples == 0) continue;
    out << "\n" << word.word << ":\n";
    int64_t shown = 0;
    for (const FoundRow& found : of.result.list) {
      if (found.finding != word.finding) continue;
      if (++shown > examples) break;
      out << "  " << describe.line(found) << "\n";
    }
    if (count > examples) out << "  and " << with_commas(count - examples) << " more: --report lists all\n";
  }
  if (of.masked_around.empty() || examples == 0) return;
  out << "\nmasked around the rows:\n";
  const auto places = static_cast<int64_t>(of.masked_around.size());
  for (int64_t i = 0; i < std::min(places, examples); ++i)
    out << "  " << hit_text(of.masked_around[static_cast<size_t>(i)]) << "\n";
  if (places > examples) out << "  and " << with_commas(places - examples) << " more: --report lists all\n";
}

}  // namespace

std::string report_text(const ReportOf& of, int64_t examples) {
  const CheckResult& result = of.result;
  std::ostringstream out;
  print_files(out, of);
  out << "\n" << rows_of(result.rows) << ":\n";
  print_counts(out, of);
  print_lengths(out, "questions", result.questions);
  print_lengths(out, "answers", result.answers);
  print_examples(out, of, examples);
  if (!of.output.empty()) {
    out << "\n"
        << one_line(of.output) << ": " << rows_of(result.rows - result.removed_rows()) << " written, "
        << with_commas(result.removed_rows()) << " left out";
    std::string reasons;
    for (const FindingWord& word : kFindingWords)
      if (const int64_t count = result.removed[static_cast<size_t>(word.finding)]; count > 0)
        reasons += join(reasons.empty() ? " (" : ", ", with_commas(count), " ", word.word);
    out << reasons << (reasons.empty() ? "" : ")") << "\n";
    const std::string masked = personal_text(result.masked);
    out << "masked: " << (masked.empty() ? "nothing" : masked) << "\n";
  }
  return out.str();
}

OrderedJson summary_json(const ReportOf& of) {
  const CheckResult& result = of.result;
  const CheckConfig& config = of.checker.config();
  const RowSet& rows = of.checker.rows();
  OrderedJson files = OrderedJson::array();
  for (size_t i = 0; i < rows.files().size(); ++i) {
    const RowFile& file = rows.files()[i];
    files.push_back({{"file", file.name()},
                     {"rows", file.size()},
                     {"form", file.is_array() ? "array" : "lines"},
                     {"byte_order_mark", file.before(0).starts_with(kByteOrderMark)},
                     {"held_out", rows.begin(i) >= of.training_rows}});
  }
  OrderedJson summary = {{"files", files}, {"rows", result.rows}};
  for (const FindingWord& word : kFindingWords)
    if (!is_held_out(word.finding) && !is_of_places(word.finding)) summary[word.word] = result.count(word.finding);
  summary["gbk_rows"] = result.gbk_rows;
  summary["masked"] = personal_json(result.masked);
  summary["personal_data"] = personal_json(result.personal);
  summary["heldout"] = {{"rows", result.heldout_rows},
                        {"bad_rows", result.heldout_bad_rows},
                        {"empty_answers", result.heldout_empty_rows},
                        {"leaked_rows", result.leaked_rows},
                        {"exact", result.count(RowFinding::kHeldOutExact)},
                        {"questions", result.count(RowFinding::kHeldOutQuestion)},
                        {"near", result.count(RowFinding::kHeldOutNear)}};
  summary["lengths"] = {{"questions", lengths_json(result.questions)}, {"answers", lengths_json(result.answers)}};
  summary["near_threshold"] = config.near_duplicates ? OrderedJson(config.near_threshold) : OrderedJson();
  summary["cut_searches"] = result.cut_searches;
  summary["min_answer_length"] = config.min_answer_length;
  if (of.output.empty()) return summary;
  summary["output"] = of.output;
  summary["kept"] = result.rows - result.removed_rows();
  OrderedJson removed = OrderedJson::object();
  for (const FindingWord& word : kFindingWords)
    if (const int64_t count = result.removed[static_cast<size_t>(word.finding)]; count > 0) removed[word.word] = count;
  summary["removed"] = removed;
  return summary;
}

bool is_report(const std::filesystem::path& path) {
  constexpr std::string_view kBegin = "{\n  \"files\": [\n    {\n      \"file\": \"";
  std::error_code error;
  if (what_stands_at(path) != "a file" || std::filesystem::file_size(path, error) < kBegin.size()) return false;
  const auto file = Mapping::open(path);
  return std::string_view(reinterpret_cast<const char*>(file->data()), file->size()).starts_with(kBegin);
}

void write_report(const ReportOf& of, const std::filesystem::path& path, const Stop& stop, bool may_replace) {
  constexpr size_t kPage = 1 << 20;
  constexpr const char* kSeparator = ",\n    ";
  AtomicFile file(path, stop);
  if (!may_replace) refuse_another(path);
  std::string text = summary_json(of).dump(2, ' ', false, OrderedJson::error_handler_t::replace);
  text.resize(text.rfind("\n}"));
  text += ",\n  \"findings\": [";
  const char* separator = "\n    ";
  const auto add = [&](const std::string& lines) {
    if (lines.empty()) return;
    text += std::exchange(separator, kSeparator) + lines;
    if (text.size() >= kPage) file.write(std::string_view(std::exchange(text, "")));
  };
  for (const PersonalHit& hit : of.masked_around) {
    OrderedJson line = {{"finding", word_of(RowFinding::kMasked).word},
                        {"file", of.checker.rows().files().front().name()}};
    Describer::add_hit(hit, line);
    add(on_one_line(line));
  }
  const Describer describe(of);
  constexpr size_t kForgetAfter = 512;  // rows: what is read here and there would all count as the process's memory
  for (size_t i = 0; i < of.result.list.size(); ++i) {
    leave_if(stop);
    add(describe.json_lines(of.result.list[i], kSeparator));
    if (i % kForgetAfter == 0)
      for (const RowFile& file : of.checker.rows().files()) file.forget();
  }
  text += "\n  ]\n}\n";
  file.write(std::string_view(text));
  file.commit();
}

std::vector<std::string> finding_lines(const ReportOf& of) {
  const Describer describe(of);
  std::vector<std::string> lines;
  for (const FindingWord& word : kFindingWords) {
    const int64_t count = of.result.count(word.finding);
    const auto first = std::find_if(of.result.list.begin(), of.result.list.end(),
                                    [&word](const FoundRow& found) { return found.finding == word.finding; });
    if (count == 0 || first == of.result.list.end()) continue;
    lines.push_back(join(word.word, ": ", with_commas(count), " of ", rows_of(of.result.rows), " ", word.meaning, "; ",
                         describe.line(*first)));
  }
  if (of.result.leaked_rows > 0)
    lines.push_back(join("leakage: ", with_commas(of.result.leaked_rows), " of ", with_commas(of.result.heldout_rows),
                         " held-out rows are known from rows that train"));
  for (const std::string& line : uncompared_lines(of)) lines.push_back("heldout: " + line);
  if (lines.empty()) lines.push_back(join("nothing found in ", rows_of(of.result.rows)));
  return lines;
}

}  // namespace rankfold
