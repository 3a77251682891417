// What the cases are written with: machine memory whose every byte is accounted for, numbers, and the comparison by the
// tolerance rule (docs/kernels.md). No torch, no GoogleTest: the same cases run on fibers (tests/simt) and on a device
// (tests/gpu).
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/table.h"

namespace rankfold::kernels::testing {

// Where kernels run.
class Machine {
 public:
  virtual ~Machine() = default;
  // Aligned to 16 bytes at least; an access right after the last byte should be seen by whatever watches.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* data) = 0;
  virtual void upload(void* to, const void* from, size_t bytes) = 0;
  virtual void download(void* to, const void* from, size_t bytes) = 0;
  virtual void synchronize() = 0;  // throws what a kernel did wrong
  virtual Stream stream() = 0;
  virtual int64_t shared_limit() = 0;  // bytes of shared memory that a block may take
};

using Numbers = std::vector<double>;  // of a matrix: dense, row after row

double epsilon(Dtype dtype);
double rounded(double x, Dtype dtype);           // to nearest even, overflow to infinity
uint32_t bits_of_number(double x, Dtype dtype);  // of a number that the dtype has
double number_of_bits(uint32_t bits, Dtype dtype);
const char* name_of(Dtype dtype);

// A formula is written once, as a template of the type it computes in. Exact: double, nothing is rounded. Plain: sums
// in fp32, and what is stored in the dtype is rounded to it.
inline double stored(double x, Dtype) { return x; }
inline float stored(float x, Dtype dtype) { return static_cast<float>(rounded(x, dtype)); }

struct Shape {
  int64_t rows = 0, cols = 0;
  int64_t ld = 0;      // 0: dense
  int64_t zeros = 0;   // further columns, which are zero
  int64_t offset = 0;  // elements that the first one lies beyond a multiple of 16 bytes
};

// Memory of the machine with what it held before the kernel and after. Inputs end where their memory ends. Outputs lie
// between canaries; what a kernel must not write is compared bit for bit, inputs included.
struct Buffer {
  void* data = nullptr;
  std::vector<std::byte> before, after;
  std::vector<bool> may_change;
};

class Matrix {
 public:
  Matrix() = default;
  Matrix(Buffer* buffer, Dtype dtype, const Shape& shape, size_t begin);

  int64_t rows() const { return shape_.rows; }
  int64_t cols() const { return shape_.cols; }
  int64_t ld() const { return shape_.ld; }
  Dtype dtype() const { return dtype_; }
  explicit operator bool() const { return buffer_ != nullptr; }
  Matrix columns(int64_t begin, int64_t count) const;

  void* data() const;  // on the machine; null without a buffer
  float* floats() const { return static_cast<float*>(data()); }
  double operator()(int64_t row, int64_t col) const;  // after the kernel
  Numbers numbers() const;

 private:
  friend class Context;
  size_t at(int64_t row, int64_t col) const;
  void set(std::vector<std::byte>& bytes, int64_t row, int64_t col, uint32_t bits) const;

  Buffer* buffer_ = nullptr;
  Dtype dtype_ = Dtype::f32;
  Shape shape_;
  size_t begin_ = 0;  // byte of the buffer
};

// How close a result must be.
struct Close {
  int64_t terms = 1;              // that an element is a sum of
  Dtype on_the_way = Dtype::f32;  // what intermediate results are rounded to, where it is coarser than the result
};

// One case on one machine.
class Context {
 public:
  // `checks` off: only the memory is looked at, and `bytes` are collected.
  Context(Machine& machine, const Table& table, const std::string& case_name, bool checks);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const Table& table() const { return table_; }
  Stream stream() const { return machine_.stream(); }
  int64_t shared_limit() const { return machine_.shared_limit(); }
  bool checks() const { return checks_; }
  const std::vector<std::string>& failures() const { return failures_; }
  const std::vector<std::byte>& bytes() const { return bytes_; }  // of all that kernels wrote

  // Random numbers that follow from the case's name.
  Numbers normal(int64_t count, double deviation = 1);
  int64_t integer(int64_t begin, int64_t end);

  // The numbers are rounded to the dtype. Between the rows of an input there is NaN.
  Matrix input(Dtype dtype, Shape shape, const Numbers& numbers);
  Matrix output(Dtype dtype, Shape shape);
  Matrix in_out(Dtype dtype, Shape shape, const Numbers& numbers);
  template <class T>
  T* array(const std::vector<T>& values) {
    return static_cast<T*>(array(values.data(), values.size() * sizeof(T)));
  }
  void* memory(size_t bytes);  // to be written by the kernel: NaN before, canaries around
  template <class T>
  std::vector<T> read(const T* memory, size_t count) {
    std::vector<T> values(count);
    machine_.download(values.data(), memory, count * sizeof(T));
    return values;
  }

  // Calls `work`, waits for it and looks at all memory. May be called again.
  void run(const std::function<void()>& work);

  // |ours - exact| <= 2 |plain - exact|, at the worst element; at least 4 eps of the largest number, at most 8 eps rms
  // sqrt(terms). Beside it the scale: |<ours, exact> / <exact, exact> - 1|. A NaN is never close.
  void expect_close(const std::string& what, const Numbers& ours, const Numbers& exact, const Numbers& plain,
                    Dtype dtype, Close close);
  void expect_close(const std::string& what, const Matrix& ours, const Numbers& exact, const Numbers& plain,
                    Close close);
  void expect(bool holds, const std::string& what);

 private:
  Buffer* add(size_t bytes, size_t guard, uint16_t fill);
  Matrix add(Dtype dtype, Shape shape, const Numbers* numbers, bool is_output);
  void* array(const void* values, size_t bytes);
  void upload(const Buffer& buffer);

  Machine& machine_;
  const Table& table_;
  bool checks_;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<std::string> failures_;
  std::vector<std::byte> bytes_;
};

struct Case {
  std::string kernel;  // of the table
  std::string name;    // begins with the kernel's: letters, digits and underscores
  std::function<void(Context&)> run;
};

}  // namespace rankfold::kernels::testing
