// Dates as Python's strftime writes them in English, without the machine's clock, zone or language.
#include "text/jinja/jinja.h"
#include "text/jinja/library.h"
#include "text/jinja/operators.h"

#include <chrono>
#include <cstdio>

namespace rankfold::jinja {
namespace {

constexpr const char* kDays[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
constexpr const char* kMonths[] = {"January", "February", "March",     "April",   "May",      "June",
                                   "July",    "August",   "September", "October", "November", "December"};

class TimeWriter {
 public:
  explicit TimeWriter(const DateTime& time) : time_(time) {
    using namespace std::chrono;
    const year_month_day date(year(time.year), month(static_cast<unsigned>(time.month)),
                              day(static_cast<unsigned>(time.day)));
    const auto is_within = [](int x, int least, int most) { return x >= least && x <= most; };
    RANKFOLD_CHECK(date.ok() && is_within(time.year, 1, 9999) && is_within(time.hour, 0, 23) &&
                       is_within(time.minute, 0, 59) && is_within(time.second, 0, 59) &&
                       is_within(time.microsecond, 0, 999'999),
                   "strftime_now: no such date and time");
    const sys_days days(date);
    week_day_ = static_cast<int>(weekday(days).c_encoding());
    year_day_ = static_cast<int>((days - sys_days(year(time.year) / January / 1)).count());
    // The ISO week is that of its Thursday.
    const sys_days thursday = days + std::chrono::days(3 - (week_day_ + 6) % 7);
    iso_year_ = static_cast<int>(year_month_day(thursday).year());
    iso_week_ = static_cast<int>((thursday - sys_days(year(iso_year_) / January / 1)).count()) / 7 + 1;
    seconds_ = days.time_since_epoch().count() * int64_t{86'400} + time.hour * 3600 + time.minute * 60 + time.second;
  }

  std::string write(std::string_view format) {
    std::string text;
    for (size_t at = 0; at < format.size(); ++at) {
      if (format[at] != '%' || at + 1 == format.size()) {
        text += format[at];
        continue;
      }
      pad_ = '\0';
      bool is_upper = false;
      for (++at; at + 1 < format.size() && std::string_view("-_0^").find(format[at]) != std::string_view::npos; ++at)
        format[at] == '^' ? is_upper = true : (pad_ = format[at]) != '\0';
      std::string part = field(format[at]);
      for (char& c : part)
        if (is_upper && c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
      text += part;
    }
    return text;
  }

 private:
  std::string number(int64_t value, int width, char usual = '0') const {
    const char pad = pad_ == '\0' ? usual : pad_;
    std::string digits = std::to_string(value);
    if (pad != '-' && digits.size() < static_cast<size_t>(width))
      digits.insert(0, static_cast<size_t>(width) - digits.size(), pad == '_' ? ' ' : pad);
    return digits;
  }

  std::string field(char letter) {
    const int hour12 = time_.hour % 12 == 0 ? 12 : time_.hour % 12;
    switch (letter) {
      case 'a':
        return std::string(kDays[week_day_]).substr(0, 3);
      case 'A':
        return kDays[week_day_];
      case 'b':
      case 'h':
        return std::string(kMonths[time_.month - 1]).substr(0, 3);
      case 'B':
        return kMonths[time_.month - 1];
      case 'c':
        return write_plain("%a %b %e %H:%M:%S %Y");
      case 'C':
        return number(time_.year / 100, 2);
      case 'd':
        return number(time_.day, 2);
      case 'D':
      case 'x':
        return write_plain("%m/%d/%y");
      case 'e':
        return number(time_.day, 2, ' ');
      case 'f':  // Python's own, which has no flags
        return pad_ == '\0' ? number(time_.microsecond, 6) : std::string("%") + pad_ + "f";
      case 'F':
        return write_plain("%Y-%m-%d");
      case 'g':
        return number(iso_year_ % 100, 2);
      case 'G':
        return number(iso_year_, 1);
      case 'H':
        return number(time_.hour, 2);
      case 'I':
        return number(hour12, 2);
      case 'j':
        return number(year_day_ + 1, 3);
      case 'k':
        return number(time_.hour, 2, ' ');
      case 'l':
        return number(hour12, 2, ' ');
      case 'm':
        return number(time_.month, 2);
      case 'M':
        return number(time_.minute, 2);
      case 'n':
        return "\n";
      case 'p':
        return time_.hour < 12 ? "AM" : "PM";
      case 'P':
        return time_.hour < 12 ? "am" : "pm";
      case 'r':
        return write_plain("%I:%M:%S %p");
      case 'R':
        return write_plain("%H:%M");
      case 's':
        return std::to_string(seconds_);
      case 'S':
        return number(time_.second, 2);
      case 't':
        return "\t";
      case 'T':
      case 'X':
        return write_plain("%H:%M:%S");
      case 'u':
        return number(week_day_ == 0 ? 7 : week_day_, 1);
      case 'U':
        return number((year_day_ + 7 - week_day_) / 7, 2);
      case 'V':
        return number(iso_week_, 2);
      case 'w':
        return number(week_day_, 1);
      case 'W':
        return number((year_day_ + 7 - (week_day_ + 6) % 7) / 7, 2);
      case 'y':
        return number(time_.year % 100, 2);
      case 'Y':
        return number(time_.year, 1);
      case 'z':
      case 'Z':
        return "";  // the date has no zone
      case '%':
        return "%";
      default:
        return std::string("%") + letter;
    }
  }

  std::string write_plain(std::string_view format) {
    pad_ = '\0';
    return write(format);
  }

  const DateTime& time_;
  int week_day_, year_day_, iso_year_, iso_week_;
  int64_t seconds_;
  char pad_ = '\0';
};

}  // namespace

std::string format_time(const DateTime& time, std::string_view format) { return TimeWriter(time).write(format); }

}  // namespace rankfold::jinja
