#pragma once

#include "account/account.h"
#include "account/image_role.h"
#include "image/patch.h"
#include "vm/settings.h"

namespace isr {

/// QEMU opens a disk for writing only if its size is a multiple of this.
inline constexpr std::uint64_t kDiskSizeUnit = 4096;

struct VersionImage {
  std::string name;  ///< "disk", "memory", "device", "bootpack": the file is NAME.raw
  ImageRole role = ImageRole::kUser;
  PatchedTree content;
  std::uint64_t original_size = 0;  ///< the size of a padded disk without its padding; 0: the disk is not padded
};
/// Describes an empty disk. If size is not a multiple of kDiskSizeUnit, the disk is padded with zeros to the next
/// multiple.
VersionImage make_disk(std::string name, std::uint64_t size);

/// One version of a parcel: the payload of its head, JSON; docs/formats/version.md.
struct ParcelVersion {
  std::vector<VersionImage> images;  ///< disks in order, then memory, device and perhaps a boot pack when suspended
  VmSettings vm;
  std::optional<VmStamp> stamp;  ///< for the memory image
  std::string message;
  std::uint64_t added_bytes = 0;  ///< sealed bytes that this version added
  std::string copy_of;            ///< "version 3" for a rollback, "work@3" for a branch, else empty

  const VersionImage* find(std::string_view name) const;
  /// The image of a role that is not a disk; a version has at most one.
  const VersionImage* find(ImageRole role) const { return find(to_name(role)); }
  bool suspended() const { return find(ImageRole::kMemory) != nullptr; }
};
Bytes encode_version(const ParcelVersion& version);
/// Error{kCorrupt} for bad names, sizes, roles or counts, and for unknown VM settings.
ParcelVersion parse_version(ByteView payload);

/// Selects a version of a parcel: the newest, one by its number, a fork, or one some versions before the newest.
struct VersionChoice {
  std::optional<std::uint64_t> number{};
  std::string fork{};      ///< its name in the form of Chain::forks()
  std::uint64_t back = 0;  ///< how many versions before the newest; junk does not count

  bool is_newest() const { return !number && fork.empty() && back == 0; }
};

struct LoadedVersion {
  StoredHead head;
  ParcelVersion version;
  std::string fork{};  ///< its name, for a fork

  /// The text after '@' that names this version.
  std::string label() const { return fork.empty() ? std::to_string(head.head.n) : fork; }
  VersionChoice choice() const { return fork.empty() ? VersionChoice{head.head.n, {}, 0} : VersionChoice{{}, fork, 0}; }
};
/// Loads a version and checks it: it is signed and part of the history that this host trusts; a fork follows a version
/// of that history. Error{kNotFound} when there is no such version, {kHistory}, {kCancelled} on stop.
LoadedVersion load_version(const Account& account, const ParcelEntry& parcel, const VersionChoice& choice = {},
                           const std::stop_token& stop = {});
/// Opens the payload of a head that was already checked.
ParcelVersion open_version(const ParcelEntry& parcel, const Head& head);
/// Makes the blob of a new head of this parcel.
Bytes make_head(const Account& account, const ParcelEntry& parcel, const HeadPlace& place,
                const ParcelVersion& version);

}  // namespace isr
