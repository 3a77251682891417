#include "clean/near_index.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace rankfold {
namespace {

struct Multipliers {
  alignas(64) std::array<uint32_t, kHashes> factor, summand;
};

Multipliers make_multipliers() {
  Multipliers all{};
  uint64_t state = 0x5EEDu;
  const auto next = [&state] {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
  };
  for (size_t i = 0; i < kHashes; ++i) all.factor[i] = next() | 1, all.summand[i] = next();
  return all;
}

// The loop for any processor; compilers make vectors of it. All arithmetic is modulo 2^32.
[[gnu::always_inline]] inline void take_minima(std::span<const uint64_t> shingles, const Multipliers& by,
                                               Signature& minima) {
  for (const uint64_t shingle : shingles) {
    const auto x = static_cast<uint32_t>(shingle >> 32);
    for (size_t i = 0; i < kHashes; ++i) {
      const uint32_t value = by.factor[i] * x + by.summand[i];
      minima[i] = value < minima[i] ? value : minima[i];
    }
  }
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
[[gnu::target("avx2"), gnu::optimize("O3")]] void take_minima_avx2(std::span<const uint64_t> shingles,
                                                                   const Multipliers& by, Signature& minima) {
  take_minima(shingles, by, minima);
}
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
#else
void take_minima_avx2(std::span<const uint64_t>, const Multipliers&, Signature&) {}
bool has_avx2() { return false; }
#endif

}  // namespace

Signature signature_of(std::span<const uint64_t> shingles) {
  static const Multipliers by = make_multipliers();
  static const bool is_wide = has_avx2();
  alignas(64) Signature minima;
  minima.fill(UINT32_MAX);
  if (is_wide)
    take_minima_avx2(shingles, by, minima);
  else
    take_minima(shingles, by, minima);
  return minima;
}

double Banding::chance(double jaccard) const {
  return 1 - std::pow(1 - std::pow(jaccard, static_cast<double>(rows)), static_cast<double>(bands));
}

Banding banding_for(double threshold) {
  constexpr double kMissed = 1.0 / 200;
  Banding best{kHashes, 1};
  for (size_t rows = 2; rows <= kHashes; ++rows) {
    const Banding banding{kHashes / rows, rows};
    if (1 - banding.chance(threshold) <= kMissed) best = banding;
  }
  return best;
}

NearIndex::NearIndex(double threshold) : threshold_(threshold), banding_(banding_for(threshold)) {}

uint32_t NearIndex::key_of(const Signature& signature, size_t band) const {
  uint64_t key = band;
  for (size_t i = 0; i < banding_.rows; ++i) {
    key = (key ^ signature[band * banding_.rows + i]) * 0x9FB21C651E98DF25u;
    key ^= key >> 32;
  }
  return static_cast<uint32_t>(key);
}

NearIndex::Found NearIndex::find(const Signature& signature) const {
  Found found;
  if (entries_ == 0) return found;
  thread_local std::vector<uint32_t> seen;
  seen.clear();
  for (size_t band = 0; band < banding_.bands; ++band) {
    const uint32_t key = key_of(signature, band);
    size_t looks = 0, steps = 0;
    for (uint32_t entry = head(band, key); entry != kNone; entry = link(entry, band).next) {
      if (link(entry, band).key == key) {
        seen.push_back(entry);
        ++looks;
      }
      if (looks >= kLooks || ++steps >= 4 * kLooks) {
        found.is_cut = found.is_cut || link(entry, band).next != kNone;
        break;
      }
    }
  }
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());

  // The minima of a band agree by choice, the others of the sketch by chance: at the threshold J the share of equal
  // bytes lies four standard deviations below J + (1 - J) / 256 in less than one of 10,000 cases.
  const double least = threshold_ - 4 * std::sqrt(threshold_ * (1 - threshold_) / kSketch);
  Sketch sketch;
  for (size_t i = 0; i < kSketch; ++i) sketch[i] = static_cast<uint8_t>(signature[i]);
  std::vector<std::pair<int, uint32_t>> likely;  // {minus the equal bytes, entry}
  for (const uint32_t entry : seen) {
    const Sketch& other = chunks_[entry / kChunk].sketches[entry % kChunk];
    int equal = 0;
    for (size_t i = 0; i < kSketch; ++i) equal += sketch[i] == other[i];
    if (equal >= least * kSketch) likely.emplace_back(-equal, entry);
  }
  std::sort(likely.begin(), likely.end());
  if (likely.size() > kCandidates) {
    likely.resize(kCandidates);
    found.is_cut = true;
  }
  for (const auto& [equal, entry] : likely) found.texts.push_back(chunks_[entry / kChunk].texts[entry % kChunk]);
  return found;
}

void NearIndex::add(uint32_t text, const Signature& signature) {
  if (entries_ == slots_) grow();
  const auto entry = static_cast<uint32_t>(entries_);
  if (entry % kChunk == 0)
    chunks_.push_back({std::make_unique_for_overwrite<uint32_t[]>(kChunk),
                       std::make_unique_for_overwrite<Sketch[]>(kChunk),
                       std::make_unique_for_overwrite<Link[]>(kChunk * banding_.bands)});
  Chunk& chunk = chunks_.back();
  chunk.texts[entry % kChunk] = text;
  for (size_t i = 0; i < kSketch; ++i) chunk.sketches[entry % kChunk][i] = static_cast<uint8_t>(signature[i]);
  for (size_t band = 0; band < banding_.bands; ++band) {
    const uint32_t key = key_of(signature, band);
    link(entry, band) = {std::exchange(head(band, key), entry), key};
  }
  ++entries_;
}

// Twice the slots; every text is linked again, in the order in which they came.
void NearIndex::grow() {
  slots_ = std::max<size_t>(1024, 2 * slots_);
  heads_.assign(slots_ * banding_.bands, kNone);
  for (uint32_t entry = 0; entry < entries_; ++entry)
    for (size_t band = 0; band < banding_.bands; ++band) {
      Link& at = link(entry, band);
      at.next = std::exchange(head(band, at.key), entry);
    }
}

}  // namespace rankfold
