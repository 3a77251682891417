#include "text/jinja/format.h"

#include "text/jinja/library.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/strings.h"
#include "text/unicode.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace rankfold::jinja {
namespace {

constexpr int64_t kWidest = 1 << 20;
constexpr int kMostDecimals = 1000;

// What stands between % and the letter, or behind the colon in {}.
struct Spec {
  Text fill = " ";
  char align = '\0';  // < > ^ =
  char sign = '-';
  bool alternate = false;
  int64_t width = 0;
  char grouping = '\0';
  int precision = -1;
  char type = '\0';
};

int64_t checked(int64_t number, int64_t most, const char* what) {
  if (number > most) throw Raised(join("format: the ", what, " is larger than ", most));
  return number;
}

Text padded(const Text& text, const Spec& spec, char usual_align, size_t sign_size = 0) {
  const auto length = static_cast<int64_t>(text.length());
  if (length >= spec.width) return text;
  const auto room = static_cast<size_t>(spec.width - length);
  const char align = spec.align == '\0' ? usual_align : spec.align;
  TextBuilder out;
  if (align == '=') out.append(text, 0, sign_size);
  const size_t before = align == '<' ? 0 : align == '^' ? room / 2 : room;
  out.append(repeated(spec.fill, before));
  out.append(text, align == '=' ? sign_size : 0, text.size());
  out.append(repeated(spec.fill, room - before));
  return out.build();
}

// Digits with signs and separators; `digits` has no sign.
Text number_text(std::string digits, bool is_negative, const std::string& prefix, const Spec& spec, Mark mark) {
  const std::string sign = is_negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  if (spec.grouping != '\0') {
    const size_t whole = std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
    const size_t every = spec.type == 'x' || spec.type == 'X' || spec.type == 'b' || spec.type == 'o' ? 4 : 3;
    for (size_t at = whole; at > every; at -= every) digits.insert(at - every, 1, spec.grouping);
  }
  return padded(Text(sign + prefix + digits, mark), spec, '>', sign.size() + prefix.size());
}

Text format_float(const Value& number, const Spec& spec) {
  double value = *plus(calculate(Operator::kAdd, number, 0.0)).get<double>();
  const bool is_negative = std::signbit(value) && !std::isnan(value);
  char type = spec.type == '\0' || spec.type == 'n' ? 'g' : spec.type;
  const bool is_percent = type == '%';
  if (is_percent) value *= 100, type = 'f';
  std::string digits;
  if (!std::isfinite(value)) {
    digits = std::isnan(value) ? "nan" : "inf";
    if (type >= 'A' && type <= 'Z') std::transform(digits.begin(), digits.end(), digits.begin(), ::toupper);
  } else if (spec.type == '\0' && spec.precision < 0) {
    digits = float_text(std::fabs(value));
  } else {
    const int precision = spec.precision < 0 ? 6 : spec.precision;
    const std::string pattern = join(spec.alternate ? "%#.*" : "%.*", type);
    std::string buffer(static_cast<size_t>(precision) + 400, '\0');
    const int size = std::snprintf(buffer.data(), buffer.size(), pattern.c_str(), precision, std::fabs(value));
    digits = buffer.substr(0, static_cast<size_t>(size));
    if (spec.type == '\0' && digits.find_first_of(".en") == std::string::npos) digits += ".0";
  }
  if (is_percent) digits += '%';
  return number_text(std::move(digits), is_negative, "", spec, number.mark());
}

Text format_integer(const Value& value, const Spec& spec) {
  const bool is_boolean = value.is<bool>();
  const Integer whole = is_boolean            ? Integer(*value.get<bool>() ? 1 : 0)
                        : value.is<int64_t>() ? Integer(*value.get<int64_t>())
                                              : **value.get<IntegerPointer>();
  const char lower = static_cast<char>(spec.type | 0x20);
  const unsigned base = lower == 'x' ? 16 : spec.type == 'o' ? 8 : spec.type == 'b' ? 2 : 10;
  std::string digits = base == 10 ? integer_text(value) : whole.to_string(base);
  if (whole.is_negative()) digits.erase(0, 1);
  if (spec.type == 'X') std::transform(digits.begin(), digits.end(), digits.begin(), ::toupper);
  const std::string prefix = spec.alternate && base != 10 ? std::string("0") + spec.type : "";
  if (spec.precision >= 0 && digits.size() < static_cast<size_t>(spec.precision))
    digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
  return number_text(std::move(digits), whole.is_negative(), prefix, spec, value.mark());
}

class Percent {
 public:
  Percent(const Text& format, const Value& values)
      : format_(format), bytes_(format.view()), values_(values), is_tuple_(values.is_tuple()) {}

