// Characters that hardly belong into a text, texts in the wrong encoding, and GBK.
#include "clean/characters.h"
#include "core/utf8.h"
#include "text/gbk.h"
#include "text/unicode.h"

#include <gtest/gtest.h>

#include <string>

namespace rankfold {
namespace {

using namespace std::string_literals;

TEST(Characters, FaultsAreCounted) {
  const CharacterFaults faults = find_character_faults(
      "a\x01\x7F\t\n\r\xC2\x85"
      "b\xEF\xBF\xBD\xEE\x80\x80\xEF\xB7\x90");
  EXPECT_EQ(faults.control, 4u);  // 01, 7F, U+0085, U+FDD0
  EXPECT_EQ(faults.replacement, 1u);
  EXPECT_EQ(faults.private_use, 1u);
  const CharacterFaults none = find_character_faults("正常的中文，plain text\n\t“引号”——😀é ½ °");
  EXPECT_EQ(none.control + none.replacement + none.private_use, 0u);
  EXPECT_FALSE(none.is_mojibake);
}

// The text's bytes, each taken for a character of Latin-1.
std::string as_latin1(const std::string& bytes) {
  std::string text;
  for (const char byte : bytes) unicode::append(static_cast<unsigned char>(byte), text);
  return text;
}

// What a reader of GBK makes of the bytes: those that are none are lost.
std::string as_gbk(const std::string& bytes) {
  std::string text;
  for (size_t i = 0; i < bytes.size();) {
    size_t length = 2;
    auto pair = gbk::decode(bytes.substr(i, 2));
    if (static_cast<unsigned char>(bytes[i]) < 0x80) length = 1, pair = bytes.substr(i, 1);
    text += pair.value_or("\xEF\xBF\xBD");
    i += length;
  }
  return text;
}

std::string to_gbk(const std::string& text) {
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const uint32_t c = unicode::next_character(text, at);
    if (c < 0x80) {
      bytes += static_cast<char>(c);
      continue;
    }
    const uint16_t pair = gbk::encode(c);
    EXPECT_NE(pair, 0) << c;
    bytes += static_cast<char>(pair >> 8);
    bytes += static_cast<char>(pair & 0xFF);
  }
  return bytes;
}

const char* const kTexts[] = {"高血压患者应当长期服用降压药，限制食盐的摄入。", "请问阿司匹林的用法用量是什么？",
                              "糖尿病是一种以高血糖为特征的代谢性疾病", "你好，世界"};

TEST(Mojibake, IsSeenInEveryDirection) {
  for (const std::string text : kTexts) {
    EXPECT_TRUE(is_mojibake(as_latin1(text))) << as_latin1(text);
    EXPECT_TRUE(is_mojibake(as_gbk(text))) << as_gbk(text);
    EXPECT_TRUE(is_mojibake(as_latin1(to_gbk(text)))) << as_latin1(to_gbk(text));
    EXPECT_FALSE(is_mojibake(text)) << text;
  }
  EXPECT_TRUE(is_mojibake(as_latin1("Un été très chaud")));
  EXPECT_TRUE(is_mojibake("donâ€™t"));
  EXPECT_TRUE(is_mojibake("锟斤拷锟斤拷"));
}

TEST(Mojibake, SoundTextsOfOtherLanguagesAreNotTakenForIt) {
  for (const char* text :
       {"L’été était très chaud à Nîmes, n’est-ce pas ?", "Größe: 3 µm ± 0,5 °C", "São Paulo não é a capital",
        "¿Qué pasó? «Señor» Ñandú", "Ångström, Ælfric, Øresund, þorn", "ÀÁÂÃÄÅÆÇÈÉ", "Привет, как дела? Ёлка",
        "Tiếng Việt có dấu: ắ ằ ẵ ệ ữ", "日本語のテキスト、カタカナも", "한국어 문장입니다", "ГОСТ 12.1 — «Да»",
        "naïve café façade", "α β γ δ ≤ ≥ ∑ √", "（一）……《书名》“引”‘用’", "„GRÜß“ “ÄÖÜ”", "龘靐齉齾爩鱻麤",
        "๑ ข้อความภาษาไทย"})
    EXPECT_FALSE(is_mojibake(text)) << text;
}

TEST(Gbk, DecodesAndEncodes) {
  EXPECT_EQ(gbk::decode("\xD6\xD0\xCE\xC4"), "中文");
  EXPECT_EQ(gbk::decode("a\xA3\xAC"), "a，");
  EXPECT_EQ(gbk::decode("\xD6"), std::nullopt);
  EXPECT_EQ(gbk::decode("\xFF\xFF"), std::nullopt);
  EXPECT_EQ(gbk::decode("\x80"), std::nullopt);
  EXPECT_EQ(gbk::decode("\xD6\x7F"), std::nullopt);
  EXPECT_EQ(gbk::decode(""), "");
  size_t characters = 0;
  for (uint32_t c = 0x80; c < 0x10000; ++c) {
    const uint16_t pair = gbk::encode(c);
    if (pair == 0) continue;
    ++characters;
    std::string text;
    unicode::append(c, text);
    EXPECT_EQ(gbk::decode(std::string{static_cast<char>(pair >> 8), static_cast<char>(pair & 0xFF)}), text);
  }
  EXPECT_EQ(characters, 21791u);
  EXPECT_EQ(gbk::encode('a'), 0);
  EXPECT_EQ(gbk::encode(0x1F600), 0);
}

TEST(Gbk, IsToldFromOtherEncodings) {
  for (const std::string text : kTexts) EXPECT_TRUE(gbk::is_likely("{\"a\": \"" + to_gbk(text) + "\"}")) << text;
  EXPECT_FALSE(gbk::is_likely("plain"));
  EXPECT_FALSE(gbk::is_likely("\xE9t\xE9, d\xE9j\xE0 vu"));                    // Latin-1
  EXPECT_FALSE(gbk::is_likely("\xA4\xA4\xA4\xE5\xB4\xFA\xB8\xD5\xA4@\xA4U"));  // Big5
  EXPECT_FALSE(gbk::is_likely("bad \xFF\xFE"));
}

}  // namespace
}  // namespace rankfold
