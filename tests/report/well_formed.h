// Whether a text is well-formed as XML, as far as our charts use it: tags that close in order, attributes in quotes, no
// bare '<' or '&'.
#pragma once

#include <regex>
#include <string>
#include <vector>

namespace rankfold {

// Empty, or what is wrong.
inline std::string xml_problem(const std::string& text) {
  static const std::regex tag(
      "<(/?)([A-Za-z][A-Za-z0-9]*)((?: [A-Za-z:-]+=\"[^\"<&]*(?:&[a-z0-9#]+;[^\"<&]*)*\")*) ?(/?)>");
  static const std::regex reference("&(amp|lt|gt|quot|#39);");
  std::vector<std::string> open;
  size_t at = 0;
  for (auto found = std::sregex_iterator(text.begin(), text.end(), tag); found != std::sregex_iterator(); ++found) {
    const auto begin = static_cast<size_t>(found->position());
    std::string between = std::regex_replace(text.substr(at, begin - at), reference, "");
    if (between.find_first_of("<&") != std::string::npos) return "a bare character in: " + between.substr(0, 80);
    at = begin + static_cast<size_t>(found->length());
    const std::string name = (*found)[2];
    if ((*found)[1].length() > 0) {
      if (open.empty() || open.back() != name) return "</" + name + "> closes what is not open";
      open.pop_back();
    } else if ((*found)[4].length() == 0) {
      open.push_back(name);
    }
  }
  if (text.find_first_of("<&", at) != std::string::npos) return "a bare character at the end";
  return open.empty() ? "" : "<" + open.back() + "> stays open";
}

}  // namespace rankfold
