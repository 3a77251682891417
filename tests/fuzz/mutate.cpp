#include "fuzz/mutate.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <iterator>
#include <span>
#include <string_view>

namespace rankfold::fuzz {

uint64_t Random::next() {
  uint64_t z = state_ += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

namespace {

constexpr uint64_t kNumbers[] = {0,          1,          2,          3,           4,          8,           63,
                                 64,         65,         127,        128,         255,        256,         1000,
                                 4096,       4097,       65535,      65536,       1 << 20,    100'000'000, 100'000'001,
                                 2147483647, 2147483648, 4294967295, 4294967296,  1ull << 40, 1ull << 53,  1ull << 61,
                                 1ull << 62, ~0ull >> 1, 1ull << 63, ~0ull - 127, ~0ull};
constexpr const char* kOddNumbers[] = {
    "-1",  "-0",     "0.5",    "1.0",   "1e1", "1e400", "1e-400", "-9223372036854775809",
    "1e9", "-2e308", "1E+309", "0e0",   "00",  "1.",    "0x10",   "18446744073709551616",
    "NaN", "null",   "true",   "\"1\"", "[1]", "{}",    "1,1",    "99999999999999999999999"};
constexpr std::string_view kWords[] = {"null",
                                       "true",
                                       "NaN",
                                       "Infinity",
                                       "-",
                                       "\"",
                                       "\\",
                                       "\\u0000",
                                       "\\ud800",
                                       "\\udc00\\ud800",
                                       "[]",
                                       "{}",
                                       ",",
                                       ":",
                                       "}",
                                       "]",
                                       "\"\":0,",
                                       "\"a\":1,",
                                       "../x.safetensors",
                                       "/etc/passwd",
                                       "/",
                                       "\xEF\xBB\xBF",
                                       "\xFF\xFE",
                                       "\xED\xA0\x80",
                                       "\xC0\x80",
                                       "\xF4\x90\x80\x80",
                                       "//",
                                       "/**/",
                                       "#",
                                       "\n",
                                       "\r\n",
                                       "\t",
                                       "\x1B[2J",
                                       "__metadata__",
                                       "data_offsets",
                                       "F32",
                                       "I64",
                                       "F4",
                                       "(",
                                       ")*",
                                       "[a-",
                                       "{9999}",
                                       ".*.*.*.*",
                                       "<s>",
                                       "</s>",
                                       "<0x-1>",
                                       "<0xZZ>",
                                       "<0x100>",
                                       "<unk>",
                                       "\xE2\x96\x81",
                                       "rank_pattern",
                                       "use_dora",
                                       "r",
                                       "input_ids",
                                       "labels",
                                       "text",
                                       "answer",
                                       "weight_map"};

constexpr std::string_view kTemplateWords[] = {"{{",
                                               "}}",
                                               "{%",
                                               "%}",
                                               "{%-",
                                               "-%}",
                                               "{#",
                                               "#}",
                                               " | tojson",
                                               " | upper",
                                               " | trim",
                                               " | join",
                                               " | list",
                                               " | reverse",
                                               " | title",
                                               " | safe",
                                               "[::-1]",
                                               "[1:]",
                                               "[-1]",
                                               ".split()",
                                               ".strip()",
                                               ".items()",
                                               " | string",
                                               "namespace(a=1)",
                                               " ~ ",
                                               " + ",
                                               " * ",
                                               " ** ",
                                               " // ",
                                               " % ",
                                               " in ",
                                               " is defined",
                                               " if ",
                                               " else ",
                                               " not ",
                                               "loop",
                                               "caller()",
                                               "self",
                                               "range(9)",
                                               "messages",
                                               "loop.last",
                                               "m.content",
                                               "{% endif %}",
                                               "{% else %}",
                                               "{% set a",
                                               "{% endset %}",
                                               "{% break %}",
                                               "{% if m %}",
                                               "{% endfor %}",
                                               "{% for m in messages %}",
                                               "{% generation %}",
                                               "{% endgeneration %}",
                                               "{% macro f(a) %}",
                                               "{% endmacro %}",
                                               "{% filter upper %}",
                                               "{% endfilter %}",
                                               "{% raw %}",
                                               "{% endraw %}",
                                               "{% call f() %}",
                                               "{% endcall %}",
                                               "recursive",
                                               "none",
                                               "true",
                                               "'%s %r %d'",
                                               ".format(m)",
                                               "'{0:>9}'",
                                               "\xC3\x9F",
                                               "'",
                                               "\"",
                                               "\\",
                                               "(",
                                               ")",
                                               "[",
                                               "]",
                                               ",",
                                               ".",
                                               "\n",
                                               "\r\n",
                                               "\x1B[2J",
                                               "\xFF",
                                               "\xE4\xB8\x96"};

std::string varint(uint64_t x) {
  std::string bytes;
  for (; x >= 0x80; x >>= 7) bytes += static_cast<char>((x & 0x7F) | 0x80);
  return bytes + static_cast<char>(x);
}

class Damage {
 public:
  Damage(Random& random, std::string& bytes, std::span<const std::string_view> words)
      : random_(random), bytes_(bytes), words_(words) {}

  void apply(const std::string& other) {
    switch (random_.below(14)) {
      case 0:
        return flip();
      case 1:
        return overwrite(static_cast<char>(random_.next()));
      case 2:
        return remove();
      case 3:
        return duplicate();
      case 4:
        return splice(other);
      case 5:
      case 6:
      case 7:
        return change_number();
      case 8:
        return write_integer();
      case 9:
        return bytes_.resize(place());
      case 10:
        return nest();
      case 11:
        return insert_word();
      case 12:
        return insert_run();
      default:
        return exchange();
    }
  }

 private:
  size_t place() { return random_.below(bytes_.size() + 1); }
  size_t length(size_t from) { return random_.below(std::min<size_t>(bytes_.size() - from, 64) + 1); }

  void flip() {
    if (bytes_.empty()) return;
    const size_t at = random_.below(bytes_.size());
    bytes_[at] = static_cast<char>(bytes_[at] ^ (1 << random_.below(8)));
  }
  void overwrite(char byte) {
    if (!bytes_.empty()) bytes_[random_.below(bytes_.size())] = byte;
  }
  void remove() {
    const size_t at = place();
    bytes_.erase(at, length(at));
  }
  void duplicate() {
    const size_t from = place();
    const std::string part = bytes_.substr(from, length(from));
    const size_t at = place();
    for (uint64_t i = random_.one_in(20) ? 500 : 1; i > 0; --i) bytes_.insert(at, part);
  }
  void exchange() {
    size_t at[] = {place(), place()};
    std::sort(std::begin(at), std::end(at));
    std::rotate(bytes_.begin() + at[0], bytes_.begin() + at[1], bytes_.begin() + at[1] + length(at[1]));
  }
  void splice(const std::string& other) {
    bytes_.resize(place());
    bytes_ += other.substr(random_.below(other.size() + 1));
  }
  // A run of digits becomes another number.
  void change_number() {
    const auto is_digit = [](unsigned char c) { return std::isdigit(c); };
    auto begin = std::find_if(bytes_.begin() + place(), bytes_.end(), is_digit);
    if (begin == bytes_.end()) begin = std::find_if(bytes_.begin(), bytes_.end(), is_digit);
    const auto end = std::find_if_not(begin, bytes_.end(), is_digit);
    if (begin == end) return insert_word();
    std::string number = kOddNumbers[random_.below(std::size(kOddNumbers))];
    if (!random_.one_in(3)) {
      uint64_t value = kNumbers[random_.below(std::size(kNumbers))];
      if (random_.one_in(3) && end - begin < 18) value = std::stoull(std::string(begin, end)) + random_.below(3) - 1;
      number = std::to_string(value);
    }
    bytes_.replace(begin, end, number);
  }
  // Lengths of binary formats: little-endian ones of each width, and protobuf's.
  void write_integer() {
    const uint64_t value = kNumbers[random_.below(std::size(kNumbers))] + random_.below(3) - 1;
    const size_t at = random_.one_in(3) ? 0 : place();
    if (random_.one_in(2)) {
      bytes_.replace(at, std::min<size_t>(1, bytes_.size() - at), varint(value));
    } else {
      const size_t width = std::min<size_t>(size_t{1} << random_.below(4), bytes_.size() - at);
      std::memcpy(bytes_.data() + at, &value, width);
    }
  }
  void nest() {
    const size_t depth = random_.one_in(20) ? 100'000 : 1 + random_.below(200);
    const char open = random_.one_in(2) ? '[' : '{', close = open == '[' ? ']' : '}';
    std::string text;
    for (size_t i = 0; i < depth; ++i) text += open == '[' ? "[" : "{\"\":";
    if (open == '{') text += "0";
    if (!random_.one_in(3)) text.append(depth, close);
    bytes_.insert(place(), text);
  }
  void insert_word() { bytes_.insert(place(), words_[random_.below(words_.size())]); }
  void insert_run() {
    const size_t count = random_.one_in(10) ? 1 + random_.below(100'000) : 1 + random_.below(300);
    bytes_.insert(
        place(), count,
        bytes_.empty() || random_.one_in(2) ? static_cast<char>(random_.next()) : bytes_[random_.below(bytes_.size())]);
  }

  Random& random_;
  std::string& bytes_;
  std::span<const std::string_view> words_;
};

// A field of a protobuf message: [begin, key_end) its key; [inner, end) what its length frames, if it has one.
struct Field {
  size_t begin, key_end, inner, end;
  uint64_t key;
  bool is_framed() const { return (key & 7) == 2; }
};

// Up to the first that is none.
std::vector<Field> fields_of(const std::string& bytes) {
  std::vector<Field> fields;
  size_t at = 0;
  const auto read_varint = [&](uint64_t& x) {
    x = 0;
    for (int shift = 0; at < bytes.size() && shift < 63; shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes[at++]);
      x |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return true;
    }
    return false;
  };
  while (at < bytes.size()) {
    Field field{.begin = at, .key_end = 0, .inner = 0, .end = 0, .key = 0};
    if (!read_varint(field.key)) break;
    field.key_end = at;
    uint64_t length = 0;
    const uint64_t wire = field.key & 7;
    if (wire > 2 && wire != 5) break;
    if ((wire == 0 || wire == 2) && !read_varint(length)) break;
    field.inner = at;
    length = wire == 0 ? 0 : wire == 1 ? 8 : wire == 5 ? 4 : length;
    if (length > bytes.size() - at) break;
    field.end = at += length;
    fields.push_back(field);
  }
  return fields;
}

class Mutator {
 public:
  Mutator(Random& random, const std::string& other, std::span<const std::string_view> words)
      : random_(random), other_(other), words_(words) {}

  void change_text(std::string& bytes) { Damage(random_, bytes, words_).apply(other_); }

  void change_tensors(std::string& bytes) {
    uint64_t length = 0;
    if (bytes.size() < sizeof length) return change_text(bytes);
    std::memcpy(&length, bytes.data(), sizeof length);
    if (random_.one_in(3) || length > bytes.size() - sizeof length) return change_text(bytes);
    std::string header = bytes.substr(sizeof length, length);
    change_text(header);
    bytes.replace(sizeof length, length, header);
    length = header.size();
    std::memcpy(bytes.data(), &length, sizeof length);
  }

  // Changes the message, one of its fields as a field, or what is in one that has a length, and gives that its new length.
  void change_message(std::string& bytes, int depth = 0) {
    constexpr int kDeepest = 4;
    const std::vector<Field> fields = fields_of(bytes);
    if (fields.empty() || depth == kDeepest || random_.one_in(depth == 0 ? 6 : 3)) return change_text(bytes);
    // Late fields hold the settings and the tables: they are few beside the pieces.
    const size_t few = std::min<size_t>(3, fields.size());
    const Field& field =
        fields[random_.one_in(2) ? fields.size() - 1 - random_.below(few) : random_.below(fields.size())];
    if (!field.is_framed() || random_.one_in(6)) return change_field(bytes, field);
    std::string inner = bytes.substr(field.inner, field.end - field.inner);
    if (inner.size() > kTable && random_.one_in(2))
      change_table(inner);
    else
      change_message(inner, depth + 1);
    bytes.replace(field.key_end, field.end - field.key_end, varint(inner.size()) + inner);
    if (random_.one_in(10)) rename_widely(bytes, field);  // so that who looks at the low bits alone meets the change
  }

 private:
  static constexpr size_t kTable = 2000;  // no other field is so long

  void change_field(std::string& bytes, const Field& field) {
    const std::string whole = bytes.substr(field.begin, field.end - field.begin);
    const auto place = [&] {  // between two fields
      const std::vector<Field> fields = fields_of(bytes);
      return fields.empty() ? 0 : fields[random_.below(fields.size())].begin;
    };
    switch (random_.below(6)) {
      case 0:
        bytes.erase(field.begin, whole.size());
        return;
      case 1:
        bytes.insert(place(), whole);
        return;
      case 2:  // as the only field of another one of its number
        bytes.replace(field.begin, whole.size(), varint(field.key | 2) + varint(whole.size()) + whole);
        return;
      case 3:  // the number of another field, or of none
        return rename(bytes, field, random_.below(random_.one_in(4) ? 300 : 8) << 3 | (field.key & 7));
      case 4:  // of another kind
        return rename(bytes, field, (field.key & ~uint64_t{7}) | random_.below(6));
      default:  // the same number to who reads 32 bits alone
        return rename_widely(bytes, field);
    }
  }
  void rename_widely(std::string& bytes, const Field& field) {
    rename(bytes, field, field.key | (1 + random_.below(7)) << 32);
  }
  // A normaliser table: some unit of its trie leads to where another one's units begin, perhaps its own.
  void change_table(std::string& table) {
    const size_t units = (table.size() - sizeof(uint32_t)) / sizeof(uint32_t);
    uint32_t unit = 0;
    for (int tries = 0; tries < 1000; ++tries) {
      const size_t i = random_.below(units), at = sizeof unit * (i + 1);
      std::memcpy(&unit, table.data() + at, sizeof unit);
      if (unit >> 31) continue;  // a value
      unit = (unit & 0x3FF) | static_cast<uint32_t>(i ^ 256 * random_.below(units / 256)) << 10;
      std::memcpy(table.data() + at, &unit, sizeof unit);
      return;
    }
  }
  static void rename(std::string& bytes, const Field& field, uint64_t key) {
    bytes.replace(field.begin, field.key_end - field.begin, varint(key));
  }

  Random& random_;
  const std::string& other_;
  std::span<const std::string_view> words_;
};

}  // namespace

std::string mutant(Random& random, const std::vector<std::string>& contents, const std::string& file_name) {
  const auto pick = [&]() -> const std::string& { return contents[random.below(contents.size())]; };
  std::string bytes = pick();
  std::span<const std::string_view> words = kWords;
  if (file_name.ends_with(".jinja")) words = kTemplateWords;
  for (uint64_t changes = 1 + random.below(1 + random.below(4)); changes > 0; --changes) {
    Mutator mutator(random, pick(), words);
    if (file_name.ends_with(".safetensors"))
      mutator.change_tensors(bytes);
    else if (file_name.ends_with(".model"))
      mutator.change_message(bytes);
    else
      mutator.change_text(bytes);
  }
  constexpr size_t kLargest = 150'000;  // what sentencepiece takes for a text grows with it
  return bytes.substr(0, kLargest);
}

}  // namespace rankfold::fuzz
