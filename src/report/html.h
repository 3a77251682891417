// Builds one self-contained HTML page: no script, and no font or picture from another file or server. Light or dark, as
// the browser requests. All functions are pure.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rankfold {

// Escapes untrusted text for HTML and XML, between tags and in quoted attributes. Invalid UTF-8, and control characters
// that XML does not allow, become U+FFFD.
std::string escaped(std::string_view text);

// A number for a table: at most `digits` significant digits, k, M, G from 10,000 on, "-" where it is not finite.
std::string short_number(double value, int digits = 4);

struct Cell {
  Cell(std::string cell_text) : text(std::move(cell_text)) {}  // NOLINT(google-explicit-constructor)
  Cell(const char* cell_text) : text(cell_text) {}             // NOLINT(google-explicit-constructor)
  Cell(std::string cell_text, bool best) : text(std::move(cell_text)), is_best(best) {}
  std::string text;      // not escaped; table_html() escapes it
  bool is_best = false;  // best value of its column: shown bold
};
struct Column {
  std::string head;
  bool is_number = false;  // aligned right
};
struct Table {
  std::vector<Column> columns = {};          // without a head row if all heads are empty
  std::vector<std::vector<Cell>> rows = {};  // one cell for each column
};
// The table scrolls by itself where the window is narrower than it.
std::string table_html(const Table& table);

// The functions below take HTML for `body` and text for all else.
std::string section_html(const std::string& title, const std::string& body);
std::string figure_html(const std::string& title, const std::string& body);  // a chart with its title
std::string figures_html(const std::vector<std::string>& figures);           // side by side where the window is wide
std::string folded_html(const std::string& title, const std::string& body);  // collapsed; a click opens it
std::string paragraph_html(const std::string& text);
std::string text_block_html(const std::string& text);  // keeps line feeds and spaces

// `lead`: text below the title.
std::string page_html(const std::string& title, const std::string& lead, const std::string& body);

}  // namespace rankfold
