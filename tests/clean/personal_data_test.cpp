// The rules of personal data one by one, and JSON that is masked in place.
#include "clean/personal_data.h"
#include "clean/mask_json.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <string>

namespace rankfold {
namespace {

std::string all_masked(const std::string& text, const std::string& label = "") {
  return masked(text, find_personal_data(text, PersonalKinds::all(), label));
}

PersonalKinds only(PersonalKind kind) {
  PersonalKinds kinds;
  kinds.add(kind);
  return kinds;
}

TEST(PersonalData, ResidentIdsAreCheckedAsAWhole) {
  EXPECT_TRUE(is_resident_id("11010519491231002X"));  // the example of GB 11643-1999
  EXPECT_TRUE(is_resident_id("11010519491231002x"));
  EXPECT_FALSE(is_resident_id("440524188001010014")) << "born before 1900";
  for (int digit = 0; digit < 10; ++digit)  // one digit in eleven fits, here none
    EXPECT_FALSE(is_resident_id("11010519491231002" + std::to_string(digit))) << digit;
  EXPECT_FALSE(is_resident_id("99010519491231002X"));
  EXPECT_FALSE(is_resident_id("11010519491331002X"));
  EXPECT_FALSE(is_resident_id("11010519490229002X")) << "no leap year";
  EXPECT_FALSE(is_resident_id("1101051949123100"));
}

TEST(PersonalData, EverySingleWrongDigitOfAnIdIsSeen) {
  const std::string sound = "11010519491231002X";
  for (size_t i = 0; i < 17; ++i)
    for (char digit = '0'; digit <= '9'; ++digit) {
      std::string wrong = sound;
      wrong[i] = digit;
      EXPECT_EQ(is_resident_id(wrong), wrong == sound) << wrong;
    }
}

TEST(PersonalData, BankCardsNeedIssuerLengthAndLuhn) {
  EXPECT_TRUE(is_bank_card("6222021234567890128"));
  EXPECT_FALSE(is_bank_card("6222021234567890129"));
  EXPECT_FALSE(is_bank_card("4111111111111111")) << "two different digits: a filler";
  EXPECT_FALSE(is_bank_card("1234567890123452")) << "no issuer";
  EXPECT_FALSE(is_bank_card("622202123456789")) << "15 digits";
}

TEST(PersonalData, MobileNumbersHaveAPrefixThatIsGivenOut) {
  for (const char* number : {"13012345678", "14512345678", "15912345678", "16612345678", "17012345678", "18912345678",
                             "19212345678", "19912345678"})
    EXPECT_TRUE(is_mobile_number(number)) << number;
  for (const char* number : {"12012345678", "14012345678", "15412345678", "16012345678", "17912345678", "19412345678",
                             "1301234567", "130123456789", "23012345678"})
    EXPECT_FALSE(is_mobile_number(number)) << number;
}

TEST(PersonalData, ChineseMayStandRightBeside) {
  EXPECT_EQ(all_masked("请打13912345678找我"), "请打[MOBILE]找我");
  EXPECT_EQ(all_masked("证11010519491231002X的"), "证[ID]的");
  EXPECT_EQ(all_masked("卡6222021234567890128丢了"), "卡[BANKCARD]丢了");
  EXPECT_EQ(all_masked("写信到a.b@163.com吧"), "写信到[EMAIL]吧");
}

TEST(PersonalData, WhatIsOnlyPartOfSomethingLongerStays) {
  for (const char* text :
       {"139123456780", "0139123456789", "a13912345678", "13912345678b", "_13912345678", "0.13912345678",
        "13912345678.25", "2023-13912345678", "13912345678-01", "139-1234-5678-9", "3-139-1234-5678",
        "511010519491231002X", "11010519491231002XY", "62220212345678901280", "1.6222021234567890128"})
    EXPECT_EQ(all_masked(text), text);
}

TEST(PersonalData, TheWordBeforeANumberCounts) {
  EXPECT_EQ(all_masked("订单号：13912345678"), "订单号：13912345678");
  EXPECT_EQ(all_masked("订单联系电话：13912345678"), "订单联系电话：[MOBILE]");
  EXPECT_EQ(all_masked("order no. 6222021234567890128"), "order no. 6222021234567890128");
  EXPECT_EQ(all_masked("in order to call 13912345678"), "in order to call [MOBILE]");
  EXPECT_EQ(all_masked("border: 13912345678"), "border: [MOBILE]");
  EXPECT_EQ(all_masked("￥13912345678"), "￥13912345678");
  EXPECT_EQ(all_masked("13912345678元"), "13912345678元");
  for (const char* amount : {"6222021234567890128元", "￥6222021234567890128", "6222021234567890128 km"})
    EXPECT_EQ(all_masked(amount), amount);
  EXPECT_EQ(all_masked("tel13912345678"), "tel[MOBILE]");
  EXPECT_EQ(all_masked("13912345678", "order_id"), "13912345678");
  EXPECT_EQ(all_masked("13912345678", "phone"), "[MOBILE]");
  EXPECT_EQ(all_masked("110105491231002"), "110105491231002") << "15 digits need a word";
  EXPECT_EQ(all_masked("110105491231002", "身份证号"), "[ID]");
  EXPECT_EQ(all_masked("老身份证110105491231002"), "老身份证[ID]");
}

TEST(PersonalData, PrefixesAndSeparatorsAreMaskedWithTheNumber) {
  for (const char* number : {"+8613912345678", "8613912345678", "008613912345678", "+86 139 1234 5678",
                             "+86-139-1234-5678", "(+86)13912345678", "（86） 139-1234-5678", "139 1234 5678",
                             "１３９１２３４５６７８", "139.1234.5678", "139\u30001234\u30005678"})
    EXPECT_EQ(all_masked(std::string("电话") + number + "。"), "电话[MOBILE]。") << number;
  EXPECT_EQ(all_masked("110105 19491231 002X"), "[ID]");
  EXPECT_EQ(all_masked("6222 0212 3456 7890 128"), "[BANKCARD]");
  EXPECT_EQ(all_masked("13912345678 13812345678"), "[MOBILE] [MOBILE]");
  EXPECT_EQ(all_masked("13912345678-13812345678"), "[MOBILE]-[MOBILE]");
}

TEST(PersonalData, MobileNumbersThatATableTookForFloats) {
  for (const char* number :
       {"13912345678.0", "13912345678.00", "1.3912345678E10", "1.3912345678e+10", "1.39123456e10", "139123.45678E5"})
    EXPECT_EQ(all_masked(std::string("电话") + number + "，"), "电话[MOBILE]，") << number;
  for (const char* text : {"13912345678.5", "1.3912345678E11", "1.3912345678E9", "1.3912345678E-10", "1.39E10",
                           "1.39123456785E10", "13912345678.0.1", "13912345678.", "13912345678E", "12912345678.0",
                           "订单号13912345678.0", "13912345678.0元", "v1.3912345678E10", "0.13912345678E11"})
    EXPECT_EQ(all_masked(text).find("[MOBILE]"), text == std::string("13912345678.") ? 0 : std::string::npos) << text;
}

TEST(PersonalData, WhatIsNotSeenDoesNotHideANumber) {
  EXPECT_EQ(all_masked("电话139\u200B1234\u200B5678。"), "电话[MOBILE]。");
  EXPECT_EQ(all_masked("a\u200Bb@b.c\u00ADom"), "[EMAIL]");
  EXPECT_EQ(all_masked("订\u200B单号13912345678"), "订\u200B单号13912345678");
  // Beside the number they stay, and places are still those of the text.
  const std::string text = "\uFEFF电话：\u200B13912345678\u200B，\u200D13812345678";
  EXPECT_EQ(all_masked(text), "\uFEFF电话：\u200B[MOBILE]\u200B，\u200D[MOBILE]");
  const auto spans = find_personal_data(text, PersonalKinds::all());
  ASSERT_EQ(spans.size(), 2u);
  EXPECT_EQ(spans[0].character, 5u);
  EXPECT_EQ(spans[1].character, 19u);
}

TEST(PersonalData, OverlapsAreSettledByTheOrderOfKinds) {
  EXPECT_EQ(all_masked("13912345678@139.com"), "[EMAIL]");
  EXPECT_EQ(masked("13912345678@139.com", find_personal_data("13912345678@139.com", only(PersonalKind::kMobile))),
            "[MOBILE]@139.com");
  for (const char* text : {"+86 13912345678@139.com 13812345678", "(86)13912345678@139.com 13812345678",
                           "139 1234 5678@qq.com 13812345678"})
    EXPECT_EQ(all_masked(text), "[MOBILE] [MOBILE]") << text;
  EXPECT_EQ(all_masked("6222 0212 3456 7890 128@qq.com, 110105 19491231 002X@qq.com"), "[BANKCARD], [ID]");
  // Of Gansu, whose region begins as UnionPay's numbers do: an ID that Luhn's sum fits as well is still an ID.
  std::string both;
  for (int serial = 0; both.empty() && serial < 100000; ++serial) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "6201021990%02d%02d%03d", serial % 12 + 1, serial / 12 % 28 + 1,
                  serial % 1000);
    for (char last : std::string("0123456789"))
      if (const std::string number = std::string(digits) + last; is_resident_id(number)) {
        int sum = 0;
        for (size_t i = 0; i < 18; ++i) {
          const int digit = number[17 - i] - '0';
          sum += i % 2 == 0 ? digit : digit < 5 ? 2 * digit : 2 * digit - 9;
        }
        if (sum % 10 == 0) both = number;
      }
  }
  ASSERT_FALSE(both.empty());
  EXPECT_EQ(all_masked(both), "[ID]");
  EXPECT_EQ(masked(both, find_personal_data(both, only(PersonalKind::kBankCard))), both);
}

