#include "base/spawn.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "base/file.h"
#include "base/find_program.h"
#include "support/error_kind.h"

using namespace isr;

namespace {

/// A shell script's exit code.
int run(const std::string& script, const SpawnOptions& options = {}) {
  const int status = await_child(spawn("/bin/sh", {"sh", "-c", script}, options));
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

std::string text_in(const fs::path& file) {
  const auto bytes = read_file_if_exists(file, 4096);
  return bytes ? std::string(as_text(*bytes)) : "";
}

}  // namespace

TEST_CASE("a started program has its arguments, an added variable and the descriptors that it was given", "[base]") {
  const TempDirectory directory;
  const fs::path file = directory.path() / "said";
  const UniqueFd out = open_file(file, O_WRONLY | O_CREAT);
  SpawnOptions options;
  options.environment = {"ISR_TEST_WORD=hello"};
  options.descriptors = {{out.get(), 5}};
  CHECK(run("echo $ISR_TEST_WORD $0 >&5; exit 7", options) == 7);
  CHECK(text_in(file) == "hello sh\n");
}

TEST_CASE("a started program gets a descriptor under the same number that it has here", "[base]") {
  const TempDirectory directory;
  const fs::path file = directory.path() / "said";
  const UniqueFd opened = open_file(file, O_WRONLY | O_CREAT);
  const UniqueFd out(::fcntl(opened.get(), F_DUPFD_CLOEXEC, 9));
  REQUIRE(out.get() < 16);
  SpawnOptions options;
  options.descriptors = {{out.get(), out.get()}};
  CHECK(run("echo here >&" + std::to_string(out.get()), options) == 0);
  CHECK(text_in(file) == "here\n");
}

TEST_CASE("a detached program leads a session at / and inherits no other descriptor", "[base]") {
  const TempDirectory directory;
  const fs::path file = directory.path() / "said";
  const UniqueFd out = open_file(file, O_WRONLY | O_CREAT);
  const UniqueFd left_open(::open("/dev/null", O_RDONLY));  // NOLINT: inherited on purpose
  SpawnOptions options;
  options.descriptors = {{out.get(), STDOUT_FILENO}};
  options.is_detached = true;
  CHECK(run("pwd; test \"$(cut -d' ' -f6 /proc/$$/stat)\" = $$ && echo leads; test -e /proc/$$/fd/" +
                std::to_string(left_open.get()) + " && echo open; exit 0",
            options) == 0);
  CHECK(text_in(file) == "/\nleads\n");
}

TEST_CASE("a program that does not exist is refused by its name", "[base]") {
  CHECK(test::kind_thrown([] { spawn("/nowhere/isr-test", {"x"}); }) == ErrorKind::kUnsupported);
  CHECK_FALSE(find_program("isr-test-nowhere"));
  CHECK(find_program("sh", "/bin"));
}
