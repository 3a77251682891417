// Near duplicates: the pieces of texts, and the index against a comparison of all pairs.
#include "clean/near_index.h"
#include "clean/normal_text.h"
#include "clean/text_map.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace rankfold {
namespace {

std::vector<uint64_t> set_of(const std::string& text) {
  std::vector<uint64_t> set = shingles(text);
  make_set(set);
  return set;
}

TEST(NormalText, FoldsWidthAndWhiteSpaceAndNothingElse) {
  EXPECT_EQ(normal_text("  ａＢ１，\u3000 x\t\n y\u200B z\uFEFF "), "aB1, x y z");
  EXPECT_EQ(normal_text("高血压怎么治？"), "高血压怎么治?");
  EXPECT_EQ(normal_text("a。B"), "a。B");
  EXPECT_EQ(normal_text("\u00A0\u3000\n"), "");
  EXPECT_EQ(text_hash("a"), text_hash("a"));
  EXPECT_NE(text_hash("a"), text_hash("b"));
  EXPECT_NE(text_hash(std::string("a\0", 2)), text_hash("a"));
}

TEST(NormalText, HashesOfManyTextsDiffer) {
  std::set<std::pair<uint64_t, uint64_t>> seen;
  for (int i = 0; i < 100000; ++i) {
    const TextHash hash = text_hash("row " + std::to_string(i));
    seen.emplace(hash.high, hash.low);
  }
  EXPECT_EQ(seen.size(), 100000u);
}

TEST(Shingles, AreThreeChineseCharactersOrSixLetters) {
  EXPECT_EQ(shingles("高血压怎么治").size(), 4u);
  EXPECT_EQ(shingles("abcdefgh").size(), 3u);
  EXPECT_EQ(shingles("高血压").size(), 1u);
  EXPECT_EQ(shingles("高").size(), 1u);
  EXPECT_EQ(shingles("").size(), 0u);
  EXPECT_EQ(shingles(" \n").size(), 0u);
  EXPECT_EQ(shingles("A b C d\nE f g H"), shingles("abcdefgh"));
  EXPECT_EQ(shingles("ÉCOLE NORMALE"), shingles("école normale"));
  EXPECT_EQ(shingles("ＡＢＣＤＥＦ"), shingles("abcdef"));
  EXPECT_NE(shingles("abcdef"), shingles("abcdeg"));
  EXPECT_EQ(jaccard(set_of("abcdefgh"), set_of("abcdefgx")), 0.5);  // two of four pieces
  EXPECT_EQ(jaccard(set_of("abcdefgh"), set_of("高血压怎么治")), 0);
}

TEST(Banding, MissesFewAtTheThreshold) {
  for (double threshold = 0.3; threshold <= 1.0; threshold += 0.05) {
    const Banding banding = banding_for(threshold);
    EXPECT_LE(banding.bands * banding.rows, kHashes);
    EXPECT_GE(banding.chance(threshold), 0.995) << threshold;
  }
  EXPECT_EQ(banding_for(0.8).rows, 6u);
  EXPECT_EQ(banding_for(0.8).bands, 21u);
}

TEST(Signatures, AgreeAsOftenAsTheTextsAreSimilar) {
  std::mt19937 random(5);
  double squares = 0;
  int pairs = 0;
  for (int i = 0; i < 200; ++i) {
    std::vector<uint64_t> a, b;
    const double share = (i % 10 + 0.5) / 10;
    for (int k = 0; k < 300; ++k) {
      const uint64_t x = uint64_t{random()} << 32 | random();
      a.push_back(x);
      b.push_back(random() < share * 4294967296.0 ? x : uint64_t{random()} << 32 | random());
    }
    const Signature first = signature_of(a), second = signature_of(b);
    int equal = 0;
    for (size_t k = 0; k < kHashes; ++k) equal += first[k] == second[k];
    make_set(a), make_set(b);
    const double error = static_cast<double>(equal) / kHashes - jaccard(a, b);
    squares += error * error, ++pairs;
  }
  EXPECT_LT(std::sqrt(squares / pairs), 0.05);  // of 128 draws: at most 0.044
}

// Texts of which many are changed copies of others, by few characters or by many.
std::vector<std::string> random_texts(size_t count, bool is_chinese, unsigned seed) {
  std::mt19937 random(seed);
  const auto character = [&] {
    if (!is_chinese) return std::string(1, "etaoinshrdlucmfwypvbgk "[random() % 23]);
    const uint32_t c = 0x4E00 + random() % 600;
    return std::string{static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
                       static_cast<char>(0x80 | (c & 0x3F))};
  };
  std::vector<std::vector<std::string>> texts;
  for (size_t i = 0; i < count; ++i) {
    std::vector<std::string> text;
    if (i > 10 && random() % 2 == 0) {
      text = texts[random() % texts.size()];
      const size_t changes = 1 + random() % (1 + text.size() / 30);
      for (size_t k = 0; k < changes; ++k) switch (random() % 3) {
          case 0:
            text[random() % text.size()] = character();
            break;
          case 1:
            text.insert(text.begin() + static_cast<std::ptrdiff_t>(random() % text.size()), character());
            break;
          default:
            text.erase(text.begin() + static_cast<std::ptrdiff_t>(random() % text.size()));
        }
    } else {
      const size_t length = 20 + random() % 200;
      for (size_t k = 0; k < length; ++k) text.push_back(character());
    }
    texts.push_back(std::move(text));
  }
  std::vector<std::string> all;
  for (const auto& text : texts) {
    all.emplace_back();
    for (const std::string& part : text) all.back() += part;
  }
  return all;
}

// Each text is asked for among all before it, as a comparison of all pairs finds them.
void compare_with_all_pairs(const std::vector<std::string>& texts, double threshold) {
  NearIndex index(threshold);
  std::vector<std::vector<uint64_t>> sets;
  int64_t pairs = 0, with_twin = 0, found_twin = 0;
  for (uint32_t i = 0; i < texts.size(); ++i) {
    sets.push_back(set_of(texts[i]));
    const Signature signature = signature_of(shingles(texts[i]));
    bool has_twin = false, finds = false;
    for (uint32_t k = 0; k < i; ++k) {
      const bool is_twin = jaccard(sets[i], sets[k]) >= threshold;
      has_twin = has_twin || is_twin;
      pairs += is_twin;
    }
    for (const uint32_t other : index.find(signature).texts)
      finds = finds || jaccard(sets[i], sets[other]) >= threshold;
    EXPECT_TRUE(has_twin || !finds);
    with_twin += has_twin, found_twin += has_twin && finds;
    index.add(i, signature);
  }
  EXPECT_GT(with_twin, 50) << "a test of nothing";
  // One of 200 at the threshold, and the sketch's share; above it ever fewer.
  EXPECT_GE(static_cast<double>(found_twin), 0.985 * static_cast<double>(with_twin))
      << found_twin << " of " << with_twin << ", " << pairs << " pairs";
}

TEST(NearIndex, FindsWhatAComparisonOfAllPairsFinds) {
  for (const bool is_chinese : {false, true})
    for (const double threshold : {0.5, 0.7, 0.8, 0.9}) {
      SCOPED_TRACE(std::to_string(threshold) + (is_chinese ? " Chinese" : " letters"));
      compare_with_all_pairs(random_texts(800, is_chinese, 7), threshold);
    }
}

TEST(NearIndex, EqualTextsAreAlwaysFoundAndTheTimeIsBounded) {
  NearIndex index(0.8);
  const Signature signature = signature_of(shingles("the same text again and again and again"));
  for (uint32_t i = 0; i <= 2000; ++i) {
    const NearIndex::Found found = index.find(signature);
    ASSERT_EQ(found.texts.empty(), i == 0);
    ASSERT_LE(found.texts.size(), NearIndex::kCandidates);
    if (i > 1000) {
      EXPECT_TRUE(found.is_cut);
    }
    index.add(i, signature);
  }
  EXPECT_EQ(index.size(), 2001u);
}

TEST(TextMap, KeepsTheFirstRowOfEachText) {
  TextMap map;
  EXPECT_EQ(map.find(text_hash("0")), TextMap::kNone);
  for (uint32_t i = 0; i < 10000; ++i) EXPECT_EQ(map.add(text_hash(std::to_string(i)), i), TextMap::kNone);
  for (uint32_t i = 0; i < 10000; ++i) {
    EXPECT_EQ(map.add(text_hash(std::to_string(i)), 20000), i);
    EXPECT_EQ(map.find(text_hash(std::to_string(i))), i);
  }
  EXPECT_EQ(map.find(text_hash("x")), TextMap::kNone);
}

}  // namespace
}  // namespace rankfold
