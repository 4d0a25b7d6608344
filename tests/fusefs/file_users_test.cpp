#include "fusefs/file_users.h"

#include "mounted_image.h"

using namespace isr;
using test::can_mount;
using test::in_child;
using test::MountedImage;
using test::Signal;

namespace {

bool is_found(pid_t pid, const fs::path& directory) {
  const auto users = find_file_users(directory, {});
  return std::any_of(users.begin(), users.end(),
                     [&](const FileUser& user) { return user.way_out == "kill " + std::to_string(pid); });
}

/// Maps a file of one mount without a descriptor, and has one of another mount open.
pid_t start_user(const fs::path& mapped, const std::optional<fs::path>& opened, Signal& ready) {
  return in_child([&] {
    const test::Mapping mapping(open_file(mapped, O_RDWR).get(), 4096);
    const UniqueFd other = opened ? open_file(*opened, O_RDONLY) : UniqueFd();
    ready.give();
    return ::pause();
  });
}

void end(pid_t pid) {
  ::kill(pid, SIGKILL);
  test::exit_code_of(pid);
}

}  // namespace

TEST_CASE("a process that has mapped a file of a mount is found without waiting for its memory", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const MountedImage sibling;
  Signal ready;
  SECTION("by its mappings alone") {
    const pid_t pid = start_user(mounted.point() / "disk.raw", std::nullopt, ready);
    REQUIRE(ready.take());
    CHECK(is_found(pid, mounted.point()));
    CHECK_FALSE(is_found(pid, sibling.point()));
    end(pid);
  }
  SECTION("by its descriptors alone when it has a file of another mount open, as a QEMU has") {
    const pid_t pid = start_user(mounted.point() / "disk.raw", sibling.point() / "disk.raw", ready);
    REQUIRE(ready.take());
    CHECK(is_found(pid, sibling.point()));
    CHECK_FALSE(is_found(pid, mounted.point()));  // its mappings are not read
    end(pid);
  }
  SECTION("by descriptors of both mounts") {
    const pid_t pid = in_child([&] {
      const UniqueFd first = open_file(mounted.point() / "disk.raw", O_RDONLY);
      const UniqueFd second = open_file(sibling.point() / "disk.raw", O_RDONLY);
      ready.give();
      return ::pause();
    });
    REQUIRE(ready.take());
    CHECK(is_found(pid, mounted.point()));
    CHECK(is_found(pid, sibling.point()));
    end(pid);
  }
}
