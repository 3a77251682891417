#include "rankfold/dataset.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/config.h"
#include "core/guard.h"
#include "core/utf8.h"
#include "data/encode.h"
#include "data/prompt.h"
#include "data/rows.h"
#include "data/template.h"
#include "data/token_store.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <span>

namespace rankfold {
namespace fs = std::filesystem;

namespace {

struct Notes {
  std::string cache;
  std::vector<std::string> bad_rows;  // the first few
};

// The rows of one file.
struct Part {
  std::string file;
  TokenStore tokens;
  int64_t begin = 0;  // number of the first in the data set
};

}  // namespace

// What copies that hold different rows share.
struct Dataset::Files {
  std::vector<Part> parts;
  int64_t size = 0;
  DatasetReport report;
  Notes notes;
  std::optional<ChatTemplate> chat_template;
};

struct Dataset::State {
  std::shared_ptr<const Files> files;
  std::optional<std::vector<int64_t>> chosen;  // of the files' rows; nothing: all
  uint64_t fingerprint = 0;

  int64_t size() const { return chosen ? static_cast<int64_t>(chosen->size()) : files->size; }
  // What `read` gives of the part that the row is of, and of its number there.
  template <class Read>
  auto at(int64_t index, const Read& read) const {
    RANKFOLD_CHECK(index >= 0 && index < size(), "Dataset: expected an index in [0, ", size(), "), got ", index);
    if (chosen) index = (*chosen)[static_cast<size_t>(index)];
    const auto after = std::upper_bound(files->parts.begin(), files->parts.end(), index,
                                        [](int64_t wanted, const Part& part) { return wanted < part.begin; });
    const Part& part = *(after - 1);
    return read(part, index - part.begin);
  }
};

namespace {

// FNV-1a over 64-bit words, the high half folded back so that every bit reaches every other.
class Hash {
 public:
  void add(uint64_t word) {
    value_ = (value_ ^ word) * 0x100000001B3u;
    value_ ^= value_ >> 32;
  }
  void add(std::span<const int32_t> ids, std::span<const int32_t> labels) {
    add(ids.size());
    for (size_t i = 0; i < ids.size(); ++i)
      add(uint64_t{static_cast<uint32_t>(ids[i])} << 32 | static_cast<uint32_t>(labels[i]));
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xCBF29CE484222325u;
};

// splitmix64 (Steele, Lea, Flood 2014).
class SplitMix {
 public:
  explicit SplitMix(uint64_t state) : state_(state) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  uint64_t below(uint64_t limit) {  // off by less than limit / 2^64
    return static_cast<uint64_t>((static_cast<unsigned __int128>(next()) * limit) >> 64);
  }

