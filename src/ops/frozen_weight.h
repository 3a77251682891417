// A matrix that does not train, of a projection or the embedding: dense, or stored otherwise and decoded at each use.
#pragma once

#include "ops/packed_weight.h"

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace rankfold {

// Memory for decoded weights, shared by all weights of one model. A call may overwrite what the call before returned.
// Not thread-safe.
class WeightScratch {
 public:
  // [rows, columns] on the CPU.
  at::Tensor block(int64_t rows, int64_t columns, at::ScalarType dtype);
  // [rows, columns] on a device, zeros when it is created. All weights [n, k] that ask for this size share it.
  at::Tensor buffer(int64_t n, int64_t k, int64_t rows, int64_t columns, const at::TensorOptions& options);

 private:
  at::Tensor block_;
  std::map<std::array<int64_t, 4>, at::Tensor> buffers_;
};

class DenseWeight;

// W [N, K], shared by copies of a network and by tied weights. It may be stored otherwise than in dtype().
class FrozenWeight {
 public:
  virtual ~FrozenWeight() = default;
  FrozenWeight(const FrozenWeight&) = default;

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  at::ScalarType dtype() const { return dtype_; }  // of the computation
  at::Device device() const { return device_; }

  virtual DenseWeight* dense() { return nullptr; }      // this, if it is a DenseWeight; else null
  virtual bool is_quantized() const { return false; }   // stored as codes and scales
  virtual std::string stored() const = 0;               // storage format: "bfloat16", "nf4"
  virtual std::vector<at::Tensor> tensors() const = 0;  // its storage: values, or codes and scales; may be mapped
  // Rows [begin, end), columns [first, last) in dtype(). A view of a dense weight; otherwise decoded into scratch
  // memory, valid until the next call.
  virtual at::Tensor block(int64_t begin, int64_t end, int64_t first, int64_t last) = 0;
  // Copies rows [begin, begin + to.size(0)) into `to` [count, K], f32, bf16, f16 or f64, on any device.
  virtual void copy_rows(int64_t begin, const at::Tensor& to) = 0;
  // The rows of these indices, int64 [count] on device(), as a new tensor [count, K] in dtype().
  virtual at::Tensor select_rows(const at::Tensor& indices) = 0;
  // To be called some time before a use. The first call starts to read what is mapped on the CPU and not in memory yet;
  // later calls do nothing. Does not wait.
  void prefetch();

  at::Tensor whole() { return block(0, rows_, 0, columns_); }
  at::Tensor copy();  // the whole matrix in dtype(), as a new tensor
  int64_t bytes() const;

 protected:
  FrozenWeight(int64_t rows, int64_t columns, at::ScalarType dtype, at::Device device)
      : rows_(rows), columns_(columns), dtype_(dtype), device_(device) {}
  virtual std::vector<at::Tensor> sources() const { return tensors(); }  // what the next use reads

 private:
  int64_t rows_, columns_;
  at::ScalarType dtype_;
  at::Device device_;
  bool is_prefetched_ = false;
};

// A weight that is stored in the dtype of the computation.
class DenseWeight : public FrozenWeight {
 public:
  // `fill` writes the values at the first use, where the file has the weight's parts in several places: `sources`.
  explicit DenseWeight(at::Tensor value, std::function<void(const at::Tensor& value)> fill = {},
                       std::vector<at::Tensor> sources = {});

  DenseWeight* dense() override { return this; }
  std::string stored() const override;
  std::vector<at::Tensor> tensors() const override { return {value_}; }
  at::Tensor block(int64_t begin, int64_t end, int64_t first, int64_t last) override;
  void copy_rows(int64_t begin, const at::Tensor& to) override;
  at::Tensor select_rows(const at::Tensor& indices) override;

  const at::Tensor& value();                          // calls `fill` if needed
  const at::Tensor& place() const { return value_; }  // may not be filled yet
  bool is_filled() const { return !fill_; }
  void move_to(const at::Tensor& place);  // moves the values to `place`, a view of the kernels' layout

 private:
  std::vector<at::Tensor> sources() const override { return fill_ ? sources_ : tensors(); }

  at::Tensor value_;  // [N, K]; read-only where it is mapped
  std::function<void(const at::Tensor& value)> fill_;
  std::vector<at::Tensor> sources_;
};

// A quantised weight, or one in another dtype than that of the computation. Decoded at each use.
class DecodedWeight : public FrozenWeight {
 public:
  // `parts` are stacked by rows, all on one device. `scratch` is the model's.
  DecodedWeight(std::vector<PackedWeight> parts, std::string stored, at::ScalarType dtype,
                std::shared_ptr<WeightScratch> scratch);

  bool is_quantized() const override;
  std::string stored() const override { return stored_; }
  std::vector<at::Tensor> tensors() const override;
  at::Tensor block(int64_t begin, int64_t end, int64_t first, int64_t last) override;
  void copy_rows(int64_t begin, const at::Tensor& to) override;
  at::Tensor select_rows(const at::Tensor& indices) override;

  // Decodes the whole matrix into the first rows and columns of `to`, in to's dtype, on this weight's device.
  void decode_into(const at::Tensor& to) const;
  WeightScratch& scratch() const { return *scratch_; }
  // Elements that the CPU decodes at a time for a product with so many rows. Measured: with few rows, a block should
  // still be in the cache when the product reads it. With many rows, each block costs a new packing of those rows.
  static constexpr int64_t block_elements(int64_t product_rows) {
    constexpr int64_t kFewRows = 64;
    return int64_t{product_rows < kFewRows ? 4 : 32} << 20;
  }

 private:
  std::vector<PackedWeight> parts_;
  std::string stored_;
  std::shared_ptr<WeightScratch> scratch_;
};

}  // namespace rankfold
