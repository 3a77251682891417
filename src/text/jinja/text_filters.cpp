// Filters that make text.
#include "text/jinja/format.h"
#include "text/jinja/library.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/strings.h"
#include "text/python_characters.h"
#include "text/unicode.h"

#include <cmath>

namespace rankfold::jinja {
namespace {

Text plain(const Value& value) { return to_text(value).as_safe(false); }

template <Text (*form)(const Text&)>
Value changed(Context&, const Value& value, Arguments arguments) {
  Bound("filter", std::move(arguments), {});
  return form(to_text(value));
}

Value trim(Context&, const Value& value, Arguments arguments) {
  const Bound bound("trim", std::move(arguments), {"chars"});
  const Text text = to_text(value);
  return bound.has(0) && !bound[0].is_none() ? strip(text, Side::kBoth, bound.text(0, {})) : strip(text, Side::kBoth);
}

Value replace_filter(Context&, const Value& value, Arguments arguments) {
  const Bound bound("replace", std::move(arguments), {"old", "new", "count"}, 2);
  const int64_t count = bound[2].is_none() ? -1 : bound.integer(2, -1);
  return replace(plain(value), plain(bound[0]), plain(bound[1]), count);
}

Value indent(Context&, const Value& value, Arguments arguments) {
  const Bound bound("indent", std::move(arguments), {"width", "first", "blank"});
  const bool first = bound.boolean(1, false), blank = bound.boolean(2, false);
  const Text margin =
      bound[0].is_text() ? bound[0].text() : calculate(Operator::kMultiply, " ", bound.integer(0, 4)).text();
  const Text whole =
      calculate(Operator::kAdd, value, value.is_text() && value.text().is_safe() ? Text("\n").as_safe() : Text("\n"))
          .text();
  TextBuilder out;
  const std::vector<Value> lines = split_lines(whole, false), with_ends = split_lines(whole, true);
  for (size_t k = 0; k < lines.size(); ++k) {
    const Text& line = lines[k].text();
    if (k > 0) out.append("\n", with_ends[k - 1].text().mark_at(lines[k - 1].text().size()));
    if (k == 0 ? first : blank || !line.empty()) out.append(margin);
    out.append(line);
  }
  return out.build(whole.is_safe());
}

Value center(Context&, const Value& value, Arguments arguments) {
  const Bound bound("center", std::move(arguments), {"width"});
  Arguments width;
  width.positional.push_back(bound.integer(0, 80));
  return call(string_method(to_text(value), "center"), std::move(width));
}

Value format(Context&, const Value& value, Arguments arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty())
    throw Raised("can't handle positional and keyword arguments at the same time");
  if (arguments.named.empty()) return format_percent(to_text(value), Value::tuple(std::move(arguments.positional)));
  std::vector<Entry> entries;
  for (auto& [name, item] : arguments.named) entries.emplace_back(name, std::move(item));
  return format_percent(to_text(value), Value::dict(std::move(entries)));
}

Value truncate(Context&, const Value& value, Arguments arguments) {
  const Bound bound("truncate", std::move(arguments), {"length", "killwords", "end", "leeway"});
  const Text end = bound.text(2, "...");
  const int64_t most = bound.integer(0, 255), leeway = bound[3].is_none() ? 5 : bound.integer(3, 5);
  const auto end_length = static_cast<int64_t>(end.length());
  if (most < end_length) throw Raised(join("expected length >= ", end_length, ", got ", most));
  if (leeway < 0) throw Raised(join("expected leeway >= 0, got ", leeway));
  if (static_cast<int64_t>(length(value)) <= most + leeway) return value;
  if (!value.is_text()) throw Raised(join("truncate: expected text, got ", type_name(value)));
  const Text start = value.text().characters(0, static_cast<size_t>(most - end_length));
  return calculate(Operator::kAdd, bound.boolean(1, false) ? start : split(start, " ", 1, true)[0].text(), end);
}

Value word_count(Context&, const Value& value, Arguments) {
  const Text text = to_text(value);
  spend(text.size() / 2);
  int64_t count = 0;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const bool is_word = python::is_word(unicode::next_character(text.view(), at));
    if (is_word && !in_word) ++count;
    in_word = is_word;
  }
  return count;
}

