#include "ops/decode_attention.h"

#include "ops/augmented.h"
#include "ops/backend.h"
#include "ops/rows.h"
#include "ops/rowwise.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <utility>

namespace rankfold::ops {
namespace {

void check_rows(const at::Tensor& prepared, const AttentionSpec& spec, const Sequences& sequences,
                const HeadCache& cache) {
  RANKFOLD_CHECK(prepared.dim() == 2 && has_dense_rows(prepared) && prepared.size(1) == spec.heads.features() &&
                     prepared.scalar_type() == cache.dtype && prepared.size(0) == sequences.begin.back(),
                 "expected prepared queries, keys and values of the cache's dtype, got ", prepared.sizes());
}

// f(unit, row, head) for each key/value head of each row, in parallel.
template <class T, class F>
void for_cached_heads(const AttentionSpec& spec, const Sequences& sequences, const CachedRows& rows,
                      const HeadCache& cache, int64_t elements, F&& f) {
  const Heads& heads = spec.heads;
  const auto at = [](const at::Tensor& x, int64_t slot, int64_t head) {
    return static_cast<char*>(x.data_ptr()) + slot * x.stride(0) + head * x.stride(1);
  };
  const int64_t count = static_cast<int64_t>(rows.slot.size());
  for_rows(count * heads.key_value, elements, [&](int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t b = unit / heads.key_value, head = unit % heads.key_value, slot = rows.slot[b];
      f(cpu::CachedHead<T>{.size = heads.size,
                           .before = rows.before[b],
                           .keys = at(cache.keys, slot, head),
                           .values = at(cache.values, slot, head)},
        b, head, sequences.begin[b + 1] - sequences.begin[b]);
    }
  });
}

template <class T>
void append_head(const at::Tensor& prepared, const Heads& heads, const cpu::CachedHead<T>& cached, int64_t row,
                 int64_t head, int64_t added) {
  const T* keys = const_data<T>(prepared) + row * pitch_of(prepared) + (heads.query + head) * heads.size;
  cpu::loops().of<T>().cache_append(cached, keys, keys + heads.key_value * heads.size, pitch_of(prepared), added);
}

void append_on_cpu(const at::Tensor& prepared, const AttentionSpec& spec, const Sequences& sequences,
                   const CachedRows& rows, const HeadCache& cache) {
  with_dtype(prepared.scalar_type(), [&]<class T>(T) {
    for_cached_heads<T>(spec, sequences, rows, cache, sequences.longest * spec.heads.size,
                        [&](const cpu::CachedHead<T>& cached, int64_t b, int64_t head, int64_t added) {
                          append_head<T>(prepared, spec.heads, cached, sequences.begin[b], head, added);
                        });
  });
}

at::Tensor attend_cached_on_cpu(const at::Tensor& prepared, const AttentionSpec& spec, const Sequences& sequences,
                                const CachedRows& rows, const HeadCache& cache) {
  const Heads& heads = spec.heads;
  const int64_t group = heads.query / heads.key_value, pitch = pitch_of(prepared);
  const at::Tensor out = empty_rows(prepared.size(0), heads.query * heads.size, prepared.options());
  with_dtype(prepared.scalar_type(), [&]<class T>(T) {
    const auto& table = cpu::loops().of<T>();
    const ThreadScratch scratch(table.decode_scratch(rows.longest, heads.size, group));
    for_cached_heads<T>(
        spec, sequences, rows, cache, sequences.longest * group * rows.longest * heads.size,
        [&](const cpu::CachedHead<T>& cached, int64_t b, int64_t head, int64_t added) {
          const int64_t row = sequences.begin[b], column = head * group * heads.size;
          append_head<T>(prepared, heads, cached, row, head, added);
          table.decode_attention(
              {.head = cached,
               .group = group,
               .added = added,
               .scale = spec.scale,
               .soft_cap = spec.soft_cap,
               .slopes = spec.slopes.defined() ? const_data<float>(spec.slopes) + head * group : nullptr,
               .window = spec.window > 0 ? spec.window : cached.before + added,
               .q = const_data<T>(prepared) + row * pitch + column,
               .pitch = pitch,
               .out = data<T>(out) + row * out.size(1) + column,
               .out_pitch = out.size(1)},
              scratch.mine());
        });
  });
  return out;
}

kernels::DecodeAttention by_kernels(const at::Tensor& prepared, const AttentionSpec& spec, const CachedRows& rows,
                                    const HeadCache& cache) {
  return {.dtype = dtype_of(prepared.scalar_type()),
          .m = prepared.size(0),
          .query_heads = spec.heads.query,
          .key_value_heads = spec.heads.key_value,
          .d = spec.heads.size,
          .qkv = prepared.const_data_ptr(),
          .ld_qkv = pitch_of(prepared),
          .keys = cache.keys.data_ptr(),
          .values = cache.values.data_ptr(),
          .capacity = cache.keys.size(2),
          .slot_M = rows.slots.const_data_ptr<int64_t>(),
          .position_M = rows.positions.const_data_ptr<int64_t>()};
}

at::Tensor attend_cached_by_kernels(const Backend& backend, const at::Tensor& prepared, const AttentionSpec& spec,
                                    const CachedRows& rows, const HeadCache& cache) {
  kernels::DecodeAttention work = by_kernels(prepared, spec, rows, cache);
  const kernels::Stream stream = backend.stream(prepared);
  backend.kernels.cache_append(work, stream);
  const at::Tensor out = at::empty({prepared.size(0), spec.heads.query * spec.heads.size}, prepared.options());
  const at::Tensor slopes = spec.slopes.defined() ? spec.slopes.to(prepared.device()) : at::Tensor();
  work.longest = rows.longest;
  work.scale = static_cast<float>(spec.scale), work.soft_cap = static_cast<float>(spec.soft_cap);
  work.slopes = slopes.defined() ? slopes.const_data_ptr<float>() : nullptr;
  work.window = spec.window;
  work.out = out.data_ptr(), work.ld_out = pitch_of(out);
  const at::Tensor memory = at::empty({backend.kernels.decode_workspace(work)}, prepared.options().dtype(at::kByte));
  work.workspace = static_cast<float*>(memory.data_ptr());
  backend.kernels.decode_attention(work, stream);
  return out;
}

}  // namespace

