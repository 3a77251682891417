// The variables of a body of a template while it runs.
#pragma once

#include "text/jinja/syntax.h"

#include <memory>
#include <utility>
#include <vector>

namespace rankfold::jinja {

// Macros that were made in it share it.
struct Frame {
  std::vector<Value> slots;
  std::shared_ptr<Frame> outer;
};
using FramePointer = std::shared_ptr<Frame>;

// A frame that is entered here and left at the end, when its variables are forgotten.
class EnteredFrame {
 public:
  EnteredFrame(const FrameLayout& layout, FramePointer outside)
      : charge_(sizeof(Frame) + layout.slots * sizeof(Value)), frame_(std::make_shared<Frame>()) {
    frame_->slots.resize(layout.slots);
    frame_->outer = std::move(outside);
  }
  ~EnteredFrame() {
    for (Value& slot : frame_->slots) slot = Value();
  }
  EnteredFrame(const EnteredFrame&) = delete;
  EnteredFrame& operator=(const EnteredFrame&) = delete;
  const FramePointer& frame() const { return frame_; }
  Value& operator[](uint32_t slot) { return frame_->slots[slot]; }

 private:
  Charge charge_;
  FramePointer frame_;
};

}  // namespace rankfold::jinja
