#pragma once

#include <optional>

#include "base/error.h"

namespace isr::test {

/// The kind of the Error that call() throws; nullopt when it throws none.
///   CHECK((kind_thrown([&] { open_keybox(...); }) == ErrorKind::kDenied));
template <class Call>
std::optional<ErrorKind> kind_thrown(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.kind();
  }
  return std::nullopt;
}

}  // namespace isr::test
