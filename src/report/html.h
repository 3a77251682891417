// One HTML page that is whole by itself: no script, no font and no picture of another file or place. Light or dark as the
// reader's browser asks. All functions are pure.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rankfold {

// Text of anybody as HTML or XML shows it, between tags and in quoted attributes. What is no UTF-8, and control
// characters that XML does not allow, become U+FFFD.
std::string escaped(std::string_view text);

// A number as a person reads it in a table: at most `digits` significant digits, k, M, G from 10,000 on, "-" where it is
// not finite.
std::string short_number(double value, int digits = 4);

struct Cell {
  Cell(std::string cell_text) : text(std::move(cell_text)) {}  // NOLINT(google-explicit-constructor)
  Cell(const char* cell_text) : text(cell_text) {}             // NOLINT(google-explicit-constructor)
  Cell(std::string cell_text, bool best) : text(std::move(cell_text)), is_best(best) {}
  std::string text;      // as it is: table_html() escapes it
  bool is_best = false;  // of its column: shown bold
};
struct Column {
  std::string head;
  bool is_number = false;  // numbers stand at the right
};
struct Table {
  std::vector<Column> columns;
  std::vector<std::vector<Cell>> rows;  // of as many cells as there are columns
};
// Scrolls by itself where the window is narrower than the table.
std::string table_html(const Table& table);

// The functions below take HTML for `body` and text for all else.
std::string section_html(const std::string& title, const std::string& body);
std::string figure_html(const std::string& title, const std::string& body);  // a chart with its title
std::string figures_html(const std::vector<std::string>& figures);           // side by side where the window is wide
std::string folded_html(const std::string& title, const std::string& body);  // opens at a click
std::string paragraph_html(const std::string& text);
std::string text_block_html(const std::string& text);  // line feeds and spaces stay

// `lead`: text below the title.
std::string page_html(const std::string& title, const std::string& lead, const std::string& body);

}  // namespace rankfold
