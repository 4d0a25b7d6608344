// Walks only the tables that lead to the disk's bytes. QEMU's tools cannot tell the needed length: `qemu-img check`
// rounds a qcow2 to clusters and calls the data below a lost table a leak, cannot read VDI, and misses the last sector
// of a VHDX; `qemu-img map` gives no place for compressed clusters and for VHDX.

#include "transfer/image_end.h"

#include <fmt/format.h>

#include <bit>

#include "base/error.h"
#include "image/tree.h"

namespace isr {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kLongestFile = 1ULL << 62U;

[[noreturn]] void refuse(std::string_view why) { throw Error(ErrorKind::kCorrupt, std::string(why)); }

std::uint64_t divide_up(std::uint64_t a, std::uint64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

std::uint64_t big_endian(ByteView bytes, std::size_t at, std::size_t width) {
  std::uint64_t value = 0;
  for (const std::uint8_t byte : bytes.subspan(at, width)) value = value << 8U | byte;
  return value;
}

std::uint64_t little_endian(ByteView bytes, std::size_t at, std::size_t width) {
  std::uint64_t value = 0;
  for (std::size_t i = width; i-- > 0;) value = value << 8U | bytes[at + i];
  return value;
}

/// A file with the greatest end that its tables have needed so far.
class ImageFile {
 public:
  ImageFile(int fd, const fs::path& path) : fd_(fd), path_(path), size_(file_size(fd, path)) {}
  std::uint64_t size() const { return size_; }
  std::uint64_t needed() const { return needed_; }

  void need(std::uint64_t offset, std::uint64_t length) {
    if (offset > kLongestFile || length > kLongestFile - offset) refuse("it refers to a place beyond the largest file");
    needed_ = std::max(needed_, offset + length);
  }
  /// Notes that these bytes are needed and reads them; empty when they are not all there.
  Bytes read(std::uint64_t offset, std::size_t length) {
    need(offset, length);
    Bytes bytes(offset + length <= size_ ? length : 0);
    if (!bytes.empty()) read_exact_at(fd_, bytes, offset, path_);
    return bytes;
  }
  /// Notes that a table is needed; calls visit(index, entry) for the entries that are there.
  template <class Visit>
  void table(std::uint64_t offset, std::uint64_t count, std::size_t width, const Visit& visit) {
    if (count > kLongestFile / width) refuse("one of its tables is longer than the largest file");
    need(offset, count * width);
    const std::uint64_t there = offset < size_ ? std::min(count, (size_ - offset) / width) : 0;
    Bytes bytes;
    for (std::uint64_t first = 0; first < there;) {
      const std::uint64_t entries = std::min<std::uint64_t>(there - first, kTableStep / width);
      bytes.resize(entries * width);
      read_exact_at(fd_, bytes, offset + first * width, path_);
      for (std::uint64_t i = 0; i < entries; ++i) visit(first + i, ByteView(bytes).subspan(i * width, width));
      first += entries;
    }
  }

 private:
  static constexpr std::size_t kTableStep = 1U << 20U;
  int fd_;
  const fs::path& path_;
  std::uint64_t size_;
  std::uint64_t needed_ = 0;
};

/// How many bytes of the disk are in a block; the last block may be cut by the disk's end.
std::uint64_t part_on_disk(std::uint64_t disk_size, std::uint64_t block, std::uint64_t block_size) {
  if (block > disk_size / block_size) return 0;
  return std::min(block_size, disk_size - block * block_size);
}

void check_disk_size(std::uint64_t size) {
  if (size > kMaxImageSize) refuse("its disk is larger than 16 TiB");
}

// --- qcow2: header, L1 table, L2 tables, clusters; numbers are big-endian ---

struct Qcow2 {
  std::uint64_t disk_size = 0;
  unsigned cluster_bits = 0;
  bool zero_flag = false, data_file = false, subclusters = false;

  std::uint64_t cluster_size() const { return 1ULL << cluster_bits; }
  std::size_t entry_size() const { return subclusters ? 16 : 8; }
  std::uint64_t entries_per_table() const { return cluster_size() / entry_size(); }
};

void need_qcow2_cluster(ImageFile& file, const Qcow2& image, std::uint64_t cluster, ByteView entry) {
  constexpr std::uint64_t kCompressed = 1ULL << 62U, kOffset = 0x00ff'ffff'ffff'fe00;
  constexpr std::uint64_t kReadsZeros = 1, kSubclusters = 32;
  const std::uint64_t place = big_endian(entry, 0, 8);
  if ((place & kCompressed) != 0) {
    const unsigned count_at = 62 - (image.cluster_bits - 8);
    const std::uint64_t offset = place & ((1ULL << count_at) - 1);
    const std::uint64_t sectors = ((place & (kCompressed - 1)) >> count_at) + 1;
    file.need(offset, sectors * kSector - offset % kSector);
    return;
  }
  const std::uint64_t offset = place & kOffset;
  if (offset == 0 || image.data_file) return;
  std::uint64_t length = part_on_disk(image.disk_size, cluster, image.cluster_size());
  if (image.subclusters) {
    const std::uint64_t allocated = big_endian(entry, 8, 8) & 0xffff'ffff;
    const auto last = static_cast<std::uint64_t>(std::bit_width(allocated));
    length = std::min(length, image.cluster_size() / kSubclusters * last);
  } else if (image.zero_flag && (place & kReadsZeros) != 0) {
    length = 0;
  }
  if (length > 0) file.need(offset, length);
}

void walk_qcow2(ImageFile& file) {
  constexpr std::uint64_t kMaxL1Bytes = 32ULL << 20U;  // QEMU's limit
  constexpr std::uint64_t kDataFile = 4, kExtendedL2 = 16, kOffset = 0x00ff'ffff'ffff'fe00;
  const Bytes header = file.read(0, 72);
  if (header.empty()) return;
  if (big_endian(header, 0, 4) != 0x514649fb) refuse("it does not begin like a qcow2");
  const std::uint64_t version = big_endian(header, 4, 4);
  if (version != 2 && version != 3) refuse(fmt::format("its version is {}, not 2 or 3", version));
  Qcow2 image;
  image.disk_size = big_endian(header, 24, 8);
  check_disk_size(image.disk_size);
  const std::uint64_t cluster_bits = big_endian(header, 20, 4);
  if (cluster_bits < 9 || cluster_bits > 21) refuse("its clusters have an impossible size");
  image.cluster_bits = static_cast<unsigned>(cluster_bits);
  if (version == 3) {
    const Bytes features = file.read(72, 32);
    if (features.empty()) return;
    image.zero_flag = true;
    image.data_file = (big_endian(features, 0, 8) & kDataFile) != 0;
    image.subclusters = (big_endian(features, 0, 8) & kExtendedL2) != 0;
  }
  const std::uint64_t clusters = divide_up(image.disk_size, image.cluster_size());
  const std::uint64_t per_table = image.entries_per_table();
  const std::uint64_t tables = std::min(divide_up(clusters, per_table), big_endian(header, 36, 4));
  if (tables * 8 > kMaxL1Bytes) refuse("its L1 table is too large");
  file.table(big_endian(header, 40, 8), tables, 8, [&](std::uint64_t table, ByteView entry) {
    const std::uint64_t l2 = big_endian(entry, 0, 8) & kOffset;
    if (l2 == 0) return;
    const std::uint64_t first = table * per_table;
    file.table(l2, std::min(per_table, clusters - first), image.entry_size(),
               [&](std::uint64_t i, ByteView cluster) { need_qcow2_cluster(file, image, first + i, cluster); });
  });
}

// --- VMDK: grain directory, grain tables, grains; little-endian, offsets in sectors ---

struct Vmdk {
  std::uint64_t capacity = 0, granularity = 0;  // in sectors
  std::uint64_t entries_per_table = 0;
  std::uint64_t directory = 0;
  bool zero_grains = false, compressed = false, markers = false;
};

std::uint64_t sectors_to_bytes(std::uint64_t sectors) {
  if (sectors > kLongestFile / kSector) refuse("it refers to a place beyond the largest file");
  return sectors * kSector;
}

void walk_grains(ImageFile& file, const Vmdk& image) {
  constexpr std::uint64_t kMarkerSize = 12;  // the grain's place on the disk, and its length
  check_disk_size(sectors_to_bytes(image.capacity));
  if (image.granularity < 8 || image.granularity > 1U << 20U || image.entries_per_table == 0 ||
      image.entries_per_table > 4096) {
    refuse("its grains or tables have an impossible size");
  }
  const std::uint64_t grains = divide_up(image.capacity, image.granularity);
  std::uint64_t last_compressed = 0;
  const auto visit_table = [&](std::uint64_t table, ByteView entry) {
    const std::uint64_t place = sectors_to_bytes(little_endian(entry, 0, 4));
    if (place == 0) return;
    const std::uint64_t first = table * image.entries_per_table;
    file.table(place, std::min(image.entries_per_table, grains - first), 4, [&](std::uint64_t i, ByteView grain) {
      const std::uint64_t at = little_endian(grain, 0, 4);
      if (at == 0 || (at == 1 && image.zero_grains)) return;
      if (image.compressed) {
        last_compressed = std::max(last_compressed, at);
      } else {
        file.need(at * kSector, kSector * part_on_disk(image.capacity, first + i, image.granularity));
      }
    });
  };
  file.table(sectors_to_bytes(image.directory), divide_up(grains, image.entries_per_table), 4, visit_table);
  if (last_compressed == 0) return;
  const std::uint64_t place = last_compressed * kSector;
  if (!image.markers) return file.need(place, 1);
  const Bytes marker = file.read(place, kMarkerSize);
  if (!marker.empty()) file.need(place + kMarkerSize, little_endian(marker, 8, 4));
}

void walk_vmdk(ImageFile& file) {
  constexpr std::uint64_t kZeroGrains = 1U << 2U, kCompressed = 1U << 16U, kMarkers = 1U << 17U;
  constexpr std::uint64_t kDirectoryAtEnd = ~std::uint64_t{0};
  Bytes header = file.read(0, 80);
  if (header.empty()) return;
  Vmdk image;
  if (as_text(header).starts_with("COWD")) {
    image.capacity = little_endian(header, 12, 4);
    image.granularity = little_endian(header, 16, 4);
    image.directory = little_endian(header, 20, 4);
    image.entries_per_table = 4096;
    return walk_grains(file, image);
  }
  if (!as_text(header).starts_with("KDMV")) refuse("it does not begin like a VMDK");
  if (little_endian(header, 56, 8) == kDirectoryAtEnd) {
    // A stream ends with a copy of the header, which has the directory's place, and an empty sector.
    constexpr std::uint64_t kEnd = 2 * kSector;
    Bytes footer = file.size() > kEnd ? file.read(file.size() - kEnd, 80) : Bytes();
    if (!as_text(footer).starts_with("KDMV")) return file.need(file.size(), 1);
    header = std::move(footer);
  }
  const std::uint64_t flags = little_endian(header, 8, 4);
  image.zero_grains = (flags & kZeroGrains) != 0;
  image.compressed = (flags & kCompressed) != 0;
  image.markers = (flags & kMarkers) != 0;
  image.capacity = little_endian(header, 12, 8);
  image.granularity = little_endian(header, 20, 8);
  image.entries_per_table = little_endian(header, 44, 4);
  image.directory = little_endian(header, 56, 8);
  walk_grains(file, image);
}

// --- VDI: header, one block map, blocks; little-endian ---

void walk_vdi(ImageFile& file) {
  constexpr std::uint64_t kDiscarded = 0xffff'fffe;  // 0xffffffff means never written
  const Bytes header = file.read(0, 0x190);
  if (header.empty()) return;
  if (little_endian(header, 0x40, 4) != 0xbeda107f) refuse("it does not begin like a VDI");
  const std::uint64_t map = little_endian(header, 0x154, 4), data = little_endian(header, 0x158, 4);
  const std::uint64_t disk_size = little_endian(header, 0x170, 8);
  const std::uint64_t block_size = little_endian(header, 0x178, 4), blocks = little_endian(header, 0x180, 4);
  check_disk_size(disk_size);
  if (block_size < 4096) refuse("its blocks have an impossible size");
  file.table(map, std::min(blocks, divide_up(disk_size, block_size)), 4, [&](std::uint64_t i, ByteView entry) {
    const std::uint64_t block = little_endian(entry, 0, 4);
    if (block < kDiscarded) file.need(data + block * block_size, part_on_disk(disk_size, i, block_size));
  });
}

// --- VHDX: region table, metadata, block allocation table, blocks; little-endian ---

constexpr std::string_view kVhdxBat("\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08", 16);
constexpr std::string_view kVhdxMetadata("\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e", 16);
constexpr std::string_view kVhdxParameters("\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b", 16);
constexpr std::string_view kVhdxDiskSize("\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8", 16);
constexpr std::string_view kVhdxSector("\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f", 16);

/// Finds an entry by name in a table whose entries have 32 bytes and begin with their name; empty when there is none.
ByteView vhdx_entry(ByteView table, std::size_t begin, std::size_t count, std::string_view name) {
  constexpr std::size_t kEntry = 32;
  for (std::size_t i = 0; i < count && begin + (i + 1) * kEntry <= table.size(); ++i) {
    const ByteView entry = table.subspan(begin + i * kEntry, kEntry);
    if (as_text(entry.first(name.size())) == name) return entry;
  }
  return {};
}

void walk_vhdx(ImageFile& file) {
  constexpr std::uint64_t kRegions = 192U << 10U, kTable = 64U << 10U, kMegabytes = ~0xf'ffffULL;
  constexpr std::uint64_t kStates = 7, kPresent = 6, kPartlyPresent = 7;
  const Bytes start = file.read(0, 8);
  if (start.empty()) return;
  if (as_text(start) != "vhdxfile") refuse("it does not begin like a VHDX");
  const Bytes regions = file.read(kRegions, kTable);
  if (regions.empty()) return;
  const std::size_t region_count = little_endian(regions, 8, 4);
  const ByteView bat = vhdx_entry(regions, 16, region_count, kVhdxBat);
  const ByteView metadata = vhdx_entry(regions, 16, region_count, kVhdxMetadata);
  if (bat.empty() || metadata.empty()) refuse("its region table lacks an entry");
  const std::uint64_t about = little_endian(metadata, 16, 8);
  const Bytes items = file.read(about, kTable);
  if (items.empty()) return file.need(little_endian(bat, 16, 8), little_endian(bat, 24, 4));
  bool is_cut = false;
  const auto item = [&](std::string_view name, std::size_t width) -> std::uint64_t {
    const ByteView entry = vhdx_entry(items, 32, little_endian(items, 10, 2), name);
    if (entry.empty()) refuse("its metadata lacks an item");
    const Bytes value = file.read(about + little_endian(entry, 16, 4), width);
    is_cut = is_cut || value.empty();
    return value.empty() ? 0 : little_endian(value, 0, width);
  };
  const std::uint64_t block_size = item(kVhdxParameters, 4), disk_size = item(kVhdxDiskSize, 8);
  const std::uint64_t sector = item(kVhdxSector, 4);
  if (is_cut) return file.need(little_endian(bat, 16, 8), little_endian(bat, 24, 4));
  check_disk_size(disk_size);
  if ((sector != 512 && sector != 4096) || block_size < 1U << 20U || block_size > 256U << 20U ||
      (block_size & (block_size - 1)) != 0) {
    refuse("its blocks or sectors have an impossible size");
  }
  const std::uint64_t blocks = divide_up(disk_size, block_size);
  const std::uint64_t per_bitmap =
      (sector << 23U) / block_size;  // after this many blocks the table has an entry for a bitmap
  const std::uint64_t entries = blocks == 0 ? 0 : blocks + (blocks - 1) / per_bitmap;
  file.table(little_endian(bat, 16, 8), entries, 8, [&](std::uint64_t i, ByteView entry) {
    if (i % (per_bitmap + 1) == per_bitmap) return;
    const std::uint64_t place = little_endian(entry, 0, 8), state = place & kStates;
    if (state == kPresent || state == kPartlyPresent) file.need(place & kMegabytes, block_size);
  });
}

}  // namespace

std::uint64_t needed_length(int fd, const fs::path& file, const std::string& format) {
  ImageFile image(fd, file);
  if (format == "qcow2") walk_qcow2(image);
  if (format == "vmdk") walk_vmdk(image);
  if (format == "vdi") walk_vdi(image);
  if (format == "vhdx") walk_vhdx(image);
  return image.needed();
}

}  // namespace isr