TEST(PersonalData, MaskingTwiceChangesNothing) {
  const std::string once = all_masked("13912345678，11010519491231002X，a@b.com，6222021234567890128");
  EXPECT_EQ(once, "[MOBILE]，[ID]，[EMAIL]，[BANKCARD]");
  EXPECT_EQ(all_masked(once), once);
}

TEST(PersonalData, PlacesAreCountedInCharacters) {
  const auto spans = find_personal_data("电话：13912345678", PersonalKinds::all());
  ASSERT_EQ(spans.size(), 1u);
  EXPECT_EQ(spans[0].character, 3u);
  EXPECT_EQ(spans[0].begin, 9u);
}

TEST(PersonalData, EMailAndWhatLooksLikeIt) {
  EXPECT_EQ(all_masked("a.b+c@sub.example.co.uk."), "[EMAIL].");
  EXPECT_EQ(all_masked("zhang＠163.com"), "[EMAIL]");
  EXPECT_EQ(all_masked("hr@a-b.com（备注）"), "[EMAIL]（备注）");
  for (const char* text : {"lodash@4.17.21", "icon@2x.png", "git@github.com:org/repo.git", "https://u:p@host.com/x",
                           "q@k.to(device)", "root@server", "@163.com", "a@b", "a@1.2.3-rc.cn"})
    EXPECT_EQ(all_masked(text), text);
}

