#include "report/html.h"

#include "core/utf8.h"
#include "report/chart.h"

#include <cmath>
#include <cstdio>

namespace rankfold {
namespace {

constexpr const char* kPageStyle = R"(
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --quiet: #656d76; --rule: #d8dee4; --shade: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171c; --ink: #e6e9ed; --quiet: #9aa4af; --rule: #333b45; --shade: #1c2128; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 1120px; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", "PingFang SC",
    "Microsoft YaHei", sans-serif; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; font-weight: 600; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 36px 0 12px; padding-bottom: 6px; font-weight: 600; border-bottom: 1px solid var(--rule); }
p { margin: 0 0 10px; max-width: 75ch; overflow-wrap: anywhere; }
p.lead { color: var(--quiet); max-width: none; }
.figures { display: grid; gap: 20px 28px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: 14px; margin-bottom: 2px; }
.scroll { overflow-x: auto; margin: 0 0 12px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; color: var(--quiet); white-space: nowrap; }
td { min-width: 4ch; max-width: 60ch; overflow-wrap: break-word; white-space: pre-wrap; }
th.number, td.number { text-align: right; white-space: nowrap; }
td.best { font-weight: 700; }
details { margin: 0 0 12px; }
summary { cursor: pointer; font-weight: 600; font-size: 14px; margin-bottom: 8px; overflow-wrap: anywhere; }
pre { margin: 0 0 12px; padding: 10px 12px; background: var(--shade); border-radius: 6px; font-size: 13px; line-height: 1.5;
  white-space: pre-wrap; overflow-wrap: anywhere; font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
)";

// The page may be opened from anywhere: the browser itself is told that nothing is fetched and nothing runs.
constexpr const char* kPolicy = "default-src 'none'; style-src 'unsafe-inline'";

}  // namespace

std::string escaped(std::string_view text) {
  std::string plain;
  plain.reserve(text.size());
  const std::string shown = printable(text, Shown::kProse, [](std::string_view bytes) {
    return bytes == "\t" || bytes == "\r" ? std::string(bytes) : std::string("\xEF\xBF\xBD");
  });
  for (const char c : shown) switch (c) {
      case '&':
        plain += "&amp;";
        break;
      case '<':
        plain += "&lt;";
        break;
      case '>':
        plain += "&gt;";
        break;
      case '"':
        plain += "&quot;";
        break;
      case '\'':
        plain += "&#39;";
        break;
      default:
        plain += c;
    }
  return plain;
}

std::string short_number(double value, int digits) {
  if (!std::isfinite(value)) return "-";
  double shown = value;
  const char* unit = "";
  for (const auto& [size, name] : {std::pair{1e9, "G"}, {1e6, "M"}, {1e3, "k"}})
    if (std::abs(value) >= 1e4 && std::abs(value) >= size) {
      shown = value / size, unit = name;
      break;
    }
  char text[64];
  std::snprintf(text, sizeof text, "%.*g", digits, shown);
  std::string number = text;
  if (const size_t e = number.find('e'); e != std::string::npos) {  // 5e-05 -> 5e-5
    size_t zeros = e + 2;
    while (zeros + 1 < number.size() && number[zeros] == '0') number.erase(zeros, 1);
    if (number[e + 1] == '+') number.erase(e + 1, 1);
  }
  return number + unit;
}

std::string table_html(const Table& table) {
  const auto class_of = [](const Column& column, bool is_best) -> std::string {
    if (column.is_number) return is_best ? " class=\"number best\"" : " class=\"number\"";
    return is_best ? " class=\"best\"" : "";
  };
  std::string html = "<div class=\"scroll\"><table>\n<thead><tr>";
  for (const Column& column : table.columns)
    html += "<th" + class_of(column, false) + ">" + escaped(column.head) + "</th>";
  html += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (size_t i = 0; i < row.size() && i < table.columns.size(); ++i)
      html += "<td" + class_of(table.columns[i], row[i].is_best) + ">" + escaped(row[i].text) + "</td>";
    html += "</tr>\n";
  }
  return html + "</tbody>\n</table></div>\n";
}

std::string section_html(const std::string& title, const std::string& body) {
  return "<section>\n<h2>" + escaped(title) + "</h2>\n" + body + "</section>\n";
}

std::string figure_html(const std::string& title, const std::string& body) {
  return "<figure><figcaption>" + escaped(title) + "</figcaption>\n" + body + "</figure>\n";
}

std::string figures_html(const std::vector<std::string>& figures) {
  std::string html = "<div class=\"figures\">\n";
  for (const std::string& figure : figures) html += figure;
  return html + "</div>\n";
}

std::string folded_html(const std::string& title, const std::string& body) {
  return "<details><summary>" + escaped(title) + "</summary>\n" + body + "</details>\n";
}

std::string paragraph_html(const std::string& text) { return "<p>" + escaped(text) + "</p>\n"; }

std::string text_block_html(const std::string& text) { return "<pre>" + escaped(text) + "</pre>\n"; }

std::string page_html(const std::string& title, const std::string& lead, const std::string& body) {
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
         "<meta http-equiv=\"Content-Security-Policy\" content=\"" +
         std::string(kPolicy) + "\">\n<title>" + escaped(title) + "</title>\n<style>" + kPageStyle + chart_style() +
         "</style>\n</head>\n<body>\n<h1>" + escaped(title) + "</h1>\n<p class=\"lead\">" + escaped(lead) + "</p>\n" +
         body + "</body>\n</html>\n";
}

}  // namespace rankfold