  Text run() {
    while (at_ < bytes_.size()) {
      const size_t percent = std::min(bytes_.find('%', at_), bytes_.size());
      out_.append(format_, at_, percent);
      at_ = percent + 1;
      if (percent < bytes_.size()) one();
    }
    const ObjectPointer* const object = values_.object();
    const bool may_be_left = values_.is_dict() || values_.is_list() || values_.is<Undefined>() ||
                             (object != nullptr && (*object)->has_items());
    if (is_tuple_ ? next_ < values_.items().size() : next_ == 0 && !may_be_left)
      throw Raised("not all arguments converted during string formatting");
    return out_.build(format_.is_safe());
  }

 private:
  char peek() const {
    if (at_ >= bytes_.size()) throw Raised("incomplete format");
    return bytes_[at_];
  }

  Value next() {
    if (is_tuple_ ? next_ >= values_.items().size() : next_ > 0) throw Raised("not enough arguments for format string");
    return is_tuple_ ? values_.items()[next_++] : (++next_, values_);
  }

  int64_t number() {
    if (peek() == '*') {
      ++at_;
      const std::optional<int64_t> given = as_index(next());
      if (!given) throw Raised("* wants int");
      return std::clamp(*given, -kWidest - 1, kWidest + 1);
    }
    int64_t value = 0;
    while (peek() >= '0' && peek() <= '9') value = checked(value * 10 + (bytes_[at_++] - '0'), kWidest, "width");
    return value;
  }

  void one() {
    Spec spec;
    std::optional<Value> named;
    if (peek() == '(') {
      const size_t end = bytes_.find(')', at_);
      if (end == std::string_view::npos) throw Raised("incomplete format key");
      if (!values_.is_dict()) throw Raised("format requires a mapping");
      const Text key = format_.slice(at_ + 1, end);
      const Value* const found = values_.find(key);
      if (found == nullptr) throw Raised(join("KeyError: ", repr(key).view()));
      named = *found;
      next_ = 1;
      at_ = end + 1;
    }
    bool zeros = false;
    for (constexpr std::string_view kFlags = "-+ #0"; kFlags.find(peek()) != std::string_view::npos; ++at_) {
      const char flag = bytes_[at_];
      if (flag == '-') spec.align = '<';
      if (flag == '+' || (flag == ' ' && spec.sign != '+')) spec.sign = flag;
      if (flag == '#') spec.alternate = true;
      if (flag == '0') zeros = true;
    }
    spec.width = number();
    if (spec.width < 0) spec.align = '<', spec.width = -spec.width;
    checked(spec.width, kWidest, "width");
    if (peek() == '.') {
      ++at_;
      spec.precision = static_cast<int>(std::max<int64_t>(0, checked(number(), kMostDecimals, "precision")));
    }
    while (peek() == 'h' || peek() == 'l' || peek() == 'L') ++at_;
    spec.type = peek();
    ++at_;
    if (spec.type == '%') return out_.append(format_, at_ - 1, at_);
    out_.append(text_of(named ? *named : next(), spec, zeros));
  }

