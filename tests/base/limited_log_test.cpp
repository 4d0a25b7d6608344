#include "base/limited_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <catch2/catch.hpp>

#include "base/file.h"

using namespace isr;
using namespace std::chrono_literals;

namespace {

std::string text_of(const fs::path& file) {
  const auto bytes = read_file_if_exists(file, 16U << 20U);
  return bytes ? std::string(as_text(*bytes)) : std::string();
}

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + what.size())) ++n;
  return n;
}

}  // namespace

TEST_CASE("a line that is repeated all the time is written once a minute, with the number of repetitions", "[base]") {
  const auto begin = std::chrono::steady_clock::now();
  LogThrottle throttle({}, begin);
  CHECK(throttle.rule("panic", begin).write);
  for (int i = 0; i < 1000; ++i) {
    CHECK_FALSE(throttle.rule("panic", begin + 10s).write);
    CHECK_FALSE((i > 0 && throttle.rule("reset", begin + 10s).write));
    if (i == 0) CHECK(throttle.rule("reset", begin + 10s).write);
  }
  const auto again = throttle.rule("panic", begin + 61s);
  CHECK(again.write);
  CHECK(again.repeated == 1000);
  CHECK(again.left_out == 0);
}

TEST_CASE("many different lines are written at a limited rate, and the others are counted", "[base]") {
  const auto begin = std::chrono::steady_clock::now();
  LogThrottle throttle({}, begin);
  int written = 0;
  std::uint64_t left_out = 0;
  for (int i = 0; i < 60'000; ++i) {  // a minute, a thousand a second
    const auto ruling = throttle.rule(fmt::format("read at {}", i), begin + i * 1ms);
    written += ruling.write ? 1 : 0;
    left_out += ruling.left_out;
  }
  CHECK(written <= 200 + 2 * 60 + 1);
  CHECK(written >= 200 + 2 * 59);
  CHECK(left_out > 59'000);
}

TEST_CASE("a log file is renamed when it is full, and takes no more than twice its limit", "[base]") {
  const TempDirectory directory;
  const fs::path file = directory.path() / "daemon.log";
  const fs::path old = directory.path() / "daemon.log.1";
  LogLimits limits;
  limits.burst_lines = 1e6;
  limits.file_bytes = 20'000;
  const auto open = [&] { return open_file(file, O_WRONLY | O_CREAT | O_APPEND); };
  const UniqueFd fd = open();
  const UniqueFd second = open();
  spdlog::logger logger("isr", make_limited_sink(fd.get(), limits));
  spdlog::logger other("isr", make_limited_sink(second.get(), limits));
  SECTION("with several writers") {
    for (int i = 0; i < 5000; ++i) (i % 7 == 0 ? other : logger).info("line {}", i);
    CHECK(text_of(file).find("line 4999\n") != std::string::npos);
    CHECK(fs::file_size(file) < 21'000);
    CHECK(fs::file_size(old) < 21'000);
    const auto files = std::distance(fs::directory_iterator(directory.path()), fs::directory_iterator());
    CHECK(files == 2);
  }
  SECTION("even when its directory is gone") {
    fs::remove(file);
    for (int i = 0; i < 5000; ++i) logger.info("line {}", i);
    CHECK(file_size(fd.get(), file) < 21'000);
    CHECK(fs::is_empty(directory.path()));
  }
  SECTION("and an endless line is cut off") {
    logger.info(std::string(1U << 20U, 'x'));
    CHECK(fs::file_size(file) < 3000);
  }
  SECTION("and the number of lines held back is written") {
    for (int i = 0; i < 10; ++i) logger.info("again");
    CHECK(count(text_of(file), "again") == 1);
  }
}