 private:
  uint64_t state_;
};

std::vector<int64_t> shuffled(int64_t size, uint64_t seed, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), int64_t{0});
  // The seed is mixed before the epoch is added: (seed, epoch + 1) and (seed + 1, epoch) are unrelated.
  SplitMix random(SplitMix(SplitMix(seed).next() + static_cast<uint64_t>(epoch)).next());
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

struct Source {
  const fs::path& path;
  const Tokenizer* tokenizer;
  const DataConfig& config;
  int64_t vocab_size;
  const Stop& stop;
};

TokenStore::Summary tokenise(const Source& source, const RowFile& file, TokenWriter& writer,
                             std::vector<std::string>& bad_rows) {
  constexpr size_t kNamed = 10;
  DatasetReport report;
  report.rows = file.size();
  int64_t kept = 0, number = 0;
  NameCounts unused, spelled, left_out;
  Hash hash;
  encode_rows(file, RowEncoder(file, source.tokenizer, source.config, source.vocab_size), [&](const Block& block) {
    leave_if(source.stop);
    for (size_t i = 0; i < block.complaints.size() && bad_rows.size() < kNamed; ++i)
      bad_rows.push_back(block.complaints[i]);
    unused.add(block.unused);
    spelled.add(block.spelled);
    left_out.add(block.left_out);
    report.questions += block.questions;
    report.conversations += block.conversations;
    report.without_end += block.without_end;
    for (const Block::Row& row : block.rows) {
      ++number;
      report.longest = std::max(report.longest, row.length);
      report.truncated += row.truncated;
      if (row.truncated) report.cut_tokens += row.length - source.config.max_length;
      report.dropped += row.fate == Fate::kDropped;
      report.without_labels += row.fate == Fate::kWithoutLabels;
      report.bad += row.fate == Fate::kBad;
      if (row.fate != Fate::kKept) continue;
      const auto part = [&row](const std::vector<int32_t>& all) {
        return std::span(all).subspan(row.begin, row.end - row.begin);
      };
      writer.append(number, part(block.ids), part(block.labels));
      hash.add(part(block.ids), part(block.labels));
      ++kept;
    }
  });
  if (kept == 0)
    fail(source.path.string(), ": nothing is left of ", report.rows, " rows: ", report.dropped,
         " longer than max_length ", source.config.max_length, " and dropped, ", report.without_labels,
         " without labels (", report.truncated, " cut to max_length), ", report.bad, " broken",
         bad_rows.empty() ? "" : join(", the first of them: ", bad_rows.front()));
  report.unused = unused.list();
  report.spelled = spelled.list();
  report.left_out = left_out.list();
  return {report, hash.value()};
}

// Rows that were found in one content of the file and read from another would be neither's.
TokenStore::Summary tokenise_unchanged(const Source& source, const std::shared_ptr<const Mapping>& file,
                                       uint64_t checksum, const RowFile& rows, TokenWriter& writer,
                                       std::vector<std::string>& bad_rows) {
  const TokenStore::Summary summary = tokenise(source, rows, writer, bad_rows);
  if (checksum_of(*file, source.stop) != checksum) fail(source.path.string(), ": changed while it was read");
  return summary;
}

// The chat template that conversations would be written by, if any.
std::string chat_text(const Source& source) {
  if (!source.tokenizer) return "none";
  try {
    return checksum_text(ChatTemplate::open(*source.tokenizer, source.config).fingerprint());
  } catch (const UserError&) {  // a conversation would be refused, and nothing kept
    return "none";
  }
}

// All that decides which rows become which ids, in words: two that differ cannot be taken for one another.
std::string cache_key(const Source& source, uint64_t checksum, uint64_t size) {
  constexpr int kRules = 3;  // to be raised where a change of ours gives a row other ids or labels
  DataConfig config = source.config;
  config.cache_dir.clear(), config.chat_template.clear(), config.template_date.clear();  // the chat template's own
  return join("rules ", kRules, ", data ", checksum_text(checksum), " of ", size, " bytes, tokenizer ",
              source.tokenizer ? checksum_text(source.tokenizer->fingerprint()) : "none", ", vocabulary ",
              source.vocab_size, ", chat ", chat_text(source), config.questions_are_turns ? " of questions too" : "",
              ", ", to_json(config).dump());
}

// The store in this file if it can be used; otherwise `why` says what stands in the way, if anything is there.
std::optional<TokenStore> read_cache(const fs::path& path, const std::string& key, std::string& why) {
  if (what_stands_at(path) == "nothing") return std::nullopt;
  try {
    if (TokenStore::is_of_another_version(path)) return std::nullopt;
    return TokenStore::open(path, key);
  } catch (const Error& error) {
    why = error.what();
    return std::nullopt;
  }
}

// Reads or makes the cache; the notes say which. A full disk is an error, as the rows may be more than memory holds.
TokenStore open_cached(const Source& source, const std::shared_ptr<const Mapping>& file, const fs::path& cache,
                       Notes& notes) {
  const uint64_t checksum = checksum_of(*file, source.stop);
  const std::string key = cache_key(source, checksum, file->size());
  std::string why;
  notes.cache = join("tokens read from ", cache.string());
  if (auto found = read_cache(cache, key, why)) return std::move(*found);
  const RowFile rows = RowFile::open(file, source.path.string(), source.config.skip_bad_rows);
  const std::string& folder = source.config.cache_dir;
  if (const std::string there = what_stands_at(folder); there != "nothing" && there != "a folder")
    fail("cache_dir: expected a folder, got ", there, ": ", folder);
  try {
    const NewFolder created(folder);
    if (what_stands_at(cache) == "a folder") remove_file(cache);  // an empty one
    TokenWriter writer(cache, key, source.stop);                  // waits for another run that writes it
    if (auto found = read_cache(cache, key, why)) return std::move(*found);
    const TokenStore::Summary summary = tokenise_unchanged(source, file, checksum, rows, writer, notes.bad_rows);
    notes.cache = why.empty() ? join("tokens kept in ", cache.string()) : why + "; written anew";
    return writer.finish(summary);
  } catch (const StorageError& error) {
    throw StorageError(join("cache_dir: ", error.what()), error.error_number());
  }
}

}  // namespace

fs::path Dataset::cache_file(const fs::path& path, const DataConfig& config) {
  if (config.cache_dir.empty()) return {};
  // Files of one name in two folders are two; one file is one, whatever the path to it.
  std::error_code ignored;
  const std::string whole = fs::weakly_canonical(path, ignored).string(), name = path.filename().string();
  constexpr size_t kLongest = 100;  // file systems take 255 bytes
  return fs::path(config.cache_dir) / join(name.substr(0, utf8_floor(name, kLongest)), "-",
                                           checksum_text(checksum64(std::as_bytes(std::span(whole)))), ".tokens");
}

namespace {

TokenStore open_file(const Source& source, Notes& notes) {
  const std::shared_ptr<const Mapping> file = Mapping::open(source.path);
  if (!source.config.cache_dir.empty())
    return open_cached(source, file, Dataset::cache_file(source.path, source.config), notes);
  TokenWriter writer;
  const uint64_t checksum = checksum_of(*file, source.stop);
  const RowFile rows = RowFile::open(file, source.path.string(), source.config.skip_bad_rows);
  return writer.finish(tokenise_unchanged(source, file, checksum, rows, writer, notes.bad_rows));
}

void add_names(const std::vector<NameCount>& more, std::vector<NameCount>& to) {
  NameCounts counts;
  for (const NameCount& count : to) counts.add(count.name, count.rows);
  for (const NameCount& count : more) counts.add(count.name, count.rows);
  to = counts.list();
}

void add(const DatasetReport& more, DatasetReport& to) {
  for (int64_t DatasetReport::*count :
       {&DatasetReport::rows, &DatasetReport::truncated, &DatasetReport::dropped, &DatasetReport::without_labels,
        &DatasetReport::bad, &DatasetReport::cut_tokens, &DatasetReport::questions, &DatasetReport::conversations,
        &DatasetReport::without_end})
    to.*count += more.*count;
  to.longest = std::max(to.longest, more.longest);
  add_names(more.unused, to.unused);
  add_names(more.spelled, to.spelled);
  add_names(more.left_out, to.left_out);
}

}  // namespace

Dataset Dataset::open(const fs::path& path, const Tokenizer* tokenizer, const DataConfig& config, int64_t vocab_size,
                      const Stop& stop) {
  DataFiles one;
  one.paths = {path.string()};
  return open(one, tokenizer, config, vocab_size, stop);
}

Dataset Dataset::open(const DataFiles& data_files, const Tokenizer* tokenizer, const DataConfig& config,
                      int64_t vocab_size, const Stop& stop) try {
  RANKFOLD_CHECK(vocab_size > 0, "Dataset::open: vocab_size must be above 0, got ", vocab_size);
  RANKFOLD_CHECK(!data_files.paths.empty(), "Dataset::open: got no file");
  check_fields(config);
  RowReader(config.columns, vocab_size);  // refuses columns that no layout has
  if (config.train_on_prompt && config.train_on_last_turn)
    fail("train_on_last_turn: expected this or train_on_prompt, got both");
  if (!config.template_is_saved) check_template(config.prompt_template);

  const Stop asked = from_caller(stop);
  const auto files = std::make_shared<Files>();
  const auto state = std::make_shared<State>();
  Hash hash;
  for (const std::string& name : data_files.paths) {
    const fs::path path = name;
    Notes notes;
    Part part{.file = data_files.paths.size() > 1 ? name : "",
              .tokens = open_file({path, tokenizer, config, vocab_size, asked}, notes),
              .begin = files->size};
    files->size += part.tokens.size();
    add(part.tokens.summary().report, files->report);
    state->fingerprint = part.tokens.summary().fingerprint;
    hash.add(state->fingerprint);
    files->notes.cache += (files->notes.cache.empty() || notes.cache.empty() ? "" : "\n") + notes.cache;
    files->notes.bad_rows.insert(files->notes.bad_rows.end(), notes.bad_rows.begin(), notes.bad_rows.end());
    files->parts.push_back(std::move(part));
  }
  if (data_files.paths.size() > 1) state->fingerprint = hash.value();
  if (files->report.conversations > 0) files->chat_template = ChatTemplate::open(*tokenizer, config);
  state->files = files;
  Dataset dataset;
  dataset.state_ = state;
  return dataset;
} catch (...) {
  rethrow_as_error();
}

std::pair<Dataset, Dataset> Dataset::hold_out(double val_size, uint64_t seed) const try {
  const auto rows = static_cast<double>(size());
  if (!(val_size > 0) || (val_size >= 1 && val_size != std::floor(val_size)))
    fail("val_size: expected an integer above 0, or a share in (0, 1), got ", val_size);
  const double wanted = val_size < 1 ? std::ceil(val_size * rows) : val_size;
  if (wanted >= rows)
    fail("val_size: expected fewer than the ", size(), " rows of the data, of which some must train, got ", val_size);
  constexpr int64_t kEpoch = -1;  // of an order that no epoch has
  std::vector<int64_t> order = shuffled(size(), seed, kEpoch);
  const auto held_out = order.begin() + static_cast<int64_t>(wanted);
  std::sort(order.begin(), held_out);  // the order of the files
  std::sort(held_out, order.end());
  const auto part = [&](auto begin, auto end) {
    const auto state = std::make_shared<State>();
    state->files = state_->files;
    state->chosen.emplace(begin, end);
    Hash hash;
    hash.add(state_->fingerprint);
    for (int64_t& row : *state->chosen) {
      hash.add(static_cast<uint64_t>(row));
      if (state_->chosen) row = (*state_->chosen)[static_cast<size_t>(row)];
    }
    state->fingerprint = hash.value();
    Dataset dataset;
    dataset.state_ = state;
    return dataset;
  };
  return {part(held_out, order.end()), part(order.begin(), held_out)};
} catch (...) {
  rethrow_as_error();
}

int64_t Dataset::size() const { return state_->size(); }
const DatasetReport& Dataset::report() const { return state_->files->report; }
uint64_t Dataset::fingerprint() const { return state_->fingerprint; }
const ChatTemplate* Dataset::chat_template() const {
  return state_->files->chat_template ? &*state_->files->chat_template : nullptr;
}
const std::string& Dataset::cache_note() const { return state_->files->notes.cache; }
const std::vector<std::string>& Dataset::bad_rows() const { return state_->files->notes.bad_rows; }

Example Dataset::operator[](int64_t index) const try {
  return state_->at(index, [](const Part& part, int64_t row) -> Example { return part.tokens[row]; });
} catch (...) {
  rethrow_as_error();
}

int64_t Dataset::length(int64_t index) const {
  return state_->at(index, [](const Part& part, int64_t row) -> int64_t { return part.tokens.length(row); });
}

int64_t Dataset::row_number(int64_t index) const {
  return state_->at(index, [](const Part& part, int64_t row) -> int64_t { return part.tokens.number(row); });
}

const std::string& Dataset::file(int64_t index) const {
  return *state_->at(index, [](const Part& part, int64_t) { return &part.file; });
}

Batch Dataset::batch(const std::vector<int64_t>& indices) const try {
  std::vector<Example> examples;
  for (const int64_t index : indices) examples.push_back((*this)[index]);
  std::vector<Sequence> rows;
  for (const Example& example : examples) rows.push_back({&example.input_ids, &example.labels});
  Batch batch = make_batch(rows);
  batch.samples = indices;
  return batch;
} catch (...) {
  rethrow_as_error();
}

Batches Dataset::batches(const BatchOptions& options) const { return Batches(*this, options); }

Batches::Batches(Dataset dataset, const BatchOptions& options)
    : dataset_(std::move(dataset)),
      rows_(options.rows),
      epoch_(options.epoch),
      order_(epoch_order(dataset_.size(), options.seed, options.epoch, options.shuffle)) {
  RANKFOLD_CHECK(rows_ > 0, "BatchOptions: rows must be above 0, got ", rows_);
  RANKFOLD_CHECK(epoch_ >= 0 && epoch_ < int64_t{1} << 31, "BatchOptions: epoch must lie in [0, 2^31), got ", epoch_);
}

int64_t Batches::size() const { return dataset_.size() / rows_ + (dataset_.size() % rows_ != 0); }

Batch Batches::operator[](int64_t index) const {
  RANKFOLD_CHECK(index >= 0 && index < size(), "Batches: expected an index in [0, ", size(), "), got ", index);
  const auto begin = order_.begin() + index * rows_;
  Batch batch = dataset_.batch({begin, begin + std::min<int64_t>(rows_, order_.end() - begin)});
  batch.step = epoch_ * size() + index;
  return batch;
}

std::vector<int64_t> epoch_order(int64_t size, uint64_t seed, int64_t epoch, bool shuffle) {
  RANKFOLD_CHECK(size >= 0, "epoch_order: size must not be negative, got ", size);
  if (shuffle) return shuffled(size, seed, epoch);
  std::vector<int64_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), int64_t{0});
  return order;
}

}  // namespace rankfold