  Text text_of(const Value& value, Spec& spec, bool zeros) {
    switch (spec.type) {
      case 's':
      case 'r':
      case 'a': {
        Text text = spec.type == 's' ? to_text(value) : repr(value);
        if (spec.precision >= 0) text = text.characters(0, static_cast<size_t>(spec.precision));
        text = padded(text, spec, '>');
        return format_.is_safe() && !text.is_safe() ? escape(text) : text;
      }
      case 'c': {
        const std::optional<int64_t> code = as_index(value);
        if (!code && !(value.is_text() && value.text().length() == 1)) throw Raised("%c requires int or char");
        if (!code) return padded(value.text(), spec, '>');
        if (*code < 0 || *code > 0x10FFFF || (*code >= 0xD800 && *code < 0xE000))
          throw Raised("%c arg not in range(0x110000)");
        std::string letter;
        unicode::append(static_cast<uint32_t>(*code), letter);
        return padded(Text(std::move(letter), value.mark()), spec, '>');
      }
      default:
        break;
    }
    refuse_undefined(value);
    if (zeros && spec.align == '\0') spec.fill = "0", spec.align = '=';
    constexpr std::string_view kWhole = "diuxXo", kFloats = "eEfFgG";
    if (kWhole.find(spec.type) != std::string_view::npos) {
      const bool is_decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
      Value whole = value;
      if (const double* number = value.get<double>(); number != nullptr && is_decimal) {
        if (!std::isfinite(*number)) throw Raised("cannot convert float infinity or NaN to integer");
        whole = Integer::truncate(*number);
        whole.set_origin(value.mark().origin);
      }
      if (!whole.is_integer() && !whole.is<bool>())
        throw Raised(join("%", spec.type, " format: ", is_decimal ? "a real number" : "an integer",
                          " is required, not ", type_name(value)));
      if (is_decimal) spec.type = 'd';
      return format_integer(whole, spec);
    }
    if (kFloats.find(spec.type) == std::string_view::npos)
      throw Raised(join("unsupported format character '", spec.type, "' (", static_cast<int>(spec.type), ") at index ",
                        at_ - 1));
    if (!value.is_number()) throw Raised(join("must be real number, not ", type_name(value)));
    return format_float(value, spec);
  }

  const Text& format_;
  std::string_view bytes_;
  const Value& values_;
  bool is_tuple_;
  size_t at_ = 0, next_ = 0;
  TextBuilder out_;
};

// "{}" and the like.
class Braces {
 public:
  Braces(const Text& format, const Arguments& values) : format_(format), values_(values) {}

  Text run(size_t begin, size_t end, int depth) {
    const std::string_view bytes = format_.view().substr(0, end);
    TextBuilder out;
    while (begin < end) {
      const size_t brace = std::min(bytes.find_first_of("{}", begin), end);
      out.append(format_, begin, brace);
      if (brace == end) break;
      const bool is_double = brace + 1 < end && bytes[brace + 1] == bytes[brace];
      if (is_double) {
        out.append(format_, brace, brace + 1);
        begin = brace + 2;
        continue;
      }
      if (bytes[brace] == '}') throw Raised("Single '}' encountered in format string");
      size_t close = brace + 1;
      for (int open = 1; open > 0; ++close) {
        if (close >= end) throw Raised("expected '}' before end of string");
        open += bytes[close] == '{' ? 1 : bytes[close] == '}' ? -1 : 0;
      }
      out.append(field(brace + 1, close - 1, depth));
      begin = close;
    }
    return out.build(format_.is_safe());
  }

 private:
  Text field(size_t begin, size_t end, int depth) {
    if (depth > 1) throw Raised("Max string recursion exceeded");
    const std::string_view bytes = format_.view().substr(0, end);
    size_t name_end = begin;
    for (int open = 0; name_end < end && (open > 0 || (bytes[name_end] != ':' && bytes[name_end] != '!')); ++name_end)
      open += bytes[name_end] == '[' ? 1 : bytes[name_end] == ']' ? -1 : 0;
    Value value = find(bytes.substr(begin, name_end - begin));
    size_t spec_begin = name_end;
    if (name_end < end && bytes[name_end] == '!') {
      const char conversion = name_end + 1 < end ? bytes[name_end + 1] : '\0';
      if (conversion != 's' && conversion != 'r') throw Raised("format: expected !s or !r");
      value = conversion == 's' ? to_text(value) : repr(value);
      spec_begin = name_end + 2;
    }
    if (spec_begin < end && bytes[spec_begin] != ':') throw Raised("expected ':' after conversion specifier");
    const Text spec = spec_begin < end ? run(spec_begin + 1, end, depth + 1) : Text();
    const Text text = format_value(value, spec);
    return format_.is_safe() && !text.is_safe() ? escape(text) : text;
  }

