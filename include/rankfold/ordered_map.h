// A map with the interface of std::map that keeps entries in the order of insertion.
#pragma once

#include <initializer_list>
#include <list>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace rankfold {

// Values by name. Setting an existing name again keeps its position. Lookup takes logarithmic time.
template <class T>
class OrderedMap {
 public:
  using key_type = std::string;
  using mapped_type = T;
  using value_type = std::pair<const std::string, T>;
  using iterator = typename std::list<value_type>::iterator;
  using const_iterator = typename std::list<value_type>::const_iterator;

  OrderedMap() = default;
  OrderedMap(std::initializer_list<value_type> entries) { insert_all(entries); }
  OrderedMap(const std::map<std::string, T>& entries) { insert_all(entries); }  // sorted by name
  OrderedMap(const OrderedMap& other) { insert_all(other); }
  OrderedMap(OrderedMap&&) = default;
  OrderedMap& operator=(OrderedMap other) noexcept {
    swap(other);
    return *this;
  }
  operator std::map<std::string, T>() const { return {begin(), end()}; }

  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  iterator begin() { return entries_.begin(); }
  iterator end() { return entries_.end(); }
  const_iterator begin() const { return entries_.begin(); }
  const_iterator end() const { return entries_.end(); }
  const_iterator cbegin() const { return begin(); }
  const_iterator cend() const { return end(); }

  iterator find(std::string_view name) {
    const auto place = places_.find(name);
    return place == places_.end() ? end() : place->second;
  }
  const_iterator find(std::string_view name) const {
    const auto place = places_.find(name);
    return place == places_.end() ? end() : const_iterator(place->second);
  }
  bool contains(std::string_view name) const { return places_.contains(name); }
  size_t count(std::string_view name) const { return places_.count(name); }
  T& at(std::string_view name) { return const_cast<T&>(std::as_const(*this).at(name)); }
  const T& at(std::string_view name) const {
    const const_iterator place = find(name);
    if (place == end()) throw std::out_of_range("OrderedMap::at: " + std::string(name));
    return place->second;
  }
  T& operator[](std::string_view name) { return emplace(name, T{}).first->second; }

  std::pair<iterator, bool> emplace(std::string_view name, T value) {
    if (const iterator place = find(name); place != end()) return {place, false};
    entries_.emplace_back(std::string(name), std::move(value));
    const iterator place = std::prev(end());
    places_.emplace(place->first, place);
    return {place, true};
  }
  std::pair<iterator, bool> try_emplace(std::string_view name, T value = {}) { return emplace(name, std::move(value)); }
  std::pair<iterator, bool> insert(value_type entry) { return emplace(entry.first, std::move(entry.second)); }
  void insert(std::initializer_list<value_type> entries) { insert_all(entries); }
  template <class Iterator>
  void insert(Iterator first, Iterator last) {
    for (; first != last; ++first) emplace(first->first, first->second);
  }
  std::pair<iterator, bool> insert_or_assign(std::string_view name, T value) {
    const auto [place, is_new] = emplace(name, value);
    if (!is_new) place->second = std::move(value);
    return {place, is_new};
  }
  size_t erase(std::string_view name) {
    const auto place = places_.find(name);
    if (place == places_.end()) return 0;
    const iterator entry = place->second;
    places_.erase(place);
    entries_.erase(entry);
    return 1;
  }
  iterator erase(const_iterator entry) {
    places_.erase(entry->first);
    return entries_.erase(entry);
  }
  void swap(OrderedMap& other) noexcept {
    entries_.swap(other.entries_);
    places_.swap(other.places_);
  }
  void clear() {
    places_.clear();
    entries_.clear();
  }

  friend bool operator==(const OrderedMap& a, const OrderedMap& b) { return a.entries_ == b.entries_; }

 private:
  template <class Entries>
  void insert_all(const Entries& entries) {
    for (const auto& [name, value] : entries) emplace(name, value);
  }

  std::list<value_type> entries_;
  std::map<std::string_view, iterator> places_;  // views of the names in entries_
};

}  // namespace rankfold
