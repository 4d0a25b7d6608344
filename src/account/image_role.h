#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace isr {

/// The use of an image by its machine. The table in image_role.cpp has all that differs between roles.
enum class ImageRole { kSystem, kUser, kMemory, kDevice, kBootPack };

struct RoleRules {
  ImageRole role;
  std::string_view name;         ///< in a version's description; of all but disks also the image's own name
  bool is_disk = false;          ///< the guest has it as a disk, in every version; no other role's name is its own
  bool is_checked_out = false;   ///< a session has changes of it in its journal, and may publish them
  bool is_in_boot_pack = false;  ///< the pages that a resume reads first may be of it
  bool is_content = false;       ///< versions that differ in it differ
};
/// All of them; the order is that of the images in a session's journal, behind the disks.
std::span<const RoleRules> image_roles() noexcept;
const RoleRules& rules_of(ImageRole role) noexcept;
std::string_view to_name(ImageRole role) noexcept;
/// nullopt: no role has this name.
std::optional<ImageRole> role_from_name(std::string_view name) noexcept;
inline bool is_disk(ImageRole role) noexcept { return rules_of(role).is_disk; }
/// Whether an image of this role may be called so.
bool may_be_called(ImageRole role, std::string_view image_name) noexcept;

}  // namespace isr