  Value find(std::string_view name) {
    const size_t first_end = std::min(name.find_first_of(".["), name.size());
    const std::string first(name.substr(0, first_end));
    const bool is_number = !first.empty() && first.find_first_not_of("0123456789") == std::string::npos;
    Value value;
    if (first.empty() || is_number) {
      if (first.size() > 6) throw Raised("Too many decimal digits in format string");
      const size_t index = first.empty() ? next_++ : std::stoul(first);
      if (index >= values_.positional.size())
        throw Raised(join("Replacement index ", index, " out of range for positional args tuple"));
      value = values_.positional[index];
    } else {
      const auto found =
          std::find_if(values_.named.begin(), values_.named.end(), [&](const auto& v) { return v.first == first; });
      if (found == values_.named.end()) throw Raised(join("KeyError: '", first, "'"));
      value = found->second;
    }
    for (size_t at = first_end; at < name.size();) {
      const bool is_item = name[at] == '[';
      const size_t stop = is_item ? name.find(']', at) : std::min(name.find_first_of(".[", at + 1), name.size());
      if (stop == std::string_view::npos) throw Raised("Missing ']' in format string");
      const std::string part(name.substr(at + 1, stop - at - 1));
      if (part.empty()) throw Raised("Empty attribute in format string");
      const bool is_index = is_item && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
      value = !is_item ? attribute(value, part) : item(value, is_index ? Value(std::stol(part)) : Value(part));
      at = is_item ? stop + 1 : stop;
    }
    return value;
  }

  static Text format_value(const Value& value, const Text& spec_text) {
    if (spec_text.empty()) return to_text(value);
    Spec spec = parse(spec_text);
    if (value.is<double>() ||
        (value.is_number() && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos &&
         spec.type != '\0'))
      return format_float(value, spec);
    if (value.is_number() && !(value.is<bool>() && spec.type == '\0')) {
      if (spec.type != '\0' && std::string_view("bdnoxX").find(spec.type) == std::string_view::npos)
        throw Raised(join("Unknown format code '", spec.type, "' for object of type 'int'"));
      if (spec.precision >= 0) throw Raised("Precision not allowed in integer format specifier");
      return format_integer(value, spec);
    }
    if (!value.is_text() && !value.is<bool>())
      throw Raised(join("unsupported format string passed to ", type_name(value), ".__format__"));
    if (spec.type != '\0' && spec.type != 's')
      throw Raised(join("Unknown format code '", spec.type, "' for object of type 'str'"));
    if (spec.align == '=') throw Raised("'=' alignment not allowed in string format specifier");
    Text text = to_text(value);
    if (spec.precision >= 0) text = text.characters(0, static_cast<size_t>(spec.precision));
    return padded(text, spec, '<');
  }

  static Spec parse(const Text& text) {
    Spec spec;
    const std::string_view bytes = text.view();
    size_t at = 0;
    const auto is_align = [&](size_t place) {
      return place < bytes.size() && std::string_view("<>^=").find(bytes[place]) != std::string_view::npos;
    };
    size_t second = 0;
    if (!bytes.empty()) unicode::next_character(bytes, second);
    if (is_align(second)) {
      spec.fill = text.slice(0, second);
      spec.align = bytes[second];
      at = second + 1;
    } else if (is_align(0)) {
      spec.align = bytes[at++];
    }
    const auto skip = [&](std::string_view letters) {
      return at < bytes.size() && letters.find(bytes[at]) != std::string_view::npos ? bytes[at++] : '\0';
    };
    const auto number = [&](int64_t most, const char* what) {
      int64_t value = 0;
      while (at < bytes.size() && bytes[at] >= '0' && bytes[at] <= '9')
        value = checked(value * 10 + (bytes[at++] - '0'), most, what);
      return value;
    };
    if (const char sign = skip("+- ")) spec.sign = sign;
    spec.alternate = skip("#") != '\0';
    if (skip("0") != '\0' && spec.align == '\0') spec.fill = "0", spec.align = '=';
    spec.width = number(kWidest, "width");
    spec.grouping = skip(",_");
    if (skip(".") != '\0') spec.precision = static_cast<int>(number(kMostDecimals, "precision"));
    spec.type = skip("bcdeEfFgGnosxX%");
    if (at < bytes.size()) throw Raised(join("Invalid format specifier '", bytes, "'"));
    return spec;
  }

  const Text& format_;
  const Arguments& values_;
  size_t next_ = 0;
};

}  // namespace

Text format_percent(const Text& format, const Value& values) { return Percent(format, values).run(); }

Text format_braces(const Text& format, const Arguments& values) {
  return Braces(format, values).run(0, format.size(), 0);
}

}  // namespace rankfold::jinja
