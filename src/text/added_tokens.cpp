#include "text/added_tokens.h"

#include <algorithm>

namespace rankfold {
namespace {

size_t begin_of_character_before(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && unicode::is_continuation(text[at]));
  return at;
}

bool has(std::string_view text, size_t at, uint16_t property) {
  uint32_t length = 0;
  return unicode::Properties::get().at(text.data() + at, length) & property;
}

bool is_single_word(std::string_view text, size_t begin, size_t end) {
  return (begin == 0 || !has(text, begin_of_character_before(text, begin), unicode::kWord)) &&
         (end == text.size() || !has(text, end, unicode::kWord));
}

}  // namespace

int32_t AddedTokenFinder::child_of(int32_t node, char byte) const {
  int32_t child = nodes_[static_cast<size_t>(node)].child;
  while (child >= 0 && nodes_[static_cast<size_t>(child)].byte != byte)
    child = nodes_[static_cast<size_t>(child)].sibling;
  return child;
}

bool AddedTokenFinder::add(const AddedToken& token, std::string_view pattern) {
  begins_[static_cast<unsigned char>(pattern[0])] = true;
  int32_t node = 0;
  for (const char byte : pattern) {
    int32_t next = child_of(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({-1, nodes_[static_cast<size_t>(node)].child, -1, byte});
      nodes_[static_cast<size_t>(node)].child = next;
    }
    node = next;
  }
  int32_t& its_token = nodes_[static_cast<size_t>(node)].token;
  if (its_token >= 0) return false;
  its_token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
  return true;
}

void AddedTokenFinder::find(const Piece& piece, const HiddenTokens& hidden, std::vector<Found>& found) const {
  const std::string_view text = piece.text;
  found.clear();
  size_t done = 0, blanks_begin = 0, blanks_end = 0;  // the last run that was looked at
  for (size_t at = 0; at < text.size();) {
    if (!begins_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    int32_t match = -1;  // the longest
    size_t match_end = at + 1;
    for (size_t i = at, node = 0; i < text.size(); ++i) {
      const int32_t next = child_of(static_cast<int32_t>(node), text[i]);
      if (next < 0) break;
      node = static_cast<size_t>(next);
      if (nodes_[node].token < 0) continue;
      match = nodes_[node].token;
      match_end = i + 1;
    }
    size_t begin = at, end = match_end;
    at = match_end;
    if (match < 0) continue;
    // A token that is not taken hides those that begin within it all the same.
    const AddedToken& token = tokens_[static_cast<size_t>(match)];
    if (hidden.has(piece, token.id, begin, end)) continue;
    if (token.single_word && !is_single_word(text, begin, end)) continue;
    if (token.lstrip) {
      while (begin > done) {
        const size_t before = begin_of_character_before(text, begin);
        if (!has(text, before, unicode::kSpace)) break;
        begin = before;
      }
      begin = std::min(std::max(begin, done), end);
    }
    if (token.rstrip) {
      if (end < blanks_begin || end > blanks_end) blanks_begin = blanks_end = end;
      while (blanks_end < text.size() && has(text, blanks_end, unicode::kSpace))
        blanks_end += unicode::length_of(text[blanks_end]);
      end = blanks_end;
    }
    if (done < begin) found.push_back({-1, done, begin});
    found.push_back({token.id, begin, end});
    done = end;
  }
  if (done != text.size()) found.push_back({-1, done, text.size()});
}

}  // namespace rankfold
