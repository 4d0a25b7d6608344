#include "transfer/disk_format.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace isr {
namespace {

using namespace std::string_view_literals;

constexpr std::size_t kSector = 512;
constexpr std::size_t kHead = 68U << 10U;  // what kFormats and kDiskSigns look for, except at the end

struct Sign {
  std::int64_t offset;  ///< in bytes; when negative, from the file's end, and at least -kSector
  std::string_view bytes;
};

struct Format {
  Sign sign;
  std::string_view name;       ///< the format when isr reads it, else the words after "FILE is"
  std::string_view command{};  ///< a command that makes a disk of it; {} stands for the file
  std::string_view driver{};   ///< qemu-img's name for the format, which converts it
};

constexpr std::string_view kVhd = "a VHD image", kParallels = "a Parallels image";

/// The first match counts.
constexpr Format kFormats[] = {
    {{0, "QFI\xfb\0\0\0\1"sv}, "a qcow image of version 1", {}, "qcow"},
    {{0, "QFI\xfb"sv}, "qcow2"},
    {{0, "KDMV"sv}, "vmdk"},
    {{0, "COWD"sv}, "vmdk"},
    {{0, "# Disk DescriptorFile"sv}, "a VMDK descriptor, which names other files", {}, "vmdk"},
    {{0, "vhdxfile"sv}, "vhdx"},
    {{0x40, "\x7f\x10\xda\xbe"sv}, "vdi"},
    {{0, "QED\0"sv}, "a QED image", {}, "qed"},
    {{0, "conectix"sv}, kVhd, {}, "vpc"},
    {{0, "WithoutFreeSpace"sv}, kParallels, {}, "parallels"},
    {{0, "WithouFreSpacExt"sv}, kParallels, {}, "parallels"},
    {{0, "Bochs Virtual HD Image"sv}, "a Bochs image", {}, "bochs"},
    {{0, "LUKS\xba\xbe"sv},
     "encrypted with LUKS",
     "qemu-img convert --object secret,id=k,file=KEY --image-opts driver=luks,key-secret=k,file.filename={} -O qcow2 "
     "OUT"},
    {{0, "\x1f\x8b\x08"sv}, "compressed with gzip", "gzip --decompress --keep {}"},
    {{0, "\xfd\x37zXZ\0"sv}, "compressed with xz", "xz --decompress --keep {}"},
    {{0, "BZh"sv}, "compressed with bzip2", "bzip2 --decompress --keep {}"},
    {{0, "\x28\xb5\x2f\xfd"sv}, "compressed with zstd", "zstd --decompress {}"},
    {{0, "\x04\x22\x4d\x18"sv}, "compressed with lz4", "lz4 --decompress {}"},
    {{0, "PK\3\4"sv}, "a zip archive", "unzip {}"},
    {{0, "7z\xbc\xaf\x27\x1c"sv}, "a 7z archive", "7z x {}"},
    {{257, "ustar"sv}, "a tar archive, as an OVA is", "tar xf {}    takes the disk out of it"},
    {{32769, "CD001"sv}, "an image of a CD or DVD", "isr create NAME --cdrom {}    makes a VM that boots from it"},
    {{-512, "conectix"sv}, kVhd, {}, "vpc"},
    {{-511, "conectix"sv}, kVhd, {}, "vpc"},
    {{-512, "koly"sv}, "a DMG image", {}, "dmg"},
};

/// Bytes that show a raw disk: partition tables and file systems.
constexpr Sign kDiskSigns[] = {
    {510, "\x55\xaa"sv},                                           // a boot sector: MBR, FAT, NTFS
    {512, "EFI PART"sv},                                           // GPT, without its MBR
    {4096, "EFI PART"sv},                                          // the same with sectors of 4096 bytes
    {512, "PM\0\0"sv},                                             // Apple's partition map
    {508, "\xda\xbe"sv},                                           // Sun's label
    {512, "\x57\x45\x56\x82"sv},                                   // BSD's label
    {1080, "\x53\xef"sv},                                          // ext2, ext3, ext4
    {0, "XFSB"sv},                                                 // XFS
    {65600, "_BHRfS_M"sv},                                         // Btrfs
    {1024, "\x10\x20\xf5\xf2"sv},                                  // F2FS
    {1024, "\xe2\xe1\xf5\xe0"sv},                                  // EROFS
    {1030, "\x34\x34"sv},                                          // NILFS2
    {0, "hsqs"sv},                                                 // SquashFS
    {32768, "JFS1"sv},                                             // JFS
    {65588, "ReIsEr"sv},                                           // ReiserFS
    {1024, "H+\0\4"sv},                                            // HFS+
    {1024, "HX\0\5"sv},                                            // HFSX
    {32, "NXSB"sv},                                                // APFS
    {66908, "\x19\x01\x54\x19"sv},                                 // UFS2
    {9564, "\x54\x19\x01\0"sv},                                    // UFS1
    {4120, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f"sv},  // bcache, bcachefs
    {512, "LABELONE"sv},                                           // LVM
    {0, "\xfc\x4e\x2b\xa9"sv},                                     // Linux RAID 1.1
    {4096, "\xfc\x4e\x2b\xa9"sv},                                  // Linux RAID 1.2
    {4086, "SWAPSPACE2"sv},                                        // swap
};

struct Ends {
  Bytes head;  ///< kHead bytes, or the whole file
  Bytes tail;  ///< the last sector; empty when the file is smaller

  bool have(const Sign& sign) const {
    const std::string_view text = as_text(sign.offset < 0 ? tail : head);
    const std::size_t at =
        sign.offset < 0 ? kSector - static_cast<std::size_t>(-sign.offset) : static_cast<std::size_t>(sign.offset);
    return text.size() > at && text.substr(at).starts_with(sign.bytes);
  }
  bool look_like_a_disk() const {
    return is_zero(ByteView(head).first(std::min(kSector, head.size()))) ||
           std::any_of(std::begin(kDiskSigns), std::end(kDiskSigns), [this](const Sign& sign) { return have(sign); });
  }
};

Ends read_ends(int fd, const fs::path& file) {
  Ends ends{Bytes(kHead), {}};
  ends.head.resize(read_at(fd, ends.head, 0, file));
  const std::uint64_t size = file_size(fd, file);
  if (size < kSector) return ends;
  ends.tail.resize(kSector);
  ends.tail.resize(read_at(fd, ends.tail, size - kSector, file));
  return ends;
}

[[noreturn]] void refuse(const std::string& what, const std::string& hint) {
  throw Error(ErrorKind::kUnsupported, what, {hint, "--format raw    if the file has the disk's own bytes"});
}

[[noreturn]] void refuse(const fs::path& file, const Format& format) {
  const std::string command = format.driver.empty()
                                  ? fmt::format(fmt::runtime(format.command), file.string())
                                  : fmt::format("qemu-img convert -f {} -O qcow2 {} OUT", format.driver, file.string());
  refuse(fmt::format("{} is {}", file.string(), format.name), command);
}

[[noreturn]] void refuse_unknown(const fs::path& file, ByteView head) {
  constexpr std::size_t kShown = 16;
  const ByteView begin = head.first(std::min(kShown, head.size()));
  std::string text;
  for (const std::uint8_t byte : begin) text += byte >= ' ' && byte <= '~' ? static_cast<char>(byte) : '.';
  refuse(fmt::format("{} is not a disk image that isr knows: it begins with {:02x} ({})", file.string(),
                     fmt::join(begin, " "), text),
         fmt::format("file {}    may tell its type", file.string()));
}

}  // namespace

std::string detect_disk_format(int fd, const fs::path& file) {
  const Ends ends = read_ends(fd, file);
  const auto* const format = std::find_if(std::begin(kFormats), std::end(kFormats),
                                          [&](const Format& known) { return ends.have(known.sign); });
  if (format == std::end(kFormats)) {
    if (!ends.look_like_a_disk() && file.extension() != ".raw") refuse_unknown(file, ends.head);
    return "raw";
  }
  const bool is_read = format->command.empty() && format->driver.empty();
  if (!is_read) refuse(file, *format);
  return std::string(format->name);
}

}  // namespace isr
