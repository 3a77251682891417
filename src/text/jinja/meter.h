// What one rendering may take. Every value made while a Meter is current counts in it until the value is gone, so such
// values must not outlive it; values made before belong to the caller and are not counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace rankfold::jinja {

// What rendering throws inside; Template::render() adds the name and line.
class Raised : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Where Python raises UndefinedError, which some of its functions let pass and others catch.
class UndefinedRaised : public Raised {
 public:
  using Raised::Raised;
};

class Meter {
 public:
  Meter(uint64_t steps, uint64_t bytes, uint32_t depth)
      : steps_left_(steps), bytes_left_(bytes), steps_(steps), bytes_(bytes), depth_(depth) {
    outer_ = current_;
    current_ = this;
  }
  ~Meter() { current_ = outer_; }
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

  static Meter* current() { return current_; }

  void step(uint64_t steps = 1) {
    if (steps > steps_left_) throw Raised("the template takes more than " + std::to_string(steps_) + " steps");
    steps_left_ -= steps;
  }
  void hold(uint64_t bytes) {
    if (bytes > bytes_left_)
      throw Raised("the template's values take more than " + std::to_string(bytes_) + " bytes of memory");
    bytes_left_ -= bytes;
  }
  void release(uint64_t bytes) { bytes_left_ += bytes; }
  void enter() {
    if (level_ == depth_) throw Raised("the template calls itself deeper than " + std::to_string(depth_) + " levels");
    ++level_;
  }
  void leave() { --level_; }

 private:
  inline static thread_local Meter* current_ = nullptr;
  Meter* outer_;
  uint64_t steps_left_, bytes_left_, steps_, bytes_;
  uint32_t depth_, level_ = 0;
};

inline void spend(uint64_t steps) {
  if (Meter* meter = Meter::current()) meter->step(steps);
}

// Stands in each function that may call itself, so that no input exhausts the stack.
class Level {
 public:
  Level() : meter_(Meter::current()) {
    if (meter_ != nullptr) meter_->enter();
  }
  ~Level() {
    if (meter_ != nullptr) meter_->leave();
  }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  Meter* meter_;
};

// Part of a value: its bytes, counted. Made before the value is filled, so that a large one is refused beforehand.
class Charge {
 public:
  explicit Charge(uint64_t bytes) : meter_(Meter::current()), bytes_(bytes) {
    if (meter_ == nullptr) return;
    meter_->step(1 + bytes / 32);  // to fill them takes time
    meter_->hold(bytes);
  }
  ~Charge() { release(); }
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

  void add(uint64_t bytes) {
    if (meter_ == nullptr) return;
    meter_->step(1 + bytes / 32);
    meter_->hold(bytes);
    bytes_ += bytes;
  }
  void release() {
    if (meter_ != nullptr) meter_->release(bytes_);
    bytes_ = 0;
  }

 private:
  Meter* meter_;
  uint64_t bytes_;
};

}  // namespace rankfold::jinja