Value escape_filter(Context&, const Value& value, Arguments) {
  const Text text = to_text(value);
  return text.is_safe() ? text : escape(text);
}

Text quoted(const Text& text, bool for_query) {
  spend(text.size());
  TextBuilder out;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text.view()[at];
    const bool stays = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_' || c == '.' ||
                       c == '-' || c == '~' || (c == '/' && !for_query);
    constexpr char kDigits[] = "0123456789ABCDEF";
    const auto byte = static_cast<unsigned char>(c);
    const char code[] = {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    if (stays)
      out.append(text, at, at + 1);
    else
      out.append(c == ' ' && for_query ? std::string_view("+") : std::string_view(code, 3), text.mark_at(at));
  }
  return out.build();
}

Value url_encode(Context&, const Value& value, Arguments) {
  if (value.is_text() || !is_iterable(value)) return quoted(plain(value), false);
  TextBuilder out;
  bool is_first = true;
  const Value pairs = value.is_dict() ? Value(call(attribute(value, "items"), {})) : value;
  const IteratorPointer items = iterate(pairs);
  for (Value pair; items->next(pair); is_first = false) {
    const std::vector<Value> two = to_vector(pair);
    if (two.size() != 2) throw Raised("urlencode: expected pairs of key and value");
    if (!is_first) out.append("&");
    out.append(quoted(plain(two[0]), true));
    out.append("=");
    out.append(quoted(plain(two[1]), true));
  }
  return out.build();
}

Value file_size(Context& context, const Value& value, Arguments arguments) {
  const Bound bound("filesizeformat", std::move(arguments), {"binary"});
  const bool is_binary = bound.boolean(0, false);
  const Value number = call_filter(context, "float", value, {});
  const double bytes = *number.get<double>(), base = is_binary ? 1024 : 1000;
  if (bytes == 1) return "1 Byte";
  if (bytes < base) return join(static_cast<int64_t>(bytes), " Bytes");
  constexpr std::string_view kPrefixes = "kMGTPEZY";
  double unit = base * base;
  size_t k = 0;
  for (; k + 1 < kPrefixes.size() && bytes >= unit; ++k) unit *= base;
  char text[64];
  std::snprintf(text, sizeof text, "%.1f ", base * bytes / unit);
  const std::string prefix(1, is_binary && k == 0 ? 'K' : kPrefixes[k]);
  return text + prefix + (is_binary ? "iB" : "B");
}

Value string(Context&, const Value& value, Arguments) { return to_text(value); }
Value safe(Context&, const Value& value, Arguments) { return to_text(value).as_safe(); }
Value force_escape(Context&, const Value& value, Arguments) { return escape(plain(value)); }

Value unsupported(Context&, const Value&, Arguments) { throw Raised("this filter is not supported in chat templates"); }

}  // namespace

const Filters& text_filters() {
  static const Filters table = {
      {"upper", changed<to_upper>},
      {"lower", changed<to_lower>},
      {"title", changed<title_words>},
      {"capitalize", changed<capitalize>},
      {"trim", trim},
      {"replace", replace_filter},
      {"indent", indent},
      {"center", center},
      {"format", format},
      {"truncate", truncate},
      {"wordcount", word_count},
      {"string", string},
      {"safe", safe},
      {"escape", escape_filter},
      {"e", escape_filter},
      {"forceescape", force_escape},
      {"urlencode", url_encode},
      {"filesizeformat", file_size},
      {"wordwrap", unsupported},
      {"striptags", unsupported},
      {"urlize", unsupported},
      {"xmlattr", unsupported},
      {"pprint", unsupported},
      {"random", unsupported},
  };
  return table;
}

}  // namespace rankfold::jinja