HeadCache::HeadCache(const Heads& heads_in, const at::TensorOptions& options, int64_t slots, int64_t capacity)
    : heads(heads_in), dtype(c10::typeMetaToScalarType(options.dtype())) {
  if (!options.device().is_cpu()) {
    keys = at::empty({slots, heads.key_value, capacity, heads.size}, options);
    values = at::empty_like(keys);
    return;
  }
  with_dtype(dtype, [&]<class T>(T) {
    const auto& table = cpu::loops().of<T>();
    const auto bytes = options.dtype(at::kByte);
    keys = at::empty({slots, heads.key_value, table.cached_keys(capacity, heads.size)}, bytes);
    values = at::empty({slots, heads.key_value, table.cached_values(capacity, heads.size)}, bytes);
  });
}

void HeadCache::grow(int64_t capacity) {
  const HeadCache larger(heads, keys.options().dtype(dtype), keys.size(0), capacity);
  larger.keys.narrow(2, 0, keys.size(2)).copy_(keys);
  larger.values.narrow(2, 0, values.size(2)).copy_(values);
  *this = larger;
}

void HeadCache::copy(int64_t from, int64_t to) const {
  for (const at::Tensor& x : {keys, values}) x.select(0, to).copy_(x.select(0, from));
}

CachedRows::CachedRows(std::vector<int64_t> slot_in, std::vector<int64_t> before_in, const Sequences& sequences)
    : slot(std::move(slot_in)), before(std::move(before_in)) {
  const size_t count = sequences.begin.size() - 1;
  RANKFOLD_CHECK(slot.size() == count && before.size() == count, "expected slots of ", count, " rows, got ",
                 slot.size());
  std::vector<int64_t> slots_of_tokens, positions_of_tokens;
  for (size_t b = 0; b < count; ++b) {
    const int64_t added = sequences.begin[b + 1] - sequences.begin[b];
    longest = std::max(longest, before[b] + added);
    for (int64_t i = 0; i < added; ++i)
      slots_of_tokens.push_back(slot[b]), positions_of_tokens.push_back(before[b] + i);
  }
  const at::Device device = sequences.offsets.device();
  if (device.is_cpu()) return;
  slots = at::tensor(slots_of_tokens, at::kLong).to(device);
  positions = at::tensor(positions_of_tokens, at::kLong).to(device);
}

void cache_append(const at::Tensor& prepared, const AttentionSpec& spec, const Sequences& sequences,
                  const CachedRows& rows, const HeadCache& cache) {
  check_rows(prepared, spec, sequences, cache);
  const Backend* backend = backend_for(prepared);
  if (!backend) return append_on_cpu(prepared, spec, sequences, rows, cache);
  backend->kernels.cache_append(by_kernels(prepared, spec, rows, cache), backend->stream(prepared));
}

at::Tensor attend_cached(const at::Tensor& prepared, const AttentionSpec& spec, const Sequences& sequences,
                         const CachedRows& rows, const HeadCache& cache) {
  const at::NoGradGuard no_grad;
  check_rows(prepared, spec, sequences, cache);
  if (const Backend* backend = backend_for(prepared))
    return with_op_name("attend_cached",
                        [&] { return attend_cached_by_kernels(*backend, prepared, spec, rows, cache); });
  return attend_cached_on_cpu(prepared, spec, sequences, rows, cache);
}

}  // namespace rankfold::ops
