#include "base/error.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <filesystem>
#include <new>
#include <set>

using namespace isr;

TEST_CASE("every kind has a name of its own, which maps back to the kind", "[base]") {
  std::set<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(ErrorKind::kBug); ++i) {
    const auto kind = static_cast<ErrorKind>(i);
    CHECK(names.insert(to_name(kind)).second);
    CHECK((error_kind_from_name(to_name(kind)) == kind));
  }
  CHECK((error_kind_from_name("no such kind") == ErrorKind::kFailed));
  CHECK((error_kind_from_name("") == ErrorKind::kFailed));
}

TEST_CASE("a kind decides the exit code and the errno", "[base]") {
  CHECK(to_exit_code(ErrorKind::kFailed) == 1);
  CHECK(to_exit_code(ErrorKind::kUsage) == 2);
  CHECK(to_exit_code(ErrorKind::kWarnings) == 3);
  CHECK(to_exit_code(ErrorKind::kNotFound) == 10);
  CHECK(to_exit_code(ErrorKind::kTransient) == 13);
  CHECK(to_exit_code(ErrorKind::kOffline) == 13);
  CHECK(to_exit_code(ErrorKind::kCorrupt) == 14);
  CHECK(to_exit_code(ErrorKind::kDaemon) == 20);
  CHECK(to_exit_code(ErrorKind::kCancelled) == 130);
  CHECK(to_exit_code(ErrorKind::kBug) == 1);

  CHECK(to_errno(ErrorKind::kNotFound) == ENOENT);
  CHECK(to_errno(ErrorKind::kLocked) == EBUSY);
  CHECK(to_errno(ErrorKind::kDenied) == EACCES);
  CHECK(to_errno(ErrorKind::kUnsupported) == EOPNOTSUPP);
  CHECK(to_errno(ErrorKind::kCancelled) == EINTR);
  for (const auto kind : {ErrorKind::kTransient, ErrorKind::kOffline, ErrorKind::kCorrupt, ErrorKind::kFailed,
                          ErrorKind::kBug, ErrorKind::kIo}) {
    CHECK(to_errno(kind) == EIO);
  }
}

TEST_CASE("a full disk is reported as NoSpaceError", "[base]") {
  for (const auto& [code, words] : {std::pair{ENOSPC, "no space left"}, std::pair{EDQUOT, "quota"},
                                    std::pair{EFBIG, "larger"}, std::pair{EACCES, "Permission denied"}}) {
    try {
      throw_errno("cannot write x", code);
    } catch (const Error& error) {
      CHECK((error.kind() == ErrorKind::kIo));
      CHECK_THAT(error.what(), Catch::StartsWith("cannot write x: ") && Catch::Contains(words));
    }
  }
}

TEST_CASE("every exception gets one kind and a readable message", "[base]") {
  const Error own = as_error(Error(ErrorKind::kLocked, "locked", {"wait"}));
  CHECK(own.kind() == ErrorKind::kLocked);
  CHECK(own.hints() == std::vector<std::string>{"wait"});
  const auto code = std::make_error_code(std::errc::filename_too_long);
  const Error file = as_error(std::filesystem::filesystem_error("status", "/a/long/name", code));
  CHECK(file.kind() == ErrorKind::kIo);
  CHECK(std::string(file.what()).find("/a/long/name") != std::string::npos);
  CHECK(as_error(std::bad_alloc()).kind() == ErrorKind::kFailed);
  CHECK(as_error(std::system_error(EAGAIN, std::generic_category())).kind() == ErrorKind::kFailed);
  CHECK(as_error(std::logic_error("never")).kind() == ErrorKind::kBug);
}
