#include "session/disk_format.h"

#include <fcntl.h>

#include <catch2/catch.hpp>

#include "base/error.h"
#include "support/bytes.h"

using namespace isr;
using namespace std::string_view_literals;

namespace {

struct Place {
  TempDirectory directory;

  /// Noise with these bytes at an offset; what detect_disk_format() says of it, or "refused".
  std::string detect(const std::string& name, std::size_t offset, std::string_view bytes,
                     std::size_t size = 1U << 20U) {
    Bytes content = test::random_bytes(size, /*seed=*/3);
    std::copy(bytes.begin(), bytes.end(), content.begin() + static_cast<std::ptrdiff_t>(offset));
    return detect(name, content);
  }
  std::string detect(const std::string& name, const Bytes& content) {
    const fs::path file = directory.path() / name;
    replace_file(file, content);
    try {
      return detect_disk_format(open_file(file, O_RDONLY).get(), file);
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kUnsupported);
      words = error.what();
      hints = error.hints();
      return "refused";
    }
  }

  std::string words;
  std::vector<std::string> hints;
};

}  // namespace

TEST_CASE("bytes that nothing is known of are refused with what the file begins with", "[session]") {
  Place place;
  CHECK(place.detect("disk.img", 0, "Unknown Format 1") == "refused");
  CHECK(place.words.find("55 6e 6b 6e") != std::string::npos);
  CHECK(place.words.find("Unknown Format 1") != std::string::npos);
  REQUIRE(place.hints.size() == 2);
  CHECK(place.hints[1].find("--format raw") != std::string::npos);
  CHECK(place.detect("short", 0, "x", 1) == "refused");
}

TEST_CASE("a file is raw when its name says so, unless its bytes say that it is something else", "[session]") {
  Place place;
  CHECK(place.detect("disk.raw", 0, "Unknown Format 1") == "raw");
  CHECK(place.detect("disk.raw", 0, "\x1f\x8b\x08"sv) == "refused");
  CHECK(place.detect("disk.raw", 0, "QFI\xfb\0\0\0\3"sv) == "qcow2");
}

TEST_CASE("a file that begins as disks do is raw", "[session]") {
  Place place;
  CHECK(place.detect("mbr", 510, "\x55\xaa"sv) == "raw");
  CHECK(place.detect("gpt", 512, "EFI PART") == "raw");
  CHECK(place.detect("gpt with large sectors", 4096, "EFI PART") == "raw");
  CHECK(place.detect("ext4", 1080, "\x53\xef"sv) == "raw");
  CHECK(place.detect("xfs", 0, "XFSB") == "raw");
  CHECK(place.detect("btrfs", 65600, "_BHRfS_M") == "raw");
  CHECK(place.detect("lvm", 512, "LABELONE") == "raw");
  CHECK(place.detect("swap", 4086, "SWAPSPACE2") == "raw");
  CHECK(place.detect("blank", Bytes(1U << 20U)) == "raw");
  CHECK(place.detect("one sector of zeros", 0, std::string(512, '\0')) == "raw");
  CHECK(place.detect("a sector less a byte", 0, std::string(511, '\0')) == "refused");
  CHECK(place.detect("tiny", Bytes(100)) == "raw");
}

TEST_CASE("an image of a CD is refused with the command that boots from it", "[session]") {
  Place place;
  CHECK(place.detect("install.iso", 32769, "CD001") == "refused");
  CHECK(place.hints[0].find("--cdrom") != std::string::npos);
}

TEST_CASE("a trailer is recognised in the last sector", "[session]") {
  Place place;
  constexpr std::size_t kSize = 1U << 20U;
  CHECK(place.detect("fixed.vhd", kSize - 512, "conectix", kSize) == "refused");
  CHECK(place.words.find("VHD") != std::string::npos);
  CHECK(place.detect("old.vhd", kSize - 511, "conectix", kSize) == "refused");
  CHECK(place.detect("mac.dmg", kSize - 512, "koly", kSize) == "refused");
  CHECK(place.detect("disk.raw", kSize - 500, "conectix", kSize) == "raw");
}
