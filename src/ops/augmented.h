// The memory layout in which kernels read a projection with low-rank updates or a bias. In the model's dtype:
//     buffer [N8 + R, K8 + R64]   W  | B | b   K8 = round_up(K, 8), N8 likewise: the columns and rows between are zero
//                                 A  |         R: the columns of all updates side by side, each padded to 8
// (b: where there is a bias, the bias and seven columns of zeros; [x | S] has a column of ones there)
// y = [x | S] [W | B]^T and dX = [dY | dS] [W; A] are thus one product each, over neighbouring memory. Any R up to 64
// costs one step of the product's loop. B is block-diagonal where a projection has several modules. A and B are also
// stored transposed.
// The optimizer's kernel writes these copies of A and B in each step (Segment, kernels/adamw.h). ops::current copies a
// leaf again when its version counter shows another change.
// A quantised weight is decoded into the buffer at each use. Weights of one shape then share the buffer, and the
// projection keeps A and B in tensors of its own, which are copied into the buffer with W.
#pragma once

#include "ops/backend.h"
#include "ops/projection.h"

#include <array>
#include <vector>

namespace rankfold {

struct Augmented {
  at::Tensor buffer;        // [N8 + R, K8 + R64]
  at::Tensor a;             // [R, K]: a view of the buffer; its own memory where the buffer is shared
  at::Tensor b;             // [N, R], with a bias [N, R + 8], likewise
  bool is_shared = false;   // the buffer
  at::Tensor a_transposed;  // [K, R]
  at::Tensor b_transposed;  // [R, N8]
  at::Tensor one;           // [8]: a 1 and seven zeros, where there is a bias
  int64_t k8 = 0, n8 = 0, columns = 0;
  std::vector<std::array<uint32_t, 2>> versions;  // of A and B of each update, when they were copied
  uint32_t bias_version = 0;                      // of Projection::bias, likewise

  int64_t pitch() const { return buffer.size(1); }
  // First element of row, column of the buffer.
  const void* at(int64_t row, int64_t column) const;
};

namespace ops {

// The projection in augmented layout, with up-to-date copies of its leaves; is_augmented() must be true. The first call
// moves a dense weight into the buffer; the weight is then a view of it. A quantised weight is decoded into the buffer
// at each call, and is valid until the next call for a projection of its shape.
Augmented& current(Projection& projection);
// The buffer that a quantised weight is decoded into: n, k, rows and columns (WeightScratch::buffer).
std::array<int64_t, 4> decoded_buffer(const Projection& projection);
inline bool is_augmented(const Projection& projection) { return projection.has_update() || projection.bias.defined(); }

// For AdamW's kernel: the leaves of a projection that are slices of `flat`, and where their low-precision copies go.
// Call copies_written after the kernel: it records that the copies are up to date.
std::vector<kernels::Segment> optimizer_segments(Projection& projection, const at::Tensor& flat);
void copies_written(Projection& projection, const at::Tensor& flat);

// The updates of a projection as the kernels want them.
kernels::Updates updates_of(const Projection& projection, const Pass& pass);

// Segments in device memory, and the number of their thread blocks.
struct DeviceSegments {
  at::Tensor memory;
  int64_t count = 0, blocks = 0;
  const kernels::Segment* data() const { return static_cast<const kernels::Segment*>(memory.const_data_ptr()); }
};
DeviceSegments to_device(const Backend& backend, std::vector<kernels::Segment> segments, const at::Device& device);

kernels::Dtype dtype_of(at::ScalarType dtype);

}  // namespace ops
}  // namespace rankfold
