// One table says what a kind means to FUSE, to the shell and in JSON.
#include "base/error.h"

#include <fmt/format.h>

#include <cerrno>
#include <filesystem>
#include <new>
#include <system_error>

namespace isr {
namespace {

struct Meaning {
  ErrorKind kind;
  std::string_view name;
  int errno_value;
  int exit_code;
};

// In the order of the enumerators, so that the kind is the index.
constexpr Meaning kMeanings[] = {
    {ErrorKind::kFailed, "failed", EIO, 1},
    {ErrorKind::kUsage, "usage", EINVAL, 2},
    {ErrorKind::kWarnings, "warnings", EIO, 3},
    {ErrorKind::kNotFound, "not-found", ENOENT, 10},
    {ErrorKind::kLocked, "locked", EBUSY, 11},
    {ErrorKind::kDenied, "denied", EACCES, 12},
    {ErrorKind::kTransient, "transient", EIO, 13},
    {ErrorKind::kOffline, "offline", EIO, 13},
    {ErrorKind::kCorrupt, "corrupt", EIO, 14},
    {ErrorKind::kHistory, "history", EIO, 15},
    {ErrorKind::kVm, "vm", EIO, 16},
    {ErrorKind::kForked, "forked", EIO, 17},
    {ErrorKind::kIo, "io", EIO, 18},
    {ErrorKind::kUnsupported, "unsupported", EOPNOTSUPP, 19},
    {ErrorKind::kDaemon, "daemon", EIO, 20},
    {ErrorKind::kCancelled, "cancelled", EINTR, 130},
    {ErrorKind::kBug, "bug", EIO, 1},
};

constexpr bool in_order() {
  std::size_t index = 0;
  for (const auto& meaning : kMeanings) {
    if (static_cast<std::size_t>(meaning.kind) != index++) return false;
  }
  return index == static_cast<std::size_t>(ErrorKind::kBug) + 1;
}
static_assert(in_order());

const Meaning& meaning_of(ErrorKind kind) noexcept {
  const auto index = static_cast<std::size_t>(kind);
  return index < std::size(kMeanings) ? kMeanings[index] : kMeanings[0];
}

std::string_view lack_of_space(int errno_value) noexcept {
  switch (errno_value) {
    case ENOSPC:
      return "no space left on the device";
    case EDQUOT:
      return "disk quota reached";
    case EFBIG:
      return "file larger than the file system or ulimit allows";
    default:
      return {};
  }
}

}  // namespace

int to_errno(ErrorKind kind) noexcept { return meaning_of(kind).errno_value; }
int to_exit_code(ErrorKind kind) noexcept { return meaning_of(kind).exit_code; }
std::string_view to_name(ErrorKind kind) noexcept { return meaning_of(kind).name; }

ErrorKind error_kind_from_name(std::string_view name) noexcept {
  for (const auto& meaning : kMeanings) {
    if (meaning.name == name) return meaning.kind;
  }
  return ErrorKind::kFailed;
}

Error as_error(const std::exception& failure) {
  if (const auto* known = dynamic_cast<const Error*>(&failure)) return *known;
  if (const auto* files = dynamic_cast<const std::filesystem::filesystem_error*>(&failure)) {
    return {ErrorKind::kIo, fmt::format("{}: {}", files->path1().string(), files->code().message())};
  }
  if (dynamic_cast<const std::bad_alloc*>(&failure) != nullptr) return {ErrorKind::kFailed, "out of memory"};
  if (const auto* system = dynamic_cast<const std::system_error*>(&failure)) {  // a thread could not be started
    return {ErrorKind::kFailed, fmt::format("the system has no resources left: {}", system->code().message())};
  }
  return {ErrorKind::kBug, fmt::format("unexpected: {}", failure.what())};
}

void throw_errno(std::string_view what, int errno_value) {
  const std::string_view space = lack_of_space(errno_value);
  if (!space.empty()) {
    const std::string text = fmt::format("{}: {}", what, space);
    const std::vector<std::string> hints{"free some space, then run the command again"};
    if (errno_value == EFBIG) throw Error(ErrorKind::kIo, text, hints);
    throw NoSpaceError(text, hints);
  }
  throw Error(ErrorKind::kIo, fmt::format("{}: {}", what, std::generic_category().message(errno_value)));
}

}  // namespace isr
