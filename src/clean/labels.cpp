#include "clean/labels.h"

#include "text/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <vector>

namespace rankfold {
namespace {

constexpr std::string_view kJoined[] = {"tel",    "phone", "telephone", "mobile", "mob",    "cell",   "cellphone",
                                        "wechat", "wx",    "weixin",    "vx",     "idcard", "cardno", "card",
                                        "sfz",    "id",    "sj",        "call",   "mp",     "phoneno"};

constexpr std::string_view kIdWords[] = {"身份证", "身分证", "证件号",  "身份号", "公民身份", "id card",  "id number",
                                         "id no",  "idcard", "id_card", "id_no",  "idno",     "identity", "sfz"};

// Names of numbers that are no card's and no telephone's. Each stands right before its number, but for the signs and
// words of kBetween.
constexpr std::string_view kOtherWords[] = {"单号",
                                            "单号码",
                                            "订单",
                                            "订单编码",
                                            "运单",
                                            "快递单",
                                            "编号",
                                            "编号码",
                                            "编码",
                                            "流水号",
                                            "流水",
                                            "批号",
                                            "批次",
                                            "批次号",
                                            "序列号",
                                            "序号",
                                            "条码",
                                            "条形码",
                                            "货号",
                                            "发票号",
                                            "发票号码",
                                            "发票代码",
                                            "合同号",
                                            "案号",
                                            "型号",
                                            "版本号",
                                            "版本",
                                            "学号",
                                            "工号",
                                            "车架号",
                                            "发动机号",
                                            "设备号",
                                            "设备码",
                                            "商品码",
                                            "商品id",
                                            "时间戳",
                                            "准字",
                                            "注册证号",
                                            "许可证号",
                                            "税号",
                                            "信用代码",
                                            "识别号",
                                            "串号",
                                            "期号",
                                            "交易号",
                                            "凭证号",
                                            "保单号",
                                            "病历号",
                                            "住院号",
                                            "门诊号",
                                            "处方号",
                                            "样本号",
                                            "标本号",
                                            "登记号",
                                            "档案号",
                                            "存折号",
                                            "校验码",
                                            "哈希值",
                                            "随机数",
                                            "数量",
                                            "总数",
                                            "总量",
                                            "总计",
                                            "合计",
                                            "共计",
                                            "人口",
                                            "产量",
                                            "余额",
                                            "线程",
                                            "进程",
                                            "主键",
                                            "order number",
                                            "order no",
                                            "order id",
                                            "order_no",
                                            "order_id",
                                            "order_number",
                                            "orderid",
                                            "orderno",
                                            "order",
                                            "trade no",
                                            "trade_no",
                                            "transaction id",
                                            "transaction_id",
                                            "transaction no",
                                            "tracking number",
                                            "tracking no",
                                            "tracking_no",
                                            "tracking_number",
                                            "invoice number",
                                            "invoice no",
                                            "invoice_no",
                                            "invoice",
                                            "serial number",
                                            "serial no",
                                            "serial_no",
                                            "serial",
                                            "batch number",
                                            "batch no",
                                            "batch_no",
                                            "batch",
                                            "lot number",
                                            "lot no",
                                            "lot",
                                            "ticket number",
                                            "ticket no",
                                            "ticket",
                                            "case number",
                                            "case no",
                                            "part number",
                                            "part no",
                                            "model number",
                                            "model no",
                                            "reference number",
                                            "reference no",
                                            "reference",
                                            "ref",
                                            "sku",
                                            "isbn",
                                            "issn",
                                            "ean",
                                            "upc",
                                            "barcode",
                                            "imei",
                                            "imsi",
                                            "iccid",
                                            "sn",
                                            "s/n",
                                            "uuid",
                                            "guid",
                                            "timestamp",
                                            "time stamp",
                                            "doi",
                                            "pmid",
                                            "version",
                                            "build",
                                            "checksum",
                                            "hash",
                                            "nonce",
                                            "seed",
                                            "row_id",
                                            "item_id",
                                            "goods_id",
                                            "product_id",
                                            "sku_id",
                                            "trace_id",
                                            "request_id",
                                            "session_id",
                                            "task_id",
                                            "job_id",
                                            "msg_id",
                                            "message_id",
                                            "snowflake id",
                                            "primary key"};
constexpr std::string_view kBetween[] = {" ",  ":",  "：", "#", "=",  ".",  "(",  "（", "[",  "【",
                                         "\"", "'",  "“",  "‘", "「", "《", "是", "为", "is", "no",
                                         "码", "\t", "\n", "`", "*",  "|",  "->", ">"};

constexpr std::string_view kCurrencies[] = {"￥",  "¥",   "$",      "€",    "£",      "rmb",
                                            "cny", "usd", "人民币", "金额", "金额：", "金额:"};
constexpr std::string_view kUnits[] = {"年",   "元",   "美元", "欧元", "日元", "万元", "亿", "字节", "毫秒", "微秒",
                                       "纳秒", "公里", "千克", "公斤", "平方", "立方", "吨", "byte", "ms",   "usd",
                                       "cny",  "rmb",  "yuan", "kb",   "mb",   "km",   "kg", "hz",   "years"};

template <class Words>
bool ends_in_any(std::string_view text, const Words& words) {
  return std::any_of(std::begin(words), std::end(words),
                     [text](std::string_view word) { return text.ends_with(word); });
}

bool is_small_letter(char c) { return c >= 'a' && c <= 'z'; }

// Words, to be found at the end of a text by their last byte.
class Endings {
 public:
  template <class Words>
  explicit Endings(const Words& words) {
    for (const std::string_view word : words) by_last_[static_cast<unsigned char>(word.back())].push_back(word);
  }
  // The word that the text ends in, if any; as a whole word, where it consists of letters.
  std::string_view find(std::string_view text, bool as_whole) const {
    if (text.empty()) return {};
    for (const std::string_view word : by_last_[static_cast<unsigned char>(text.back())]) {
      if (!text.ends_with(word)) continue;
      const size_t begin = text.size() - word.size();
      if (!as_whole || !is_small_letter(word[0]) || begin == 0 || !is_small_letter(text[begin - 1])) return word;
    }
    return {};
  }

