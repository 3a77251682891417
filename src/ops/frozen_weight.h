// The matrix of a projection that does not train: dense, or in fewer bits and decoded where it is multiplied.
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

// Memory in which the decoded weights of one model take turns: nothing in it outlives the next call. One thread at a
// time, as a model computes.
class WeightScratch {
 public:
  // [rows, columns] on the CPU.
  at::Tensor block(int64_t rows, int64_t columns, at::ScalarType dtype);
  // [rows, columns] on a device, zero at first: one for all weights [n, k] that want such a one.
  at::Tensor buffer(int64_t n, int64_t k, int64_t rows, int64_t columns, const at::TensorOptions& options);

 private:
  at::Tensor block_;
  std::map<std::array<int64_t, 4>, at::Tensor> buffers_;
};

class DenseWeight;

// W [N, K]. Copies of a projection share it. What it is stored in and what it is computed in may differ.
class FrozenWeight {
 public:
  virtual ~FrozenWeight() = default;
  FrozenWeight(const FrozenWeight&) = default;

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  at::ScalarType dtype() const { return dtype_; }  // that it is computed with
  at::Device device() const { return device_; }

  virtual DenseWeight* dense() { return nullptr; }          // itself, where it is one
  virtual bool is_quantized() const { return false; }       // it lost something
  virtual std::string stored() const = 0;                   // "bfloat16", "nf4"
  virtual std::vector<at::Tensor> tensors() const = 0;      // what it holds, mapped or not: values, or codes and scales
  // Rows [begin, end), columns [first, last) in dtype(): a view where they lie so, else decoded into memory that the next
  // call takes.
  virtual at::Tensor block(int64_t begin, int64_t end, int64_t first, int64_t last) = 0;
  // Rows [begin, begin + to.size(0)) into `to` [count, K], f32, bf16, f16 or f64, on any device.
  virtual void copy_rows(int64_t begin, const at::Tensor& to) = 0;

  at::Tensor whole() { return block(0, rows_, 0, columns_); }
  at::Tensor copy();  // all of it in dtype(), in memory of its own
  int64_t bytes() const;

 protected:
  FrozenWeight(int64_t rows, int64_t columns, at::ScalarType dtype, at::Device device)
      : rows_(rows), columns_(columns), dtype_(dtype), device_(device) {}

 private:
  int64_t rows_, columns_;
  at::ScalarType dtype_;
  at::Device device_;
};

// In the dtype that it is computed in.
class DenseWeight : public FrozenWeight {
 public:
  // `fill` brings what the value still lacks, at the first use: its parts, where they lie apart in the file.
  explicit DenseWeight(at::Tensor value, std::function<void(const at::Tensor& value)> fill = {});

  DenseWeight* dense() override { return this; }
  std::string stored() const override;
  std::vector<at::Tensor> tensors() const override { return {value_}; }
  at::Tensor block(int64_t begin, int64_t end, int64_t first, int64_t last) override;
  void copy_rows(int64_t begin, const at::Tensor& to) override;

  const at::Tensor& value();                         // filled
  const at::Tensor& place() const { return value_; }  // perhaps not filled yet
  bool is_filled() const { return !fill_; }
  void move_to(const at::Tensor& place);  // the same values elsewhere: a view of the kernels' layout

 private:
  at::Tensor value_;  // [N, K]; read-only where it is mapped
  std::function<void(const at::Tensor& value)> fill_;
};

// In fewer bits, or in another dtype. Decoded at each use.
class DecodedWeight : public FrozenWeight {
 public:
  // Parts with rows below each other, of one device. `scratch` is the model's.
  DecodedWeight(std::vector<PackedWeight> parts, std::string stored, at::ScalarType dtype,
                std::shared_ptr<WeightScratch> scratch);

  bool is_quantized() const override;
  std::string stored() const override { return stored_; }
  std::vector<at::Tensor> tensors() const override;
  at::Tensor block(int64_t begin, int64_t end, int64_t first, int64_t last) override;
  void copy_rows(int64_t begin, const at::Tensor& to) override;

  // All of it into the first rows and columns of `to`, which lies on this weight's device; in to's dtype.
  void decode_into(const at::Tensor& to) const;
  WeightScratch& scratch() const { return *scratch_; }
  // Elements that a product with so many rows decodes at a time on the CPU. Measured: with few rows a block should be in
  // the cache when the product reads it; with many, each block makes the product arrange those rows anew.
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
