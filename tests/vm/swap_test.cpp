#include "vm/swap.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <catch2/catch.hpp>

#include "base/file.h"
#include "base/whole_file.h"

using namespace isr;

namespace {

/// A host whose swap areas are files, and what its /sys says of the disk below them.
struct SwappingHost {
  SwappingHost() {
    replace_file(area, {});
    struct stat info {};
    REQUIRE(::stat(area.c_str(), &info) == 0);
    disk = sys / "dev" / "block" / fmt::format("{}:{}", major(info.st_dev), minor(info.st_dev));
  }
  std::vector<std::string> found(const std::string& lines) const {
    replace_file(swaps, as_bytes("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" + lines));
    return plaintext_swap(swaps, sys);
  }
  std::vector<std::string> found() const { return found(area.string() + "   file\t\t1024\t\t0\t\t-2\n"); }
  static void set_uuid(const fs::path& device, std::string_view uuid) {
    fs::create_directories(device / "dm");
    replace_file(device / "dm" / "uuid", as_bytes(uuid));
  }

  TempDirectory directory;
  fs::path area = directory.path() / "swapfile";
  fs::path swaps = directory.path() / "swaps";
  fs::path sys = directory.path() / "sys";
  fs::path disk;
};

}  // namespace

TEST_CASE("swap counts as readable unless it is in memory or on dm-crypt", "[vm]") {
  const SwappingHost host;
  const std::vector<std::string> area = {host.area.string()};
  SECTION("no swap, or a kernel without it") {
    CHECK(host.found("").empty());
    CHECK(plaintext_swap("/nonexistent/swaps").empty());
  }
  SECTION("zram") {
    const std::string zram = "/dev/zram0   partition\t1024\t0\t100\n";
    CHECK(host.found(zram).empty());
    const fs::path device = host.sys / "block" / "zram0";
    fs::create_directories(device);
    replace_file(device / "backing_dev", as_bytes("none\n"));
    CHECK(host.found(zram).empty());
    replace_file(device / "backing_dev", as_bytes(host.area.string() + "\n"));  // writes to a disk
    CHECK((host.found(zram) == std::vector<std::string>{"/dev/zram0"}));
    SwappingHost::set_uuid(host.disk, "CRYPT-LUKS2-0123-swap\n");
    CHECK(host.found(zram).empty());
  }
  SECTION("on an unknown device, or one that is gone") {
    CHECK((host.found() == area));
    CHECK((host.found("/nonexistent/a\\040b   file\t1\t0\t-2\n") == std::vector<std::string>{"/nonexistent/a b"}));
  }
  SECTION("on a plain disk") {
    fs::create_directories(host.disk / "slaves");
    CHECK((host.found() == area));
  }
  SECTION("on dm-crypt") {
    SwappingHost::set_uuid(host.disk, "CRYPT-LUKS2-0123-swap\n");
    CHECK(host.found().empty());
  }
  SECTION("on an LVM volume") {
    const fs::path part = host.sys / "devices" / "dm-0";
    SwappingHost::set_uuid(host.disk, "LVM-0123");
    SwappingHost::set_uuid(part, "CRYPT-LUKS2-0123-root");
    fs::create_directories(host.disk / "slaves");
    fs::create_directory_symlink(part, host.disk / "slaves" / "dm-0");
    CHECK(host.found().empty());
    const fs::path other = host.sys / "devices" / "sdb1";
    fs::create_directories(other);
    fs::create_directory_symlink(other, host.disk / "slaves" / "sdb1");
    CHECK((host.found() == area));
  }
}