// JSON ---------------------------------------------------------------------------------------------------------------

MaskedJson mask(const std::string& json) { return mask_json(json, PersonalKinds::all()); }

TEST(MaskJson, AllButThePlaceStaysAsItIs) {
  const std::string json =
      "{ \"b\" : 1.50e+3,\t\"a\":\"\\u7535\\u8bdd13912345678\\n\\\"x\\\"\", \"n\": [1, 2 , \"13912345678\"] , "
      "\"z\":null}";
  const MaskedJson masked = mask(json);
  EXPECT_EQ(
      masked.text,
      "{ \"b\" : 1.50e+3,\t\"a\":\"\\u7535\\u8bdd[MOBILE]\\n\\\"x\\\"\", \"n\": [1, 2 , \"[MOBILE]\"] , \"z\":null}");
  ASSERT_EQ(masked.hits.size(), 2u);
  EXPECT_EQ(masked.hits[0].field, "a");
  EXPECT_EQ(masked.hits[0].character, 2u);
  EXPECT_EQ(masked.hits[1].field, "n[2]");
}

TEST(MaskJson, WhatHoldsNothingIsNotTouched) {
  for (const char* json :
       {"{\"question\":\"13\",\"answer\":\"\\u0031\\u0033\"}", "[]", "{}", "\"\"", "[\"\\\\\",\"\\\"\"]"})
    EXPECT_EQ(mask(json).text, "") << json;
}

