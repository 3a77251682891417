// Which of the texts seen so far may be near duplicates of a text: MinHash with locality-sensitive hashing (Broder
// 1997; Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, chapter 3).
//
// A signature has kHashes minima: of each hash function the least value over the text's shingles. Two texts have the
// same minimum with a chance of their Jaccard similarity J. Minima are put in bands of `rows`; two texts are candidates
// where all minima of a band are the same, which happens with a chance of 1 - (1 - J^rows)^bands. Candidates are only
// that: whoever asks compares the texts themselves.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace rankfold {

inline constexpr size_t kHashes = 128;
using Signature = std::array<uint32_t, kHashes>;

// Of shingles, of which there is at least one. The same on every processor.
Signature signature_of(std::span<const uint64_t> shingles);

struct Banding {
  size_t bands = 0, rows = 0;
  double chance(double jaccard) const;  // to become candidates
};
// The most rows for which a pair with this similarity is missed in at most one of 200 cases.
Banding banding_for(double threshold);

// Memory of each text: 12 to 16 bytes a band and 68 more, which is 320 to 400 bytes with a threshold of 0.8. Not for
// several threads.
class NearIndex {
 public:
  static constexpr size_t kCandidates = 8;  // that are told of one text

  explicit NearIndex(double threshold);

  struct Found {
    std::vector<uint32_t> texts;  // the likeliest first
    bool is_cut = false;          // there were more in a band than were looked at
  };
  // Texts whose signatures agree in a band and that are likely to be as similar as the threshold. The time is bounded:
  // of a band's texts the last kLooks are looked at.
  Found find(const Signature& signature) const;
  void add(uint32_t text, const Signature& signature);

  const Banding& banding() const { return banding_; }
  size_t size() const { return entries_; }

 private:
  static constexpr size_t kLooks = 32, kSketch = 64, kChunk = 4096;
  static constexpr uint32_t kNone = UINT32_MAX;
  using Sketch = std::array<uint8_t, kSketch>;  // a byte of each of the first minima
  struct Link {
    uint32_t next, key;
  };
  struct Chunk {  // of kChunk texts
    std::unique_ptr<uint32_t[]> texts;
    std::unique_ptr<Sketch[]> sketches;
    std::unique_ptr<Link[]> links;  // banding_.bands for each text
  };

  uint32_t key_of(const Signature& signature, size_t band) const;
  uint32_t& head(size_t band, uint32_t key) { return heads_[band * slots_ + (key & (slots_ - 1))]; }
  uint32_t head(size_t band, uint32_t key) const { return heads_[band * slots_ + (key & (slots_ - 1))]; }
  Link& link(uint32_t entry, size_t band) const {
    return chunks_[entry / kChunk].links[(entry % kChunk) * banding_.bands + band];
  }
  void grow();

  double threshold_;
  Banding banding_;
  size_t slots_ = 0, entries_ = 0;
  std::vector<uint32_t> heads_;  // of each band: the last entry of each slot
  std::vector<Chunk> chunks_;
};

}  // namespace rankfold
