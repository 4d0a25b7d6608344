#include "repository/list_page.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {
namespace {

constexpr std::size_t kLastLineSize = 6;  // ".more" and its line end

}  // namespace

bool ListPageBuilder::add(std::string name) {
  if (size_ + name.size() + 1 > kMaxListPageSize - kLastLineSize) {
    page_.more = true;
    return false;
  }
  size_ += name.size() + 1;
  page_.names.push_back(std::move(name));
  return true;
}

void ListLimit::add(const ListPage& page) {
  ++pages_;
  names_ += page.names.size();
  for (const std::string& name : page.names) bytes_ += name.size();
  const bool full = pages_ == kMaxListPages && page.more;
  if (full || names_ > kMaxListedNames || bytes_ > kMaxListedBytes) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{}: {} names, and there are more", what_, names_));
  }
}

}  // namespace isr
