#include "repository/list_limit.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {

void ListLimit::add(std::string_view name) {
  ++names_;
  bytes_ += name.size();
  if (names_ > kMaxListedNames || bytes_ > kMaxListedBytes) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{}: more than {} names", what_, names_ - 1));
  }
}

}  // namespace isr
