// Checks of what an operator is called with.
#pragma once

#include <string>

#include "paddle/common/enforce.h"

namespace paddle_stacks {

// Throws Paddle's own exception: of any other, the executor of a static graph drops the message.
[[noreturn]] inline void Fail(const std::string& message) {
  PADDLE_THROW(::common::errors::InvalidArgument("%s", message));
}

// Throws with the message that `message` returns, unless `condition` holds.
template <typename Message>
void Require(bool condition, const Message& message) {
  if (!condition) Fail(message());
}

inline void RequireLength(const char* what, int64_t length, int64_t expected) {
  Require(length == expected, [&] {
    return std::string(what) + ": expected " + std::to_string(expected) + " elements, got " +
           std::to_string(length);
  });
}

}  // namespace paddle_stacks
