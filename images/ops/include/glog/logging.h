// Stands in for <glog/logging.h>, which Paddle's headers include and its wheel does not ship
// (phi/backends/dynload/miopen.h and phi/core/enforce.h; PaddleNLP#9408). An operator library
// is not linked with glog: it needs the macros of the headers to compile, and nothing more.
// Messages go to standard error; a failed CHECK ends the process, as glog's does.
#pragma once

#include <cstdlib>
#include <iostream>
#include <sstream>

namespace google {

class StandInMessage {
 public:
  explicit StandInMessage(bool fatal) : fatal_(fatal) {}
  ~StandInMessage() {
    std::cerr << text_.str() << std::endl;
    if (fatal_) std::abort();
  }
  std::ostream& stream() { return text_; }

 private:
  std::ostringstream text_;
  bool fatal_;
};

// Binds less tightly than << and more tightly than ?:, which makes the macros expressions.
struct StandInVoid {
  void operator&(std::ostream&) {}
};

}  // namespace google

#define STAND_IN_INFO false
#define STAND_IN_WARNING false
#define STAND_IN_ERROR false
#define STAND_IN_FATAL true
#define LOG(severity) ::google::StandInMessage(STAND_IN_##severity).stream()
#define LOG_IF(severity, condition) \
  !(condition) ? (void)0 : ::google::StandInVoid() & LOG(severity)
#define LOG_FIRST_N(severity, n) LOG_IF(severity, true)
#define VLOG_IS_ON(level) false
#define VLOG(level) LOG_IF(INFO, VLOG_IS_ON(level))
#define DLOG(severity) LOG_IF(severity, false)
#define CHECK(condition) LOG_IF(FATAL, !(condition)) << "Check failed: " #condition " "
#define CHECK_EQ(a, b) CHECK((a) == (b))
#define CHECK_NE(a, b) CHECK((a) != (b))
#define CHECK_LT(a, b) CHECK((a) < (b))
#define CHECK_LE(a, b) CHECK((a) <= (b))
#define CHECK_GT(a, b) CHECK((a) > (b))
#define CHECK_GE(a, b) CHECK((a) >= (b))
#define CHECK_NOTNULL(pointer) (pointer)