TEST(MaskJson, EscapedDigitsAreDigits) {
  EXPECT_EQ(mask(R"({"a":"\u0031\u0033912345678"})").text, R"({"a":"[MOBILE]"})");
  EXPECT_EQ(mask(R"({"a":"\uff11\uff13\uff19\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18!"})").text,
            R"({"a":"[MOBILE]!"})");
  EXPECT_EQ(mask(R"({"a":"\ud83d\ude0013912345678\ud83d\ude00"})").text, R"({"a":"\ud83d\ude00[MOBILE]\ud83d\ude00"})");
}

TEST(MaskJson, WholeNumbersBecomeTexts) {
  EXPECT_EQ(mask(R"({"phone":13912345678,"n":139123456780,"x":13912345678.5})").text,
            R"({"phone":"[MOBILE]","n":139123456780,"x":13912345678.5})");
  EXPECT_EQ(mask(R"({"order_id":13912345678})").text, "");
  EXPECT_EQ(mask(R"({"a":13912345678.0,"b":1.3912345678E10,"c":"13912345678.0","d":-13912345678.0,"e":1.5e10})").text,
            R"({"a":"[MOBILE]","b":"[MOBILE]","c":"[MOBILE]","d":-13912345678.0,"e":1.5e10})");
}

TEST(MaskJson, AFullWidthAtSignIsOne) {
  EXPECT_EQ(mask(R"({"a":"zhang＠163.com","zhang＠163.com":1})").text, R"({"a":"[EMAIL]","zhang＠163.com":1})");
  EXPECT_EQ(mask(R"({"a":"zhang＠163.com","zhang＠163.com":1})").hits.size(), 2u);
}

TEST(MaskJson, ANumberThatGoesOnAsAnAddressIsOnePlace) {
  const MaskedJson masked = mask(R"({"contact":"+86 13912345678@139.com","data":1})");
  EXPECT_EQ(masked.text, R"({"contact":"[MOBILE]","data":1})");
  EXPECT_EQ(masked.hits.size(), 1u);
}

TEST(MaskJson, JsonInATextStaysJson) {
  const std::string row =
      R"({"tool_calls":[{"function":{"name":"call","arguments":"{\"phone\": 13912345678, \"to\": [\"a@b.com\"]}"}}]})";
  const MaskedJson masked = mask(row);
  const auto arguments =
      nlohmann::json::parse(masked.text)["tool_calls"][0]["function"]["arguments"].get<std::string>();
  EXPECT_EQ(nlohmann::json::parse(arguments), nlohmann::json::parse(R"({"phone":"[MOBILE]","to":["[EMAIL]"]})"));
  ASSERT_EQ(masked.hits.size(), 2u);
  EXPECT_EQ(masked.hits[0].field, "tool_calls[0].function.arguments:phone");
  EXPECT_EQ(masked.hits[1].field, "tool_calls[0].function.arguments:to[0]");
}

TEST(MaskJson, KeysAreToldAndStay) {
  const std::string row = R"({"a":{"13912345678":"x"}})";
  const MaskedJson masked = mask(row);
  EXPECT_EQ(masked.text, "");
  ASSERT_EQ(masked.hits.size(), 1u);
  EXPECT_TRUE(masked.hits[0].is_key);
  EXPECT_EQ(masked.hits[0].field.find("139"), std::string::npos) << masked.hits[0].field;
}

TEST(MaskJson, PartsOfJsonAreRead) {
  EXPECT_EQ(mask(R"({"from":"a@b.com","data":[)").text, R"({"from":"[EMAIL]","data":[)");
  EXPECT_EQ(mask(R"(],"phone":"13912345678"})").text, R"(],"phone":"[MOBILE]"})");
}

}  // namespace
}  // namespace rankfold
