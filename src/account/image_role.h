#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace isr {

/// The use that a machine makes of an image. The table in image_role.cpp has all differences between roles.
enum class ImageRole { kSystem, kUser, kMemory, kDevice, kBootPack };

/// The publishes that seal a session's image of a role into the new version.
enum class SealedBy {
  kEveryPublish,
  kPublishOfMemory,   ///< of a suspended machine, or of one that runs (a checkpoint)
  kPublishOfSuspend,  ///< of a suspended machine; a checkpoint takes the image from the machine itself
  kNoPublish,
};

struct RoleRules {
  ImageRole role;
  std::string_view name;        ///< in a version's description; for roles that are not disks also the image's own name
  bool is_disk = false;         ///< the guest has it as a disk, in every version; only disks have names of their own
  bool is_checked_out = false;  ///< a session has changes of it in its journal
  SealedBy sealed_by = SealedBy::kNoPublish;
  bool is_in_boot_pack = false;   ///< its pages may be in a boot pack
  bool may_have_patches = false;  ///< its content may be a tree with patches; of others it is a tree alone
  bool is_content = false;        ///< two versions differ when their images of this role differ
};
/// All roles, in the order of the images in a session's journal, where disks come first.
std::span<const RoleRules> image_roles() noexcept;
const RoleRules& rules_of(ImageRole role) noexcept;
std::string_view to_name(ImageRole role) noexcept;
/// nullopt when no role has this name.
std::optional<ImageRole> role_from_name(std::string_view name) noexcept;
inline bool is_disk(ImageRole role) noexcept { return rules_of(role).is_disk; }
/// Whether an image of this role may have this name.
bool may_be_called(ImageRole role, std::string_view image_name) noexcept;

}  // namespace isr
