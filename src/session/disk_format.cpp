#include "session/disk_format.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {
namespace {

using namespace std::string_view_literals;

struct Magic {
  std::size_t offset;
  std::string_view bytes;
  std::string_view name;  ///< the format, or what goes behind "FILE is"
  std::string_view hint;  ///< the command that helps, {} being the file
};

constexpr Magic kDisks[] = {
    {0, "QFI\xfb"sv, "qcow2", {}},
    {0, "KDMV"sv, "vmdk", {}},
    {0, "COWD"sv, "vmdk", {}},
    {0, "vhdxfile"sv, "vhdx", {}},
    {0x40, "\x7f\x10\xda\xbe"sv, "vdi", {}},
};

constexpr Magic kContainers[] = {
    {0, "# Disk DescriptorFile"sv, "a VMDK descriptor, which names other files",
     "qemu-img convert -f vmdk -O qcow2 {} OUT    makes one file of it"},
    {0, "QFI\xfb\0\0\0\1"sv, "a qcow image of version 1", "qemu-img convert -f qcow -O qcow2 {} OUT"},
    {0, "QED\0"sv, "a QED image", "qemu-img convert -f qed -O qcow2 {} OUT"},
    {0, "conectix"sv, "a VHD image", "qemu-img convert -f vpc -O qcow2 {} OUT"},
    {0, "WithoutFreeSpace"sv, "a Parallels image", "qemu-img convert -f parallels -O qcow2 {} OUT"},
    {0, "WithouFreSpacExt"sv, "a Parallels image", "qemu-img convert -f parallels -O qcow2 {} OUT"},
    {0, "Bochs Virtual HD Image"sv, "a Bochs image", "qemu-img convert -f bochs -O qcow2 {} OUT"},
    {0, "LUKS\xba\xbe"sv, "encrypted with LUKS",
     "qemu-img convert --object secret,id=k,file=KEY --image-opts driver=luks,key-secret=k,file.filename={} -O qcow2 "
     "OUT"},
    {0, "\x1f\x8b\x08"sv, "compressed with gzip", "gzip --decompress --keep {}"},
    {0,
     "\xfd"
     "7zXZ\0"sv,
     "compressed with xz", "xz --decompress --keep {}"},
    {0, "BZh"sv, "compressed with bzip2", "bzip2 --decompress --keep {}"},
    {0, "\x28\xb5\x2f\xfd"sv, "compressed with zstd", "zstd --decompress {}"},
    {0, "\x04\x22\x4d\x18"sv, "compressed with lz4", "lz4 --decompress {}"},
    {0, "PK\3\4"sv, "a zip archive", "unzip {}"},
    {0, "7z\xbc\xaf\x27\x1c"sv, "a 7z archive", "7z x {}"},
    {257, "ustar"sv, "a tar archive, as an OVA is", "tar xf {}    takes the disk out of it"},
};

constexpr Magic kTrailers[] = {
    {0, "conectix"sv, "a VHD image", "qemu-img convert -f vpc -O qcow2 {} OUT"},
    {0, "koly"sv, "a DMG image", "qemu-img convert -f dmg -O qcow2 {} OUT"},
};

template <std::size_t N>
const Magic* find(const Magic (&magics)[N], std::string_view text) {
  for (const Magic& magic : magics) {
    if (text.size() > magic.offset && text.substr(magic.offset).starts_with(magic.bytes)) return &magic;
  }
  return nullptr;
}

}  // namespace

std::string detect_disk_format(int fd, const fs::path& file) {
  constexpr std::size_t kSector = 512;
  Bytes head(kSector), tail(kSector);
  head.resize(read_at(fd, head, 0, file));
  const std::uint64_t size = file_size(fd, file);
  tail.resize(size < kSector ? 0 : read_at(fd, tail, size - kSector, file));
  const Magic* container = find(kContainers, as_text(head));
  const Magic* disk = find(kDisks, as_text(head));
  if (container == nullptr && disk == nullptr) container = find(kTrailers, as_text(tail));
  if (container != nullptr) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is {}", file.string(), container->name),
                {fmt::format(fmt::runtime(container->hint), file.string()),
                 "--format raw    when these are the disk's own bytes"});
  }
  return disk != nullptr ? std::string(disk->name) : "raw";
}

}  // namespace isr
