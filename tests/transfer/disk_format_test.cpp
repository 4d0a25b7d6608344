#include "transfer/disk_format.h"

#include <fcntl.h>

#include <catch2/catch.hpp>

#include "base/error.h"
#include "base/whole_file.h"
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

TEST_CASE("an unknown file is refused with its first bytes", "[transfer]") {
  Place place;
  CHECK(place.detect("disk.img", 0, "Unknown Format 1") == "refused");
  CHECK(place.words.find("55 6e 6b 6e") != std::string::npos);
  CHECK(place.words.find("Unknown Format 1") != std::string::npos);
  REQUIRE(place.hints.size() == 2);
  CHECK(place.hints[1].find("--format raw") != std::string::npos);
  CHECK(place.detect("short", 0, "x", 1) == "refused");
}

TEST_CASE("a file whose name ends in .raw is raw, unless its bytes show another format", "[transfer]") {
  Place place;
  CHECK(place.detect("disk.raw", 0, "Unknown Format 1") == "raw");
  CHECK(place.detect("disk.raw", 0, "\x1f\x8b\x08"sv) == "refused");
  CHECK(place.detect("disk.raw", 0, "QFI\xfb\0\0\0\3"sv) == "qcow2");
}

TEST_CASE("a file that begins like a disk is raw", "[transfer]") {
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

TEST_CASE("an image of a CD is refused with the command that boots from it", "[transfer]") {
  Place place;
  CHECK(place.detect("install.iso", 32769, "CD001") == "refused");
  CHECK(place.hints[0].find("--cdrom") != std::string::npos);
}

TEST_CASE("a trailer is recognised in the last sector", "[transfer]") {
  Place place;
  constexpr std::size_t kSize = 1U << 20U;
  CHECK(place.detect("fixed.vhd", kSize - 512, "conectix", kSize) == "refused");
  CHECK(place.words.find("VHD") != std::string::npos);
  CHECK(place.detect("old.vhd", kSize - 511, "conectix", kSize) == "refused");
  CHECK(place.detect("mac.dmg", kSize - 512, "koly", kSize) == "refused");
  CHECK(place.detect("disk.raw", kSize - 500, "conectix", kSize) == "raw");
}

TEST_CASE("every unsupported format is refused with its name and a command that converts it", "[transfer]") {
  struct Known {
    std::string file;
    std::size_t offset;
    std::string_view bytes;
    std::string words;
    std::string hint;
  };
  constexpr std::size_t kSize = 1U << 20U;
  const auto known = GENERATE_COPY(values<Known>({
      {"qcow", 0, "QFI\xfb\0\0\0\1"sv, "qcow image of version 1", "qemu-img convert -f qcow "},
      {"descriptor.vmdk", 0, "# Disk DescriptorFile", "names other files", "qemu-img convert -f vmdk "},
      {"qed", 0, "QED\0"sv, "QED", "qemu-img convert -f qed "},
      {"dynamic.vhd", 0, "conectix", "VHD", "qemu-img convert -f vpc "},
      {"fixed.vhd", kSize - 512, "conectix", "VHD", "qemu-img convert -f vpc "},
      {"old.vhd", kSize - 511, "conectix", "VHD", "qemu-img convert -f vpc "},
      {"parallels", 0, "WithoutFreeSpace", "Parallels", "qemu-img convert -f parallels "},
      {"large.parallels", 0, "WithouFreSpacExt", "Parallels", "qemu-img convert -f parallels "},
      {"bochs", 0, "Bochs Virtual HD Image", "Bochs", "qemu-img convert -f bochs "},
      {"luks", 0, "LUKS\xba\xbe"sv, "encrypted with LUKS", "driver=luks,key-secret=k,file.filename="},
      {"gz", 0, "\x1f\x8b\x08"sv, "gzip", "gzip --decompress --keep "},
      {"xz", 0, "\xfd\x37zXZ\0"sv, "xz", "xz --decompress --keep "},
      {"bz2", 0, "BZh", "bzip2", "bzip2 --decompress --keep "},
      {"zst", 0, "\x28\xb5\x2f\xfd"sv, "zstd", "zstd --decompress "},
      {"lz4", 0, "\x04\x22\x4d\x18"sv, "lz4", "lz4 --decompress "},
      {"zip", 0, "PK\3\4"sv, "zip archive", "unzip "},
      {"7z", 0, "7z\xbc\xaf\x27\x1c"sv, "7z archive", "7z x "},
      {"tar", 257, "ustar", "tar archive", "tar xf "},
      {"iso", 32769, "CD001", "CD or DVD", "isr create NAME --cdrom "},
      {"dmg", kSize - 512, "koly", "DMG", "qemu-img convert -f dmg "},
  }));
  Place place;
  CAPTURE(known.file);
  CHECK(place.detect(known.file, known.offset, known.bytes, kSize) == "refused");
  CHECK(place.words.find(known.words) != std::string::npos);
  REQUIRE_FALSE(place.hints.empty());
  CHECK(place.hints[0].find(known.hint) != std::string::npos);
  CHECK(place.hints[0].find((place.directory.path() / known.file).string()) != std::string::npos);
}

TEST_CASE("a supported format is detected by its first bytes", "[transfer]") {
  Place place;
  CHECK(place.detect("a", 0, "QFI\xfb\0\0\0\2"sv) == "qcow2");
  CHECK(place.detect("b", 0, "KDMV") == "vmdk");
  CHECK(place.detect("c", 0, "COWD") == "vmdk");
  CHECK(place.detect("d", 0, "vhdxfile") == "vhdx");
  CHECK(place.detect("e", 0x40, "\x7f\x10\xda\xbe"sv) == "vdi");
}