 private:
  std::array<std::vector<std::string_view>, 256> by_last_;
};

void append_lower(char32_t c, std::string& text) {
  unicode::append(c >= 'A' && c <= 'Z' ? c + 32 : static_cast<uint32_t>(c), text);
}

}  // namespace

std::string Labels::before(size_t begin, size_t characters) const {
  std::string text;
  if (characters > begin) {
    for (const char c : label_) text.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c);
    if (!text.empty()) text.push_back(':');
  }
  for (size_t i = begin - std::min(begin, characters); i < begin; ++i) append_lower(text_[i], text);
  return text;
}

std::string Labels::after(size_t end, size_t characters) const {
  std::string text;
  for (size_t i = end; i < std::min(text_.size(), end + characters); ++i) append_lower(text_[i], text);
  return text;
}

bool Labels::is_joined(size_t begin) const {
  std::string word = before(begin, 12);
  const auto first = std::find_if_not(word.rbegin(), word.rend(), is_small_letter).base();
  word.erase(word.begin(), first);
  return std::find(std::begin(kJoined), std::end(kJoined), word) != std::end(kJoined);
}

bool Labels::names_id(size_t begin) const {
  const std::string text = before(begin, 32);
  return std::any_of(std::begin(kIdWords), std::end(kIdWords),
                     [&text](std::string_view word) { return text.find(word) != std::string::npos; });
}

bool Labels::names_another_number(size_t begin) const {
  static const Endings others(kOtherWords), between(kBetween);
  constexpr int kMostBetween = 8;
  const std::string all = before(begin, 24);
  std::string_view text = all;
  for (int i = 0; i < kMostBetween; ++i) {
    if (!others.find(text, /*as_whole=*/true).empty()) return true;
    const std::string_view sign = between.find(text, /*as_whole=*/false);
    if (sign.empty()) return false;
    text.remove_suffix(sign.size());
  }
  return false;
}

bool Labels::is_amount(size_t begin) const {
  std::string text = before(begin, 8);
  if (text.ends_with(' ')) text.pop_back();
  return ends_in_any(text, kCurrencies);
}

bool Labels::is_unit(size_t end) const {
  std::string text = after(end, 8);
  if (text.starts_with(' ')) text.erase(0, 1);
  return std::any_of(std::begin(kUnits), std::end(kUnits), [&text](std::string_view unit) {
    return text.starts_with(unit) && !(is_small_letter(unit[0]) && unit != "byte" && text.size() > unit.size() &&
                                       is_small_letter(text[unit.size()]));
  });
}

}  // namespace rankfold
